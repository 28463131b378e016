"""The shard file of zarr's ``sharding_indexed`` codec: encoded chunks one after the other, then an
index.

The index has one pair (offset, length) of little-endian uint64 per chunk of the shard, both 2^64-1
for an absent chunk, and a CRC-32C. Writing it here instead of through zarr keeps memory at one
chunk: zarr's writer wants the decoded shard whole.
"""

import threading
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
from jaxtyping import UInt8

from fame.clipstore.chunk import CRC_BYTES, crc32c
from fame.clipstore.schema import StoreError
from fame.clipstore.storage import Draft, Source, Storage

_PAIR_BYTES = 16
ABSENT = 2**64 - 1
_GAP_BYTES = 2**18  # read through, since a second read would cost more


class ShardDraft:
    """A shard in the making: chunks are appended in order, absent ones as none; ``finish`` writes
    the index.
    """

    def __init__(self, file: Draft, *, chunks_per_shard: int) -> None:
        self.file = file
        # Chunks that are never appended stay absent: the last shard of 100 videos in shards of 60
        # holds 40, and its index still has a place for 60.
        self._index = np.full((chunks_per_shard, 2), ABSENT, "<u8")
        self._next = 0

    def append(self, chunk: bytes | None) -> None:
        """Add the next chunk."""
        if chunk is not None:
            self._index[self._next] = self.file.size, len(chunk)
            self.file.write(chunk)
        self._next += 1

    def finish(self) -> None:
        """Write the index: the file is whole."""
        index = self._index.tobytes()
        self.file.write(index + crc32c(index))


class OpenShard:
    """One shard file open for reading, its index checked. Safe to share between threads; closed
    with its last user.
    """

    def __init__(
        self, storage: Storage, key: str, *, chunks_per_shard: int, max_chunk_bytes: int
    ) -> None:
        self._where, self._max_chunk_bytes = f"{storage}/{key}", max_chunk_bytes
        self._storage, self._key = storage, key
        # 60 videos of 150 frames have 9,000 pairs of 16 bytes: the last 144,004 bytes of the file.
        size, data = self._ending(chunks_per_shard * _PAIR_BYTES + CRC_BYTES)
        self.size, self._end = size, size - len(data)
        if not checksum_holds(data):
            raise StoreError(f"{self._where}: the checksum of the index does not match")
        self._index = np.frombuffer(data[:-CRC_BYTES], "<u8").reshape(chunks_per_shard, 2)

    @cached_property
    def _source(self) -> Source:
        return self._storage.open(self._key)

    def chunk(self, position: int) -> UInt8[np.ndarray, " bytes"] | None:
        """Return the bytes of one chunk, ``None`` if it is absent. Raise :class:`StoreError` for a
        false index.

        The array is this thread's reading buffer: it is overwritten by the thread's next read of
        any shard.
        """
        if self._absent(position):
            return None
        return next(self.chunks([position]))

    def chunks(self, positions: Sequence[int]) -> Iterator[UInt8[np.ndarray, " bytes"]]:
        """Yield the bytes of several chunks, ``positions`` ascending, as :meth:`chunk` gives them
        one by one.

        What lies side by side comes in one read, a small gap included. Raise :class:`StoreError`
        for a chunk that is absent.
        """
        offsets, ends = self._places(positions)
        for first, last in side_by_side(offsets, ends):
            begin = offsets[first]
            run = self._run(positions[first], begin, ends[last] - begin)
            # A run that begins at byte 1000 has the chunk of bytes 1400 to 1900 at 400 to 900.
            for place in range(first, last + 1):
                yield run[offsets[place] - begin : ends[place] - begin]

    def whole(self) -> bool:
        """Return whether the checksum of every chunk holds."""
        # An absent chunk has no bytes, so no checksum either.
        there = [place for place in range(len(self._index)) if not self._absent(place)]
        try:
            return all(checksum_holds(chunk.tobytes()) for chunk in self.chunks(there))
        except StoreError:
            return False

    def forget(self, position: int) -> bool:
        """Drop what is kept of the video of a chunk elsewhere than in the shard; return whether
        that was anything.
        """
        return False

    def _places(self, positions: Sequence[int]) -> tuple[list[int], list[int]]:
        """Return where chunks begin and end, which cannot be elsewhere than before the index."""
        index_N2 = self._index[list(positions)]
        # Compared one by one before they are added, since a sum above 2^64 would wrap around.
        possible_N = (index_N2 <= (self._end, self._max_chunk_bytes)).all(1)
        possible_N &= index_N2[:, 0] + index_N2[:, 1] <= self._end
        if not possible_N.all():
            # The first False is the lowest of the booleans.
            position = positions[int(possible_N.argmin())]
            if self._absent(position):
                raise StoreError(f"{self._where}: chunk {position} is missing")
            offset, length = self._index[position].tolist()
            raise StoreError(f"{self._where}: chunk {position} cannot be at {offset}+{length}")
        return index_N2[:, 0].tolist(), index_N2.sum(1).tolist()

    def _absent(self, position: int) -> bool:
        return self._index[position].tolist() == [ABSENT, ABSENT]

    def _ending(self, length: int) -> tuple[int, bytes]:
        """Return the size of the file, and its last bytes: the index."""
        size = self._source.size
        if size < length:
            chunks = length // _PAIR_BYTES
            raise StoreError(f"{self._where}: too short to hold the index of {chunks} chunks")
        return size, self._read(size - length, length).tobytes()

    def _run(self, first: int, begin: int, length: int) -> UInt8[np.ndarray, " bytes"]:
        """Return the bytes of chunks that lie side by side, of which ``first`` is the first."""
        return self._read(begin, length)

    def _read(self, offset: int, length: int) -> UInt8[np.ndarray, " bytes"]:
        view = reading_buffer(length)
        if self._source.read_into(view, offset) != length:
            raise StoreError(f"{self._where}: ends before byte {offset + length}")
        return np.frombuffer(view, np.uint8)


def side_by_side(offsets: Sequence[int], ends: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the first and last of the chunks that are read at once: small gaps between them are
    read too.
    """
    # Chunks at bytes 0-10 and 10-30, and one a megabyte later, are the reads (0, 1) and (2, 2).
    first = 0
    for last, end in enumerate(ends):
        if last + 1 < len(ends) and end <= offsets[last + 1] <= end + _GAP_BYTES:
            continue
        yield first, last
        first = last + 1


def checksum_holds(data: bytes) -> bool:
    """Return whether the checksum at the end of an index or a chunk is that of the rest."""
    return crc32c(data[:-CRC_BYTES]) == data[-CRC_BYTES:]


class _Buffer(threading.local):
    """One reading buffer per thread, kept: fresh memory for every chunk would cost as much as
    reading it.
    """

    def __init__(self) -> None:
        self._memory = bytearray()

    def of(self, length: int) -> memoryview:
        # New memory, not a resize, which Python refuses while a view of the old one is in use.
        if len(self._memory) < length:
            self._memory = bytearray(length)
        return memoryview(self._memory)[:length]


_buffer = _Buffer()


def reading_buffer(length: int) -> memoryview:
    """Return the reading buffer of this thread; its next read overwrites it."""
    return _buffer.of(length)
