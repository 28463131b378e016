"""All frames of a clip as one tall JPEG: T frames of H rows stacked into one picture of T*H rows.

T frames, H W height and width of a frame. One picture per clip costs one decoder call and one set
of tables; the rows of the stack are the frames in order, so decoding is a reshape.
"""

import cv2
import numpy as np
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
    """Decode one tall JPEG into RGB frames.

    The size that the data claims is checked before anything is allocated. Raises ``ValueError``
    where the data is not a baseline JPEG of exactly this size.
    """
    claimed = _claimed_size(data)
    if claimed != (frames * height, width):
        raise ValueError(f"the JPEG is {claimed[0]}x{claimed[1]}, not {frames * height}x{width}")
    tall = cv2.imdecode(data, _COLOR)
    if tall is None or tall.shape != (frames * height, width, 3):
        raise ValueError("OpenCV could not decode the JPEG")
    return tall.reshape(frames, height, width, 3)


def _claimed_size(data: UInt8[np.ndarray, " bytes"]) -> tuple[int, int]:
    """Rows and columns by the frame header of a three-component, 8-bit baseline JPEG."""
    head = data[:_HEAD_BYTES].tobytes()
    if head[:2] != bytes((_MARKER, _START)):
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


def _two_bytes(head: bytes, position: int) -> int:
    return int.from_bytes(head[position : position + 2], "big")
