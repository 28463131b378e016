"""Tiny clip stores for tests: a textured square moves over a still texture, made and written in
milliseconds.
"""

from collections.abc import Collection
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

SPEC = StoreSpec(
    frames=8,
    stride=1,
    clips_per_video=3,
    height=36,
    width=48,
    foreground="seed",
    foreground_height=9,
    foreground_width=12,
    videos_per_shard=4,
)
CLASSES = ("left", "right")


def make_store(
    path: Path,
    *,
    videos: int = 20,
    spec: StoreSpec = SPEC,
    failed: Collection[int] = (),
    seed: int = 0,
) -> Path:
    """Write a finished store of ``videos`` videos of two classes, some of them failed, and return
    its path.
    """
    header = StoreHeader(dataset="tiny", split="train", class_names=CLASSES, spec=spec)
    names = [f"{CLASSES[video % 2]}/{video:03d}" for video in range(videos)]
    create(path, header, names=names, labels=[video % 2 for video in range(videos)])
    for shard, first in enumerate(range(0, videos, spec.videos_per_shard)):
        members = range(first, min(first + spec.videos_per_shard, videos))
        write_shard(
            path,
            shard,
            [VideoFailure("broken") if v in failed else tiny_video(spec, v, seed) for v in members],
        )
    finalise(path)
    return path


def tiny_video(spec: StoreSpec, video: int, seed: int = 0) -> VideoClips:
    """The clips of one video: class 0 moves left, class 1 right; the map is the square's path."""
    rng = numpy_generator(seed, 0, video, "tests/video")
    count, size = spec.clips_per_video, spec.height // 3
    tile = (-(-spec.height // 6), -(-spec.width // 8), 1)  # rounded up: 256x340 is not 252x336
    scene_HWC = np.kron(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8), np.ones(tile, np.uint8))
    scene_HWC = scene_HWC[: spec.height, : spec.width]
    square = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
    clips = np.broadcast_to(scene_HWC, (count, spec.frames, *scene_HWC.shape)).copy()
    maps = np.zeros((count, spec.height, spec.width), np.uint8)
    for clip in range(count):
        top, start = int(rng.integers(0, spec.height - size)), int(rng.integers(0, 4))
        for t in range(spec.frames):
            left = start + 2 * t if video % 2 else spec.width - size - start - 2 * t
            clips[clip, t, top : top + size, left : left + size] = square
            maps[clip, top : top + size, left : left + size] = 255
    step = (spec.height // spec.foreground_height, spec.width // spec.foreground_width)
    return VideoClips(
        clips=clips,
        foreground=None
        if spec.foreground == "none"
        else np.ascontiguousarray(maps[:, :: step[0], :: step[1]]),
        start_frame=np.arange(count, dtype=np.int32),
    )
