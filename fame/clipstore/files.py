"""A store as files: the one place that turns keys into paths, and the only one that renames and syncs.

A key is a ``/``-separated name inside the store and comes from :mod:`fame.clipstore.layout`, never from data.
"""

import contextlib
import errno
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Generator, Iterable
from pathlib import Path

from fame.clipstore.layout import PARTIAL
from fame.clipstore.schema import StoreError

MAX_METADATA_BYTES = 2**28
_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def write_errors(root: Path) -> Generator[None]:
    """Turn an ``OSError`` of writing into a :class:`StoreError` that says what to do."""
    try:
        yield
    except OSError as error:
        cure = "; free some space" if error.errno in _FULL else ""
        raise StoreError(
            f"{root}: cannot write ({error.strerror or error}){cure}. What is done is kept: "
            "run the same command again to go on"
        ) from error


def open_regular(path: Path) -> int:
    """A descriptor for reading a regular file; a link, a pipe or a device in a store is refused, not followed."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        why = "is a link" if error.errno == errno.ELOOP else error.strerror
        raise StoreError(f"{path}: cannot read ({why})") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise StoreError(f"{path}: not a regular file")
    return descriptor


def refuse_linked_folders(root: Path, names: Iterable[str]) -> None:
    """Raise :class:`StoreError` where a folder of the store is a link: it would lead outside."""
    for name in names:
        if (root / name).is_symlink():
            raise StoreError(f"{root / name}: is a link; a store keeps its folders in itself")


def read_whole(path: Path, *, limit: int = MAX_METADATA_BYTES) -> bytes:
    """The bytes of a small file; raises :class:`StoreError` where it is missing, not regular or above ``limit``."""
    with open(open_regular(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise StoreError(f"{path}: {size} bytes where at most {limit} belong")
        return file.read(size)


def regular_size(path: Path) -> int | None:
    """Size of a regular file, none where there is no such file."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def sha256_file(path: Path) -> str:
    """SHA-256 of a file of any size, in hexadecimal."""
    with open(open_regular(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Make renames in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Draft:
    """A file in the making: written under ``.partial``, checksummed as it grows, named only when it is whole.

    Two drafts of one file never share a name, so even a writer believed dead cannot mix its bytes into another's.
    """

    def __init__(self, root: Path, key: str) -> None:
        self._root, self.key, self.size = root, key, 0
        self._hash = hashlib.sha256()
        with write_errors(root):
            (root / PARTIAL).mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=root / PARTIAL, prefix=key.replace("/", "-") + ".")
        self._temporary, self._file = Path(name), os.fdopen(descriptor, "wb")

    def write(self, data: bytes) -> None:
        """Append."""
        with write_errors(self._root):
            self._file.write(data)
        self._hash.update(data)
        self.size += len(data)

    @property
    def sha256(self) -> str:
        """SHA-256 of what was written so far, in hexadecimal."""
        return self._hash.hexdigest()

    def commit(self) -> None:
        """Give the file its name, durably: after a crash it is there whole or not at all."""
        target = self._root / self.key
        with write_errors(self._root):
            self._file.flush()
            os.fchmod(self._file.fileno(), 0o644)
            os.fsync(self._file.fileno())
            self._file.close()
            target.parent.mkdir(exist_ok=True)
            self._temporary.rename(target)
            sync_folder(target.parent)

    def discard(self) -> None:
        """Remove the file unless it was committed."""
        with contextlib.suppress(OSError):
            self._file.close()
        self._temporary.unlink(missing_ok=True)


def write_whole(root: Path, key: str, data: bytes) -> None:
    """Write or replace a small file durably and at once."""
    draft = Draft(root, key)
    try:
        draft.write(data)
        draft.commit()
    finally:
        draft.discard()


def remove_file(root: Path, key: str) -> None:
    """Remove a file durably, if it is there."""
    with write_errors(root):
        (root / key).unlink(missing_ok=True)
        sync_folder((root / key).parent)


def remove_partial(root: Path) -> None:
    """Drop what killed writers left behind."""
    if (root / PARTIAL).is_dir():
        with write_errors(root):
            shutil.rmtree(root / PARTIAL)
