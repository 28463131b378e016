"""The reader among processes and damage: pickling, fork, spawn, few handles, flat memory, flipped
bits found.
"""

import multiprocessing
import os
import pickle
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest

from fame.clipstore import ClipStore, CorruptChunk, StoreError, StoreSpec, Window
from fame.clipstore.chunk import crc32c
from fame.clipstore.files import Folder
from fame.randomness import numpy_generator
from tests.fame.clipstore import small

WINDOW = Window(frames=2)


def clip_sums(store: ClipStore, videos: list[int]) -> list[int]:
    return [int(store.clip(video, 1, WINDOW).astype(np.int64).sum()) for video in videos]


def test_a_pickled_store_reads_the_same(store: Path):
    opened = ClipStore.open(store)
    again = pickle.loads(pickle.dumps(opened))
    assert np.array_equal(again.clip(4, 3, WINDOW), opened.clip(4, 3, WINDOW))
    assert len(pickle.dumps(opened)) < 1000


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_workers_read_while_the_parent_reads(finished: dict[str, Path], method: str):
    store, indices = ClipStore.open(finished["jpeg"]), [0, 4, 1, 3, 0, 4]
    expected = clip_sums(store, indices)  # opens shards before the fork
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as pool:
        futures = [pool.submit(clip_sums, store, indices) for _ in range(4)]
        assert clip_sums(store, indices) == expected
        assert all(future.result() == expected for future in futures)


def test_threads_do_not_mix_their_buffers(
    finished: dict[str, Path], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Folder, "max_open", 1)  # descriptors are closed under the readers' hands
    store = ClipStore.open(finished["zstd"])
    indices = [0, 4, 1, 3, 0, 4] * 20
    expected = clip_sums(store, indices)
    with ThreadPoolExecutor(8) as pool:
        assert all(found == expected for found in pool.map(clip_sums, [store] * 8, [indices] * 8))


def test_handles_stay_few_and_memory_flat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Folder, "max_open", 4)
    spec = StoreSpec(
        seconds=0.4,
        height=16,
        width=16,
        foreground_height=2,
        foreground_width=2,
        videos_per_shard=1,
    )
    store = ClipStore.open(small.make(tmp_path / "s", spec, count=40, failed=()))
    process, before, memory = psutil.Process(), psutil.Process().num_fds(), 0
    for turn in range(23):
        if turn == 3:
            memory = process.memory_info().rss
        clip_sums(store, list(range(40)))
        for video in range(40):
            store.foreground(video, 0, WINDOW)
    assert psutil.Process().num_fds() <= before + 4
    assert process.memory_info().rss < memory + 2**22


@pytest.mark.parametrize("window", [WINDOW, Window(frames=4, step=3), Window(frames=4, span=0.6)])
@pytest.mark.parametrize("stretches", [1, 2, 3])
def test_a_window_fits_where_its_frames_do_not_wrap(window: Window, stretches: int):
    for room in range(1, 14):
        length = room * stretches
        shown_T = window.numbers(0, length=length, stretches=stretches)
        fits = np.array_equal(shown_T, window.offsets(room))
        assert window.fits(length, stretches) == fits, room


@pytest.mark.parametrize(
    ("window", "remedy"),
    [
        (Window(frames=2, step=9), "set step to [1-5] or less, or frames to fewer$"),
        (Window(frames=40), "set frames to [2-6] or fewer$"),
    ],
)
def test_a_window_that_no_video_can_show_names_what_fits(
    finished: dict[str, Path], window: Window, remedy: str
):
    with pytest.raises(ValueError, match=r"kept frames, but the store keeps \d .*" + remedy):
        ClipStore.open(finished["jpeg"]).check(window)


def flip(file: Path, bit: int) -> None:
    data = bytearray(file.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)


def reads_wrongly(store: Path) -> bool:
    """Whether some element of a damaged store is read as something else; damage found raises
    StoreError.
    """
    opened = ClipStore.open(store)
    for video in np.flatnonzero(opened.valid_V).tolist():
        everything = Window(frames=int(opened.length_V[video]) // int(opened.stretches_V[video]))
        for start in opened.starts(video, everything).tolist():
            opened.clip(video, start, everything)
            opened.maps(video, start, everything)
        opened.source(video)
    return True


def test_every_flipped_bit_of_a_shard_is_found_by_the_reader(store: Path, tmp_path: Path):
    damaged = small.copy(store, tmp_path / "s")
    rng = numpy_generator(0, 0, 0, "bits")
    for file in sorted(damaged.glob("[fs]*/c.*.0")):
        size = file.stat().st_size * 8
        for bit in (0, size - 1, *rng.integers(0, size, 12).tolist()):
            flip(file, bit)
            with pytest.raises(
                CorruptChunk,
                match=r"(frames|foreground|source) of video \d \(shard \d\) is corrupt",
            ):
                reads_wrongly(damaged)
            flip(file, bit)
    assert reads_wrongly(damaged)


def test_a_truncated_shard_is_found(store: Path, tmp_path: Path):
    size = (store / "frames/c.0.0.0.0.0").stat().st_size
    for cut in (1, 4, 5, 36, 37, size // 2, size):
        damaged = small.copy(store, tmp_path / f"{cut}")
        os.truncate(damaged / "frames/c.0.0.0.0.0", size - cut)
        with pytest.raises(CorruptChunk, match="shard 0"):
            ClipStore.open(damaged).clip(0, 0, WINDOW)


def test_a_shard_cut_after_it_was_opened_is_found(finished: dict[str, Path], tmp_path: Path):
    damaged = ClipStore.open(small.copy(finished["lz4"], tmp_path / "s"))
    damaged.clip(0, 0, WINDOW)
    os.truncate(tmp_path / "s" / "frames/c.0.0.0.0.0", 10)
    with pytest.raises(CorruptChunk, match="ends before"):
        damaged.clip(0, 2, WINDOW)


def test_a_missing_shard_is_named(finished: dict[str, Path], tmp_path: Path):
    damaged = small.copy(finished["jpeg"], tmp_path / "s")
    (damaged / "frames/c.2.0.0.0.0").unlink()
    with pytest.raises(CorruptChunk, match=r"video 4 \(shard 2\).*cannot read"):
        ClipStore.open(damaged).clip(4, 0, WINDOW)


def test_opening_finds_damaged_labels_and_lost_seals(finished: dict[str, Path], tmp_path: Path):
    for key in ("label/c.0", "length/c.0", "stretches/c.0", "zarr.json"):
        damaged = small.copy(finished["jpeg"], tmp_path / key.replace("/", "-"))
        flip(damaged / key, 8 * 6)
        with pytest.raises(StoreError, match="cannot open the clip store"):
            ClipStore.open(damaged)
    damaged = small.copy(finished["jpeg"], tmp_path / "unsealed")
    (damaged / "seal.json").unlink()
    with pytest.raises(StoreError, match="not finished"):
        ClipStore.open(damaged)


def test_opening_nothing_is_an_error(tmp_path: Path):
    with pytest.raises(StoreError, match="cannot read"):
        ClipStore.open(tmp_path)


@pytest.mark.parametrize("array", ["frames", "foreground", "source"])
def test_the_file_of_another_shard_or_store_is_refused(store: Path, tmp_path: Path, array: str):
    first, second = sorted(key for key in small.contents(store) if key.startswith(f"{array}/c."))[
        :2
    ]
    exchanged = small.copy(store, tmp_path / "exchanged")
    (exchanged / first).write_bytes((store / second).read_bytes())
    (exchanged / second).write_bytes((store / first).read_bytes())
    opened = ClipStore.open(exchanged)
    for video in (0, 3):
        with pytest.raises(
            CorruptChunk, match="not the file that the record of its shard describes"
        ):
            if array == "source":
                opened.source(video)
            else:
                (opened.clip if array == "frames" else opened.maps)(video, 0, Window(frames=2))


@pytest.mark.parametrize("array", ["label", "length", "stretches", "names"])
def test_a_whole_array_of_another_store_is_refused(store: Path, tmp_path: Path, array: str):
    path = small.copy(store, tmp_path / "s")
    data = (path / array / "c.0").read_bytes()[:-4]
    others = np.frombuffer(data[: len(data) // 4 * 4], "<i4")[::-1].tobytes()
    changed = data[:-1] + bytes([data[-1] ^ 1]) if array == "names" else others
    (path / array / "c.0").write_bytes(changed + crc32c(changed))
    with pytest.raises(StoreError, match=f"{array}/c.0 does not match the seal"):
        ClipStore.open(path).names  # noqa: B018
