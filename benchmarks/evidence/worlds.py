"""The controlled worlds of the experiments, as clip stores: made once, by the offline stage, then
shared by all trials.

Shapes: T frames of a source video, L of them kept, H W their size, h w size of a foreground map.
"""

import csv
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from fame.clipstore import (
    ClipStore,
    StoreHeader,
    VideoFrames,
    Window,
    create,
    finalise,
    is_finished,
    lock,
    missing_shards,
    write_shard,
)
from preprocess.world import WorldSpec, read_mask, write_world

STILL = WorldSpec(
    videos=1600,
    frames=48,
    height=60,
    width=80,
    rho=0.0,
    seed=1,
    test_share=0.2,
    smallest=0.45,
    largest=0.6,
    objects=12,
)
WORLDS = {
    "still": STILL,
    "camera": replace(STILL, camera_motion=True),
    "backgrounds": replace(STILL, backgrounds=80),
}
# Worlds whose training videos have a background each, as footage has: more tempting from one to
# the next. The videos that are tested on share 12 backgrounds, so that leakage can be measured.
OWN = replace(STILL, backgrounds=None, videos=1615)  # 1,292 to train on, 12 of them left out
TEMPTING = {
    "own": OWN,
    "bold": replace(OWN, contrast=2.0),
    "strong": replace(OWN, contrast=2.0, smallest=0.3, largest=0.42),
}
WORLDS |= TEMPTING
WORLDS |= {
    f"{name}-tested": replace(spec, backgrounds=12, videos=400, test_share=0.8)
    for name, spec in TEMPTING.items()
}
RECIPE = ["--keep", "3", "--height", "36", "--width", "48", "--codec", "zstd"]


def prepare(name: str, work: Path) -> Path:
    """Make world ``name`` below ``work`` where it is not there yet: ``world/``,
    ``{train,test}.zarr``, ``truth.zarr``.

    The stores hold flow maps; ``truth.zarr`` is the training store with the ground-truth masks as
    its maps. A tempting world has the test videos of another, and no ``truth.zarr``.
    """
    folder, tested = work / name, work / (f"{name}-tested" if name in TEMPTING else name)
    draw(name, folder / "world")
    draw(tested.name, tested / "world")
    if name in TEMPTING:
        leave_out(folder / "world", backgrounds(tested, videos(tested / "world", "test")))
    make_store(folder / "world", "train", folder / "train.zarr")
    make_store(tested / "world", "test", folder / "test.zarr")
    if name not in TEMPTING:
        with lock(folder / "truth.zarr"):
            write_truth(folder / "train.zarr", folder / "truth.zarr", folder / "world" / "masks")
    return folder


def background_table(name: str, work: Path) -> Path:
    """The table of the backgrounds of a world's test videos."""
    return work / (f"{name}-tested" if name in TEMPTING else name) / "world" / "videos.csv"


def draw(name: str, folder: Path) -> None:
    """Write the videos of a world, unless they are there."""
    if not (folder / "videos.csv").exists():  # written last
        write_world(WORLDS[name], folder)


def videos(folder: Path, split: str) -> list[str]:
    """Names of the videos of a split."""
    return (folder / f"{split}.txt").read_text().split()


def leave_out(folder: Path, unseen: Iterable[int]) -> None:
    """Take the videos with these backgrounds off the training list of a world: a background has
    its number in every world of a seed.
    """
    names = videos(folder, "train")
    number = dict(zip(names, backgrounds(folder.parent, names), strict=True))
    kept = [name for name in names if number[name] not in set(unseen)]
    (folder / "train.txt").write_text("\n".join(kept) + "\n")


def make_store(world: Path, split: str, store: Path) -> None:
    """Preprocess one split of a world."""
    where = {"videos": world / "videos", "listed": world / f"{split}.txt"}
    preprocessed(world.parent.name, split, store, options=RECIPE, **where)


def preprocessed(
    name: str, split: str, store: Path, *, videos: Path, listed: Path, options: Iterable[str]
) -> None:
    """Make a store of listed videos with the command that anybody would use."""
    command = ["preprocess", "folder", "--name", name, "--split", split, "--videos", videos]
    command += ["--list", listed, "--store", store, "--executor", "serial", *options]
    subprocess.run([sys.executable, "-m", "cli", *map(str, command)], check=True)


def write_truth(source: Path, path: Path, masks: Path) -> None:
    """Copy a store, with where the object is as its foreground maps."""
    if is_finished(path):
        return
    store = ClipStore.open(source)
    header = StoreHeader(
        dataset=store.header.dataset,
        split=store.header.split,
        class_names=store.header.class_names,
        spec=store.spec,
        foreground_parameters={"method": "ground truth"},
    )
    create(path, header, names=store.names, labels=store.labels_V.tolist())
    for shard in missing_shards(path):
        first = shard * store.spec.videos_per_shard
        members = range(first, min(first + store.spec.videos_per_shard, store.num_videos))
        write_shard(path, shard, (true_maps(store, video, masks) for video in members))
    finalise(path)


def true_maps(store: ClipStore, video: int, masks: Path) -> VideoFrames:
    """The frames of one video with their true maps."""
    spec, source_L2 = store.spec, store.source(video)
    mask_THW = read_mask((masks / store.names[video]).with_suffix(".npz")).astype(np.float32)
    size = (spec.foreground_width, spec.foreground_height)
    maps = [
        cv2.resize(mask_THW[number], size, interpolation=cv2.INTER_AREA)
        for number in source_L2[:: spec.foreground_every, 0]
    ]
    return VideoFrames(
        frames=store.clip(video, 0, Window(frames=len(source_L2))),
        foreground=(np.stack(maps) * 255).round().astype(np.uint8),
        source=source_L2,
    )


def backgrounds(folder: Path, names: Iterable[str]) -> list[int]:
    """The number of the background of each video of a store of this world."""
    with (folder / "world" / "videos.csv").open(newline="") as file:
        number = {row["video"]: int(row["background"]) for row in csv.DictReader(file)}
    return [number[name] for name in names]
