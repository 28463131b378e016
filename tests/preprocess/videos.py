"""Videos made for tests: tiny, and where the codec is lossless each frame tells its own number."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from fame.randomness import numpy_generator


def frame(index: int, *, height: int = 24, width: int = 32) -> np.ndarray:
    """BGR frame number ``index``: a ramp, a moving square and the number itself in grey."""
    ramp_W = np.linspace(0, 120, width).astype(np.uint8)
    frame_HW3 = np.stack([np.tile(ramp_W, (height, 1))] * 3, axis=2)
    left = index % (width - 4)
    frame_HW3[2:8, left : left + 4] = (40, 120, 220)
    frame_HW3[height // 2 :, : width // 2] = index % 256
    frame_HW3[height // 2 :, width // 2 :] = index // 256
    return frame_HW3


def write_video(
    path: Path,
    frames: int,
    *,
    codec: str = "FFV1",
    height: int = 24,
    width: int = 32,
    numbers: int = 1 << 16,
) -> Path:
    """Write a video of frames numbered modulo ``numbers``; FFV1 (in .mkv) keeps them exactly."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fourcc = cv2.VideoWriter_fourcc(*codec)
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, fourcc, 25.0, (width, height))
    assert writer.isOpened(), f"this build of OpenCV cannot write {codec}"
    pictures = [frame(index, height=height, width=width) for index in range(min(frames, numbers))]
    for index in range(frames):
        writer.write(pictures[index % numbers])
    writer.release()
    return path


def frame_number(frame_HW3: np.ndarray) -> int:
    """The number that a stored RGB frame tells."""
    height, width = frame_HW3.shape[:2]
    low, high = (
        frame_HW3[3 * height // 4, width // 4, 0],
        frame_HW3[3 * height // 4, 3 * width // 4, 0],
    )
    return int(low) + 256 * int(high)


def all_frames(path: Path) -> list[np.ndarray]:
    """Every frame of a video, RGB, by the plainest reading there is."""
    capture, frames = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG), []
    while (got := capture.read())[0]:
        frames.append(cv2.cvtColor(got[1], cv2.COLOR_BGR2RGB))
    capture.release()
    return frames


def mutated(sources: Sequence[Path], folder: Path, *, count: int) -> list[Path]:
    """``count`` damaged copies of the sources: cut short, bits flipped, a stretch overwritten, or
    no video at all.
    """
    contents = [(path.suffix, path.read_bytes()) for path in sources]
    return [_mutate(folder, number, *contents[number % len(contents)]) for number in range(count)]


def _mutate(folder: Path, number: int, suffix: str, content: bytes) -> Path:
    random = numpy_generator(0, 0, number, "mutation")
    data = bytearray(content)
    match (number // 7) % 7:
        case 0:
            kind, data = "cut", data[: random.integers(1, len(data))]
        case 1 | 2:
            kind = "flipped"
            for place in random.integers(0, len(data), random.integers(1, 60)):
                data[place] ^= 1 << random.integers(0, 8)
        case 3:
            kind, start = "overwritten", int(random.integers(0, len(data)))
            data[start : start + 500] = random.bytes(len(data[start : start + 500]))
        case 4:
            kind, data = "header", data[: random.integers(8, 64)]
        case 5:
            kind, data = "text", bytearray(b"#EXTM3U\nnot a video at all\n" * (number % 50 + 1))
        case _:
            kind, data = "empty", bytearray()
    path = folder / f"{number:03d}_{kind}{suffix}"
    path.write_bytes(data)
    return path
