"""Files of strangers: regular ones of bounded size, as text, JSON or lines of JSON.

Every function raises ``ValueError`` with one line that names the file.
"""

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_LARGEST = 1 << 24  # bytes of a file of settings or results


def read_bytes(path: Path, *, most: int = _LARGEST) -> bytes:
    """Return the bytes of a file, of which there are at most ``most``.

    A device may have no end and a pipe no beginning, so both are refused.
    """
    try:
        # Without O_NONBLOCK, opening a pipe would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ValueError(f"{path}: is a pipe or a device; name a file")
            if status.st_size > most:
                raise ValueError(f"{path}: is larger than the {most >> 20} MiB that are read")
            return file.read(most)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None


def read_text(path: Path, *, most: int = _LARGEST) -> str:
    """Return the text of a file in UTF-8, with or without a byte order mark."""
    data = read_bytes(path, most=most)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = f"{data[error.start]:#04x}"
        raise ValueError(f"{path}, line {line}: byte {byte} is not UTF-8") from None


def read_json(path: Path) -> Any:
    """Return what a JSON file holds."""
    text = read_text(path)
    try:
        return from_json(text)
    except ValueError as error:
        raise ValueError(f"{path}: is not JSON ({error})") from None


def read_json_lines(path: Path, *, most: int = 1 << 30) -> Iterator[tuple[int, str, Any]]:
    """Yield number, text and value of each line; the value of one that is not JSON is ``None``."""
    text = read_bytes(path, most=most).decode(errors="replace")
    for number, line in enumerate(text.splitlines(), 1):
        try:
            yield number, line, from_json(line)
        except ValueError:
            yield number, line, None


def from_json(text: str) -> Any:
    """Return the value of JSON. Raise ``ValueError`` for a key that is there twice too, of which
    one value would be lost in silence.
    """
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        double = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{double!r} is there twice")
    return values
