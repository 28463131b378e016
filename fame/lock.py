"""One writer at a time in a folder: the kernel's own lock."""

import contextlib
import errno
import fcntl
import os
import time
import warnings
from collections.abc import Generator
from pathlib import Path

from fame.files import real

_UNSUPPORTED = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
_LOOK_SECONDS = 0.5
_held: set[int] = set()


@contextlib.contextmanager
def hold(
    folder: Path,
    *,
    what: str = "folder",
    beside: bool = False,
    error: type[ValueError] = ValueError,
) -> Generator[None]:
    """Hold ``folder`` (which need not exist yet) against other runs. Raise ``error`` if taken.

    ``what`` names the folder in messages. The lock file lies in the folder, or ``beside`` it where
    nothing may lie in it but what belongs there. Where the environment sets ``FAME_LOCK_SECONDS``,
    the other run may take so long to end: a scheduler that starts a job again may do so before the
    job's last process is gone.

    The kernel drops the lock when its process dies, however it dies, so there are no stale locks;
    children made by fork do not hold it. It excludes other nodes too where the shared file system
    passes ``flock`` on (NFS does). On a file system without locks,
    warn and go on.
    """
    target = real(folder)
    file = target.parent / f".{target.name}.lock" if beside else target / ".lock"
    made = not file.parent.exists()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as reason:
        raise error(f"{target}: cannot make the folder ({reason.strerror})") from reason
    descriptor = _acquire(file, f"{target}", what, error)
    _held.add(descriptor)
    try:
        yield
    finally:
        if descriptor in _held:  # a forked child does not hold it: its parent still does
            with contextlib.suppress(OSError):  # the folder may be gone
                file.unlink()  # while it is held, so that nobody else's file is removed
                if made:  # a run that was refused leaves nothing behind
                    file.parent.rmdir()
            _held.discard(descriptor)
            os.close(descriptor)


def _acquire(file: Path, name: str, what: str, error: type[ValueError]) -> int:
    """Return a descriptor of the lock file, locked."""
    deadline = time.monotonic() + _patience()
    while True:
        try:
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except OSError as reason:
            message = f"{name}: cannot make its lock file {file.name} ({reason.strerror})"
            raise error(message) from reason
        try:
            locked = _flock(descriptor, name)
            if locked and _is_at(file, descriptor):
                return descriptor
            if not locked and time.monotonic() >= deadline:
                raise error(f"{name}: another run is writing this {what}; wait for it to end")
        except OSError as reason:
            os.close(descriptor)
            raise error(f"{name}: cannot lock ({reason.strerror})") from reason
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        if not locked:
            time.sleep(_LOOK_SECONDS)
        # else its last holder removed the file between our open and our lock: begin again


def _patience() -> float:
    text = os.environ.get("FAME_LOCK_SECONDS", "0")
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"FAME_LOCK_SECONDS must be a number of seconds, got {text!r}") from None


def _flock(descriptor: int, name: str) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        warnings.warn(
            f"{name}: its file system has no locks; run one command at a time", stacklevel=5
        )
    return True


def _is_at(file: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(file.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _forget_in_child() -> None:
    """Close a forked child's copy of the lock. A child that hangs would hold it after its parent
    died.
    """
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_forget_in_child)
