"""Any folder of videos: ``root/CLASS/**/video`` with labels, ``root/video`` without."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from preprocess.datasets.listing import (
    UNLABELLED,
    Listing,
    checked_name,
    is_video,
    make_listing,
    scan,
)


def folder(root: Path, *, list_file: Path | None = None, class_file: Path | None = None) -> Listing:
    """List a folder of videos.

    Args:
        root: videos in one subfolder per class, or directly inside, without a label.
        list_file: only these videos, one a line: ``name`` or ``name,class``, names relative to the
            root. Blank lines and lines that start with ``#`` are skipped; a name with a comma is
            quoted as in CSV.
        class_file: class names in index order, one a line. By default the sorted class subfolders
            that hold a video, listed or not, so that all lists of one folder number their classes
            alike.

    Raises:
        ValueError: a listed name leaves the root or a class is unknown.
    """
    files = scan(root)
    videos = [name for name in files.inside | files.escaping if is_video(name)]
    class_names = (
        _lines(class_file) if class_file else sorted({n.split("/")[0] for n in videos if "/" in n})
    )
    rows = _rows(list_file) if list_file else ((name, _subfolder(name)) for name in videos)
    return make_listing(_labelled(rows, class_names), files=files, class_names=class_names)


def _rows(path: Path) -> Iterator[tuple[str, str]]:
    for number, row in enumerate(csv.reader(_lines(path), skipinitialspace=True), 1):
        if len(row) > 2:
            raise ValueError(
                f"{path}: line {number} should be 'name' or 'name,class', not {','.join(row)!r}"
            )
        yield row[0], row[1].strip() if len(row) == 2 else _subfolder(checked_name(row[0]))


def _labelled(
    rows: Iterator[tuple[str, str]], class_names: Sequence[str]
) -> Iterator[tuple[str, int]]:
    index = {name: label for label, name in enumerate(class_names)} | {"": UNLABELLED}
    for name, class_name in rows:
        if class_name not in index:
            raise ValueError(
                f"{name!r} is of class {class_name!r}, which is not among the "
                f"{len(class_names)} classes"
            )
        yield name, index[class_name]


def _subfolder(name: str) -> str:
    return name.split("/")[0] if "/" in name else ""


def _lines(path: Path) -> list[str]:
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]
