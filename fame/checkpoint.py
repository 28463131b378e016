"""The checkpoints of this project: one format, one schema, one place where both are checked.

A checkpoint names its network (``model``), the settings of its run (``config``) and how far the
run was (``progress``), and holds the parts of its ``state``; ``checksums`` has the SHA-256 of each.
A reader passes a :data:`Schema` of the part that it wants, made from the network to be filled, and
gets nothing else: names, shapes and dtypes are compared before memory is taken, every number is
finite and within its bounds. Format 1 had no checksums; its parts get all the other checks.
"""

import hashlib
import json
import math
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from fame.archive import Archive, CheckpointError, Claim, open_archive
from fame.files import whole
from fame.words import shown

FORMAT = "fame-checkpoint/2"
_WITHOUT_CHECKSUMS = "fame-checkpoint/1"
FORMATS = (FORMAT, _WITHOUT_CHECKSUMS)
_DESCRIPTIONS = ("model", "config", "progress")
_MOST_VALUES, _DEEPEST = 100_000, 16  # in the descriptions together
# Variances, whose square roots would be NaN some steps later, and a count.
_NEVER_NEGATIVE = ("running_var", "num_batches_tracked", "exp_avg_sq")


@dataclass(frozen=True, kw_only=True)
class Expected:
    """A tensor: shape and dtype of ``like`` (whose values are never read), values within
    ``low``..``high``. ``any_precision`` accepts other floating-point dtypes too and converts them.
    """

    like: Tensor
    low: int | float = -math.inf
    high: int | float = math.inf
    any_precision: bool = False


@dataclass(frozen=True, kw_only=True)
class Number:
    """A number within ``low``..``high``; a whole one unless ``real``."""

    low: int | float
    high: int | float
    real: bool = False


@dataclass(frozen=True)
class Maybe:
    """A value of ``schema``, or ``None``."""

    schema: "Schema"


# A dictionary of schemas, a leaf, or None where nothing belongs.
Schema = Mapping[Any, Any] | Expected | Number | Maybe | None


def expected(tensors: Mapping[str, Tensor], *, any_precision: bool = False) -> dict[str, Expected]:
    """Return the schema of a state dict like this one."""
    lows = {name: 0 if name.endswith(_NEVER_NEGATIVE) else -math.inf for name in tensors}
    return {
        name: Expected(like=like, low=lows[name], any_precision=any_precision)
        for name, like in tensors.items()
    }


class Checkpoint:
    """An open checkpoint of this project. Raise :class:`CheckpointError` where it is none."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        content = archive.values
        if not isinstance(content, dict) or content.get("format") not in FORMATS:
            raise CheckpointError(f"not a checkpoint of format {FORMAT!r}")
        state = content.get("state")
        self._state: dict[Any, Any] = state if isinstance(state, dict) else {}
        self._sums = self._checksums(content)
        described = plain({key: content.get(key) or {} for key in _DESCRIPTIONS})
        for key in _DESCRIPTIONS:
            if not isinstance(described[key], dict):
                raise CheckpointError(f"its {key} is {shown(described[key])}, not a dictionary")
            self._verify(key, described[key])
        self.model: dict[str, Any] = described["model"]
        self.config: dict[str, Any] = described["config"]
        self.progress: dict[str, Any] = described["progress"]

    def _checksums(self, content: Mapping[str, Any]) -> dict[str, str] | None:
        if content["format"] == _WITHOUT_CHECKSUMS:
            # Hyper-parameters were saved with the optimiser then; they come from the config.
            if isinstance(optimizer := self._state.get("optimizer"), dict):
                optimizer.pop("param_groups", None)
            return None
        sums = content.get("checksums")
        if not isinstance(sums, dict) or sums.keys() != {*_DESCRIPTIONS, *self._state}:
            raise CheckpointError("damaged: its checksums are not those of its parts")
        return sums

    def _verify(self, part: str, value: Any) -> None:
        if self._sums is not None and checksum(value) != self._sums[part]:
            raise CheckpointError(f"damaged: {part} is not what was saved (its checksum differs)")

    @property
    def earlier(self) -> bool:
        """Return whether an earlier version of this project wrote it."""
        return self._sums is None

    @property
    def parts(self) -> list[str]:
        """Return the names of the parts of the state."""
        return [name for name in self._state if isinstance(name, str)]

    def read(self, schema: Mapping[str, Schema]) -> dict[str, Any]:
        """Return the parts of the state that ``schema`` names, read and checked."""
        # All parts are compared before any is read, so that a wrong file takes no memory.
        for part, wanted in schema.items():
            if part not in self._state:
                held = ", ".join(map(shown, self._state)) or "nothing"
                raise CheckpointError(f"has no {part} (its state holds: {held})")
            compare(self._state[part], wanted, part)
        found: dict[str, Any] = {}
        for part, wanted in schema.items():
            found[part] = take(self._archive, self._state[part], wanted, part)
            self._verify(part, found[part])
        return found


@contextmanager
def open_checkpoint(path: Path) -> Generator[Checkpoint]:
    """Open a checkpoint of this project; a run folder is taken as its last one.

    :class:`CheckpointError` raised within the context gets the file's name.
    """
    with open_archive(path) as archive:
        yield Checkpoint(archive)


def save(path: Path, contents: Mapping[str, Any]) -> None:
    """Write a checkpoint (``model``, ``config``, ``state``, ``progress``: tensors, plain values) so
    that ``path`` holds the old or the new file, whatever happens.
    """
    parts = {key: contents[key] for key in _DESCRIPTIONS}
    state = _on_cpu(contents["state"])
    sums = {name: checksum(part) for name, part in {**parts, **state}.items()}
    with whole(path) as partial, partial.open("wb") as file:
        torch.save({"format": FORMAT, **parts, "state": state, "checksums": sums}, file)


def compare(found: Any, schema: Schema, where: str) -> None:
    """Raise :class:`CheckpointError` unless ``found`` has the form that ``schema`` asks for.

    Tensors may be there or only claimed.
    """
    if schema is None:
        if found is not None:
            raise CheckpointError(f"{where} holds something, nothing belongs there in this run")
    elif isinstance(schema, Maybe):
        if found is not None:
            compare(found, schema.schema, where)
    elif isinstance(schema, Expected):
        _compare_tensor(found, schema, where)
    elif isinstance(schema, Number):
        # Compared by type, because isinstance(True, int) holds.
        kinds = (int, float) if schema.real else (int,)
        if type(found) not in kinds or not schema.low <= found <= schema.high:
            raise CheckpointError(
                f"{where} is {shown(found)}, it lies in {schema.low}..{schema.high}"
            )
    elif not isinstance(found, dict):
        raise CheckpointError(f"{where} is {shown(found)}, not a dictionary")
    else:
        # The path in messages grows by a name at each level: optimizer.state.3.exp_avg.
        names = cast(dict[Any, Any], found)
        _compare_names(names, schema, where)
        for name, part in schema.items():
            compare(names[name], part, f"{where}.{name}")


def _compare_tensor(found: Any, schema: Expected, where: str) -> None:
    like = schema.like
    if not isinstance(found, Claim | Tensor):
        raise CheckpointError(f"{where} is {shown(found)}, not a tensor")
    if tuple(found.shape) != tuple(like.shape):
        raise CheckpointError(f"{where} is {list(found.shape)}, not {list(like.shape)} as here")
    floats = found.dtype.is_floating_point and like.dtype.is_floating_point
    if found.dtype != like.dtype and not (schema.any_precision and floats):
        raise CheckpointError(f"{where} is {found.dtype}, not {like.dtype} as here")


def _compare_names(found: Mapping[Any, Any], wanted: Mapping[Any, Any], where: str) -> None:
    parts: list[str] = []
    for verb, names in (
        ("lacks", wanted.keys() - found.keys()),
        ("has the unknown", found.keys() - wanted.keys()),
    ):
        if names:
            first = ", ".join(sorted(map(shown, names))[:2])
            parts.append(f"it {verb} {first} ({len(names)} in all)")
    if parts:
        raise CheckpointError(f"{where} is of another network: {'; '.join(parts)}")


def take(archive: Archive, found: Any, schema: Schema, where: str) -> Any:
    """Read what :func:`compare` let pass. Raise :class:`CheckpointError` for a tensor with a value
    that is not finite or out of bounds.
    """
    if schema is None or found is None:
        return None
    if isinstance(schema, Maybe):
        return take(archive, found, schema.schema, where)
    if isinstance(schema, Number):
        return found
    if isinstance(schema, Expected):
        tensor = archive.read(found).to(schema.like.dtype)
        _check_values(tensor, schema, where)
        return tensor
    return {
        name: take(archive, found[name], part, f"{where}.{name}") for name, part in schema.items()
    }


def _check_values(tensor: Tensor, schema: Expected, where: str) -> None:
    if not tensor.numel() or tensor.dtype == torch.bool:
        return
    # One pass over the tensor; aminmax gives NaN where a value is NaN.
    least, most = (float(value) for value in tensor.aminmax())
    if not (math.isfinite(least) and math.isfinite(most)):
        raise CheckpointError(f"{where} holds a value that is not finite (NaN or infinity)")
    if least < schema.low or most > schema.high:
        outside = least if least < schema.low else most
        raise CheckpointError(
            f"{where} holds {outside:g}, its values lie in {schema.low}..{schema.high}"
        )


def checksum(value: Any) -> str:
    """Return the SHA-256 over the names, dtypes, shapes and bytes of a tree of tensors and plain
    values.
    """
    digest = hashlib.sha256()
    for path, leaf in _leaves(value, ()):
        if not isinstance(leaf, Tensor):
            digest.update(json.dumps([path, leaf]).encode())
            continue
        digest.update(json.dumps([path, str(leaf.dtype), list(leaf.shape)]).encode())
        if leaf.numel():
            # As bytes: NumPy has no bfloat16, and -0.0 differs from 0.0 here as it does in the
            # file.
            flat = leaf.detach().cpu().contiguous().flatten()
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def plain(value: Any) -> Any:
    """Return a copy of lists, dictionaries, words, numbers, and nothing else, as JSON could hold
    them. Raise :class:`CheckpointError` on anything else, or on too much.
    """
    return _Copier().copy(value, "", 0)


class _Copier:
    """One copying. A value that a file names twice counts twice, so that a small file cannot hold
    more than memory does.
    """

    def __init__(self) -> None:
        self._left = _MOST_VALUES

    def copy(self, value: Any, where: str, depth: int) -> Any:
        """Return a copy of the value at the path ``where``."""
        self._left -= 1
        if depth > _DEEPEST or self._left < 0:
            raise CheckpointError(f"{shown(where)} is nested too deeply or too large")
        if isinstance(value, list | tuple):
            return [self.copy(item, where, depth + 1) for item in cast(list[Any], value)]
        if isinstance(value, dict):
            items = cast(dict[Any, Any], value).items()
            return {
                self._word(name): self.copy(item, f"{where}.{name}".lstrip("."), depth + 1)
                for name, item in items
            }
        if isinstance(value, str):
            return self._word(value)
        if value is None or isinstance(value, bool | int | float):
            return value
        raise CheckpointError(f"{shown(where)} holds {shown(value)}, which is no plain value")

    def _word(self, word: Any) -> str:
        try:
            str(word).encode()
        except UnicodeEncodeError:  # half a character, which no terminal and no file takes
            raise CheckpointError(f"{shown(word)} is no text") from None
        return str(word)


def _leaves(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield the leaves of a tree with their paths, in an order that does not depend on that of
    keys.
    """
    if isinstance(value, dict) and value:
        items = cast(dict[Any, Any], value)
        # The numbers 2 and 10, which an optimiser's state has as keys, are sorted as words: 10
        # before 2.
        for name in sorted(items, key=str):
            yield from _leaves(items[name], (*path, name))
    elif isinstance(value, list | tuple) and value:
        for number, item in enumerate(cast(list[Any], value)):
            yield from _leaves(item, (*path, number))
    else:  # an empty dictionary or list too, so that leaving one out changes the checksum
        yield path, value


def _on_cpu(value: Any) -> Any:
    # The file of a run on a GPU then loads where there is none.
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, dict):
        return {name: _on_cpu(part) for name, part in cast(dict[Any, Any], value).items()}
    return value
