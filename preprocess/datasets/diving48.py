"""Diving48, by its V2 annotations."""

import json
from pathlib import Path
from typing import Any

from preprocess.datasets.listing import Listing, make_listing, scan

_SPLITS = ("train", "test")


def diving48(root: Path, *, split: str, annotations: Path) -> Listing:
    """List one split (train or test) of Diving48.

    Args:
        root: ``root/VIDEO.mp4``, as in Diving48_rgb.tar.gz (its ``rgb`` folder).
        split: train or test.
        annotations: folder of ``Diving48_V2_train.json`` and ``Diving48_V2_test.json`` (objects
            with ``vid_name`` and ``label``) and ``Diving48_vocab.json`` (48 lists: take-off,
            somersaults, twists, position). A class is named by its four parts joined with ``-``.
            The first version's lists, with their wrong labels, are not read.

    Raises:
        ValueError: a file is missing or not of that form.
    """
    if split not in _SPLITS:
        raise ValueError(f"diving48 has the splits train and test, not {split!r}")
    class_names = [
        "-".join(map(str, parts)) for parts in _load(annotations / "Diving48_vocab.json")
    ]
    lists = {
        name: _entries(annotations / f"Diving48_V2_{name}.json", len(class_names))
        for name in _SPLITS
    }
    elsewhere = [name for other in _SPLITS if other != split for name, _ in lists[other]]
    return make_listing(
        lists[split], files=scan(root), class_names=class_names, elsewhere=elsewhere
    )


def _entries(path: Path, num_classes: int) -> list[tuple[str, int]]:
    entries: list[tuple[str, int]] = []
    for row in _load(path):
        match row:
            case {"vid_name": str(name), "label": int(label)} if 0 <= label < num_classes:
                entries.append((f"{name}.mp4", label))
            case _:
                raise ValueError(
                    f"{path}: {row!r} should hold vid_name and a label below {num_classes}"
                )
    return entries


def _load(path: Path) -> list[Any]:
    if not path.is_file():
        raise ValueError(f"{path} is missing: it comes with the V2 annotations of Diving48")
    rows = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(rows, list):
        raise ValueError(f"{path} should hold a list, not {type(rows).__name__}")
    return rows
