"""Any folder of videos: ``root/CLASS/**/video`` with labels, ``root/video`` without, or a list."""

from pathlib import Path

from preprocess.datasets.files import Files, Source
from preprocess.datasets.forms import NUMBER, Row, rows
from preprocess.datasets.listing import UNLABELLED, Entry, Listing, folder_of, match, tree
from preprocess.datasets.rows import UNSPEAKABLE, class_index, lines, shown
from preprocess.datasets.splits import called
from preprocess.part import WHOLE

_DIGITS, _BETWEEN = "0123456789", " \t,;"


def folder(source: Source) -> Listing:
    """List a folder of videos.

    Without a list, videos lie in one subfolder per class, or directly inside, without a label.

    A list (``list_file``) names one video a line, relative to the root or absolute below it, with
    or without a label: ``name``, ``name,class``, ``name label`` and ``name total label`` as
    SlowFast, VideoMAE and mmaction2 write them, ``name start end label`` or ``name offset total
    label`` (``list_numbers``) for a part of a video, or as a header names them.
    A label is the name of a class or its number; a number counts in ``class_file``, or names
    a subfolder, one number for each. Blank lines and lines that start with ``#`` are skipped; a
    name with a comma may be quoted as in CSV.

    Classes are the lines of ``class_file``, or the sorted subfolders that hold a video, listed or
    not, so that all lists of one folder number their classes alike.

    Raises:
        ValueError: a listed name leaves the root, a class is unknown, or a line is of no such form.
    """
    files = source.scan()
    names = tree(files)
    if source.class_file:
        classes, first = _classes(source.class_file)
    else:
        subfolders = {_subfolder(name) for name in names} - {""}
        speakable = sorted(name for name in subfolders if not UNSPEAKABLE.search(name))
        classes, first = {name: label for label, name in enumerate(speakable)}, None
    if source.list_file is None:
        entries = [_found(name, classes, files) for name in names]
        return match(entries, files=files, class_names=classes, notes=_too_high(files, classes))
    listed = list(rows(source, files))
    labels = _Labels(classes, first=first)
    return match(
        (Entry(row.name, labels.of(row), row.line, part=row.part) for row in listed),
        files=files,
        class_names=classes,
        notes=_parts(listed),
    )


def _parts(listed: list[Row]) -> list[str]:
    """Return a note on the parts of videos that a list names."""
    parts = [row for row in listed if row.part != WHOLE]
    if not parts:
        return []
    shown_as = parts[0].part.named(parts[0].name)
    return [f"{len(parts)} lines name parts of videos, counted from frame 0: {shown_as}, ..."]


def _found(name: str, classes: dict[str, int], files: Files) -> Entry:
    subfolder = _subfolder(name)
    if subfolder and subfolder not in classes and name in files.videos:
        raise ValueError(
            f"{shown(name)} is of class {shown(subfolder)}, which is not among the "
            f"{len(classes)} classes"
        )
    return Entry(name, classes.get(subfolder, UNLABELLED))


class _Labels:
    """The labels of a list, read by name, by number (``first`` is that of the first class; ``None``
    where a number has to go with a subfolder), or by the subfolder of the video.
    """

    def __init__(self, classes: dict[str, int], *, first: int | None) -> None:
        self._classes, self._number = classes, first
        self._first: dict[str, Row] = {}  # the row that first had this number, or this subfolder

    def of(self, row: Row) -> int:
        """Return the class index of a row."""
        if row.label in self._classes:
            return self._classes[row.label]
        if row.label == "-1":
            return UNLABELLED
        if row.label and not NUMBER.fullmatch(row.label):
            raise self._unknown(row, row.label)
        if row.label and self._number is not None:
            last = self._number + len(self._classes) - 1
            return row.line.whole(row.label, low=self._number, high=last) - self._number
        return self._by_subfolder(row)

    def _by_subfolder(self, row: Row) -> int:
        subfolder = _subfolder(row.name)
        if row.label:
            self._expect_one_number(row, subfolder)
        if not subfolder:
            return UNLABELLED
        if subfolder not in self._classes:
            raise self._unknown(row, subfolder)
        return self._classes[subfolder]

    def _expect_one_number(self, row: Row, subfolder: str) -> None:
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

    def _unknown(self, row: Row, name: str) -> ValueError:
        return row.line.error(
            f"{shown(row.name)} is of class {shown(name)}, which is not among the "
            f"{len(self._classes)} classes"
        )


def _too_high(files: Files, classes: dict[str, int]) -> list[str]:
    """Return a note where the subfolders look like splits, or like the one folder that holds the
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


def _classes(path: Path) -> tuple[dict[str, int], int]:
    """Return classes by index, and the number that the first one has in lists: 0, or 1 where the
    file numbers its lines from 1 (``1 run``, ``run,1``).
    """
    named = [(line, line.text) for line in lines(path) if not line.text.startswith("#")]
    for parted in (_number_before, _number_behind):
        found = [(parted(text), line) for line, text in named]
        numbered = sorted((int(number), line, name) for (number, name), line in found if number)
        first = numbered[0][0] if numbered else 0
        whole = [number for number, *_ in numbered] == list(range(first, first + len(named)))
        if whole and first < 2 and len({name for *_, name in numbered}) == len(named) > 1:
            return class_index((line, name) for _, line, name in numbered), first
    return class_index(named), 0


def _number_before(text: str) -> tuple[str, str]:
    """Return number and name of ``1 run``; an empty number for a line of another form."""
    rest = text.lstrip(_DIGITS)
    name = rest.lstrip(_BETWEEN)
    return (text[: -len(rest)] if name and name != rest else "")[:10], name


def _number_behind(text: str) -> tuple[str, str]:
    """Return number and name of ``run,1``; an empty number for a line of another form."""
    rest = text.rstrip(_DIGITS)
    name = rest.rstrip(_BETWEEN)
    return (text[len(rest) :] if name and name != rest else "")[:10], name


def _subfolder(name: str) -> str:
    return name.split("/")[0] if "/" in name else ""
