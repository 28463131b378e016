"""Checkpoints as a stranger might make them: what is in them is changed, or their bytes are.

Each change is made to a copy of what a good file holds. Reading the result has to end in one line,
or in the very weights of the good file.
"""

import argparse
import copy
import io
import os
import pickle
import random
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

Content = dict[str, Any]
Change = Callable[[Content], object]


class RunsCode:
    """What a pickle can do: call anything."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (str(self.proof),)


def deep(levels: int = 200) -> list[Any]:
    """A list in a list in a list."""
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def laughs(doublings: int = 60) -> list[Any]:
    """A small value of 2**60 leaves: each level holds the one below twice."""
    value: list[Any] = []
    for _ in range(doublings):
        value = [value, value]
    return value


def values(like: Any) -> dict[str, Any]:
    """Values of other types than a number, a word, a list or a mapping should have."""
    other = {
        "none": None, "word": "x", "nan": float("nan"), "huge": 10**30, "minus": -1, "list": [1],
        "deep": deep(), "laughs": laughs(), "tensor": torch.ones(2), "numpy": np.float64(1.0),
        "namespace": argparse.Namespace(x=1), "half a character": "\ud800", "real": 1.5,
    }  # fmt: skip
    return {name: value for name, value in other.items() if type(value) is not type(like)}


def tensors(like: Tensor) -> dict[str, Any]:
    """What may not stand where a tensor like this one belongs."""
    flat = like.flatten()
    made = {
        "one number": torch.ones(1, dtype=like.dtype),
        "empty": torch.ones(0, dtype=like.dtype),
        "scalar": torch.tensor(1, dtype=like.dtype),
        "other rank": like[None].clone(),
        "expanded": torch.tensor(1, dtype=like.dtype).expand(like.shape),
        "huge claim": torch.ones(1).expand(1 << 40),
        "double": like.double(),
        "half": like.half(),
        "whole numbers": like.long() if like.is_floating_point() else like.float(),
        "complex": like.to(torch.complex64),
        "sparse": flat.to_sparse(),
        "meta": torch.empty_like(like, device="meta"),
        "none": None,
        "word": "weights",
        "number": 3,
        "list": flat[:3].tolist(),
        "numpy": np.ones(3),
    }
    if like.numel() == 1:  # one number may be what belongs there
        del made["one number"], made["expanded"], made["scalar"]
    return made


def poisoned(like: Tensor) -> dict[str, Tensor]:
    """The tensor with one value that no training leaves."""
    poisons = {"nan": float("nan"), "infinity": float("inf"), "minus infinity": -float("inf")}
    made = {name: like.clone() for name in poisons}
    for name, tensor in made.items():
        tensor[(-1,) * tensor.ndim] = poisons[name]
    return made


def at(*path: Any) -> Callable[[Content], tuple[Any, Any]]:
    """The mapping that holds the last step of a path, and that step."""

    def find(content: Content) -> tuple[Any, Any]:
        for step in path[:-1]:
            content = content[step]
        return content, path[-1]

    return find


def put(path: tuple[Any, ...], value: Any) -> Change:
    """Set a value."""

    def change(content: Content) -> None:
        holder, name = at(*path)(content)
        holder[name] = value

    return change


def drop(path: tuple[Any, ...]) -> Change:
    """Take a value away."""

    def change(content: Content) -> None:
        holder, name = at(*path)(content)
        del holder[name]

    return change


def of(content: Content, path: tuple[Any, ...]) -> Any:
    """The value at a path."""
    holder, name = at(*path)(content)
    return holder[name]


def changes_of_weights(content: Content, part: str) -> Iterator[tuple[str, Change]]:
    """Changes to what :func:`fame.load` reads of a checkpoint: format, model, config, one part."""
    state = content["state"][part]
    weight = next(name for name, value in state.items() if value.ndim > 1)
    statistic = next(name for name in state if name.endswith("running_var"))
    for name, value in tensors(state[weight]).items():
        yield f"a weight: {name}", put(("state", part, weight), value)
    for name, value in poisoned(state[weight]).items():
        yield f"a weight holds {name}", put(("state", part, weight), value)
    yield "negative variance", put(("state", part, statistic), -state[statistic])
    yield "a weight too few", drop(("state", part, weight))
    yield "a weight too many", put(("state", part, "x"), torch.ones(1))
    yield "a weight without a name", put(("state", part, 3), torch.ones(1))
    yield "an escape in a name", put(("state", part, "\x1b[2J\n"), torch.ones(1))
    for path in (("model", "name"), ("model", "options"), ("model", "head"), ("model",)):
        for name, value in values(of(content, path)).items():
            yield f"{'.'.join(path)}: {name}", put(path, value)
    for name, value in {
        "of terabytes": 1 << 40, "of more than there is": 1 << 70, "of minus one": -1, "of none": 0,
        "of a half": 0.5, "of words": "x",
    }.items():  # fmt: skip
        yield f"a head {name}", put(("model", "head", "dim"), value)
    yield "an unknown option", put(("model", "options"), {"seed": "x"})
    yield "a second name", put(("model", "options"), {"name": "i3d"})
    for key, wrong in (("crop", 1 << 20), ("frames", 1 << 40), ("step", 1 << 62), ("span", 1.5)):
        for value in ("large", -3, wrong, True, float("nan"), [1], *([None] * (key != "span"))):
            yield f"{key} of {value}", put(("config", key), value)
    yield "class names of numbers", put(("model", "class_names"), [1, 2])
    for name, value in values({}).items():
        yield f"config: {name}", put(("config",), value)
        yield f"state: {name}", put(("state",), value)
        yield f"{part}: {name}", put(("state", part), value)
    for name, value in values("").items():
        yield f"format: {name}", put(("format",), value)
    yield "another format", put(("format",), "fame-checkpoint/9")


def changes_of_runs(content: Content) -> Iterator[tuple[str, Change]]:
    """Changes to what a run needs beyond weights: optimiser, queue, progress, config."""
    yield from _changes_of_optimiser(content)
    for part in ("queue", "queue_ptr", "queue_sample", "encoder_k"):
        if part in content["state"]:
            yield from _changes_of_part(content, part)
    for key in ("step", "steps_per_epoch", "data"):
        yield f"no {key}", drop(("progress", key))
        for name, value in values(content["progress"][key]).items():
            yield f"{key}: {name}", put(("progress", key), value)
    for step in (-1, 10**6, True, 2.0):
        yield f"step {step}", put(("progress", "step"), step)
    for key in ("lr", "epochs", "seed"):
        for name, value in values(content["config"][key]).items():
            yield f"config.{key}: {name}", put(("config", key), value)
    yield "an unknown setting", put(("config", "x" * 10_000), "\x1b[2J")


def _changes_of_optimiser(content: Content) -> Iterator[tuple[str, Change]]:
    path = ("state", "optimizer", "state")
    for buffer, like in of(content, path)[0].items():
        for name, value in {**tensors(like), **poisoned(like)}.items():
            yield f"optimiser, {buffer}: {name}", put((*path, 0, buffer), value)
        yield f"optimiser without {buffer}", drop((*path, 0, buffer))
    yield "optimiser without a parameter", drop((*path, 0))
    yield "optimiser of more", put((*path, 10**6), {})
    yield "optimiser by words", put((*path, "0"), {})
    for name, value in values({}).items():
        yield f"optimiser: {name}", put(("state", "optimizer"), value)
        yield f"progress: {name}", put(("progress",), value)


def _changes_of_part(content: Content, part: str) -> Iterator[tuple[str, Change]]:
    yield f"no {part}", drop(("state", part))
    if isinstance(like := content["state"][part], Tensor):
        for name, value in tensors(like).items():
            yield f"{part}: {name}", put(("state", part), value)
        for number in (-2, 10**6, 1 << 60):
            yield f"{part} of {number}", put(("state", part), torch.full_like(like, number))


def changed(content: Content, change: Change, *, checksums: bool) -> bytes:
    """A file with one change, by ``torch.save``; without ``checksums`` as format 1 had it."""
    made = copy.copy(content)
    for key in ("model", "config", "progress", "state"):
        made[key] = _copied(content[key])
    if not checksums:
        made.pop("checksums", None)
        made["format"] = "fame-checkpoint/1"
    change(made)
    file = io.BytesIO()
    torch.save(made, file)
    return file.getvalue()


def _copied(value: Any) -> Any:
    return (
        {name: _copied(part) for name, part in value.items()} if isinstance(value, dict) else value
    )


def odd_files(good: bytes, proof: Path) -> dict[str, bytes]:
    """Files that are no checkpoint at all, or no honest one."""
    content = io.BytesIO()
    torch.save({"state_dict": RunsCode(proof)}, content)
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("x/data.pkl", pickle.dumps({"a": 1}, 2))
        packed.writestr("x/data/0", bytes(4 << 20))
    twice = io.BytesIO(good)
    with zipfile.ZipFile(twice, "a") as zipped:
        zipped.writestr(zipped.infolist()[0].filename.upper(), b"")
    levels = b"\x80\x02}(X\x06\x00\x00\x00format" + b"]" * 100_000 + b"a" * 99_999 + b"u."
    return {
        "a hundred thousand levels": _zip({"x/data.pkl": levels}),
        "nothing": b"",
        "words": b"hello world\n",
        "all bytes": bytes(range(256)) * 4,
        "the first bytes of a zip": b"PK\x03\x04 no zip",
        "the first bytes of a pickle": b"\x80\x04hello",
        "code in a zip": content.getvalue(),
        "code in a pickle": pickle.dumps({"state_dict": RunsCode(proof)}),
        "code in an old pickle": b"cos\nmkdir\n(V" + str(proof).encode() + b"\ntR.",
        "a compressed zip": bomb.getvalue(),
        "a pickle that remembers too much": b"\x80\x02Nr\xff\xff\xff\xff.",
        "a pickle of a huge word": b"\x80\x04\x8d" + (1 << 60).to_bytes(8, "little") + b"x.",
        "a pickle of a huge number": b"\x80\x02\x8b"
        + (1 << 20).to_bytes(4, "little")
        + b"\x7f" * (1 << 20)
        + b".",
        "a folder of a zip": _zip({"a/b": b"x"}),
    }


def _zip(entries: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        for name, content in entries.items():
            made.writestr(name, content)
    return file.getvalue()


def mutants(good: bytes, count: int, *, seed: int) -> Iterator[bytes]:
    """Copies of a file with a few bytes flipped, cut, doubled, blanked or exchanged."""
    draw = random.Random(seed)
    for _ in range(count):
        data = bytearray(good)
        start = draw.choice([draw.randrange(len(data)), draw.randrange(min(4096, len(data)))])
        if draw.random() < 0.3:  # where both kinds of file keep what is where
            start = len(data) - 1 - draw.randrange(min(4096, len(data)))
        length = draw.choice([1, 1, 1, 2, 8, 64, 1000])
        match draw.randrange(6):
            case 0 | 1:
                for place in range(start, min(start + length, len(data))):
                    data[place] ^= 1 << draw.randrange(8)
            case 2:
                del data[start:]
            case 3:
                del data[start : start + length]
            case 4:
                data[start:start] = data[start : start + length]
            case _:
                data[start : start + length] = bytes(len(data[start : start + length]))
        yield bytes(data)
