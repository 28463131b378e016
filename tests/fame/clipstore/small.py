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
    VideoClips,
    VideoFailure,
    create,
    finalise,
    write_shard,
)
from fame.randomness import numpy_generator

CLASSES = ("run", "sit")
SPEC = StoreSpec(
    frames=3,
    stride=2,
    clips_per_video=2,
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


def video(spec: StoreSpec, number: int, *, looped: bool = False) -> VideoClips:
    rng = numpy_generator(0, 0, number, "video")
    clips = rng.integers(
        0, 256, (spec.clips_per_video, spec.frames, spec.height, spec.width, 3), np.uint8
    )
    shape = (spec.clips_per_video, spec.foreground_height, spec.foreground_width)
    maps = None if spec.foreground == "none" else rng.integers(0, 256, shape, np.uint8)
    starts = np.sort(rng.integers(0, 1000, spec.clips_per_video)).astype(np.int32)
    return VideoClips(clips=clips, foreground=maps, start_frame=starts, looped=looped)


def videos(
    spec: StoreSpec, count: int, *, failed: Sequence[int] = ()
) -> list[VideoClips | VideoFailure]:
    return [
        VideoFailure(f"cannot decode {number}: é")
        if number in failed
        else video(spec, number, looped=number % 3 == 1)
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
