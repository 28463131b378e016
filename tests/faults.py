"""Faults by plan: one call of many that change files fails, or that call and all after it.

Calls are counted that touch files below a folder: opening for writing, a raw write, a sync, a
rename. What libraries of other languages write is beyond this (TensorBoard, Pillow and NumPy go
through Python's files here).
"""

import builtins
import io
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

Call = Callable[..., Any]


class Plan:
    """Lets call number ``fails`` (counted from 1) fail with an errno; ``lasting`` ones after it too.

    A write that fails has written half of its bytes, as on a real disk.
    """

    def __init__(self, root: Path, *, fails: int, code: int, lasting: bool) -> None:
        self.root, self.fails, self.code, self.lasting = (
            os.path.realpath(root),
            fails,
            code,
            lasting,
        )
        self.calls = 0
        self._lock = threading.Lock()

    @property
    def hit(self) -> bool:
        """Whether a call failed."""
        return self.calls >= self.fails

    def count(self) -> None:
        """Count one call; raise ``OSError`` if it is to fail."""
        with self._lock:
            self.calls += 1
            number = self.calls
        if number == self.fails or (self.lasting and number > self.fails):
            raise OSError(self.code, os.strerror(self.code))

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Count, and fail, within this context."""
        opened = io.open
        with pytest.MonkeyPatch.context() as patch:
            for name in ("rename", "replace"):
                patch.setattr(os, name, self._moving(getattr(os, name)))
            patch.setattr(os, "fsync", self._syncing)
            for module in (builtins, io):
                patch.setattr(module, "open", self._opening(opened))
            yield

    def _ours(self, file: Any) -> bool:
        name = f"/proc/self/fd/{file}" if isinstance(file, int) else file
        return os.path.realpath(os.fsdecode(name)).startswith(self.root)

    def _moving(self, call: Call) -> Call:
        def move(source: Any, target: Any, **options: Any) -> Any:
            if self._ours(target):
                self.count()
            return call(source, target, **options)

        return move

    def _syncing(self, descriptor: int) -> None:
        """A sync that only counts: nothing here is to survive a power cut."""
        if self._ours(descriptor):
            self.count()

    def _opening(self, call: Call) -> Call:
        def opens(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            writes = any(letter in mode for letter in "wax+")
            if not (writes and isinstance(file, int | str | bytes | os.PathLike)):
                return call(file, mode, *arguments, **options)
            if not self._ours(file):
                return call(file, mode, *arguments, **options)
            if not isinstance(file, int):  # an open descriptor gets a file without asking the disk
                self.count()
            return self._file(file, mode, *arguments, **options)

        return opens

    def _file(
        self, file: Any, mode: str, buffering: int = -1, encoding: str | None = None,
        errors: str | None = None, newline: str | None = None, closefd: bool = True,
    ) -> Any:  # fmt: skip
        raw = _Raw(file, mode.replace("b", "").replace("t", ""), closefd=closefd)
        raw.plan = self
        if buffering == 0:
            return raw
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        if "b" in mode:
            return buffered
        return io.TextIOWrapper(buffered, encoding, errors, newline, buffering == 1)


class _Raw(io.FileIO):
    """A file whose every write is counted."""

    plan: Plan

    def write(self, data: Any, /) -> int | None:
        try:
            self.plan.count()
        except OSError:
            super().write(memoryview(data)[: len(data) // 2])
            raise
        return super().write(data)
