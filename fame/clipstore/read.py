"""Reading a finished store: random clips as fast as their codec decodes them, with nothing trusted
unchecked.

V videos, N clips, T frames, H W height and width of a frame, h w size of a foreground map.

The reader goes to the shard files itself: look the chunk up in the shard's index, read it, check
it, decode it. It needs neither zarr nor an event loop, so it is as safe in forked workers as in
spawned ones.
"""

from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from jaxtyping import UInt8

from fame.clipstore.arrays import read_integers, read_labels, read_names, read_valid
from fame.clipstore.chunk import decode_chunk, max_chunk_bytes
from fame.clipstore.layout import NO_FRAME, SEAL_KEY, Layout
from fame.clipstore.locate import absolute, locate
from fame.clipstore.schema import CorruptChunk, StoreError, StoreHeader, StoreSpec
from fame.clipstore.seal import read_sealed_root
from fame.clipstore.shard import OpenShard
from fame.clipstore.storage import Storage, StorePath


class ClipStore:
    """One finished store, opened for reading with :meth:`open`.

    ``labels_V`` holds the class of each video (-1 unknown); ``video_N``, ``label_N``,
    ``start_frame_N`` (-1 where the video failed) and ``valid_N`` describe each clip. Pickles as its
    path: a worker opens the store anew.
    """

    def __init__(self, storage: Storage, layout: Layout) -> None:
        self.path, self._storage, self._layout = storage.path, storage, layout
        storage.refuse_links(layout.array_metadata())
        clips = layout.header.spec.clips_per_video
        self.labels_V = read_labels(storage, layout)
        self.label_N = np.repeat(self.labels_V, clips)
        self.video_N = read_integers(storage, layout, "video")
        self.start_frame_N = read_integers(storage, layout, "start_frame")
        self.valid_N = read_valid(storage, layout)
        if not np.array_equal(
            self.video_N, np.repeat(np.arange(layout.num_videos, dtype=np.int32), clips)
        ):
            raise StoreError(f"{storage}: the clips are not in the order of their videos")
        if not np.array_equal(self.valid_N, self.start_frame_N != NO_FRAME):
            raise StoreError(f"{storage}: valid and start_frame disagree")
        self._shard = lru_cache(maxsize=storage.max_open)(self._open_shard)

    @classmethod
    def open(cls, path: StorePath) -> "ClipStore":
        """Open a finished store; raises :class:`StoreError` where there is none or its metadata is
        damaged.
        """
        storage = locate(absolute(path))
        try:
            return cls(storage, Layout.from_root_json(read_sealed_root(storage)))
        except StoreError as error:
            raise StoreError(f"cannot open the clip store {storage}: {error}") from error

    @property
    def header(self) -> StoreHeader:
        """What the store says about itself."""
        return self._layout.header

    @property
    def spec(self) -> StoreSpec:
        """The recipe of the clips."""
        return self._layout.header.spec

    @cached_property
    def digest(self) -> str:
        """A hash of the whole content: two stores with the same digest are the same bytes."""
        return self._storage.sha256(SEAL_KEY)

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
        return read_names(self._storage, self._layout)

    def clips_of(self, video: int) -> range:
        """The clips of one video."""
        if not 0 <= video < self.num_videos:
            raise IndexError(f"{self.path}: no video {video}: there are {self.num_videos}")
        count = self.spec.clips_per_video
        return range(video * count, (video + 1) * count)

    def clip(self, index: int) -> UInt8[np.ndarray, "t h w 3"]:
        """Decode one clip: RGB frames. Raises :class:`CorruptChunk`, or :class:`StoreError` for a
        failed video.
        """
        return self._element("clips", index)

    def foreground(self, index: int) -> UInt8[np.ndarray, "mh mw"]:
        """Decode the soft foreground map of one clip, 0 to 255. Raises as :meth:`clip`, and where
        there are no maps.
        """
        if self.spec.foreground == "none":
            raise StoreError(
                f"{self.path}: the store was made without foreground maps; use `foreground: online`"
            )
        return self._element("foreground", index)

    def __reduce__(self) -> tuple[Any, ...]:
        return ClipStore.open, (self.path,)

    def __repr__(self) -> str:
        spec, clips = self.spec, f"{self.num_clips} clips"
        shape = f"{spec.frames}x{spec.height}x{spec.width}"
        videos = f"{self.num_videos} videos, {clips} of {shape}"
        return f"ClipStore({str(self.path)!r}: {videos}, {spec.codec})"

    def _element(self, array: str, index: int) -> UInt8[np.ndarray, "..."]:
        if not 0 <= index < self.num_clips:
            raise IndexError(f"{self.path}: no clip {index}: there are {self.num_clips}")
        shard, position = divmod(index, self.spec.clips_per_shard)
        if not self.valid_N[index]:
            raise StoreError(
                f"{self._where(array, index)}: its video could not be decoded; see valid_N"
            )
        try:
            chunk = self._shard(array, shard).chunk(position)
            if chunk is None:
                raise StoreError("the shard does not have it")
            return decode_chunk(self._layout, array, chunk)
        except ValueError as error:
            cure = "`fame store verify --repair` has it made again"
            raise CorruptChunk(
                f"{self._where(array, index)} is corrupt: {error}. {cure}"
            ) from error

    def _where(self, array: str, index: int) -> str:
        shard, video = index // self.spec.clips_per_shard, index // self.spec.clips_per_video
        return f"{self.path}: {array} of clip {index} (shard {shard}, video {video})"

    def _open_shard(self, array: str, shard: int) -> OpenShard:
        return OpenShard(
            self._storage,
            self._layout.shard_key(array, shard),
            chunks_per_shard=self.spec.clips_per_shard,
            max_chunk_bytes=max_chunk_bytes(self._layout, array),
        )
