"""One frame, one map or the sources of one video to the bytes of its zarr chunk and back: the
codec, then a CRC-32C of what it gave.

H W height and width of a frame.
"""

import math
import struct
from typing import Any, cast

import google_crc32c
import numcodecs  # pyright: ignore[reportMissingTypeStubs]
import numpy as np
from jaxtyping import Int32, UInt8

from fame.clipstore.jpeg import check_size, decode_jpeg, encode_tall_jpeg
from fame.clipstore.layout import Layout

CRC_BYTES = 4
# Two versions, flags, size of an item; then the decoded size, that of a block and the encoded one.
_BLOSC_HEADER = struct.Struct("<BBBBIII")
_ZSTD_MAGIC, _ZSTD_HEADER_BYTES = b"\x28\xb5\x2f\xfd", 6

_crc, _codecs = cast("Any", google_crc32c), cast("Any", numcodecs)  # neither is typed
_LZ4 = _codecs.Blosc(cname="lz4", clevel=9, shuffle=_codecs.Blosc.NOSHUFFLE, typesize=1)
_ZSTD = _codecs.Zstd(level=1)

# One frame is decoded by one thread: parallelism belongs to whoever runs the workers.
_codecs.blosc.use_threads = False


def crc32c(data: bytes | UInt8[np.ndarray, " bytes"]) -> bytes:
    """Return the CRC-32C of ``data`` as zarr stores it: four bytes, little endian."""
    return int(_crc.value(data)).to_bytes(CRC_BYTES, "little")


def encode_chunk(
    layout: Layout, array: str, element: UInt8[np.ndarray, "..."] | Int32[np.ndarray, "..."]
) -> bytes:
    """Return the chunk of one element of ``frames``, ``foreground`` or ``source``: byte for byte
    what zarr's own writer makes of it.
    """
    element = np.ascontiguousarray(element)
    match _codec(layout, array):
        case "bytes":
            data = element.astype("<i4").tobytes()
        case "jpeg":
            data = encode_tall_jpeg(element[None], quality=layout.header.spec.quality)
        case "lz4":
            data = bytes(_LZ4.encode(element))
        case _:
            data = bytes(_ZSTD.encode(element))
    return data + crc32c(data)


def decode_chunk(
    layout: Layout, array: str, chunk: UInt8[np.ndarray, " bytes"]
) -> UInt8[np.ndarray, "..."]:
    """Return one frame or map from its chunk, in memory of its own. Raise as `decode_into`."""
    element = np.empty(layout.element_shape(array), np.uint8)
    decode_into(layout, array, chunk, element)
    return element


def decode_into(
    layout: Layout,
    array: str,
    chunk: UInt8[np.ndarray, " bytes"],
    element: UInt8[np.ndarray, "..."],
) -> None:
    """Decode one frame or map into ``element``. Raise ``ValueError`` where the bytes are not what
    was written or lie about sizes.
    """
    data, codec = _checked(chunk), _codec(layout, array)
    if codec == "jpeg":
        decode_jpeg(data, element)
        return
    size_in, codec_of = (_blosc_size, _LZ4) if codec == "lz4" else (_zstd_size, _ZSTD)
    # Before the codec runs: a header may claim any size, and the codec believes it.
    if size_in(data) != element.nbytes:
        raise ValueError(
            f"the chunk claims to decode to {size_in(data)} bytes, not {element.nbytes}"
        )
    try:
        codec_of.decode(data, element)
    except RuntimeError as error:
        raise ValueError(str(error)) from error


def jpeg_of(layout: Layout, chunk: UInt8[np.ndarray, " bytes"]) -> bytes:
    """Return the JPEG of one frame of a jpeg store, not decoded. Raise ``ValueError`` where its
    checksum does not hold or it claims another size than a frame's.
    """
    data, (height, width, _) = _checked(chunk), layout.element_shape("frames")
    check_size(data, height, width)
    return data.tobytes()


def decode_source(
    layout: Layout, chunk: UInt8[np.ndarray, " bytes"]
) -> Int32[np.ndarray, "slots 2"]:
    """Return number and milliseconds of the frames of one video. Raise as :func:`decode_into`."""
    data, shape = _checked(chunk), layout.element_shape("source")
    if len(data) != math.prod(shape) * 4:
        raise ValueError(f"the chunk has {len(data)} bytes, not {math.prod(shape) * 4}")
    return data.view("<i4").reshape(shape).astype(np.int32)


def _checked(chunk: UInt8[np.ndarray, " bytes"]) -> UInt8[np.ndarray, " data"]:
    """Return the bytes of a chunk without their checksum, which holds."""
    data = chunk[:-CRC_BYTES]
    if len(chunk) <= CRC_BYTES or crc32c(data) != chunk[-CRC_BYTES:].tobytes():
        raise ValueError("the checksum does not match")
    return data


def max_chunk_bytes(layout: Layout, array: str) -> int:
    """Return a size that no chunk of this array exceeds: no codec here doubles its input, and the
    tables of a JPEG are small.
    """
    item = 4 if array == "source" else 1
    return 2 * item * math.prod(layout.element_shape(array)) + 2**16


def _codec(layout: Layout, array: str) -> str:
    return {"frames": layout.header.spec.codec, "foreground": "zstd", "source": "bytes"}[array]


def _blosc_size(data: UInt8[np.ndarray, " bytes"]) -> int:
    """Return the decoded size by a blosc header. Raise ``ValueError`` where the header is not of
    these bytes.
    """
    if len(data) < _BLOSC_HEADER.size:
        raise ValueError("the chunk is shorter than a blosc header")
    *_, decoded, _block, encoded = _BLOSC_HEADER.unpack(data[: _BLOSC_HEADER.size].tobytes())
    if encoded != len(data):
        raise ValueError(f"the blosc header claims {encoded} bytes, not {len(data)}")
    return decoded


def _zstd_size(data: UInt8[np.ndarray, " bytes"]) -> int:
    """Return the decoded size by a zstd frame header (RFC 8878, 3.1.1.1), which the decoder holds
    the frame to.
    """
    if len(data) < _ZSTD_HEADER_BYTES or data[:4].tobytes() != _ZSTD_MAGIC:
        raise ValueError("the chunk is no zstd frame with a size")
    descriptor = int(data[4])
    # Bits of the descriptor, from the lowest: 2 for the dictionary's number, 3 that do not matter
    # here, 1 for a frame of one segment, 2 for the width of the size.
    single, dictionary, width = descriptor >> 5 & 1, descriptor & 3, descriptor >> 6
    size_bytes = (single, 2, 4, 8)[width]
    # Behind magic (4 bytes) and descriptor (1) come the window, but for one segment, and the
    # dictionary.
    start = 5 + (1 - single) + (0, 1, 2, 4)[dictionary]
    # The size in 2 bytes is stored less 256, since 1 byte serves smaller ones.
    return int.from_bytes(data[start : start + size_bytes].tobytes(), "little") + (
        256 if size_bytes == 2 else 0
    )
