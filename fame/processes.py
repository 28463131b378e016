"""Child processes: forked from a server that has no threads, imports only from where this package
was installed, and leaves the keyboard and the terminal to its parent.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Generator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext

from fame.beside import installed

_ENDING = (signal.SIGTERM, signal.SIGHUP)
_OF_THE_PARENT = (signal.SIGINT, *_ENDING)


class Stopped(KeyboardInterrupt):
    """A signal that ends the process came; it unwinds what runs as Ctrl-C does."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__()
        self.number = number


@contextmanager
def endings_as_ctrl_c() -> Generator[None]:
    """Raise :class:`Stopped` where SIGTERM comes, as a scheduler sends it, or SIGHUP, unless nohup
    has it ignored. Signals reach the main thread only; elsewhere nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise Stopped(number)

    # nohup ignores SIGHUP, and a run below it has to as well.
    kept = [number for number in _ENDING if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in kept}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def server(*preload: str) -> ForkServerContext:
    """Return the context whose processes are forked from a server that has imported ``preload``.

    Forked children of a process with threads (OpenMP, CUDA) may deadlock; the server has none. One
    server serves the whole process, so what is preloaded is what its first user asked for.
    """
    context = multiprocessing.get_context("forkserver")
    first = ["fame_video"] if installed() else []
    context.set_forkserver_preload([*first, *preload])
    with _blocked(_OF_THE_PARENT), _safe_path():
        forkserver.ensure_running()
    return context


@contextmanager
def pool(workers: int, *preload: str) -> Generator[ProcessPoolExecutor]:
    """Yield a pool of such processes; at the end of the context it finishes running work and
    cancels the rest.
    """
    executor = ProcessPoolExecutor(workers, mp_context=server(*preload))
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)


@contextmanager
def _blocked(signals: tuple[signal.Signals, ...]) -> Generator[None]:
    """Block ``signals`` in the processes begun here: Ctrl-C reaches all processes of a terminal."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _safe_path() -> Generator[None]:
    """Keep interpreters begun here (``python -c ...``) from importing from the current folder."""
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before
