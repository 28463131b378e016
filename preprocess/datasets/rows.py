"""Annotation files as people have them: lines and JSON entries with their line numbers, so that
every error names file and line.
"""

import csv
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from fame.files import is_there
from fame.reading import read_bytes

MAX_BYTES = 1 << 28  # of one annotation file; the largest official one has 30 MB
_MARKS = {b"\xef\xbb\xbf": "utf-8", b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}
_SPACE = re.compile(r"[ \t\n]*")
# Control characters, and what the bytes of a file name become that are not UTF-8.
UNSPEAKABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class Line(NamedTuple):
    """One line of an annotation file, or the place where a JSON entry begins."""

    file: Path
    number: int
    text: str = ""

    def error(self, message: str) -> ValueError:
        """Return the error to raise about this line."""
        return ValueError(f"{self.file}, line {self.number}: {message}")

    def cells(self, delimiter: str) -> list[str]:
        """Return the line as a row of CSV, cells stripped. Raise ``ValueError`` if it is none."""
        try:
            (row,) = csv.reader(
                [self.text], delimiter=delimiter, skipinitialspace=True, strict=True
            )
        except csv.Error as error:
            raise self.error(f"not a row of CSV ({error})") from None
        return [cell.strip() for cell in row]

    def whole(self, text: str, *, low: int, high: int) -> int:
        """Return ``text`` as a whole number from ``low`` to ``high``. Raise ``ValueError``
        otherwise.
        """
        if re.fullmatch(r"[+-]?[0-9]{1,18}", text) and low <= int(text) <= high:
            return int(text)
        raise self.error(f"{shown(text)} should be a whole number from {low} to {high}")


def shown(value: object) -> str:
    """Return a value as an error shows it: quoted, and cut where it is long."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def lines(path: Path, *, empty: bool = False) -> Iterator[Line]:
    """Yield the lines of a text file that are not blank, stripped. Raise ``ValueError`` if there is
    none, unless it may be ``empty``. Byte order marks and all line ends are taken.
    """
    found = False
    for number, text in enumerate(_text(path).split("\n"), 1):
        if stripped := text.strip(" \t"):
            found = True
            yield Line(path, number, stripped)
    if not (found or empty):
        raise Line(path, 1).error("the file is empty")


def table(path: Path) -> Iterator[tuple[Line, dict[str, str]]]:
    """Yield the rows of a CSV file with a header, by column; column names in lower case with ``_``.
    Cells are parted by commas, or by tabs or semicolons if the header is.

    Raise ``ValueError`` for a row that has more cells than the header, or fewer.
    """
    rows = lines(path)
    head = next(rows)
    delimiter = next((mark for mark in ",\t;" if mark in head.text), ",")
    columns = [re.sub(r"[^a-z0-9]+", "_", cell.lower()) for cell in head.cells(delimiter)]
    for line in rows:
        cells = line.cells(delimiter)
        if len(cells) != len(columns):
            raise line.error(f"{len(cells)} cells under a header of {len(columns)}")
        yield line, dict(zip(columns, cells, strict=True))


def json_list(path: Path) -> Iterator[tuple[Line, Any]]:
    """Return the entries of a file that holds one JSON list, each with the line where it begins."""
    return _Json(path).walk("[", "]")


def json_object(path: Path) -> Iterator[tuple[Line, tuple[str, Any]]]:
    """Return the keys and values of a file that holds one JSON object, with the line of
    each key.
    """
    return _Json(path).walk("{", "}")


def class_index(named: Iterable[tuple[Line, str]]) -> dict[str, int]:
    """Number classes in order. Raise ``ValueError`` for a name that is empty, doubled, or cannot be
    shown.
    """
    index: dict[str, int] = {}
    for line, name in named:
        checked_class(line, name)
        if name in index:
            raise line.error(f"the class {shown(name)} was named before")
        index[name] = len(index)
    return index


def checked_class(line: Line, name: object) -> str:
    """Return the name of a class. Raise ``ValueError`` if it is empty or cannot be shown."""
    if not isinstance(name, str) or not name.strip() or UNSPEAKABLE.search(name):
        raise line.error(f"{shown(name)} is not the name of a class")
    return name


def _text(path: Path) -> str:
    r"""Return the text of a file, with ``\n`` for every line end."""
    if not is_there(path):
        raise ValueError(f"{path} is not there: check its path, or put the file there")
    data = read_bytes(path, most=MAX_BYTES)
    mark = next((mark for mark in _MARKS if data.startswith(mark)), b"")
    try:
        text = data[len(mark) :].decode(_MARKS.get(mark, "utf-8"))
    except UnicodeDecodeError as error:
        line = Line(path, data.count(b"\n", 0, len(mark) + error.start) + 1)
        raise line.error(_encoding_hint(error, bool(mark))) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _encoding_hint(error: UnicodeDecodeError, marked: bool) -> str:
    byte = error.object[error.start]
    if marked:
        return f"not the {error.encoding} that its byte order mark promises"
    if byte in b"\x80\x81\x8d\x8f\x90\x9d" or byte == 0:
        return f"byte {byte:#04x} is not UTF-8"
    return (
        f"byte {byte:#04x} is not UTF-8; in Latin-1 it is {chr(byte)!r}. "
        "Convert the file: iconv -f latin1 -t utf-8"
    )


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


class _Json:
    """One JSON list or object, walked entry by entry: each is decoded where it begins."""

    def __init__(self, path: Path) -> None:
        self._path, self._text = path, _text(path)
        self._position, self._counted, self._number = 0, 0, 1
        self._skip(0)

    def walk(self, opening: str, closing: str) -> Iterator[tuple[Line, Any]]:
        """Yield the entries; those of an object are (key, value)."""
        if not self._take(opening):
            kind = "list" if opening == "[" else "object"
            raise self._line().error(f"should be one JSON {kind}")
        ended = self._take(closing)
        while not ended:
            line = self._line()
            yield line, self._value() if opening == "[" else self._pair()
            ended = self._take(closing)
            if not ended and not self._take(","):
                raise self._line().error(f"not JSON (a comma or {closing} is expected)")
        if self._position < len(self._text):
            raise self._line().error("not JSON (text after its end)")

    def _pair(self) -> tuple[str, Any]:
        key = self._value()
        if not isinstance(key, str) or not self._take(":"):
            raise self._line().error("not JSON (a key and a colon are expected)")
        return key, self._value()

    def _value(self) -> Any:
        try:
            found, end = _DECODER.raw_decode(self._text, self._position)
        except RecursionError:
            raise self._line().error("JSON nested too deeply") from None
        except json.JSONDecodeError as error:
            raise Line(self._path, error.lineno).error(f"not JSON ({error.msg})") from None
        except ValueError as error:  # a number of too many digits, or NaN
            raise self._line().error(f"not JSON ({error})") from None
        self._skip(end)
        return found

    def _take(self, token: str) -> bool:
        found = self._text.startswith(token, self._position)
        if found:
            self._skip(self._position + len(token))
        return found

    def _skip(self, position: int) -> None:
        blank = _SPACE.match(self._text, position)
        self._position = blank.end() if blank else position

    def _line(self) -> Line:
        self._number += self._text.count("\n", self._counted, self._position)
        self._counted = self._position
        return Line(self._path, self._number)
