"""Frames as JPEG: of a store one frame each; the codec takes any number, stacked from top to bottom
into one picture.

T frames, H W height and width of a frame, R = T x H rows of the picture.
"""

from functools import cache
from typing import Any, cast

import cv2
import numpy as np
import simplejpeg  # pyright: ignore[reportMissingTypeStubs]
from jaxtyping import UInt8

from fame.store_spec import JPEG_MAX_ROWS

_MARKER, _START, _BASELINE = 0xFF, 0xD8, 0xC0
_HEAD_BYTES = 2**16  # the frame header comes long before: only tables precede it
_NO_TABLE = frozenset(
    {0x01, *range(0xD0, 0xDB)}
)  # markers that cannot come before the frame header
_OTHER_FRAMES = frozenset(range(0xC1, 0xD0)) - {
    0xC4,
    0xC8,
    0xCC,
}  # progressive, lossless, arithmetic ...
_simplejpeg = cast("Any", simplejpeg)  # it is not typed
_COLOR = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION


def encode_tall_jpeg(clip_THWC: UInt8[np.ndarray, "t h w 3"], *, quality: int) -> bytes:
    """Encode RGB frames as one baseline 4:2:0 JPEG. The same input gives the same bytes with the
    same OpenCV.
    """
    frames, height, width, _ = clip_THWC.shape
    if frames * height > JPEG_MAX_ROWS or width > JPEG_MAX_ROWS:
        raise ValueError(
            f"{frames} frames of {height}x{width} are too large for one JPEG ({JPEG_MAX_ROWS} rows)"
        )
    tall = cv2.cvtColor(clip_THWC.reshape(frames * height, width, 3), cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".jpg", tall, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError(f"OpenCV could not encode {frames} frames of {height}x{width} as JPEG")
    return data.tobytes()


def decode_tall_jpeg(
    data: UInt8[np.ndarray, " bytes"], *, frames: int, height: int, width: int
) -> UInt8[np.ndarray, "t h w 3"]:
    """Decode one JPEG of stacked RGB frames, in memory of their own. Raise as
    :func:`decode_jpeg`.
    """
    check_size(data, frames * height, width)
    tall_RWC = np.empty((frames * height, width, 3), np.uint8)
    decode_jpeg(data, tall_RWC)
    return tall_RWC.reshape(frames, height, width, 3)


def decode_jpeg(data: UInt8[np.ndarray, " bytes"], picture_RWC: UInt8[np.ndarray, "r w 3"]) -> None:
    """Decode one JPEG into ``picture_RWC``, RGB.

    The size that the data claims is checked before it is decoded. Raise ``ValueError`` where the
    data is not a baseline JPEG of exactly this size.
    """
    check_size(data, *picture_RWC.shape[:2])
    if picture_RWC.flags.c_contiguous and _fast_decoder_is_equal():
        try:
            _simplejpeg.decode_jpeg(data, "RGB", buffer=picture_RWC)
            return
        except ValueError:  # damaged: OpenCV decides how much of it can be decoded
            pass
    found = cv2.imdecode(data, _COLOR)
    if found is None or found.shape != picture_RWC.shape:
        raise ValueError("OpenCV could not decode the JPEG")
    picture_RWC[:] = found


def decode_own_size(data: UInt8[np.ndarray, " bytes"]) -> UInt8[np.ndarray, "r w 3"]:
    """Decode one JPEG of the size that it claims, RGB: for bytes that were checked. Raise as
    :func:`decode_jpeg`.
    """
    picture_RWC = np.empty((*_claimed_size(data), 3), np.uint8)
    decode_jpeg(data, picture_RWC)
    return picture_RWC


@cache
def _fast_decoder_is_equal() -> bool:
    """Return whether libjpeg-turbo here gives the very pixels that OpenCV gives, tried on a picture
    of all frequencies: what a store decodes to must not depend on which of the two decodes it.
    """
    number_RW = np.arange(47 * 61, dtype=np.uint32).reshape(47, 61)
    noise = (number_RW[..., None] * np.array([2654435761, 40503, 2246822519], np.uint32)) >> 13
    ramp = number_RW[..., None] // 13 + np.array([0, 60, 120], np.uint32)
    for picture in (noise.astype(np.uint8), ramp.astype(np.uint8)):
        data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
        fast = _simplejpeg.decode_jpeg(data, "RGB")
        if not np.array_equal(fast, np.asarray(cv2.imdecode(data, _COLOR))):
            return False
    return True


def check_size(data: UInt8[np.ndarray, " bytes"], rows: int, columns: int) -> None:
    """Raise ``ValueError`` for data that is not a baseline JPEG of this size by its header."""
    claimed = _claimed_size(data)
    if claimed != (rows, columns):
        raise ValueError(f"the JPEG is {claimed[0]}x{claimed[1]}, not {rows}x{columns}")


def _claimed_size(data: UInt8[np.ndarray, " bytes"]) -> tuple[int, int]:
    """Return the rows and columns by the frame header of a three-component, 8-bit baseline JPEG."""
    head = data[:_HEAD_BYTES].data
    if bytes(head[:2]) != bytes((_MARKER, _START)):
        raise ValueError("the data is not a JPEG")
    position = 2
    while position + 10 <= len(head) and head[position] == _MARKER:
        marker = head[position + 1]
        if marker == _BASELINE:
            precision, components = head[position + 4], head[position + 9]
            if (precision, components) != (8, 3):
                raise ValueError(
                    f"the JPEG has {components} components of {precision} bits, not 3 of 8"
                )
            return _two_bytes(head, position + 5), _two_bytes(head, position + 7)
        if marker in _NO_TABLE or marker in _OTHER_FRAMES:
            break
        position += 2 + _two_bytes(head, position + 2)
    raise ValueError("the JPEG has no baseline frame header")


def _two_bytes(head: memoryview, position: int) -> int:
    return int.from_bytes(head[position : position + 2], "big")
