"""Turn a video file into evenly spaced clips.

Frames are read once, in order; only those a window needs are converted. Run as a module it is the
decoder process that `preprocess.isolation` starts, so it imports NumPy, OpenCV and PyAV and nothing
heavier.

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
from dataclasses import asdict, dataclass
from typing import Literal

import av.logging
import cv2
import numpy as np

from preprocess.video import DecodeError, Video, open_video

_PR_SET_PDEATHSIG = 1


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
    """Resize a frame to [H, W, 3]: ``cover`` keeps the aspect and the centre, ``squash``
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
    return cv2.resize(frame_hw3, (sampling.width, sampling.height), interpolation=filtering)


def _read(video: Video, sampling: Sampling, *, frame_count: int, clips_NTHW3: np.ndarray) -> int:
    """Fill the clips, planned for ``frame_count`` frames, while reading to the end; returns the
    true frame count.
    """
    slots: dict[int, list[tuple[int, int]]] = defaultdict(list)
    if frame_count > 0:
        for n, frames in enumerate(window_frames(frame_count, sampling)):
            for t, index in enumerate(frames):
                slots[index].append((n, t))
    found = 0
    for frame in video:
        found += 1
        if frame.index in slots:
            frame_HW3 = fit(frame.rgb(), sampling)
            for n, t in slots[frame.index]:
                clips_NTHW3[n, t] = frame_HW3
    return found


def decode(path: str, sampling: Sampling, clips_NTHW3: np.ndarray) -> Decoded:
    """Read a video into ``clips_NTHW3`` (u8, RGB, written in place). One pass; two where the
    header's count is wrong.

    Raises:
        DecodeError: nothing can be opened, no frame comes out, or two passes disagree.
    """
    with open_video(path) as video:
        planned = video.declared_frames
        found = _read(video, sampling, frame_count=planned, clips_NTHW3=clips_NTHW3)
    frames_read = found
    if found and found != planned:
        planned = found
        with open_video(path) as video:
            found = _read(video, sampling, frame_count=planned, clips_NTHW3=clips_NTHW3)
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
    av.logging.restore_default_callback()  # FFmpeg's complaints go to stderr
    av.logging.set_libav_level(av.logging.ERROR)
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
