"""Files that are whole or not there, whoever else writes beside, and the error of a full disk."""

import contextlib
import errno
import os
import secrets
from collections.abc import Generator
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT)
_PARTIAL = ".partial"


class WriteError(ValueError):
    """A file cannot be written; the message names the file, the reason and the remedy."""


@contextlib.contextmanager
def whole(path: Path) -> Generator[Path]:
    """Yield a new name beside ``path`` to write to; then put that file, synced, in its place.

    ``path`` holds the old or the new file, whatever happens. No two writers share a name, so none
    mixes its bytes into another's file. Raise :class:`WriteError` where the disk refuses, and for a
    folder or a device: a new file would take the place of ``/dev/null``.
    """
    partial = _partial(path)
    with write_errors(path):
        _refuse_special(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            _sync(partial, os.O_RDWR)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        _sync(path.parent, os.O_RDONLY)  # the rename itself must survive a power cut


def is_there(path: Path) -> bool:
    """Return whether there is such a file or folder. None has a name too long for the disk, for
    which ``Path.exists`` raises.
    """
    try:
        return path.exists()
    except OSError:
        return False


def real(path: Path) -> Path:
    """Return the path without links. One that leads to itself stays: ``Path.resolve`` would raise
    something that is no ``OSError``.
    """
    return Path(os.path.realpath(path))


def utf8(path: Path) -> str:
    """Return a path as text for OpenCV's writer of videos, which crashes on one that is not UTF-8.
    Raise ``ValueError`` for such a path.
    """
    text = str(path)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{path}: is no name in UTF-8; choose another for a video") from None
    return text


def try_write(path: Path) -> None:
    """Raise :class:`WriteError` now where :func:`whole` could not write ``path`` after long work.

    Its folder is made.
    """
    with write_errors(path):
        _refuse_special(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = _partial(path)
        partial.touch()
        partial.unlink()


def sweep(folder: Path) -> None:
    """Remove what killed writers left in ``folder``; for the one who holds it."""
    for partial in folder.glob(f".*{_PARTIAL}*"):
        partial.unlink(missing_ok=True)


def _refuse_special(path: Path) -> None:
    if path.exists() and not path.is_file():
        raise WriteError(f"{path}: is a folder or a device; name a file to write to")


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.stem}.{secrets.token_hex(4)}{_PARTIAL}{path.suffix}")


@contextlib.contextmanager
def write_errors(path: Path) -> Generator[None]:
    """Turn an ``OSError`` of writing ``path`` into a :class:`WriteError`.

    Torch turns what a Python file raises into a ``RuntimeError`` of its own without the reason.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        reason = error if isinstance(error, OSError) else error.__context__
        if not isinstance(reason, OSError):
            raise
        why = str(reason.strerror or reason)
        if reason.errno in _FULL:
            why = f"disk full ({why}); free some space"
        raise WriteError(
            f"{path}: cannot write: {why}. What was whole before is kept: run the same command "
            "again to go on"
        ) from error


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
