"""Videos of stores in buckets on a local disk: of bounded size, shared by processes and runs.

A video's chunks lie side by side in their shard, so they are fetched by one request and kept as one
file, named by the digest of the store: what is in it can only be that. A file is kept only if the
CRC-32C of each of its chunks holds, and every reader checks them again as it decodes.

What is new takes the place of files that nobody read for a day, or since this run began; where
there are none, it is not kept. A cache half as large as the store so spares half of the requests of
each epoch. Replacing whatever was read longest ago would spare a seventh: by the time an epoch's
order comes back to a video, nearly all others were read.
"""

import fcntl
import os
import struct
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from queue import SimpleQueue

import numpy as np
from jaxtyping import UInt8

from fame.clipstore.chunk import CRC_BYTES, crc32c
from fame.clipstore.schema import StoreError
from fame.clipstore.shard import ABSENT, OpenShard, checksum_holds, reading_buffer, side_by_side
from fame.clipstore.storage import Storage

_DAY = 86_400.0
_PAUSE = 60.0  # seconds until a full cache is looked through again
_TOTAL = struct.Struct("<Qd")  # bytes that are kept, and the time before which nothing is evicted
_SIZE_BYTES = 8 + CRC_BYTES
_FETCHERS, _AHEAD = 8, 1024


@dataclass(frozen=True, kw_only=True)
class Cache:
    """Files below ``folder`` of at most ``limit`` bytes together, give or take what is under way.

    ``since`` is when this run began, in seconds of the epoch. Safe between threads and processes;
    none of its methods but :meth:`begin` fails: what cannot be kept is fetched again.
    """

    folder: Path
    limit: int
    since: float = field(default_factory=time.time)

    def begin(self) -> None:
        """Make the folder. Raise :class:`StoreError` where nothing can be kept in it."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._locked():
                pass
        except OSError as error:
            raise StoreError(f"{self.folder}: no cache ({error.strerror}); give a folder") from None

    def read_into(self, name: str, view: memoryview, offset: int = 0) -> bool:
        """Fill ``view`` from a file, and note that it was read. Return whether that much is
        there.
        """
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(self.folder / name, flags)
        except OSError:
            return False
        try:
            # The time of change serves as that of the last read: many file systems do not keep
            # access times.
            os.utime(descriptor)
            return os.preadv(descriptor, [view], offset) == len(view)
        except OSError:
            return False
        finally:
            os.close(descriptor)

    def admits(self, size: int) -> bool:
        """Return whether a new file of ``size`` bytes fits under the limit; if so, its bytes are
        counted at once.
        """
        now = time.time()
        with suppress(OSError), self._locked() as file:
            written = os.pread(file, _TOTAL.size, 0)
            known = len(written) == _TOTAL.size
            total, pause = _TOTAL.unpack(written) if known else (self._shrunk(self.limit), 0.0)
            # Looking through all files is slow, so a full cache waits a minute before it does so
            # again, and one that has old files gives up a sixteenth at once.
            if total + size > self.limit and now >= pause:
                total = self._shrunk(self.limit - max(size, self.limit // 16))
                pause = now + _PAUSE if total + size > self.limit else 0.0
            admitted = total + size <= self.limit
            os.pwrite(file, _TOTAL.pack(total + size * admitted, pause), 0)
            return admitted
        return False

    def keep(self, name: str, data: bytes) -> None:
        """Write a file, whole or not at all."""
        path = self.folder / name
        # A name of this thread's own: two that fetch the same video never write into one file.
        draft = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            draft.write_bytes(data)
            draft.replace(path)
        except OSError:  # for instance, the disk is full
            with suppress(OSError):
                draft.unlink()

    def drop(self, name: str) -> bool:
        """Remove a file. Return whether there was one."""
        try:
            (self.folder / name).unlink()
        except OSError:
            return False
        return True

    @contextmanager
    def _locked(self) -> Generator[int]:
        """Hold the file of the total against all processes."""
        descriptor = os.open(self.folder / "total", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
        finally:
            os.close(descriptor)

    def _shrunk(self, goal: int) -> int:
        """Remove what was read longest ago and may go, down to ``goal`` bytes; return the total."""
        found: list[tuple[float, int, str]] = []
        for folder, _, names in os.walk(self.folder):
            for name in names:
                with suppress(OSError):
                    status = (path := Path(folder, name)).lstat()
                    found.append((status.st_mtime, status.st_size, str(path)))
        total = sum(size for _, size, _ in found)
        # A file may go that this run did not read or, where the run takes days, that nobody read
        # for a day.
        may_go = max(self.since, time.time() - _DAY)
        for read, size, path in sorted(found):
            if total <= goal or read >= may_go:
                break
            with suppress(OSError):
                Path(path).unlink()
                total -= size
        return total


class CachedShard(OpenShard):
    """A shard whose index and videos come from a cache, or go there.

    ``name`` is its folder in the cache; ``chunks_per_video`` chunks are one file.
    """

    def __init__(
        self,
        storage: Storage,
        key: str,
        *,
        cache: Cache,
        name: str,
        chunks_per_video: int,
        chunks_per_shard: int,
        max_chunk_bytes: int,
    ) -> None:
        self._cache, self._name, self._per_video = cache, name, chunks_per_video
        super().__init__(
            storage, key, chunks_per_shard=chunks_per_shard, max_chunk_bytes=max_chunk_bytes
        )

    def prefetch(self, positions: Sequence[int]) -> None:
        """Fetch the bytes of these chunks before they are read."""
        offsets, ends = self._places(positions)
        ours, name = _process(), self._file(positions[0])
        for first, last in side_by_side(offsets, ends):
            begin, length = offsets[first], ends[last] - offsets[first]
            wanted = (self._name, begin, length)
            with ours.alone(name):
                if wanted in ours.ahead or (self._cache.folder / name).exists():
                    continue
                data, kept = self._fetch(positions[first], begin, length)
                if not kept:
                    ours.put(wanted, data)

    def forget(self, position: int) -> bool:
        """Drop the file of a video; return whether there was one."""
        return self._cache.drop(self._file(position))

    def _ending(self, length: int) -> tuple[int, bytes]:
        # The file is the size with a checksum, as an index has one, and the index.
        name, room = f"{self._name}/index", bytearray(_SIZE_BYTES + length)
        if self._cache.read_into(name, memoryview(room)):
            size, index = bytes(room[:_SIZE_BYTES]), bytes(room[_SIZE_BYTES:])
            if checksum_holds(size) and checksum_holds(index):
                return int.from_bytes(size[:-CRC_BYTES], "little"), index
        size, index = super()._ending(length)
        if checksum_holds(index) and self._cache.admits(len(room)):
            # The size in 8 bytes with its CRC-32C, then the index with its own: 12 bytes and the
            # index.
            data = size.to_bytes(_SIZE_BYTES - CRC_BYTES, "little")
            self._cache.keep(name, data + crc32c(data) + index)
        return size, index

    def _run(self, first: int, begin: int, length: int) -> UInt8[np.ndarray, " bytes"]:
        view, name = reading_buffer(length), self._file(first)
        found = self._video(first)
        if found is None:
            return super()._run(first, begin, length)
        if self._cache.read_into(name, view, begin - found[0]):
            return np.frombuffer(view, np.uint8)
        with _process().alone(name):  # a thread may be fetching it
            data = _process().ahead.pop((self._name, begin, length), None)
            if data is None and self._cache.read_into(name, view, begin - found[0]):
                return np.frombuffer(view, np.uint8)
            return np.frombuffer(data or self._fetch(first, begin, length)[0], np.uint8)

    def _fetch(self, first: int, begin: int, length: int) -> tuple[bytes, bool]:
        """Return bytes of a video from the bucket, and whether the whole video is now kept."""
        found = self._video(first)
        if found is None or not self._cache.admits(found[1] - found[0]):
            return self._read(begin, length).tobytes(), False
        # Bytes 700 to 800 of a video that begins at byte 500 of the shard are 200 to 300 of its
        # own.
        start, end, ends = found
        data = self._read(start, end - start).tobytes()
        whole = all(map(checksum_holds, _cut(data, [end - start for end in ends])))
        if whole:
            self._cache.keep(self._file(first), data)
        return data[begin - start :][:length], whole

    def _video(self, position: int) -> tuple[int, int, list[int]] | None:
        """Return begin and end of the chunks of a video together and of each; ``None`` where they
        do not lie side by side.
        """
        # With room for 300 chunks a video, chunk 305 is of the video whose chunks begin at 300.
        # Those it does not use, at its end, are absent.
        first = position // self._per_video * self._per_video
        offset_N = self._index[first : first + self._per_video, 0]
        begins, ends = self._places((np.flatnonzero(offset_N != ABSENT) + first).tolist())
        return (begins[0], ends[-1], ends) if begins[1:] == ends[:-1] else None

    def _file(self, position: int) -> str:
        return f"{self._name}/{position // self._per_video}"


def _cut(data: bytes, ends: list[int]) -> list[bytes]:
    # Ends 10 30 cut 0-10 and 10-30.
    return [data[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]


class _Process:
    """Threads that fetch ahead of this process's reader, and what they fetched and could not
    keep.
    """

    def __init__(self) -> None:
        self.ahead: dict[tuple[str, int, int], bytes] = {}
        self._locks = [threading.Lock() for _ in range(1024)]
        self._tasks: SimpleQueue[Callable[[], None]] = SimpleQueue()
        for _ in range(_FETCHERS):  # daemons, because nobody waits for them at the end
            threading.Thread(target=self._work, daemon=True).start()

    def alone(self, name: str) -> threading.Lock:
        """Return a lock of all that fetch this file, and some others."""
        # As many locks as are needed to hardly ever meet: two files of one lock only wait for each
        # other.
        return self._locks[hash(name) % len(self._locks)]

    def put(self, wanted: tuple[str, int, int], data: bytes) -> None:
        """Hold bytes for the reader; the oldest go where it does not come for them."""
        self.ahead[wanted] = data
        while len(self.ahead) > _AHEAD:
            # The first key of a dict is the one that was put in first.
            self.ahead.pop(next(iter(self.ahead)), None)

    def submit(self, task: Callable[[], None]) -> None:
        """Run something in a thread; its failure is raised when it is read."""
        self._tasks.put(task)

    def _work(self) -> None:
        while True:
            task = self._tasks.get()
            with suppress(Exception):
                task()


def in_background(task: Callable[[], None]) -> None:
    """Run something in a thread of this process."""
    _process().submit(task)


def _process() -> _Process:
    """Return the threads of this process: a forked one has none of its parent's."""
    return _process_of(os.getpid())


@cache
def _process_of(process: int) -> _Process:
    return _Process()
