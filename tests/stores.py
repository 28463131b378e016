"""Tiny clip stores for tests: a textured square moves over a still texture, made and written in
milliseconds.
"""

from collections.abc import Collection
from pathlib import Path

import numpy as np

from fame.clipstore import (
    StoreHeader,
    StoreSpec,
    VideoFailure,
    VideoFrames,
    Window,
    create,
    finalise,
    write_shard,
)
from fame.randomness import numpy_generator

SPEC = StoreSpec(
    keep=1,
    seconds=0.4,  # 12 slots
    stretch=8,
    height=36,
    width=48,
    foreground="difference",
    foreground_every=1,
    foreground_height=9,
    foreground_width=12,
    videos_per_shard=4,
)
CLASSES = ("left", "right")
WINDOW = Window(frames=8)  # 5 starts in a video of 12 frames


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


def flip_bit(store: Path) -> None:
    """Damage the first shard of the frames by one bit."""
    shard = min(path for path in (store / "frames").iterdir() if path.suffix != ".json")
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)


def tiny_video(spec: StoreSpec, video: int, seed: int = 0) -> VideoFrames:
    """One video that fills its slots: class 0 moves left, class 1 right; a map is the square."""
    rng = numpy_generator(seed, 0, video, "tests/video")
    length, size = spec.slots, spec.height // 3
    tile = (-(-spec.height // 6), -(-spec.width // 8), 1)  # rounded up: 256x340 is not 252x336
    scene_HWC = np.kron(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8), np.ones(tile, np.uint8))
    scene_HWC = scene_HWC[: spec.height, : spec.width]
    square = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
    frames = np.broadcast_to(scene_HWC, (length, *scene_HWC.shape)).copy()
    maps = np.zeros((length, spec.height, spec.width), np.uint8)
    top, start = int(rng.integers(0, spec.height - size)), int(rng.integers(0, 4))
    room = spec.width - size
    for t in range(length):
        left = (start + 2 * t) % room if video % 2 else room - (start + 2 * t) % room
        frames[t, top : top + size, left : left + size] = square
        maps[t, top : top + size, left : left + size] = 255
    thin = (spec.height // spec.foreground_height, spec.width // spec.foreground_width)
    number_L = np.arange(length, dtype=np.int32) * spec.keep
    return VideoFrames(
        frames=frames,
        foreground=None
        if spec.foreground == "none"
        else np.ascontiguousarray(maps[:: spec.foreground_every, :: thin[0], :: thin[1]]),
        source=np.stack([number_L, number_L * 1000 // 30], axis=1).astype(np.int32),
    )
