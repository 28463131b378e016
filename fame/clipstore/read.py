"""Reading a finished store: any clip of any video as fast as its codec decodes it, with nothing
trusted unchecked.

V videos, L kept frames of a video, T frames of a clip, S starts, H W height and width of a frame, h
w size of a foreground map.

The reader goes to the shard files itself: look the chunks up in the shard's index, read them (the
frames of a clip lie side by side: one read), check and decode each. It needs neither zarr nor an
event loop, so it is as safe in forked workers as in spawned ones.
"""

from collections.abc import Callable, Mapping
from functools import cached_property, lru_cache, partial
from typing import Any, TypeVar, cast

import numpy as np
from jaxtyping import Int32, Int64, UInt8

from fame.clipstore.arrays import check_size, read_labels, read_lengths, read_names
from fame.clipstore.cache import Cache, CachedShard, in_background
from fame.clipstore.chunk import decode_into, decode_source, jpeg_of, max_chunk_bytes
from fame.clipstore.layout import SEAL_KEY, Layout, record_key
from fame.clipstore.locate import absolute, locate
from fame.clipstore.record import ShardRecord, StoredObject
from fame.clipstore.schema import CorruptChunk, StoreError, StoreHeader, StoreSpec
from fame.clipstore.seal import expect_sealed, read_sealed_root
from fame.clipstore.shard import OpenShard
from fame.clipstore.storage import Storage, StorePath
from fame.clipstore.window import Window
from fame.maps import mean_map

Found = TypeVar("Found")

_SMALL = 1 << 20  # bytes of a file that is compared whole when it is opened


class ClipStore:
    """One finished store, opened for reading with :meth:`open`.

    A clip is a video, a start among its kept frames and a :class:`Window`. ``labels_V`` holds the
    class of each video (-1 unknown), ``length_V`` its kept frames (0 where it failed),
    ``stretches_V`` in how many runs they come and ``valid_V`` whether it can be shown. Pickled are
    only its path and its cache: each worker opens the store itself.
    """

    def __init__(self, storage: Storage, layout: Layout, cache: Cache | None = None) -> None:
        self.path, self._storage, self._layout = storage.path, storage, layout
        self._cache = cache if storage.remote else None
        storage.refuse_links(layout.array_metadata())
        for array in ("label", "length", "stretches"):
            self._expect_sealed(array)
        # What the record of a shard lists, and the (array, shard) whose file was found to be that
        # one.
        self._records: dict[int, Mapping[str, StoredObject]] = {}
        self._own: set[tuple[str, int]] = set()
        self.labels_V = read_labels(storage, layout).astype(np.int64)
        self.length_V, self.stretches_V = read_lengths(storage, layout)
        self.valid_V = self.length_V > 0
        self._shard = lru_cache(maxsize=storage.max_open)(self._open_shard)

    @classmethod
    def open(cls, path: StorePath, *, cache: Cache | None = None) -> "ClipStore":
        """Open a finished store; what is read of one in a bucket goes through ``cache``. Raise
        :class:`StoreError` where there is none or its metadata is damaged.
        """
        storage = locate(absolute(path))
        try:
            return cls(storage, Layout.from_root_json(read_sealed_root(storage)), cache)
        except StoreError as error:
            raise StoreError(f"cannot open the clip store {storage}: {error}") from error

    @property
    def header(self) -> StoreHeader:
        """Return the description that the store holds of itself."""
        return self._layout.header

    @property
    def remote(self) -> bool:
        """Return whether the store is in a bucket."""
        return self._storage.remote

    @property
    def spec(self) -> StoreSpec:
        """Return the recipe of the store."""
        return self._layout.header.spec

    @cached_property
    def digest(self) -> str:
        """Return a hash of the whole content: equal digests mean equal bytes."""
        return self._storage.sha256(SEAL_KEY)

    @property
    def num_videos(self) -> int:
        """Return V, the number of videos, failed ones included."""
        return self._layout.num_videos

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Return the names of the videos, relative to the root they came from."""
        self._expect_sealed("names")
        return read_names(self._storage, self._layout)

    def check(self, window: Window) -> None:
        """Raise ``ValueError`` unless every video that is longer than the window can show it."""
        # Of a video that was cut, frames in a row are those of one stretch: 96 in 3 stretches are
        # 32.
        longest = self.spec.slots
        if (cut_V := self.stretches_V > 1).any():
            longest = int((self.length_V[cut_V] // self.stretches_V[cut_V]).min())
        # 16 frames at step 4 reach over 15 * 4 + 1 = 61.
        reach = int(window.offsets(longest)[-1]) + 1
        if reach > longest:
            step = (longest - 1) // (window.frames - 1)
            fitting = f"step to {step} or less, or frames to fewer"
            if step == 0:  # longer than what is kept, however close its frames are
                fitting = f"frames to {longest} or fewer"
            raise ValueError(
                f"{self.path}: a clip of {window} reaches over {reach} kept frames, but the store "
                f"keeps {longest} of them in a row ({self.spec.kept}); set {fitting}"
            )

    def starts(self, video: int, window: Window) -> Int64[np.ndarray, " s"]:
        """Return every start of a clip in a video. Raise :class:`StoreError` for a failed video."""
        return window.starts(*self._extent(video))

    def fits(self, video: int, window: Window) -> bool:
        """Return whether a video is long enough for ``window``, else it is looped. Raise as
        :meth:`starts`.
        """
        return window.fits(*self._extent(video))

    def spread(self, video: int, window: Window, count: int) -> tuple[int, ...]:
        """Return ``count`` evenly spaced starts: what a video is tested by. Raise as
        :meth:`starts`.
        """
        return window.spread(*self._extent(video), count)

    def clip(
        self,
        video: int,
        start: int,
        window: Window,
        *,
        out: UInt8[np.ndarray, "t h w 3"] | None = None,
    ) -> UInt8[np.ndarray, "t h w 3"]:
        """Decode one clip, RGB, into ``out`` if given. Raise :class:`CorruptChunk`, or
        :class:`StoreError` for a failed video.
        """
        return self._decode("frames", video, self._numbers(video, start, window), out)

    def jpegs(
        self, video: int, start: int, window: Window
    ) -> tuple[list[bytes], Int64[np.ndarray, " t"]]:
        """Return the JPEGs of a clip in a jpeg store, each once, and the number among them of each
        frame. Nothing is decoded, but checksums and sizes are checked. Raise as :meth:`clip`, and
        :class:`StoreError` for frames that are not JPEG.
        """
        if self.spec.codec != "jpeg":
            raise StoreError(f"{self.path}: its frames are {self.spec.codec}, not JPEG")
        number_T = self._numbers(video, start, window)
        number_U, shown_T = np.unique(number_T, return_inverse=True)
        shard, position_U = self._positions("frames", video, number_U)

        def read() -> list[bytes]:
            chunks = self._shard("frames", shard).chunks(position_U.tolist())
            return [jpeg_of(self._layout, chunk) for chunk in chunks]

        return self._read_checked("frames", video, read), shown_T

    def maps(self, video: int, start: int, window: Window) -> UInt8[np.ndarray, "t mh mw"]:
        """Return the foreground map of each frame of a clip, 0 to 255, on one scale for all. Raise
        as :meth:`clip`, and where there are no maps.
        """
        if self.spec.foreground == "none":
            raise StoreError(
                f"{self.path}: the store was made without foreground maps; "
                "train with --mask online, or make it again with --foreground flow"
            )
        # Frames 4 5 6 7 with a map for every second frame show the maps 2 2 3 3.
        number_T = self._numbers(video, start, window) // self.spec.foreground_every
        return self._decode("foreground", video, number_T, None)

    def foreground(self, video: int, start: int, window: Window) -> UInt8[np.ndarray, "mh mw"]:
        """Return the map of a whole clip: the mean of its frames' maps, scaled to 0..255. Raise as
        :meth:`maps`.
        """
        return mean_map(self.maps(video, start, window))

    def prefetch(self, video: int, start: int, window: Window, *, maps: bool) -> None:
        """Start to fetch a clip, and with ``maps`` its maps, into the cache in the background."""
        if self._cache is None:
            return
        number_T = np.unique(self._numbers(video, start, window))
        asked = {"frames": number_T}
        if maps:
            asked["foreground"] = np.unique(number_T // self.spec.foreground_every)
        for array, number_U in asked.items():
            shard, position_U = self._positions(array, video, number_U)
            in_background(partial(self._prefetch, array, shard, position_U.tolist()))

    def _prefetch(self, array: str, shard: int, positions: list[int]) -> None:
        cast("CachedShard", self._shard(array, shard)).prefetch(positions)

    def _positions(
        self, array: str, video: int, number_U: Int64[np.ndarray, " u"]
    ) -> tuple[int, Int64[np.ndarray, " u"]]:
        """Return the shard of a video, and where in it the chunks of these numbers are."""
        shard, place = divmod(video, self.spec.videos_per_shard)
        # With 16 videos a shard and room for 300 frames each, frame 5 of video 17 is chunk 305 of
        # shard 1.
        return shard, number_U + place * self._layout.chunks_per_video(array)

    def source(self, video: int) -> Int32[np.ndarray, "l 2"]:
        """Return number and time (ms) of each kept frame in the source. Raise as :meth:`clip`."""
        length, _ = self._extent(video)

        def read() -> np.ndarray:
            shard, place = divmod(video, self.spec.videos_per_shard)
            (chunk,) = self._shard("source", shard).chunks([place])
            return decode_source(self._layout, chunk)[:length]

        return self._read_checked("source", video, read)

    def __reduce__(self) -> tuple[Any, ...]:
        # Open files and their positions are of this process only.
        return partial(ClipStore.open, cache=self._cache), (self.path,)

    def __repr__(self) -> str:
        spec, frames = self.spec, int(self.length_V.sum())
        videos = f"{self.num_videos} videos, {frames} frames of {spec.height}x{spec.width}"
        return f"ClipStore({str(self.path)!r}: {videos}, {spec.kept}, {spec.codec})"

    def _extent(self, video: int) -> tuple[int, int]:
        """Return the length and stretches of a video that can be shown."""
        if not 0 <= video < self.num_videos:
            raise IndexError(f"{self.path}: no video {video}: there are {self.num_videos}")
        if not self.valid_V[video]:
            raise StoreError(f"{self.path}: video {video} could not be decoded; see valid_V")
        return int(self.length_V[video]), int(self.stretches_V[video])

    def _numbers(self, video: int, start: int, window: Window) -> Int64[np.ndarray, " t"]:
        length, stretches = self._extent(video)
        if not 0 <= start < length:
            raise IndexError(f"{self.path}: no frame {start} in video {video}: it has {length}")
        return window.numbers(start, length=length, stretches=stretches)

    def _decode(
        self,
        array: str,
        video: int,
        number_T: Int64[np.ndarray, " t"],
        out: UInt8[np.ndarray, "t ..."] | None,
    ) -> UInt8[np.ndarray, "t ..."]:
        """Read the chunks of a clip, each once, and decode them to where they are shown."""
        if out is None:
            shape = (len(number_T), *self._layout.element_shape(array))
            out = np.empty(shape, np.uint8)
        # A looped clip 0 1 2 0 1 reads the frames 0 1 2, decodes them to t = 0 1 2, and copies t =
        # 3 and 4 from t = 0 and 1.
        number_U, first_U, shown_T = np.unique(number_T, return_index=True, return_inverse=True)
        first_T = first_U[shown_T].tolist()
        shard, position_U = self._positions(array, video, number_U)

        def read() -> np.ndarray:  # a shape here would be evaluated for every clip
            chunks = self._shard(array, shard).chunks(position_U.tolist())
            for t, chunk in zip(first_U.tolist(), chunks, strict=True):
                decode_into(self._layout, array, chunk, out[t])
            for t, first in enumerate(first_T):
                if t != first:
                    out[t] = out[first]
            return out

        return self._read_checked(array, video, read)

    def _read_checked(self, array: str, video: int, read: Callable[[], Found]) -> Found:
        """Return the result of ``read``. Raise an error that names the place of any damage and the
        remedy; damage in the cache is read again from the store.
        """
        shard, first = self._positions(array, video, np.zeros(1, np.int64))
        try:
            try:
                return read()
            except ValueError:
                # A damaged file in the cache is dropped and fetched again, once; without one, it is
                # the store.
                if not self._shard(array, shard).forget(int(first[0])):
                    raise
                return read()
        except ValueError as error:
            raise CorruptChunk(
                f"{self.path}: {array} of video {video} (shard {shard}) is corrupt: {error}. "
                "`fame store verify --repair` has it made again"
            ) from error

    def _open_shard(self, array: str, shard: int) -> OpenShard:
        layout, key = self._layout, self._layout.shard_key(array, shard)
        sizes = {
            "chunks_per_shard": layout.chunks_per_shard(array),
            "max_chunk_bytes": max_chunk_bytes(layout, array),
        }
        if self._cache is None:
            opened = OpenShard(self._storage, key, **sizes)
            self._expect_own(opened, array, shard)
            return opened
        name, room = f"{self.digest[:32]}/{key}", layout.chunks_per_video(array)
        return CachedShard(
            self._storage, key, cache=self._cache, name=name, chunks_per_video=room, **sizes
        )

    def _expect_sealed(self, array: str) -> None:
        """Raise :class:`StoreError` unless a whole array is the one that was sealed. Its size is
        checked before it is read, because anybody may have written it.
        """
        check_size(self._storage, self._layout, array)
        expect_sealed(self._storage, self._layout.whole_key(array))

    def _expect_own(self, opened: OpenShard, array: str, shard: int) -> None:
        """Raise :class:`StoreError` for the file of another shard or store, although its checksums
        hold.

        Its size is hardly ever that of the record; where a small file is of the same size, its
        bytes are compared. Damaged bytes raise only when they are read. Each file is checked once;
        in a bucket, where nobody moves files by hand, none is.
        """
        if self._storage.remote or (array, shard) in self._own:
            return
        if shard not in self._records:
            data = self._storage.read(record_key(shard))
            self._records[shard] = ShardRecord.from_json(data, self._layout, shard).objects
        wanted, key = self._records[shard][array], self._layout.shard_key(array, shard)
        same = opened.size == wanted.size
        if same and wanted.size <= _SMALL:
            # Damaged chunks, whose checksums fail, are no sign of another shard's file; their
            # reader raises.
            same = self._storage.sha256(key) == wanted.sha256 or not opened.whole()
        if not same:
            raise StoreError(f"{key} is not the file that the record of its shard describes")
        self._own.add((array, shard))
