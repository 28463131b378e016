"""Reading a finished store: random clips as fast as their codec decodes them, with nothing trusted unchecked.

V videos, N clips, T frames, H W height and width of a frame, h w size of a foreground map.

The reader goes to the shard files itself: look up the chunk in the shard's index, read it, check it, decode it. It needs
neither zarr nor an event loop, so it is safe in forked and spawned workers alike.
"""

from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
from jaxtyping import Bool, Int32, UInt8

from fame.clipstore.chunk import CRC_BYTES, crc32c, decode_chunk
from fame.clipstore.files import read_whole
from fame.clipstore.layout import Layout
from fame.clipstore.schema import CorruptChunk, StoreError, StoreHeader, StoreSpec
from fame.clipstore.shard import OpenShard
from fame.clipstore.write import is_finished, read_layout

OPEN_SHARDS = 128


class ClipStore:
    """One finished store, opened for reading with :meth:`open`. Pickles as its path, so workers reopen it."""

    video_N: Int32[np.ndarray, " n"]
    label_N: Int32[np.ndarray, " n"]
    start_frame_N: Int32[np.ndarray, " n"]
    valid_N: Bool[np.ndarray, " n"]

    def __init__(self, path: Path, layout: Layout) -> None:
        self.path, self._layout = path, layout
        self.video_N = self._whole("video", "<i4")
        self.label_N = self._whole("label", "<i4")
        self.start_frame_N = self._whole("start_frame", "<i4")
        self.valid_N = self._whole("valid", "?")
        self._shard = lru_cache(maxsize=OPEN_SHARDS)(self._open_shard)

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Open a finished store; raises :class:`StoreError` where there is none or it is damaged."""
        root = Path(path).resolve()
        layout = read_layout(root)
        if not is_finished(root):
            raise StoreError(f"{root}: not finished; run the command that began it again")
        return cls(root, layout)

    @property
    def header(self) -> StoreHeader:
        """What the store says about itself."""
        return self._layout.header

    @property
    def spec(self) -> StoreSpec:
        """The recipe of the clips."""
        return self._layout.header.spec

    @property
    def num_videos(self) -> int:
        """V, failed videos included."""
        return self._layout.num_videos

    @property
    def num_clips(self) -> int:
        """N, clips of failed videos included."""
        return self._layout.num_clips

    def __len__(self) -> int:
        return self.num_clips

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the videos, relative to the root they came from."""
        data = self._whole_bytes("names", None)
        names: list[str] = []
        position = 4
        for _ in range(self.num_videos):
            length = int.from_bytes(data[position : position + 4], "little")
            names.append(data[position + 4 : position + 4 + length].decode())
            position += 4 + length
        return tuple(names)

    @property
    def labels_V(self) -> Int32[np.ndarray, " v"]:
        """Class of each video, -1 where unknown."""
        return self.label_N[:: self.spec.clips_per_video]

    def clips_of(self, video: int) -> range:
        """The clips of one video."""
        if not 0 <= video < self.num_videos:
            raise IndexError(f"{self.path}: no video {video}: there are {self.num_videos}")
        count = self.spec.clips_per_video
        return range(video * count, (video + 1) * count)

    def clip(self, index: int) -> UInt8[np.ndarray, "t h w 3"]:
        """Decode one clip: RGB frames. Raises :class:`CorruptChunk`, or :class:`StoreError` for a failed video."""
        return self._element("clips", index)

    def foreground(self, index: int) -> UInt8[np.ndarray, "mh mw"]:
        """Decode the soft foreground map of one clip, 0 to 255. Raises as :meth:`clip`, and where there are no maps."""
        if self.spec.foreground == "none":
            raise StoreError(f"{self.path}: the store was made without foreground maps; use `foreground: online`")
        return self._element("foreground", index)

    def __reduce__(self) -> tuple[Any, ...]:
        return ClipStore.open, (self.path,)

    def __repr__(self) -> str:
        spec = self.spec
        return (
            f"ClipStore({str(self.path)!r}: {self.num_videos} videos, {self.num_clips} clips of "
            f"{spec.frames}x{spec.height}x{spec.width}, {spec.codec})"
        )

    def _element(self, array: str, index: int) -> UInt8[np.ndarray, "..."]:
        if not 0 <= index < self.num_clips:
            raise IndexError(f"{self.path}: no clip {index}: there are {self.num_clips}")
        shard, position = divmod(index, self.spec.clips_per_shard)
        where = f"{self.path}: {array} of clip {index} (shard {shard}, video {index // self.spec.clips_per_video})"
        if not self.valid_N[index]:
            raise StoreError(f"{where}: its video could not be decoded; valid_N tells which clips are there")
        try:
            chunk = self._shard(array, shard).chunk(position)
            if chunk is None:
                raise StoreError("the shard does not have it")
            return decode_chunk(self._layout, array, chunk)
        except ValueError as error:
            raise CorruptChunk(f"{where} is corrupt: {error}. `fame store verify --repair` re-queues it") from error

    def _open_shard(self, array: str, shard: int) -> OpenShard:
        return OpenShard(self.path / self._layout.shard_key(array, shard), chunks_per_shard=self.spec.clips_per_shard)

    def _whole(self, array: str, dtype: str) -> np.ndarray:
        size = self.num_clips * np.dtype(dtype).itemsize
        return np.frombuffer(self._whole_bytes(array, size), dtype)

    def _whole_bytes(self, array: str, size: int | None) -> bytes:
        path = self.path / self._layout.whole_key(array)
        data = read_whole(path, limit=2**40 if size is None else size + CRC_BYTES)
        if (size is not None and len(data) != size + CRC_BYTES) or crc32c(data[:-CRC_BYTES]) != data[-CRC_BYTES:]:
            raise StoreError(f"{path}: damaged")
        return data[:-CRC_BYTES]
