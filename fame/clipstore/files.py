"""A store as files in a folder: the one storage that turns keys into paths, and the only one that
renames and syncs.
"""

import contextlib
import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from fame.clipstore.layout import PARTIAL
from fame.clipstore.schema import StoreError
from fame.clipstore.storage import Draft, In, Out, Source, Storage
from fame.files import whole
from fame.lock import hold

_FULL = (errno.ENOSPC, errno.EDQUOT)


class Folder(Storage):
    """The files of a store in a folder of a file system."""

    max_open = 128  # descriptors

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._folder = path

    def size(self, key: str) -> int | None:
        try:
            # Not stat, which would follow a link out of the store.
            status = (self._folder / key).lstat()
        except OSError:
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def open(self, key: str) -> "OpenFile":
        return OpenFile(self._folder / key)

    def draft(self, key: str) -> "FileDraft":
        return FileDraft(self._folder, key)

    def remove(self, key: str) -> None:
        path = self._folder / key
        if os.path.lexists(path):
            with _write_errors(self._folder):
                path.unlink(missing_ok=True)
                _sync_folder(path.parent)

    def list_keys(self) -> Iterator[str]:
        for folder, _, names in os.walk(self._folder):
            within = Path(folder).relative_to(self._folder)
            if within != Path(PARTIAL):
                yield from ((within / name).as_posix() for name in names)

    def sweep(self) -> None:
        if (self._folder / PARTIAL).is_dir():
            with _write_errors(self._folder):
                shutil.rmtree(self._folder / PARTIAL)

    def write_beside(self, suffix: str, text: str) -> None:
        if text:
            with whole(self._beside(suffix)) as partial:
                partial.write_text(text, encoding="utf-8")
        else:
            self._beside(suffix).unlink(missing_ok=True)

    def has_beside(self, suffix: str) -> bool:
        return self._beside(suffix).exists()

    def lock(self) -> AbstractContextManager[None]:
        return hold(self._folder, what="store", beside=True, error=StoreError)

    def map(self, function: Callable[[In], Out], items: Iterable[In]) -> Iterator[Out]:
        return map(function, items)

    def refuse_links(self, folders: Iterable[str]) -> None:
        for name in folders:
            if (self._folder / name).is_symlink():
                raise StoreError(
                    f"{self._folder / name}: is a link; a store keeps its folders in itself"
                )

    def _beside(self, suffix: str) -> Path:
        return self._folder.with_name(self._folder.name + suffix)


class OpenFile(Source):
    """A regular file open for reading; a link, a pipe or a device in a store is refused, not
    followed.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor, self._path = -1, path
        try:
            # O_NONBLOCK, or opening a pipe would wait for a writer.
            self._descriptor = os.open(
                path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            )
        except OSError as error:
            why = "is a link" if error.errno == errno.ELOOP else error.strerror
            raise StoreError(f"{path}: cannot read ({why})") from error
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise StoreError(f"{path}: not a regular file")
        self.size = status.st_size

    def read_into(self, view: memoryview, offset: int) -> int:
        try:
            # With an offset of its own, so that threads share the descriptor.
            return os.preadv(self._descriptor, [view], offset)
        except OSError as error:
            raise StoreError(f"{self._path}: cannot read ({error.strerror})") from error

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)


class FileDraft(Draft):
    """A file written under ``.partial`` and renamed when it is whole.

    Two drafts of one file never share a name, so even a writer believed dead cannot mix its bytes
    into another's.
    """

    def __init__(self, root: Path, key: str) -> None:
        super().__init__()
        self._root, self._key = root, key
        with _write_errors(root):
            (root / PARTIAL).mkdir(parents=True, exist_ok=True)
            # The folder of drafts is flat: frames/c.0.0.0.0.0 becomes frames-c.0.0.0.0.0.x7f3k2.
            descriptor, name = tempfile.mkstemp(
                dir=root / PARTIAL, prefix=key.replace("/", "-") + "."
            )
        self._temporary, self._file = Path(name), os.fdopen(descriptor, "wb")

    def _append(self, data: bytes) -> None:
        with _write_errors(self._root):
            self._file.write(data)

    def commit(self) -> None:
        target = self._root / self._key
        with _write_errors(self._root):
            self._file.flush()
            # Others may read the store, while a temporary file is its owner's alone. Its bytes must
            # be on disk before its name is.
            os.fchmod(self._file.fileno(), 0o644)
            os.fsync(self._file.fileno())
            self._file.close()
            target.parent.mkdir(exist_ok=True)
            self._temporary.rename(target)
            _sync_folder(target.parent)

    def discard(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
        self._temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _write_errors(root: Path) -> Generator[None]:
    """Turn an ``OSError`` of writing into a :class:`StoreError` that names the remedy."""
    try:
        yield
    except OSError as error:
        cure = "; free some space" if error.errno in _FULL else ""
        raise StoreError(
            f"{root}: cannot write ({error.strerror or error}){cure}. What is done is kept: "
            "run the same command again to go on"
        ) from error


def _sync_folder(folder: Path) -> None:
    """Make renames in ``folder`` durable."""
    # A rename changes the folder, so it is the folder that must reach the disk.
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
