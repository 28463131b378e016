"""One run at a time on one store in a folder: the kernel's own lock."""

import contextlib
import errno
import fcntl
import os
import warnings
from collections.abc import Generator
from pathlib import Path

from fame.clipstore.schema import StoreError

_UNSUPPORTED = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
_held: set[int] = set()


@contextlib.contextmanager
def hold(path: Path) -> Generator[None]:
    """Hold the store at ``path`` (which need not exist yet) against other runs; raises
    :class:`StoreError` if taken.

    The kernel drops the lock when its process dies, however it dies, so there are no stale locks;
    children made by fork do not hold it. It excludes other nodes too where the shared file system
    passes ``flock`` on (NFS does). Where a file system has no locks, a warning says so and the run
    goes on: two runs would do the same work twice, but shards are renamed into place whole and are
    the same bytes whoever writes them.
    """
    store = path.resolve()
    store.parent.mkdir(parents=True, exist_ok=True)
    file = store.parent / f".{store.name}.lock"
    descriptor = _acquire(file, store)
    _held.add(descriptor)
    try:
        yield
    finally:
        if descriptor in _held:  # not so in a forked child, whose parent holds the lock still
            file.unlink(missing_ok=True)  # while it is held, so that nobody else's file is removed
            _held.discard(descriptor)
            os.close(descriptor)


def _acquire(file: Path, store: Path) -> int:
    """A descriptor of the lock file, locked."""
    while True:
        try:
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise StoreError(
                f"{store}: cannot make its lock file {file.name} ({error.strerror})"
            ) from error
        try:
            _flock(descriptor, store)
        except BaseException:
            os.close(descriptor)
            raise
        if _is_at(file, descriptor):
            return descriptor
        os.close(
            descriptor
        )  # its last holder removed the file between our open and our lock: begin again


def _flock(descriptor: int, store: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StoreError(
            f"{store}: another run is writing this store; wait for it to end"
        ) from None
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise StoreError(f"{store}: cannot lock ({error.strerror})") from error
        warnings.warn(
            f"{store}: its file system has no locks; run one command at a time", stacklevel=5
        )


def _is_at(file: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(file.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _forget_in_child() -> None:
    """A forked child shares the lock until it closes its copy; a hung one would hold it after its
    parent died.
    """
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_forget_in_child)
