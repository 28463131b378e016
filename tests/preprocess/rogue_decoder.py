"""A decoder process that misbehaves as a video's name asks it to; run in place of
`preprocess.decode`.
"""

import errno
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from preprocess import decode
from preprocess.reading import READING, VideoFile
from preprocess.selection import Sampling

honest, plain_read = decode.decode, VideoFile.read


def failing(number: int, *, at_once: bool) -> Callable[..., bytes]:
    """The disk fails, at once or in the middle; FFmpeg takes the end of the data for its own."""

    def read(file: VideoFile, size: int = -1) -> bytes:
        if at_once or file.tell():
            file.fault = OSError(number, os.strerror(number))
            return b""
        return plain_read(file, 512)

    return read


def stalled(file: VideoFile, size: int = -1) -> bytes:
    """The disk answers no more."""
    with READING.running():
        time.sleep(60)
    return b""


def reading(name: str) -> Callable[..., bytes]:
    if "stalled" in name:
        return stalled
    if fault := re.fullmatch(r"(broken|refused)_(E[A-Z]+)\..*", name):
        return failing(getattr(errno, fault[2]), at_once=fault[1] == "refused")
    return plain_read


def rogue(path: str, sampling: Sampling, frames_FHW3: np.ndarray) -> decode.Decoded:
    name = Path(path).name
    if "crash" in name:
        os.kill(os.getpid(), signal.SIGSEGV)
    if "hang" in name:
        Path(f"{path}.hangs").touch()
        while True:
            time.sleep(60)
    if "greedy" in name:
        np.ones(1 << 32, np.uint8)
    VideoFile.read = reading(name)
    if "noisy" in name:
        print("a line that is no answer", flush=True)
        os.write(2, b"[mov @ 0x7f00] noise\n" * 10_000)
    if "assassin" in name:  # takes its worker along
        os.kill(os.getppid(), signal.SIGKILL)
    if "once" in name and not Path(f"{path}.died").exists():
        Path(f"{path}.died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if "slow" in name:
        time.sleep(0.05)
    return honest(path, sampling, frames_FHW3)


if __name__ == "__main__":
    decode.decode = rogue
    decode.serve(int(sys.argv[1]), int(sys.argv[2]), Sampling(**json.loads(sys.argv[3])))
