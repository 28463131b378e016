"""Jester, by its official CSV files."""

from collections.abc import Iterator
from pathlib import Path

from preprocess.datasets.files import Source
from preprocess.datasets.listing import UNLABELLED, Entry, Listing, match
from preprocess.datasets.rows import Line, checked_class, class_index, lines, shown, table
from preprocess.datasets.splits import find_list

_SPLITS = ("train", "val", "test")


def jester(source: Source) -> Listing:
    """List one split (train, val or test) of Jester.

    Videos are ``ID`` anywhere below the root: folders of frames, as published (``00001.jpg`` on,
    with ``frames_folders``), or videos made of them. The annotations are ``jester-v1-labels.csv``
    (a class a line), ``jester-v1-train.csv``, ``-validation.csv`` and ``-test.csv`` (lines
    ``ID;class``; the test has no classes), or ``Train.csv``, ``Validation.csv`` and ``Test.csv``
    with a header ``video_id,label,...``. Without a file of labels the sorted ones of the training
    list are the classes.

    Raises:
        ValueError: a file is missing or not of that form, or a class is unknown.
    """
    rows = list(_rows(_list(source, source.split)))
    classes = _classes(source)
    entries: list[Entry] = []
    for line, name, label in rows:
        if label and label not in classes:
            raise line.error(f"{shown(label)} is not among the {len(classes)} classes")
        entries.append(Entry(name, classes.get(label, UNLABELLED), line, stems=(name,)))
    others = (split for split in _SPLITS if split != source.split)
    return match(
        entries,
        files=source.scan(),
        class_names=classes,
        elsewhere=(entry for split in others for entry in _others(source, split)),
    )


def _list(source: Source, name: str) -> Path:
    return find_list(source, name, suffixes=(".csv",), of="jester")


def _classes(source: Source) -> dict[str, int]:
    try:
        path = _list(source, "labels")
    except ValueError:
        found = {label: line for line, _, label in _rows(_list(source, "train")) if label}
        return class_index((found[label], label) for label in sorted(found))
    return class_index((line, line.text.strip('"')) for line in lines(path))


def _rows(path: Path) -> Iterator[tuple[Line, str, str]]:
    """Yield line, name and class of each video; the class is empty where the list gives none."""
    first = next(lines(path))
    if ";" in first.text or "," not in first.text:
        for line in lines(path):
            name, *label = line.cells(";")
            if len(label) > 1:
                raise line.error(f"{shown(line.text)} should be an id and a class")
            yield line, name, checked_class(line, label[0]) if label and label[0] else ""
        return
    for line, row in table(path):
        if "video_id" not in row:
            raise first.error("the header names no column video_id")
        yield line, row["video_id"], row.get("label", "")


def _others(source: Source, split: str) -> Iterator[Entry]:
    """Yield what another split lists, if its list is there: only for telling what is extra."""
    try:
        path = _list(source, split)
    except ValueError:
        return
    for line, name, _ in _rows(path):
        yield Entry(name, UNLABELLED, line, stems=(name,))
