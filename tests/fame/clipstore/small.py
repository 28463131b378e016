"""Small stores for tests: a recipe, videos with content of their own, and a finished store of
them.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fame.clipstore import (
    StoreHeader,
    StoreSpec,
    VideoFailure,
    VideoFrames,
    create,
    finalise,
    write_shard,
)
from fame.randomness import numpy_generator

CLASSES = ("run", "sit")
SPEC = StoreSpec(
    seconds=0.4,  # 6 slots
    stretch=2,
    height=16,
    width=24,
    foreground_height=4,
    foreground_width=6,
    videos_per_shard=2,
)


def header(spec: StoreSpec = SPEC, **changes: object) -> StoreHeader:
    fields: dict = {
        "dataset": "small",
        "split": "train",
        "class_names": CLASSES,
        "spec": spec,
    } | changes
    return StoreHeader(**fields)


def video(spec: StoreSpec, number: int, *, cut: bool = False) -> VideoFrames:
    """A video of noise: full where it is cut (in two stretches if they fit), else shorter by its
    number.
    """
    rng = numpy_generator(0, 0, number, "video")
    length = spec.slots if cut else max(1, spec.slots - number % 4)
    frames = rng.integers(0, 256, (length, spec.height, spec.width, 3), np.uint8)
    shape = (-(-length // spec.foreground_every), spec.foreground_height, spec.foreground_width)
    maps = None if spec.foreground == "none" else rng.integers(0, 256, shape, np.uint8)
    source = np.sort(rng.integers(0, 1000, (length, 2)), axis=0).astype(np.int32)
    stretches = 1 if not cut or length % 2 else 2
    return VideoFrames(frames=frames, foreground=maps, source=source, stretches=stretches, cut=cut)


def videos(
    spec: StoreSpec, count: int, *, failed: Sequence[int] = ()
) -> list[VideoFrames | VideoFailure]:
    return [
        VideoFailure(f"cannot decode {number}: é")
        if number in failed
        else video(spec, number, cut=number % 3 == 1)
        for number in range(count)
    ]


def names(count: int) -> list[str]:
    return [f"class {number % 2}/vidéo {number}.mp4" for number in range(count)]


def labels(count: int) -> list[int]:
    return [number % 3 - 1 for number in range(count)]


def begin(path: Path, spec: StoreSpec, count: int) -> None:
    create(path, header(spec), names=names(count), labels=labels(count))


def shard_videos(spec: StoreSpec, shard: int, count: int, *, failed: Sequence[int] = ()):
    return videos(spec, count, failed=failed)[
        shard * spec.videos_per_shard : (shard + 1) * spec.videos_per_shard
    ]


def make(
    path: Path, spec: StoreSpec = SPEC, *, count: int = 5, failed: Sequence[int] = (2,)
) -> Path:
    begin(path, spec, count)
    for shard in range(-(-count // spec.videos_per_shard)):
        write_shard(path, shard, shard_videos(spec, shard, count, failed=failed))
    finalise(path)
    return path


def contents(path: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


def copy(store: Path, target: Path) -> Path:
    shutil.copytree(store, target)
    return target
