"""Small labelled stores of any classes, and checkpoints for them: what fine-tuning and testing
start from.
"""

import dataclasses
from pathlib import Path

import torch

from fame.clipstore import StoreHeader, create, finalise, write_shard
from fame.models import build_encoder
from tests.stores import SPEC, tiny_video

SEVEN = ("bow", "dive", "fall", "jump", "run", "sit", "walk")


def labelled_store(
    path: Path, classes: tuple[str, ...], labels: list[int], *, foreground: str = "difference"
) -> Path:
    """A finished store of one video for each label (-1 for none)."""
    spec = dataclasses.replace(SPEC, videos_per_shard=len(labels), foreground=foreground)
    header = StoreHeader(dataset="tiny", split="test", class_names=classes, spec=spec)
    create(path, header, names=[f"{video:03d}" for video in range(len(labels))], labels=labels)
    write_shard(path, 0, [tiny_video(spec, video) for video in range(len(labels))])
    finalise(path)
    return path


def checkpoint(
    path: Path,
    *,
    head: dict[str, object],
    names: tuple[str, ...] = (),
    part: str = "classifier",
    seed: int = 0,
) -> Path:
    """A checkpoint of an untrained small I3D with a head."""
    options = {"width": 0.125}
    network = build_encoder("i3d", head=head, options=options, seed=seed)
    contents = {
        "format": "fame-checkpoint/1",
        "model": {"name": "i3d", "options": options, "head": head, "class_names": list(names)},
        "config": {"crop": 32, "frames": 8},
        "state": {part: network.state_dict()},
        "progress": {},
    }
    torch.save(contents, path)
    return path


def classifier(path: Path, names: tuple[str, ...], *, seed: int = 0) -> Path:
    """A checkpoint with a classifier of these classes."""
    head = {"kind": "classifier", "classes": len(names), "dropout": 0.5}
    return checkpoint(path, head=head, names=names, seed=seed)
