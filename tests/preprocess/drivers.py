"""Runs of the stage in processes of their own, to be killed. They are forked from a process that
has all imported.
"""

import multiprocessing
import os
import signal
import sys
from multiprocessing.process import BaseProcess

from preprocess.config import PreprocessConfig
from preprocess.run import preprocess

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["preprocess.run", "preprocess.executors.ray"])


def start(config: PreprocessConfig, *, decoder: tuple[str, ...]) -> BaseProcess:
    """Start a run; it leads a process group of its own."""
    process = _context.Process(target=_drive, args=(config, decoder))
    process.start()
    return process


def _drive(config: PreprocessConfig, decoder: tuple[str, ...]) -> None:
    os.setpgid(0, 0)
    # The server that forks us may be one of the loaders', which leave these signals to their parent.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a script's background begins with it ignored
    try:
        preprocess(config, decoder=decoder)
    except KeyboardInterrupt as stopped:
        sys.exit(128 + getattr(stopped, "number", signal.SIGINT))
