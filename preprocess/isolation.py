"""Decode in a process of its own, so that a video that hangs or kills its decoder costs that video
and nothing else.

Frames come back through memory shared by the two processes; only paths and small answers travel
over the pipes.
"""

import errno
import json
import mmap
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from types import TracebackType
from typing import IO, NamedTuple, Self

import numpy as np

from fame.beside import command
from preprocess.decode import CLOCK_BYTES, Decoded, complaint, shared_memory
from preprocess.reading import DecodeError, ReadClock
from preprocess.selection import Sampling
from preprocess.video import MAX_PIXELS

DECODER = command("preprocess.decode")
_START_LIMIT = (
    60.0  # seconds for the interpreter, OpenCV and PyAV to load, on a cold network file system
)
_ENVIRONMENT = {
    # Damaged videos make FFmpeg show memory that nothing was written to: let that be the same bytes
    # in every process. Frames are allotted again and again: kept by the process, not given back and
    # faulted in each time.
    "GLIBC_TUNABLES": ":".join(
        f"glibc.malloc.{name}={value}"
        for name, value in {
            "perturb": 165,
            "tcache_count": 0,
            "mmap_threshold": 1 << 25,
            "trim_threshold": 1 << 28,
        }.items()
    ),
    "OPENCV_IO_MAX_IMAGE_PIXELS": str(MAX_PIXELS),  # of one picture, of a folder of them
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


class DecoderDiedError(DecodeError):
    """The decoder process ended while it read a video."""


class SourceError(RuntimeError):
    """The file system, not the video, is at fault: nothing may be recorded about the video."""


class DecoderStartError(RuntimeError):
    """The decoder process does not come up: nothing can be decoded, whatever the video."""


class _Process(NamedTuple):
    popen: subprocess.Popen[bytes]
    questions: IO[bytes]
    answers: IO[bytes]


class Decoder:
    """A decoder process, started on first use and replaced when it hangs or dies.

    Args:
        sampling: the frames to take from every video.
        time_limit: seconds that one video may take.
        memory_limit: bytes that the process may hold; 0 means no limit.
        command: what to run, in front of the three arguments of `preprocess.decode.serve`.
    """

    def __init__(
        self,
        sampling: Sampling,
        *,
        time_limit: float,
        memory_limit: int = 0,
        command: Sequence[str] = DECODER,
    ) -> None:
        self._sampling = sampling
        self._time_limit = time_limit
        self._memory_limit = memory_limit
        self._command = tuple(command)
        self._process: _Process | None = None
        self._log = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (closed by close)
        self._frames_fd = (
            os.memfd_create("frames") if hasattr(os, "memfd_create") else _unlinked_file()
        )
        num_bytes = CLOCK_BYTES + sampling.num_bytes
        os.ftruncate(self._frames_fd, num_bytes)
        memory = mmap.mmap(self._frames_fd, num_bytes)
        numbers_2, self._frames_FHW3 = shared_memory(memory, sampling)
        self._reading = ReadClock(numbers_2)
        self._frames_FHW3.flags.writeable = False

    def decode(self, path: str) -> tuple[Decoded, np.ndarray]:
        """Return the kept frames of a video, [L, H, W, 3] u8 RGB: a view that the next call
        overwrites.

        A decoder that dies is tried once more, since something else (the kernel, short of memory)
        may have killed it.

        Raises:
            DecodeError: the video cannot be decoded; the message gives the reason.
            SourceError: the file cannot be read, or reading it took most of the time limit.
            DecoderStartError: the decoder process does not start.
        """
        try:
            decoded = self._ask(path)
        except DecoderDiedError:
            decoded = self._ask(path)
        return decoded, self._frames_FHW3[: len(decoded.source)]

    def close(self) -> None:
        """End the process and give its memory back."""
        self._end_process()
        self._log.close()
        os.close(self._frames_fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _ask(self, path: str) -> Decoded:
        process = self._process or self._start_process()
        self._log.seek(0)  # the child shares the offset
        self._log.truncate()
        self._reading.reset()
        try:
            process.questions.write(json.dumps(path).encode() + b"\n")
            process.questions.flush()
            answer = json.loads(self._line(process, self._time_limit))
        except TimeoutError:
            reading = self._reading.seconds
            self._end_process()
            if reading > self._time_limit / 2:
                raise SourceError(
                    f"{path}: reading took {reading:.0f} of {self._time_limit:g} s "
                    f"({os.strerror(errno.ETIMEDOUT)}, ETIMEDOUT)"
                ) from None
            raise DecodeError(f"decoding took longer than {self._time_limit:g} s") from None
        except (EOFError, BrokenPipeError):
            raise DecoderDiedError(f"the decoder died: {self._end_process()}") from None
        except BaseException:  # interrupted between question and answer: the pipe is out of step
            self._end_process()
            raise
        if "fault" in answer:
            raise SourceError(f"{path}: {answer['fault']}")
        if "error" in answer:
            raise DecodeError(": ".join(filter(None, (answer["error"], self._complaint()))))
        return Decoded(**answer | {"source": tuple(tuple(pair) for pair in answer["source"])})

    def _start_process(self) -> _Process:
        arguments = (
            str(self._frames_fd),
            str(self._memory_limit),
            json.dumps(asdict(self._sampling)),
        )
        popen = subprocess.Popen(  # noqa: S603 (the project's own module, or what the caller names)
            (*self._command, *arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            pass_fds=(self._frames_fd,),
            env=os.environ | _ENVIRONMENT,
        )
        assert popen.stdin and popen.stdout
        self._process = process = _Process(popen, popen.stdin, popen.stdout)
        try:
            self._line(process, _START_LIMIT)
        except (TimeoutError, EOFError):
            self._log.seek(0)
            output = self._log.read().decode(errors="replace").strip()
            raise DecoderStartError(
                f"the decoder process did not start ({self._end_process()}): {output}"
            ) from None
        except BaseException:  # interrupted: its next line would be taken for an answer
            self._end_process()
            raise
        return process

    def _line(self, process: _Process, seconds: float) -> bytes:
        """Return the next line of the process's answers. Raise ``TimeoutError`` or ``EOFError``."""
        deadline, received, pipe = time.monotonic() + seconds, b"", process.answers.fileno()
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        while not received.endswith(b"\n"):
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise TimeoutError
            part = os.read(pipe, 1 << 16)
            if not part:
                raise EOFError
            received += part
        return received

    def _end_process(self) -> str:
        """Kill and reap the process. Return how it ended."""
        process, self._process = self._process, None
        if process is None:
            return "not running"
        with suppress(BrokenPipeError):
            process.questions.close()
        try:
            status = process.popen.wait(0.5)  # if it died by itself, its own status names the cause
        except subprocess.TimeoutExpired:
            process.popen.kill()
            status = process.popen.wait()
        process.answers.close()
        return signal.Signals(-status).name if status < 0 else f"exit code {status}"

    def _complaint(self) -> str:
        self._log.seek(0)
        return complaint(self._log.read(1 << 16).decode(errors="replace"))


def _unlinked_file() -> int:
    """Return shared memory where the kernel has no memfd: a temporary file without a name."""
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
