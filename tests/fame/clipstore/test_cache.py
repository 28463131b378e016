"""What a cache gives is what the bucket holds, it stays within its bound, and what it has is not
asked for again.
"""

import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from fame.clipstore import Cache, ClipStore, CorruptChunk, StoreError, Window
from fame.clipstore.cache import _process_of, in_background
from fame.clipstore.files import Folder, OpenFile
from fame.clipstore.layout import Layout
from fame.clipstore.seal import read_sealed_root
from tests.fame.clipstore import small

PAIR = Window(frames=2)
VALID = (0, 1, 3, 4)


class Remote(Folder):
    """A folder that counts what is asked of it, as if it were a server."""

    remote = True

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.asked: Counter[str] = Counter()

    def open(self, key: str) -> OpenFile:
        self.asked[key.partition("/")[0]] += 1
        opened, read = super().open(key), OpenFile.read_into
        remote = self

        class Counted(OpenFile):
            def read_into(self, view: memoryview, offset: int) -> int:
                remote.asked["bytes"] += len(view)
                return read(self, view, offset)

        opened.__class__ = Counted
        return opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return small.make(tmp_path / "s.zarr")


@pytest.fixture(autouse=True)
def fresh() -> None:
    _process_of.cache_clear()


def cache_in(path: Path, limit: int = 10**6, **changes: float) -> Cache:
    cache = Cache(folder=path / "cache", limit=limit, **changes)
    cache.begin()
    return cache


def opened(folder: Path, cache: Cache | None) -> tuple[ClipStore, Counter[str]]:
    storage = Remote(folder)
    store = ClipStore(storage, Layout.from_root_json(read_sealed_root(storage)), cache)
    _ = store.digest
    storage.asked.clear()
    return store, storage.asked


def all_clips(store: ClipStore) -> list[np.ndarray]:
    return [
        read(video, start, PAIR)
        for video in VALID
        for start in store.starts(video, PAIR).tolist()
        for read in (store.clip, store.maps)
    ]


def same(left: list[np.ndarray], right: list[np.ndarray]) -> bool:
    return all(np.array_equal(one, two) for one, two in zip(left, right, strict=True))


def files(cache: Cache) -> list[Path]:
    return [path for path in cache.folder.rglob("*") if path.is_file() and path.name != "total"]


def test_each_video_is_fetched_once_by_all_runs(folder: Path, tmp_path: Path):
    expected = all_clips(ClipStore.open(folder))
    store, asked = opened(folder, cache_in(tmp_path))
    assert same(all_clips(store), expected)
    assert asked["frames"] == asked["foreground"] == 3  # shards, each opened once
    once = Counter(asked)
    assert same(all_clips(store), expected)
    assert asked == once
    another_run, asked = opened(folder, cache_in(tmp_path))
    assert same(all_clips(another_run), expected)
    assert not asked


def test_a_folder_is_read_as_it_is(folder: Path, tmp_path: Path):
    store = ClipStore.open(folder, cache=(cache := cache_in(tmp_path)))
    store.prefetch(0, 0, PAIR, maps=True)
    all_clips(store)
    assert not files(cache)


def test_damage_in_the_cache_is_read_anew_from_the_store(folder: Path, tmp_path: Path):
    store, asked = opened(folder, cache := cache_in(tmp_path))
    expected = all_clips(store)
    for path in files(cache):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 8
        path.write_bytes(data)
    again, asked = opened(folder, cache)
    assert same(all_clips(again), expected)
    assert asked["bytes"] > 0
    for path in files(cache):
        path.write_bytes(path.read_bytes()[:5])  # cut short
    assert same(all_clips(opened(folder, cache)[0]), expected)
    again, asked = opened(folder, cache)
    assert same(all_clips(again), expected) and not asked  # what was mended is kept


def test_damage_in_the_store_is_told_and_not_kept(folder: Path, tmp_path: Path):
    shard = folder / "frames/c.0.0.0.0.0"
    data = bytearray(shard.read_bytes())
    data[40] ^= 8
    shard.write_bytes(data)
    store, _ = opened(folder, cache := cache_in(tmp_path))
    for _ in range(2):
        with pytest.raises(CorruptChunk, match="frames of video 0"):
            store.clip(0, 0, PAIR)
    assert [path.name for path in files(cache)] == ["index"]
    assert store.clip(1, 0, PAIR).shape == (2, 16, 24, 3)


def test_a_full_cache_keeps_what_the_run_reads_and_fetches_the_rest(folder: Path, tmp_path: Path):
    expected = all_clips(ClipStore.open(folder))
    limit = 8_000
    store, asked = opened(folder, cache := cache_in(tmp_path, limit))
    for _ in range(3):
        assert same(all_clips(store), expected)
    kept = {path: path.read_bytes() for path in files(cache)}
    assert 0 < sum(map(len, kept.values())) <= limit
    assert {path.name for path in kept} > {"index"}
    asked.clear()
    assert same(all_clips(store), expected)
    assert asked["bytes"] > 0
    assert {path: path.read_bytes() for path in files(cache)} == kept


def test_what_no_run_reads_any_more_makes_room_oldest_first(tmp_path: Path):
    cache = cache_in(tmp_path, 1000, since=time.time() - 100)
    for age, name in ((300, "older"), (200, "old"), (50, "read by this run")):
        assert cache.admits(300)
        cache.keep(name, bytes(300))
        os.utime(cache.folder / name, (time.time() - age,) * 2)
    assert cache.admits(300)  # the file of the total takes 16 bytes
    assert {path.name for path in files(cache)} == {"old", "read by this run"}
    cache.keep("new", bytes(300))
    assert cache.admits(300)
    assert {path.name for path in files(cache)} == {"read by this run", "new"}
    assert not cache.admits(600)
    assert not cache.admits(2000)


def test_a_file_that_nobody_read_for_a_day_goes_even_in_a_long_run(tmp_path: Path):
    cache = cache_in(tmp_path, 1000, since=time.time() - 10 * 86_400)
    cache.keep("yesterday's", bytes(900))
    os.utime(cache.folder / "yesterday's", (time.time() - 90_000,) * 2)
    assert cache.admits(500) and not files(cache)


def test_reading_counts_as_use(tmp_path: Path):
    cache = cache_in(tmp_path)
    cache.keep("a/b", b"12345")
    os.utime(cache.folder / "a/b", (0, 0))
    room = bytearray(3)
    assert cache.read_into("a/b", memoryview(room), 1) and room == b"234"
    assert (cache.folder / "a/b").stat().st_mtime > cache.since - 60
    assert not cache.read_into("a/b", memoryview(room), 3)
    (cache.folder / "link").symlink_to(cache.folder / "a/b")
    assert not cache.read_into("link", memoryview(room))


def test_many_at_a_time_stay_within_the_bound_but_for_what_is_under_way(tmp_path: Path):
    cache, threads, size = cache_in(tmp_path, 10_000), 8, 300

    def take(number: int) -> None:
        if cache.admits(size):
            cache.keep(f"{number % 3}/{number}", bytes(size))

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(take, range(100)))
    total = sum(path.stat().st_size for path in files(cache))
    assert 10_000 - size < total + 16 <= 10_000 + threads * size


def test_what_was_prefetched_is_not_fetched_again(folder: Path, tmp_path: Path):
    for limit in (10**6, 1):  # room for all, for nothing
        store, asked = opened(folder, cache_in(tmp_path / str(limit), limit))
        shard, position_U = store._positions("frames", 0, np.array([2, 3]))
        store._prefetch("frames", shard, position_U.tolist())
        before = Counter(asked)
        assert before["bytes"] > 0
        store._prefetch("frames", shard, position_U.tolist())
        assert np.array_equal(store.clip(0, 2, PAIR), ClipStore.open(folder).clip(0, 2, PAIR))
        assert asked == before, limit


def test_a_prefetch_that_fails_leaves_the_error_to_the_reader(folder: Path, tmp_path: Path):
    (folder / "frames/c.0.0.0.0.0").unlink()
    store, _ = opened(folder, cache_in(tmp_path))
    for _ in range(20):  # more than there are threads
        store.prefetch(0, 0, PAIR, maps=False)
    done: list[int] = []
    in_background(lambda: done.append(1))
    with pytest.raises(CorruptChunk, match="cannot read"):
        store.clip(0, 0, PAIR)
    deadline = time.monotonic() + 60
    while not done:
        assert time.monotonic() < deadline, "the threads died"
        time.sleep(0.01)


def test_a_place_where_nothing_can_be_kept_is_one_line(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"file: no cache \(File exists\)"):
        Cache(folder=tmp_path / "file", limit=1).begin()
