"""One line of a list of videos, in the forms that people have: a name, a label, numbers between."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from preprocess.datasets.files import VIDEO_SUFFIXES, Files, Source
from preprocess.datasets.listing import checked_name
from preprocess.datasets.rows import Line, lines, shown
from preprocess.part import Part

_SUFFIXES = "|".join(sorted(VIDEO_SUFFIXES))
# A video's name up to its suffix, one delimiter (blanks around it), and what follows.
_VIDEO = re.compile(rf"(.+?\.(?:{_SUFFIXES}))(?:\s*([,;\t ])\s*(.*))?", re.IGNORECASE)
NUMBER = re.compile(r"[+-]?[0-9]+")
_TIME = re.compile(r"[+-]?[0-9]*\.[0-9]+")
_LAST_FRAME = 10**9 - 2
_COLUMNS = {
    "path": "path video_path video filename file name video_name video_id frames_dir frame_dir",
    "label": "label labels label_id class class_id class_name class_index action category target",
    "start": "start start_frame start_index frame_start first first_frame begin offset",
    "end": "end end_frame frame_end last last_frame stop stop_frame",
    "total": "total total_frames num_frames n_frames frame_count frames length count",
    "": "index idx row unnamed_0",
}
_KIND = {"": ""} | {name: kind for kind, names in _COLUMNS.items() for name in names.split()}


class Row(NamedTuple):
    """One line of a list: the video's name, its label (a number, a name, or nothing), and which
    part of the video it is about.
    """

    line: Line
    name: str
    label: str
    part: Part


def rows(source: Source, files: Files) -> Iterator[Row]:
    """Yield the lines of the list, read with an eye on what is there: ``a b.mp4 1`` may be a name.

    Raise ``ValueError`` for a line of another form, and for a name that leaves the root.
    """
    assert source.list_file is not None
    known = files.videos | files.outside.keys()
    roots = tuple(f"{root}/" for root in (files.root.absolute(), files.root.resolve()))
    header, first = None, None
    for line in lines(source.list_file):
        if line.number == 1 and (header := _header(line)):
            continue
        if line.text.startswith("#") and _split(line, known)[0] not in known:
            continue
        if header:
            name, found = header.split(line)
        else:
            name, cells = _split(line, known)
            found = dict(zip(_usual(line, cells, source), cells, strict=True))
            first = first or (line, cells) if cells else first
            _expect_one_form(line, cells, first)
        # Absolute names may lead to the root by a link, or by what the link points to.
        for root in roots:
            name = name.removeprefix(root)
        name = checked_name(name, line)
        yield Row(line, name, found.get("label", ""), _part(line, name, found))


class _Header(NamedTuple):
    """The first line of a list that names its columns: what parts them (blanks: nothing), and of
    what kind they are (that of a column which does not matter is empty).
    """

    delimiter: str
    kinds: list[str]

    def split(self, line: Line) -> tuple[str, dict[str, str]]:
        """Return the name on a line below it, and the other cells by kind."""
        before = self.kinds.index("path")
        if self.delimiter:
            cells = line.cells(self.delimiter)
        else:
            # The name may hold blanks: below "path start end label", "my clip.mp4 0 30 run" gives
            # three cells from the right, and the rest is the name.
            cells = line.text.split(None, before)
            cells[-1:] = cells[-1].rsplit(None, len(self.kinds) - before - 1)
        if len(cells) != len(self.kinds):
            raise line.error(f"{len(cells)} cells under a header of {len(self.kinds)}")
        found = dict(zip(self.kinds, cells, strict=True))
        return found.pop("path"), found


def _header(line: Line) -> _Header | None:
    """Return the header that the first line of a list is; None where it is none. Of two columns a
    name is one, so the other is a label whatever it is called.
    """
    delimiter = next((mark for mark in ",;\t" if mark in line.text), "")
    columns = [name.strip() for name in line.text.lower().split(delimiter or None)]
    columns = [re.sub(r"[^a-z0-9]+", "_", name).strip("_") for name in columns]
    kinds = [_KIND.get(name, "?") for name in columns]
    if "path" not in kinds or (kinds[0] == "?" and len(kinds) > 1):
        return None
    if len(kinds) == 2:
        kinds = ["label" if kind == "?" else kind for kind in kinds]
    for name, kind in zip(columns, kinds, strict=True):
        if kind == "?" or (kind and kinds.count(kind) > 1):
            raise line.error(
                f"the column {shown(name)} is not known, or there twice: a list has a path, a "
                "label, and for parts of videos start and end, or start and total"
            )
    return _Header(delimiter, kinds)


def _expect_one_form(line: Line, cells: list[str], first: tuple[Line, list[str]] | None) -> None:
    """Raise ``ValueError`` for lists whose lines have different numbers of cells, as those with
    several labels a video.
    """
    if first and cells and len(cells) != len(first[1]):
        raise line.error(
            f"{len(cells)} values behind the name, but {len(first[1])} on line {first[0].number}: "
            "a video has one label, and all lines one form"
        )


def _usual(line: Line, cells: list[str], source: Source) -> list[str]:
    """Return the kind of each cell behind a name, in a list without a header."""
    if len(cells) > 3:
        raise line.error(
            f"{shown(line.text)} should be a name and a label, with at most two numbers between"
        )
    between = ["start", source.list_numbers.partition("-")[2]] if len(cells) == 3 else ["total"]
    return ([*between, "label"])[-len(cells) :] if cells else []


def _part(line: Line, name: str, found: dict[str, str]) -> Part:
    """Return the frames that a line names. Where it has a start and an end, 0 and 1 both start at
    the first frame, since lists count from 0 or from 1. A later start is ambiguous: only the frames
    are taken that both ways of counting share.
    """
    numbers = {
        kind: line.whole(found[kind], low=-(kind != "start"), high=_LAST_FRAME // 2)
        for kind in ("start", "end", "total")
        if kind in found
    }
    start = numbers.get("start", 0)
    if "end" in numbers:
        start, end = start - (start == 1), numbers["end"]
    elif "start" in numbers and numbers.get("total", -1) >= 0:
        end = start + numbers["total"]
    else:
        end = -1
    if end == -1:
        return Part(start)
    if end <= start:
        raise line.error(
            f"the part of {shown(name)} from frame {start} on ends at {end}; if the second number "
            "counts frames, as mmaction2 writes it: --list-numbers offset-total"
        )
    return Part(start, end)


def _split(line: Line, known: frozenset[str]) -> tuple[str, list[str]]:
    """Return the name on a line, and the cells behind it."""
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
    if not rest:
        return name, []
    cells = [cell.strip() for cell in rest.split(None if delimiter == " " else delimiter)]
    if len(cells) > 1 and any(map(_TIME.fullmatch, cells)):
        raise line.error(f"{shown(rest)} are times: parts of videos are named by their frames")
    return name, cells if all(map(NUMBER.fullmatch, cells[:-1])) else [rest]


def _without_suffix(text: str, known: frozenset[str]) -> tuple[str, list[str]]:
    """Return name and cells of a line that names no file: a folder of frames, or a name without
    suffix. Up to three numbers at its end are cells, unless a folder's name ends with some of them.
    """
    delimiter = next((mark for mark in ",;\t" if mark in text), None)
    splits = [[cell.strip() for cell in text.rsplit(delimiter, count)] for count in (1, 2, 3)]
    splits = [cells for cells in splits if all(map(NUMBER.fullmatch, cells[1:]))]
    known_ones = [cells for cells in splits if cells[0] in known]
    if splits:
        name, *cells = (known_ones or splits)[-1]
        return name, cells
    name, _, label = text.partition(delimiter or " ")
    if not delimiter and name not in known:
        return text, []
    return name.strip(), [label.strip()] if label else []
