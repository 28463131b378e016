"""Kinetics-400, by its class folders or by its official CSV files."""

import csv
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from preprocess.datasets.listing import Listing, is_video, make_listing, scan

_CSV_NAMES = {"train": ("train.csv",), "val": ("val.csv", "validate.csv"), "test": ("test.csv",)}


def k400(root: Path, *, split: str, annotations: Path | None = None) -> Listing:
    """List one split (train, val or test) of Kinetics-400.

    Without annotations the tree decides: ``root/SPLIT/CLASS/video``; classes are the sorted folders
    of all splits.

    With annotations, a folder of the official files (``train.csv``, ``val.csv`` or
    ``validate.csv``, ``test.csv``, with columns label, youtube_id, time_start, time_end), a clip is
    ``YOUTUBEID_SSSSSS_EEEEEE`` with any video suffix, anywhere below ``root/SPLIT`` (or below
    ``root`` where there is no such folder): one folder per class, renamed folders and flat trees
    all work. Classes are the sorted labels of ``train.csv`` and of the split's own file.

    Raises:
        ValueError: no such folder or file, a column is missing, or a clip is listed under two
            classes.
    """
    if split not in _CSV_NAMES:
        raise ValueError(f"k400 has the splits {', '.join(_CSV_NAMES)}, not {split!r}")
    return _from_tree(root, split) if annotations is None else _from_csv(root, split, annotations)


def _from_tree(root: Path, split: str) -> Listing:
    files = scan(root, under=split)
    present = [root / name for name in _CSV_NAMES if (root / name).is_dir()]
    class_names = sorted(
        {entry.name for folder in present for entry in folder.iterdir() if entry.is_dir()}
    )
    index = {name: label for label, name in enumerate(class_names)}
    entries = [
        name for name in files.inside | files.escaping if is_video(name) and name.count("/") >= 2
    ]
    return make_listing(
        ((n, index[n.split("/")[1]]) for n in entries), files=files, class_names=class_names
    )


def _from_csv(root: Path, split: str, annotations: Path) -> Listing:
    files = scan(root, under=split if (root / split).is_dir() else "")
    rows = list(_rows(annotations, split))
    class_names = sorted(
        {label for _, label in rows} | {label for _, label in _rows(annotations, "train")}
    )
    index = {name: label for label, name in enumerate(class_names)}
    by_stem = {
        PurePosixPath(name).stem: name
        for name in sorted(files.inside | files.escaping)
        if is_video(name)
    }
    entries = (
        (by_stem.get(clip, f"{split}/{label}/{clip}.mp4"), index[label]) for clip, label in rows
    )
    return make_listing(entries, files=files, class_names=class_names)


def _rows(annotations: Path, split: str) -> Iterator[tuple[str, str]]:
    """File stem and label of each clip that a split's CSV lists."""
    path = next(
        (annotations / name for name in _CSV_NAMES[split] if (annotations / name).is_file()), None
    )
    if path is None:
        raise ValueError(f"{annotations} holds none of {', '.join(_CSV_NAMES[split])}")
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            try:
                start, end = int(float(row["time_start"])), int(float(row["time_end"]))
                yield f"{row['youtube_id']}_{start:06d}_{end:06d}", row["label"]
            except (KeyError, ValueError, TypeError) as error:
                raise ValueError(f"{path}: not a Kinetics row: {row} ({error})") from None
