"""Read a folder of pictures as a video: what mmaction2 calls rawframes, and what Jester is.

The counterpart of `preprocess.video`, with the same face: frames in the order they are shown,
turned into pixels only where they are asked for.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from preprocess.reading import READING, DecodeError

MAX_BYTES = 1 << 28  # of one picture
_NUMBERED = re.compile(r"(.*?)([0-9]{1,12})\.(?:jpe?g|png|webp|bmp)", re.IGNORECASE | re.ASCII)


class Picture:
    """A frame: its number in the folder's order, its ``place`` (that number if no picture were left
    out), and ``seconds`` since the first one.
    """

    def __init__(self, path: Path, *, index: int, place: int, seconds: float) -> None:
        self.index = index
        self.place = place
        self.seconds = seconds
        self._path = path

    def rgb(self) -> np.ndarray:
        """Return the upright picture, [h, w, 3] u8.

        Raises:
            DecodeError: it is cut short, or OpenCV cannot read it.
            OSError: the file cannot be read, which does not make the video a bad one.
        """
        with READING.running():
            data = self._read()
        if not is_whole(data):
            raise DecodeError(f"{self._path.name} is no whole picture")
        frame_hw3 = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if frame_hw3 is None:
            raise DecodeError(f"{self._path.name} cannot be read as a picture")
        return cv2.cvtColor(frame_hw3, cv2.COLOR_BGR2RGB)

    def _read(self) -> bytes:
        if self._path.is_symlink() and not self._path.exists():
            raise DecodeError(f"{self._path.name} is a link that leads nowhere")
        if self._path.stat().st_size > MAX_BYTES:
            raise DecodeError(f"{self._path.name} is larger than {MAX_BYTES >> 20} MiB")
        return self._path.read_bytes()


class PictureFolder:
    """A folder of numbered pictures, to be read from the first to the last.

    Attributes:
        declared_frames: how many there are.
        rate: frames per second, assumed: pictures carry none.
        lost: numbers that are left out.

    Raises:
        DecodeError: it holds no series of numbered pictures, or several of which none starts with
            ``img_``.
        OSError: the folder cannot be read.
    """

    rate = 25.0

    def __init__(self, path: str) -> None:
        with READING.running():
            self._paths = _series(Path(path))
        numbers = list(self._paths)
        self._step = math.gcd(*(b - a for a, b in pairwise(numbers))) or 1
        self.declared_frames = len(numbers)
        self.lost = (numbers[-1] - numbers[0]) // self._step + 1 - len(numbers)

    def __iter__(self) -> Iterator[Picture]:
        """Yield the frames by their number: of ``1, 6, 16`` the third one is shown after 3 steps of
        5.
        """
        first = next(iter(self._paths))
        for index, (number, path) in enumerate(self._paths.items()):
            place = (number - first) // self._step
            yield Picture(path, index=index, place=place, seconds=place / self.rate)


def is_whole(data: bytes) -> bool:
    """Return whether a picture has its end: OpenCV fills up what is missing silently."""
    if data.startswith(b"\xff\xd8"):  # an end behind the last scan; a thumbnail has scans too
        return data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda") > 0
    if data.startswith(b"\x89PNG"):
        return b"IEND" in data[-64:]
    if data.startswith(b"RIFF"):
        return int.from_bytes(data[4:8], "little") + 8 <= len(data)
    return data.startswith(b"BM") and int.from_bytes(data[2:6], "little") <= len(data)


def _series(folder: Path) -> dict[int, Path]:
    """Return the pictures by number, in order."""
    found: defaultdict[str, dict[int, Path]] = defaultdict(dict)
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    for name in names:
        if match := _NUMBERED.fullmatch(name):
            prefix, number = match[1], int(match[2])
            if number in found[prefix]:
                raise DecodeError(f"{found[prefix][number].name} and {name} have one number")
            found[prefix][number] = folder / name
    if not found:
        raise DecodeError("no numbered picture")
    prefix = "img_" if "img_" in found else min(found)
    if len(found) > 1 and prefix != "img_":
        raise DecodeError(f"several series of pictures: {', '.join(sorted(found))[:100]}")
    return dict(sorted(found[prefix].items()))
