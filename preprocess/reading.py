"""Read files for the decoders: how long it took, and which error stopped it."""

import errno
import stat
import time
from collections.abc import Generator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

import numpy as np

_FAULTS_OF_A_NAME = (errno.ELOOP, errno.ENAMETOOLONG)


class DecodeError(ValueError):
    """A video that gives no clips; the message is the reason put on record."""


class ReadClock:
    """Seconds spent on reading files, in two numbers that another process may look at: when the
    read under way began (0: none is), and the sum of those that ended.
    """

    def __init__(self, numbers_2: np.ndarray) -> None:
        self._numbers_2 = numbers_2

    def share(self, numbers_2: np.ndarray) -> None:
        """Count in these numbers from now on."""
        self._numbers_2 = numbers_2

    def reset(self) -> None:
        """Set both numbers to 0."""
        self._numbers_2[:] = 0

    @property
    def seconds(self) -> float:
        """Return the sum, with the read under way."""
        began, ended = self._numbers_2.tolist()
        return ended + (time.monotonic() - began if began else 0)

    @contextmanager
    def running(self) -> Generator[None]:
        """Count the time spent within this context."""
        began = self._numbers_2[0] = time.monotonic()
        try:
            yield
        finally:
            self._numbers_2[0] = 0
            self._numbers_2[1] += time.monotonic() - began


READING = ReadClock(np.zeros(2))  # of this process


class VideoFile(FileIO):
    """A file that keeps the error that stopped a read: demultiplexers take it for the end."""

    def __init__(self, path: str) -> None:
        self.fault: OSError | None = None
        with READING.running():
            if not stat.S_ISREG(Path(path).stat().st_mode):
                raise DecodeError("no regular file")
            super().__init__(path)

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as much as there is, at most ``size`` bytes."""
        try:
            with READING.running():
                return super().read(size)
        except OSError as error:
            self.fault = error
            raise

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Move to an offset. Return -1 for a negative one, which a damaged index makes FFmpeg ask
        for.
        """
        try:
            return super().seek(offset, whence)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return -1


def open_file(path: str) -> VideoFile:
    """Open a regular file. Raise ``DecodeError`` for a name that no file can have."""
    try:
        return VideoFile(path)
    except OSError as error:
        if error.errno in _FAULTS_OF_A_NAME:
            raise DecodeError(f"the file cannot be opened: {error.strerror}") from None
        raise
