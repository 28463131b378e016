"""Turn a video file into the frames that a store keeps of it.

Frames are read once, in order; only those that are kept are converted. Run as a module it is the
decoder process that `preprocess.isolation` starts, so it imports NumPy, OpenCV and PyAV and nothing
heavier.

Axes: F slots for the frames of one video, L frames that are kept, H W height and width of the
stored frames, h w of the source.
"""

import ctypes
import errno
import json
import logging
import mmap
import os
import resource
import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from preprocess.part import WHOLE, Part, part_of
from preprocess.pictures import PictureFolder
from preprocess.reading import READING, DecodeError
from preprocess.selection import Kept, Sampling, slots_of
from preprocess.video import Video, open_video

CLOCK_BYTES = 16  # of the shared memory, before the frames
_PR_SET_PDEATHSIG = 1
_MAX_INT32 = 2**31 - 1


AnyVideo = Video | PictureFolder


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """The result of reading a video: (number, milliseconds) of each kept frame, in how many
    stretches they come and whether the video is longer; its true frame count, how many frames were
    decoded to get there, and how many are lost to damage.
    """

    source: tuple[tuple[int, int], ...]
    stretches: int
    cut: bool
    frame_count: int
    frames_read: int
    lost: int = 0


def fit(frame_hw3: np.ndarray, sampling: Sampling) -> np.ndarray:
    """Resize a frame to [H, W, 3]: ``cover`` keeps the aspect and the centre, ``squash``
    the whole frame.
    """
    height, width = frame_hw3.shape[:2]
    if sampling.geometry == "cover":  # cut the overflow first: the same picture for less work
        # 320 x 240 pixels that become a square keep the columns 40 to 279.
        scale = max(sampling.height / height, sampling.width / width)
        kept_h = min(height, max(1, round(sampling.height / scale)))
        kept_w = min(width, max(1, round(sampling.width / scale)))
        top, left = (height - kept_h) // 2, (width - kept_w) // 2
        frame_hw3 = frame_hw3[top : top + kept_h, left : left + kept_w]
    shrinks = frame_hw3.shape[0] > sampling.height or frame_hw3.shape[1] > sampling.width
    filtering = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(frame_hw3, (sampling.width, sampling.height), interpolation=filtering)


class _Reading(NamedTuple):
    """One pass over a video, or over a part of it: its frames and how many were read to get there,
    how many of them are wanted, how many are lost to damage or behind the end, and (number,
    milliseconds) of what went into the slots.
    """

    frames: int
    read: int
    wanted: int
    lost: int
    source: list[tuple[int, int]]


@contextmanager
def _opened(path: str) -> Generator[AnyVideo]:
    """Open a video file, or a folder of pictures."""
    with READING.running():
        is_folder = Path(path).is_dir()
    if is_folder:
        yield PictureFolder(path)
    else:
        with open_video(path) as video:
            yield video


def _file_and_part(path: str) -> tuple[str, Part]:
    """Return what a path names: ``x.mp4[30:90]`` is a part of ``x.mp4`` unless there is such a
    file.
    """
    file, part = part_of(path)
    if part != WHOLE:
        with READING.running():
            if os.path.lexists(path):
                return path, WHOLE
    return file, part


def _read(
    video: AnyVideo, part: Part, sampling: Sampling, kept: Kept, frames_FHW3: np.ndarray
) -> _Reading:
    """Read the part to its end and put what is kept into the slots; its first frame is number 0 at
    0 seconds for the sampling, ``source`` has the numbers and times of the file.
    """
    source = [(0, 0)] * sampling.slots
    read = frames = wanted = 0
    began, end = 0.0, part.start
    for frame in video:
        if part.stop is not None and frame.place >= part.stop:
            break
        read = frame.index + 1
        if frame.place < part.start:
            continue
        began, end = began if frames else frame.seconds, frame.place + 1
        before, wanted = wanted, max(wanted, sampling.wanted(frames, frame.seconds - began))
        frames += 1
        # At a rate above that of the video one frame is wanted several times: convert it once, then
        # copy it.
        if slots := slots_of(kept, before, wanted):
            frames_FHW3[slots[0]] = fit(frame.rgb(), sampling)
            for slot in slots:
                if slot != slots[0]:
                    frames_FHW3[slot] = frames_FHW3[slots[0]]
                source[slot] = (frame.index, min(round(frame.seconds * 1000), _MAX_INT32))
    lost = video.lost if part == WHOLE or isinstance(video, Video) else 0
    absent = (part.stop or end) - part.start - frames  # gaps of a folder, or what is past the end
    return _Reading(frames, read, wanted, max(lost, absent), source)


def _planned(video: AnyVideo, part: Part, sampling: Sampling) -> Kept:
    """Return the wanted frames to keep by the count in the header."""
    stop = min(video.declared_frames or _MAX_INT32, part.stop or _MAX_INT32)
    # The number of the last frame, counted from the first of the part; -1 where the header has no
    # count.
    last = stop - part.start - 1 if stop < _MAX_INT32 else -1
    return _room(sampling, sampling.wanted(last, last / video.rate) if last >= 0 else 0)


def _room(sampling: Sampling, wanted: int) -> Kept:
    """Return what to keep of about ``wanted`` frames: up to the last slot where they fit, since
    there may be more.
    """
    return sampling.kept(wanted) if wanted > sampling.slots else (range(sampling.slots),)


def decode(path: str, sampling: Sampling, frames_FHW3: np.ndarray) -> Decoded:
    """Read a video, or the part of one that ``path`` names, into the first of ``frames_FHW3`` (u8,
    RGB, written in place). One pass; two where the header's count is wrong and that changes which
    frames are kept.

    Raises:
        DecodeError: nothing can be opened, no frame comes out, or two passes disagree.
        OSError: the file cannot be read, which does not make the video a bad one.
    """
    file, part = _file_and_part(path)
    with _opened(file) as video:
        planned = _planned(video, part, sampling)
        first = found = _read(video, part, sampling, planned, frames_FHW3)
    frames_read = found.read
    # A wrong count matters only where it changes which frames are kept.
    if planned != (needed := _room(sampling, found.wanted)):
        with _opened(file) as video:
            found = _read(video, part, sampling, needed, frames_FHW3)
        frames_read += found.read
        if (found.frames, found.wanted) != (first.frames, first.wanted):
            raise DecodeError(f"two readings found {first.frames} and {found.frames} frames")
    if not found.frames:
        if found.read:
            raise DecodeError(f"the part begins at frame {part.start}, the video has {found.read}")
        raise DecodeError("no frame could be decoded")
    kept = sampling.kept(found.wanted)
    return Decoded(
        source=tuple(found.source[: sum(map(len, kept))]),
        stretches=len(kept),
        cut=found.wanted > sampling.slots,
        frame_count=found.frames,
        frames_read=frames_read,
        lost=found.lost,
    )


def complaint(log: str) -> str:
    """Return the first line that FFmpeg wrote about a video."""
    lines = (line.strip().removeprefix("libav.") for line in log.splitlines())
    return next((line[:200] for line in lines if line), "")


def shared_memory(memory: mmap.mmap, sampling: Sampling) -> tuple[np.ndarray, np.ndarray]:
    """Return the shared memory: the numbers of a `ReadClock`, and frames [F, H, W, 3]."""
    frames = np.frombuffer(memory, np.uint8, offset=CLOCK_BYTES)
    return np.frombuffer(memory, np.float64, CLOCK_BYTES // 8), frames.reshape(sampling.shape)


def _answer(path: str, sampling: Sampling, frames_FHW3: np.ndarray) -> dict[str, object]:
    try:
        return asdict(decode(path, sampling, frames_FHW3))
    except OSError as error:
        return {"fault": f"{error.strerror} ({errno.errorcode.get(error.errno or 0, error.errno)})"}
    except (DecodeError, cv2.error, MemoryError) as error:
        return {"error": " ".join(str(error).split()) or type(error).__name__}


def serve(frames_fd: int, memory_limit: int, sampling: Sampling) -> None:
    """Run the decoder process: read paths (JSON, one a line) from stdin, fill the shared frames,
    answer with a line on stdout.

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
    logging.basicConfig(format="%(name)s: %(message)s")  # FFmpeg's complaints go to stderr
    memory = mmap.mmap(frames_fd, CLOCK_BYTES + sampling.num_bytes)
    numbers_2, frames_FHW3 = shared_memory(memory, sampling)
    READING.share(numbers_2)
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # whatever a library prints must not end up among the answers
        print("ready", file=answers, flush=True)
        for line in sys.stdin:
            print(
                json.dumps(_answer(json.loads(line), sampling, frames_FHW3)),
                file=answers,
                flush=True,
            )


if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]), Sampling(**json.loads(sys.argv[3])))
