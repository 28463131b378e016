"""Made-up trees and annotation files, as small as they can be."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from preprocess.datasets import Listing, Source, read


def touch(root: Path, names: Iterable[str]) -> Path:
    """Make empty files below ``root``."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def write(folder: Path, files: Mapping[str, str]) -> Path:
    """Write text files into ``folder``."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def listed(dataset: str, root: Path, **fields: Any) -> Listing:
    """The listing of a dataset."""
    return read(dataset, Source(root=root, **fields))


def labelled(listing: Listing) -> dict[str, str]:
    """Class names by video."""
    classes = (*listing.class_names, "none")
    return {name: classes[label] for name, label in zip(listing.names, listing.labels, strict=True)}
