"""Turn a video file into evenly spaced clips: the only file that opens videos.

Frames are read once, in order, with OpenCV's FFmpeg backend: every frame is grabbed, only those a
window needs are converted, and nothing seeks, so which frames come out never depends on an index,
an edit list or a key frame. Run as a module it is the decoder process that `preprocess.isolation`
starts, so it imports NumPy and OpenCV and nothing heavier.

Axes: N clips of one video, T frames of a clip, H W height and width of the stored frames, h w of
the source.
"""

import ctypes
import json
import mmap
import os
import re
import resource
import signal
import sys
from collections import defaultdict
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import count
from typing import Literal

import cv2
import numpy as np

MAX_PIXELS = 1 << 26  # of one source frame: 8192 x 8192. A damaged header may claim gigabytes.
_OPEN = [cv2.CAP_PROP_N_THREADS, 1, cv2.CAP_PROP_HW_ACCELERATION, cv2.VIDEO_ACCELERATION_NONE]
_PR_SET_PDEATHSIG = 1


class DecodeError(ValueError):
    """A video that gives no clips; the message is the reason put on record."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """What each video gives: ``clips`` windows of ``frames`` frames, ``stride`` apart, at
    ``height`` x ``width``.
    """

    clips: int
    frames: int
    stride: int
    height: int
    width: int
    geometry: Literal["cover", "squash"]

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """Shape of the clips of one video, [N, T, H, W, 3]."""
        return (self.clips, self.frames, self.height, self.width, 3)

    @property
    def num_bytes(self) -> int:
        """Bytes of the clips of one video."""
        return self.clips * self.frames * self.height * self.width * 3


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """What was read: first frame of each clip, the true frame count, and how many frames were
    decoded to get there.
    """

    start_frame: tuple[int, ...]
    frame_count: int
    frames_read: int
    looped: bool


def window_starts(frame_count: int, sampling: Sampling) -> tuple[int, ...]:
    """First frame of each window: evenly spaced, the first at frame 0 and the last ending on the
    last frame.

    A video shorter than one window is looped, and its windows start evenly spaced over the video.
    """
    n, last = sampling.clips, frame_count - ((sampling.frames - 1) * sampling.stride + 1)
    if last < 0:
        return tuple(i * frame_count // n for i in range(n))
    return (last // 2,) if n == 1 else tuple(i * last // (n - 1) for i in range(n))


def window_frames(frame_count: int, sampling: Sampling) -> list[list[int]]:
    """Source frames of each window, [N][T]; past the end of a short video they wrap round."""
    steps = range(0, sampling.frames * sampling.stride, sampling.stride)
    return [
        [(start + step) % frame_count for step in steps]
        for start in window_starts(frame_count, sampling)
    ]


def fit(frame_hw3: np.ndarray, sampling: Sampling) -> np.ndarray:
    """Resize a BGR frame to RGB [H, W, 3]: ``cover`` keeps the aspect and the centre, ``squash``
    the whole frame.
    """
    height, width = frame_hw3.shape[:2]
    if sampling.geometry == "cover":  # cut the overflow first: the same picture for less work
        scale = max(sampling.height / height, sampling.width / width)
        kept_h = min(height, max(1, round(sampling.height / scale)))
        kept_w = min(width, max(1, round(sampling.width / scale)))
        top, left = (height - kept_h) // 2, (width - kept_w) // 2
        frame_hw3 = frame_hw3[top : top + kept_h, left : left + kept_w]
    shrinks = frame_hw3.shape[0] > sampling.height or frame_hw3.shape[1] > sampling.width
    filtering = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized_HW3 = cv2.resize(frame_hw3, (sampling.width, sampling.height), interpolation=filtering)
    return cv2.cvtColor(resized_HW3, cv2.COLOR_BGR2RGB)


@contextmanager
def _capture(path: str) -> Generator[cv2.VideoCapture]:
    capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG, _OPEN)
    try:
        if not capture.isOpened():
            raise DecodeError("no video stream could be opened")
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
        width, height = (
            capture.get(cv2.CAP_PROP_FRAME_WIDTH),
            capture.get(cv2.CAP_PROP_FRAME_HEIGHT),
        )
        if not 0 < width * height <= MAX_PIXELS:
            raise DecodeError(f"frames of {width:.0f} x {height:.0f} pixels")
        yield capture
    finally:
        capture.release()


def _declared(capture: cv2.VideoCapture) -> int:
    """Frames by the header; 0 where it does not tell."""
    declared = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    return int(declared) if 0 < declared < 2**31 else 0


def _read(
    capture: cv2.VideoCapture, sampling: Sampling, *, frame_count: int, clips_NTHW3: np.ndarray
) -> int:
    """Fill the clips, planned for ``frame_count`` frames, while reading to the end; returns the
    true frame count.
    """
    slots: dict[int, list[tuple[int, int]]] = defaultdict(list)
    if frame_count > 0:
        for n, frames in enumerate(window_frames(frame_count, sampling)):
            for t, index in enumerate(frames):
                slots[index].append((n, t))
    for index in count():
        if not capture.grab():
            return index
        if index not in slots:
            continue
        converted, frame_hw3 = capture.retrieve()
        if (
            not converted
            or frame_hw3.dtype != np.uint8
            or frame_hw3.ndim != 3
            or frame_hw3.shape[2] != 3
        ):
            raise DecodeError(f"frame {index} could not be converted to 8-bit RGB")
        frame_HW3 = fit(frame_hw3, sampling)
        for n, t in slots[index]:
            clips_NTHW3[n, t] = frame_HW3
    raise AssertionError("unreachable: the stream ends")


def decode(path: str, sampling: Sampling, clips_NTHW3: np.ndarray) -> Decoded:
    """Read a video into ``clips_NTHW3`` (u8, RGB, written in place). One pass; two where the
    header's count is wrong.

    Raises:
        DecodeError: nothing can be opened, no frame comes out, or two passes disagree.
    """
    with _capture(path) as capture:
        planned = _declared(capture)
        found = _read(capture, sampling, frame_count=planned, clips_NTHW3=clips_NTHW3)
    frames_read = found
    if found and found != planned:
        planned = found
        with _capture(path) as capture:
            found = _read(capture, sampling, frame_count=planned, clips_NTHW3=clips_NTHW3)
        frames_read += found
        if found != planned:
            raise DecodeError(f"two readings found {planned} and {found} frames")
    if not found:
        raise DecodeError("no frame could be decoded")
    return Decoded(
        start_frame=window_starts(found, sampling),
        frame_count=found,
        frames_read=frames_read,
        looped=found < (sampling.frames - 1) * sampling.stride + 1,
    )


def complaint(log: str) -> str:
    """First line that FFmpeg wrote about a video, without the addresses that differ from run to
    run.
    """
    lines = (
        re.sub(r"\[([^\]@]*?) @ 0x[0-9a-f]+\]", r"\1:", line).strip() for line in log.splitlines()
    )
    return next((line[:200] for line in lines if line), "")


def _answer(path: str, sampling: Sampling, clips_NTHW3: np.ndarray) -> dict[str, object]:
    try:
        return asdict(decode(path, sampling, clips_NTHW3))
    except (DecodeError, cv2.error, MemoryError) as error:
        return {"error": " ".join(str(error).split()) or type(error).__name__}


def serve(clips_fd: int, memory_limit: int, sampling: Sampling) -> None:
    """Decoder process: read paths (JSON, one a line) from stdin, fill the shared clips, answer with
    a line on stdout.

    It leaves Ctrl-C to its parent, dies with it, and never holds more than ``memory_limit`` bytes
    (0: no limit).
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory_limit:
        resource.setrlimit(resource.RLIMIT_DATA, (memory_limit, memory_limit))
    cv2.setNumThreads(1)
    clips_NTHW3 = np.frombuffer(mmap.mmap(clips_fd, sampling.num_bytes), np.uint8).reshape(
        sampling.shape
    )
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # whatever a library prints must not end up among the answers
        print("ready", file=answers, flush=True)
        for line in sys.stdin:
            print(
                json.dumps(_answer(json.loads(line), sampling, clips_NTHW3)),
                file=answers,
                flush=True,
            )


if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]), Sampling(**json.loads(sys.argv[3])))
