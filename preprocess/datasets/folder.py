"""Any folder of videos: ``root/CLASS/**/video`` with labels, ``root/video`` without, or a list."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from preprocess.datasets.files import VIDEO_SUFFIXES, Files, Source
from preprocess.datasets.listing import (
    UNLABELLED,
    Entry,
    Listing,
    checked_name,
    folder_of,
    match,
    tree,
)
from preprocess.datasets.rows import UNSPEAKABLE, Line, class_index, lines, shown
from preprocess.datasets.splits import called

_SUFFIXES = "|".join(sorted(VIDEO_SUFFIXES))
# A video's name up to its suffix, one delimiter (blanks around it), and what follows.
_VIDEO = re.compile(rf"(.+?\.(?:{_SUFFIXES}))(?:\s*([,;\t ])\s*(.*))?", re.IGNORECASE)
_NUMBER = re.compile(r"[+-]?[0-9]+")
_HEADERS = ("path", "video_path", "video", "filename", "file", "name", "video_name", "video_id")


class _Row(NamedTuple):
    """One line of a list: the video's name, its label (a number, a name, or nothing), and whether
    the line names a part of the video.
    """

    line: Line
    name: str
    label: str
    part: bool


def folder(source: Source) -> Listing:
    """List a folder of videos.

    Without a list, videos lie in one subfolder per class, or directly inside, without a label.

    A list (``list_file``) names one video a line, relative to the root or absolute below it, with
    or without a label: ``name``, ``name,class``, ``name label`` and ``name total label`` as
    SlowFast, VideoMAE and mmaction2 write them, ``name start end label`` where the start is 0 or 1.
    A label is the name of a class or its number; a number counts in ``class_file``, or stands for
    the subfolder, one number for each. Blank lines and lines that start with ``#`` are skipped; a
    name with a comma may be quoted as in CSV.

    Classes are the lines of ``class_file``, or the sorted subfolders that hold a video, listed or
    not, so that all lists of one folder number their classes alike.

    Raises:
        ValueError: a listed name leaves the root, a class is unknown, or a line names a part of a
            video.
    """
    files = source.scan()
    names = tree(files)
    if source.class_file:
        classes = _classes(source.class_file)
    else:
        subfolders = {_subfolder(name) for name in names} - {""}
        speakable = sorted(name for name in subfolders if not UNSPEAKABLE.search(name))
        classes = {name: label for label, name in enumerate(speakable)}
    if source.list_file is None:
        entries = [_found(name, classes, files) for name in names]
        return match(entries, files=files, class_names=classes, notes=_too_high(files, classes))
    rows = list(_rows(source.list_file, files))
    labels = _Labels(classes, numbered=source.class_file is not None)
    parts = sum(row.part for row in rows)
    return match(
        (Entry(row.name, labels.of(row), row.line) for row in rows),
        files=files,
        class_names=classes,
        notes=[f"{parts} lines tell where to begin and end: whole videos are read"] * bool(parts),
    )


def _found(name: str, classes: dict[str, int], files: Files) -> Entry:
    subfolder = _subfolder(name)
    if subfolder and subfolder not in classes and name in files.videos:
        raise ValueError(
            f"{shown(name)} is of class {shown(subfolder)}, which is not among the "
            f"{len(classes)} classes"
        )
    return Entry(name, classes.get(subfolder, UNLABELLED))


def _rows(path: Path, files: Files) -> Iterator[_Row]:
    """Lines of a list, read with an eye on what is there: ``a b.mp4 1`` may be a name."""
    known = files.videos | files.outside.keys()
    roots = tuple(f"{root}/" for root in (files.root.absolute(), files.root.resolve()))
    for line in lines(path):
        if line.text.startswith("#") and _split(line, known)[0] not in known:
            continue
        name, cells = _split(line, known)
        if line.number == 1 and re.split(r"[,;\s]", line.text.lower())[0] in _HEADERS:
            continue
        for root in roots:
            name = name.removeprefix(root)
        yield _row(line, checked_name(name, line), cells)


def _split(line: Line, known: frozenset[str]) -> tuple[str, list[str]]:
    """The name on a line, and the cells behind it."""
    text = line.text
    if text in known:
        return text, []
    if text.startswith('"'):
        name, *cells = line.cells(",")
        return name, cells
    found = _VIDEO.fullmatch(text)
    if not found:
        return _without_suffix(text, known)
    name, delimiter, rest = found.groups(default="")
    cells = [cell.strip() for cell in rest.split(None if delimiter == " " else delimiter or ",")]
    numbers = all(_NUMBER.fullmatch(cell) for cell in cells[:-1])
    return name, (cells if numbers else [rest]) if rest else []


def _without_suffix(text: str, known: frozenset[str]) -> tuple[str, list[str]]:
    """Name and cells of a line that names no file: a folder of frames, or a name without suffix.
    Up to three numbers at its end are cells, unless a folder's name ends with some of them.
    """
    delimiter = next((mark for mark in ",;\t" if mark in text), None)
    splits = [[cell.strip() for cell in text.rsplit(delimiter, count)] for count in (1, 2, 3)]
    splits = [cells for cells in splits if all(map(_NUMBER.fullmatch, cells[1:]))]
    known_ones = [cells for cells in splits if cells[0] in known]
    if splits:
        name, *cells = (known_ones or splits)[-1]
        return name, cells
    name, _, label = text.partition(delimiter or " ")
    if not delimiter and name not in known:
        return text, []
    return name.strip(), [label.strip()] if label else []


def _row(line: Line, name: str, cells: list[str]) -> _Row:
    """Of one cell the label; of two (total, label); of three (start, end or total, label)."""
    if len(cells) > 3:
        raise line.error(
            f"{shown(line.text)} should be a name and a label, with at most two numbers between"
        )
    if len(cells) == 3 and cells[0] not in ("0", "1"):
        raise line.error(
            f"a part of {shown(name)}, from {shown(cells[0])} on: parts of videos are not read; "
            "cut them out first"
        )
    return _Row(line, name, cells[-1] if cells else "", part=len(cells) == 3)


class _Labels:
    """How the labels of a list are read: by name, by number, or by the subfolder of the video."""

    def __init__(self, classes: dict[str, int], *, numbered: bool) -> None:
        self._classes, self._numbered = classes, numbered
        self._first: dict[str, _Row] = {}  # the row that first had this number, or this subfolder

    def of(self, row: _Row) -> int:
        """The class index of a row."""
        if row.label in self._classes:
            return self._classes[row.label]
        if row.label == "-1":
            return UNLABELLED
        if row.label and not _NUMBER.fullmatch(row.label):
            raise self._unknown(row, row.label)
        if row.label and self._numbered:
            return row.line.whole(row.label, low=0, high=len(self._classes) - 1)
        return self._by_subfolder(row)

    def _by_subfolder(self, row: _Row) -> int:
        subfolder = _subfolder(row.name)
        if row.label:
            self._expect_one_number(row, subfolder)
        if not subfolder:
            return UNLABELLED
        if subfolder not in self._classes:
            raise self._unknown(row, subfolder)
        return self._classes[subfolder]

    def _expect_one_number(self, row: _Row, subfolder: str) -> None:
        if not subfolder:
            raise row.line.error(
                f"the number {shown(row.label)} names no class: name them with --classes"
            )
        for key in (f"{subfolder}/", row.label):
            known = self._first.setdefault(key, row)
            if (_subfolder(known.name), known.label) != (subfolder, row.label):
                before = f"line {known.line.number} has {shown(known.label)} for "
                raise row.line.error(
                    f"{shown(row.label)} for the folder {shown(subfolder)}, but {before}"
                    f"{shown(_subfolder(known.name))}: name the classes with --classes"
                )

    def _unknown(self, row: _Row, name: str) -> ValueError:
        return row.line.error(
            f"{shown(row.name)} is of class {shown(name)}, which is not among the "
            f"{len(self._classes)} classes"
        )


def _too_high(files: Files, classes: dict[str, int]) -> list[str]:
    """A note where the subfolders look like splits, or like the one folder that holds the
    classes.
    """
    splits = [name for name in classes if any(called(name, s) for s in ("train", "val", "test"))]
    deep = {folder_of(name) for name in files.videos}
    if splits:
        return [f"the classes are called {', '.join(splits)}: is --videos one level too high?"]
    if len(classes) == 1 and len(deep) > 1 and all("/" in name for name in deep):
        (only,) = classes
        return [
            f"{only} is the only class, of {len(deep)} folders: is --videos one level too high?"
        ]
    return []


def _classes(path: Path) -> dict[str, int]:
    return class_index((line, line.text) for line in lines(path) if not line.text.startswith("#"))


def _subfolder(name: str) -> str:
    return name.split("/")[0] if "/" in name else ""
