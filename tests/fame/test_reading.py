"""Files of strangers: read, or refused in one line that names them; a pipe is not waited for."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from fame.reading import read_bytes, read_json, read_json_lines, read_text


def folder(path: Path) -> None:
    path.mkdir()


def pipe(path: Path) -> None:
    os.mkfifo(path)


def loop(path: Path) -> None:
    path.symlink_to(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (folder, r"cannot be read \(Is a directory\)"),
        (pipe, "is a pipe or a device; name a file"),
        (loop, r"cannot be read \(Too many levels"),
        (endless, "is a pipe or a device; name a file"),
        (sparse, "is larger than the 16 MiB that are read"),
        (lambda path: None, r"cannot be read \(No such file"),
    ],
)
def test_what_is_no_file_of_bounded_size_is_refused(make: Any, says: str, tmp_path: Path) -> None:
    make(path := tmp_path / "config.json")
    for read in (read_bytes, read_text, read_json):
        with pytest.raises(ValueError, match=f"^{path}: {says}"):
            read(path)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", r": is not JSON \(Expecting value"),
        (b'{"a": 1', r": is not JSON \(Expecting"),
        (b"[" * 100_000, r": is not JSON \(nested too deeply"),
        (b'{"lr": 1, "a": {"lr": 1, "lr": 2}}', r": is not JSON \('lr' is there twice"),
        (b"9" * 10_000, r": is not JSON \(Exceeds the limit"),
        (b"\xff\xfe{\0}\0", ", line 1: byte 0xff is not UTF-8"),
        (b'{"a":\n"caf\xe9"}', ", line 2: byte 0xe9 is not UTF-8"),
    ],
)
def test_text_and_json_that_are_damaged_are_refused(data: bytes, says: str, tmp_path: Path) -> None:
    (path := tmp_path / "config.json").write_bytes(data)
    with pytest.raises(ValueError, match=f"^{path}{says}"):
        read_json(path)


def test_what_is_whole_is_read(tmp_path: Path) -> None:
    value = {"a": [1, 0.5, None, "Zürich"], "b": {"a": 1}}
    path = tmp_path / "config.json"
    for mark in (b"", b"\xef\xbb\xbf"):
        path.write_bytes(mark + json.dumps(value, ensure_ascii=False).encode())
        assert read_json(path) == value


def test_lines_that_are_damaged_have_no_value(tmp_path: Path) -> None:
    (path := tmp_path / "lines").write_bytes(b'{"a": 1}\n\xff\n' + b"[" * 100_000 + b"\n[2]\n{")
    assert [value for _, _, value in read_json_lines(path)] == [{"a": 1}, None, None, [2], None]
    assert [number for number, _, _ in read_json_lines(path)] == [1, 2, 3, 4, 5]
