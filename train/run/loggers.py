"""Loggers of metrics and pictures beside a run's own files: TensorBoard always, W&B on request."""

import os
import uuid
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch.utils.tensorboard import SummaryWriter

_GROUPS = {
    "speed": ("clips_per_second", "data_wait", "gpu_memory_gib", "skipped"),
    "collapse": ("spread", "queue_norm"),
}


class Logger(Protocol):
    """The methods of a logger; the first process alone has loggers."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Keep metrics of a step, by tag."""
        ...

    def picture(self, step: int, tag: str, image_HWC: np.ndarray) -> None:
        """Keep a picture, uint8 RGB."""
        ...

    def close(self) -> None:
        """Write what is left and end."""
        ...


class TensorBoard:
    """Events in ``tensorboard/`` of the run folder; those from step ``first`` on are replaced."""

    def __init__(self, folder: Path, *, first: int) -> None:
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=first)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to each curve."""
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def picture(self, step: int, tag: str, image_HWC: np.ndarray) -> None:
        """Add a picture."""
        self._board.add_image(tag, image_HWC, step, dataformats="HWC")

    def close(self) -> None:
        """Write what is left."""
        self._board.close()


class WandB:
    """A run of Weights & Biases, named as the run folder; one that is resumed goes on.

    Project and mode are those of its own environment variables, ``WANDB_PROJECT`` and
    ``WANDB_MODE=offline``. It accepts no step twice: one repeated after a kill keeps its first
    values.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        try:
            self._wandb: Any = import_module("wandb")
        except ImportError as error:
            raise ValueError(f"logger=wandb needs wandb: pip install wandb ({error})") from error
        note = folder / "wandb.id"
        if not note.exists():
            note.write_text(uuid.uuid4().hex[:8])
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", "fame"),
            name=folder.resolve().name,
            id=note.read_text().strip(),
            resume="allow",
            dir=str(folder),
            config=dict(config),
        )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log the metrics of a step."""
        self._run.log(dict(values), step=step)

    def picture(self, step: int, tag: str, image_HWC: np.ndarray) -> None:
        """Log a picture."""
        self._run.log({tag: self._wandb.Image(image_HWC)}, step=step)

    def close(self) -> None:
        """End the run."""
        self._run.finish()


def grouped(values: Mapping[str, float]) -> dict[str, float]:
    """Return metrics by tag: ``loss`` is ``train/loss``, ``spread`` is ``collapse/spread``."""
    group_of = {name: group for group, names in _GROUPS.items() for name in names}
    return {f"{group_of.get(name, 'train')}/{name}": value for name, value in values.items()}
