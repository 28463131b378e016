"""Checkpoints: written whole or not at all, read as data and never as code."""

import pickle
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import torch

from fame.files import whole

FORMAT = "fame-checkpoint/1"
LAST = "last.pt"
_KEYS = ("model", "config", "state", "progress")


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message names the file and what to do."""


def save(path: Path, contents: dict[str, Any]) -> None:
    """Write ``contents`` (tensors, plain values) so that ``path`` holds the old or the new file,
    whatever happens.
    """
    with whole(path) as partial, partial.open("wb") as file:
        torch.save({"format": FORMAT, **contents}, file)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint of this project onto the CPU. Raises :class:`CheckpointError`."""
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: refused, it holds more than tensors and plain values"
        ) from error
    except (RuntimeError, EOFError, BadZipFile, OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path}: truncated or damaged, it cannot be read as a checkpoint"
        ) from error
    if not isinstance(contents, dict) or contents.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: not a checkpoint of format {FORMAT!r}; runs resume only from their own"
        )
    missing = [key for key in _KEYS if key not in contents]
    if missing:
        raise CheckpointError(f"{path}: the checkpoint lacks {', '.join(missing)}")
    return contents


def check_model(path: Path, contents: dict[str, Any], model: dict[str, Any]) -> None:
    """Raise :class:`CheckpointError` unless the checkpoint is of this network."""
    theirs = contents["model"]
    for key in ("name", "options", "head"):
        if theirs.get(key) != model[key]:
            raise CheckpointError(
                f"{path}: the checkpoint is of another architecture: {key} is {theirs.get(key)!r}, "
                f"the run's is {model[key]!r}; give the run its config or start in another folder"
            )
