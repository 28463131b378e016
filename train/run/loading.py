"""Batches that loader workers decode; the errors when one dies or cannot hand a batch over."""

import multiprocessing.connection
import os
import resource
import signal
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from fame.clipstore import CorruptChunk

_SHARED = "/dev/shm"  # noqa: S108 (where torch keeps what goes between processes)


# Descriptors: of Python, torch and a store's shards; of a worker's pipes; of a part's tensors.
_OPEN, _OPEN_BY_WORKER, _OPEN_BY_PART = 192, 8, 3


class LoaderError(ValueError):
    """No batches come any more; the message gives the reason and a remedy."""


def batches(loader: DataLoader[Any]) -> Iterator[Any]:
    """Yield the batches of ``loader``. Raise :class:`LoaderError` as soon as a worker is missed,
    and :class:`CorruptChunk` where one read damaged bytes.
    """
    _make_room(loader)
    parts = _guarded(lambda: iter(loader))
    processes = list(getattr(parts, "_workers", ()))
    try:
        while True:
            _check(processes)
            try:
                part = _guarded(lambda: next(parts), processes)
            except StopIteration:
                return
            yield part
    finally:  # torch does it when the iterator is collected, which an error on its way delays
        getattr(parts, "_shutdown_workers", lambda: None)()


def _make_room(loader: DataLoader[Any]) -> None:
    """Raise the limit of open files to what the workers may need. Raise :class:`LoaderError` where
    the system forbids it.
    """
    workers, ahead = loader.num_workers, loader.prefetch_factor or 0
    needed = _OPEN + workers * (_OPEN_BY_WORKER + _OPEN_BY_PART * ahead) if workers else 0
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if needed <= soft or soft == resource.RLIM_INFINITY:
        return
    if needed > hard != resource.RLIM_INFINITY:
        raise LoaderError(
            f"only {hard} files may be open, and {workers} loader workers may need {needed}; raise "
            f"the limit (ulimit -n {needed}) or take fewer (--workers 0 decodes in this process)"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _guarded(call: Any, processes: list[Any] | None = None) -> Any:
    """Return the result of ``call``; turn the errors of a dead worker or of missing memory into one
    line.
    """
    try:
        return call()
    except CorruptChunk as error:  # of the worker's traceback, the last line is the message
        raise CorruptChunk(str(error).strip().splitlines()[-1].partition(": ")[2]) from None
    except (RuntimeError, OSError, EOFError) as error:
        _check(processes or [])
        if reason := _why(error):
            raise LoaderError(reason) from error
        raise


def _check(processes: list[Any]) -> None:
    """Raise :class:`LoaderError` if a worker is gone."""
    gone = multiprocessing.connection.wait([process.sentinel for process in processes], 0)
    for process in processes:
        if process.sentinel in gone:
            code = process.exitcode
            how = signal.Signals(-code).name if code and code < 0 else f"exit code {code}"
            raise LoaderError(
                f"a loader worker died ({how}), perhaps for want of memory or of space in "
                f"{_SHARED}; take fewer with --workers (0 decodes in the main process) or a lower "
                "prefetch"
            )


def _why(error: BaseException) -> str:
    """Return the cause of an error between processes and its remedy; ``None`` for other errors."""
    text = str(error)
    if "shared memory" in text or "No space left" in text:
        stat = os.statvfs(_SHARED)
        size = stat.f_frsize * stat.f_blocks / 2**20
        return (
            f"a loader worker cannot hand over a batch: {_SHARED} ({size:.0f} MiB) is full; make "
            "it larger (docker run --shm-size 8g) or decode in the main process (--workers 0)"
        )
    if "Too many open files" in text or "ancdata" in text or isinstance(error, EOFError):
        return (
            "the loader workers cannot be reached: too few files may be open; raise the limit "
            "(ulimit -n 4096) or decode in the main process (--workers 0)"
        )
    if isinstance(error, OSError) or "DataLoader worker" in text.partition("\n")[0][:17]:
        return f"the loader workers cannot be reached ({text.splitlines()[0]}); try --workers 0"
    return ""
