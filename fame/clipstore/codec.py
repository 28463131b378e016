"""The zarr v3 codec ``fame.tall_jpeg``, so that any zarr-python with this package installed reads a
jpeg store.

zarr finds it through the entry point of this package. The store's own reader does not go through
it: it decodes the same bytes with the same function, without zarr's event loop.
"""

import asyncio
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from zarr.abc.codec import ArrayBytesCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer

from fame.clipstore.jpeg import decode_tall_jpeg, encode_tall_jpeg

NAME = "fame.tall_jpeg"


@dataclass(frozen=True)
class TallJpeg(ArrayBytesCodec):
    """Chunks of uint8 RGB pictures ``[..., H, W, 3]`` as one JPEG of all their rows."""

    quality: int = 90
    is_fixed_size = False

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise ValueError(f"quality must be from 1 to 100, not {self.quality}")

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "TallJpeg":
        """Read the codec from array metadata. Raise ``ValueError`` where it is another codec or has
        other settings.
        """
        if data.get("name") != NAME:
            raise ValueError(f"expected the codec {NAME!r}, not {data.get('name')!r}")
        quality = cast("dict[str, object]", data.get("configuration", {})).get("quality")
        if type(quality) is not int:
            raise ValueError(f"{NAME} needs a whole number as quality, not {quality!r}")
        return cls(quality=quality)

    def to_dict(self) -> dict[str, Any]:
        """Return the codec as array metadata."""
        return {"name": NAME, "configuration": {"quality": self.quality}}

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        """Raise ``NotImplementedError``: the size of a JPEG depends on its content."""
        raise NotImplementedError

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        # In a thread, so that zarr's event loop can read other chunks meanwhile.
        return await asyncio.to_thread(self._decode_sync, chunk_data, chunk_spec)

    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        return await asyncio.to_thread(self._encode_sync, chunk_data, chunk_spec)

    def _decode_sync(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        frames, height, width = _stack(chunk_spec)
        clip_THWC = decode_tall_jpeg(
            chunk_data.as_numpy_array(), frames=frames, height=height, width=width
        )
        return chunk_spec.prototype.nd_buffer.from_numpy_array(clip_THWC.reshape(chunk_spec.shape))

    def _encode_sync(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        frames, height, width = _stack(chunk_spec)
        clip_THWC = np.ascontiguousarray(chunk_data.as_numpy_array()).reshape(
            frames, height, width, 3
        )
        return chunk_spec.prototype.buffer.from_bytes(
            encode_tall_jpeg(clip_THWC, quality=self.quality)
        )


def _stack(chunk_spec: ArraySpec) -> tuple[int, int, int]:
    """Return the frames, rows and columns of a chunk. Raise ``ValueError`` where it cannot be RGB
    pictures.
    """
    shape, dtype = chunk_spec.shape, chunk_spec.dtype.to_native_dtype()
    if dtype != np.uint8 or len(shape) < 3 or shape[-1] != 3:
        raise ValueError(f"{NAME} takes uint8 chunks [..., H, W, 3], not {dtype} {shape}")
    # A chunk [1, 1, H, W, 3] is one frame; [1, 4, H, W, 3] would be 4, one below the other.
    *leading, height, width, _ = shape
    return int(np.prod(leading, dtype=np.int64)), height, width
