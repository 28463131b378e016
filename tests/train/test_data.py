"""What is trained on when: a pure function of seed and step, whatever the workers, processes and
damage.
"""

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fame.clipstore import ClipStore, CorruptChunk, StoreError, StoreSpec, Window
from tests.stores import SPEC, WINDOW, make_store
from tests.train.tiny import TINY
from train import data as loading
from train.data import PairDataset, Pairs, StepSampler, _shared, on_device, part_size, stream

CPU = torch.device("cpu")


def dataset(*stores: Path, **changes: object) -> PairDataset:
    return PairDataset(
        [ClipStore.open(path) for path in stores],
        **({"seed": 0, "window": WINDOW, "maps": True} | changes),
    )


def read(
    data: PairDataset, *, start: int, stop: int, workers: int = 0, rank: int = 0, world: int = 1
) -> list[Pairs]:
    config = TINY.override([f"workers={workers}"])
    return list(stream(data, config, start=start, stop=stop, device=CPU, rank=rank, world=world))


def equal(left: list[Pairs], right: list[Pairs]) -> bool:
    return len(left) == len(right) and all(
        torch.equal(a, b)
        for one, two in zip(left, right, strict=True)
        for a, b in zip(one[:3], two[:3], strict=True)
    )


def test_an_epoch_shows_every_valid_video_at_most_once_and_new_clips_next_time(store: Path):
    data = dataset(store)
    assert len(data) == 18
    for epoch in (0, 1):
        assert sorted(data.order(epoch)) == list(range(18))
    assert not np.array_equal(data.order(0), data.order(1))
    starts = {epoch: [data.starts_of(epoch, sample) for sample in range(18)] for epoch in (0, 1)}
    assert starts[0] != starts[1]
    assert {start for pair in starts[0] for start in pair} == set(range(5))
    assert data.video_S2[:, 1].tolist() == [v for v in range(20) if v not in (3, 11)]


def test_starts_are_drawn_as_the_reference_draws_them(tmp_path: Path):
    """Two starts, independent and uniform: 10 s at 30 frames a second, every second frame kept."""
    spec = dataclasses.replace(SPEC, keep=2, seconds=10.0, height=6, width=8, foreground="none")
    path = make_store(tmp_path / "ten seconds", videos=1, spec=spec)
    data = dataset(path, window=Window(), maps=False)
    start_E2 = np.array([data.starts_of(epoch, 0) for epoch in range(4000)])
    assert (start_E2.min(), start_E2.max(), len(np.unique(start_E2))) == (0, 134, 135)
    gap_E = 2 * np.abs(np.diff(start_E2)[:, 0])  # in source frames
    assert abs(gap_E.mean() - 269 / 3) < 0.05 * 269 / 3
    assert abs((gap_E < 31).mean() - (1 - (1 - 31 / 269) ** 2)) < 0.02
    assert len({tuple(sorted(pair)) for pair in start_E2.tolist()}) > 3000


def test_pairs_hold_the_stored_clips_and_maps(store: Path):
    data, opened = dataset(store), ClipStore.open(store)
    [pairs] = read(data, start=5, stop=6)
    epoch, within = divmod(5, len(data) // TINY.batch)
    assert pairs.sample_B.tolist() == data.order(epoch)[within * 4 : within * 4 + 4].tolist()
    for row, sample in enumerate(pairs.sample_B.tolist()):
        video = int(data.video_S2[sample, 1])
        for view, start in enumerate(data.starts_of(epoch, sample)):
            clip = (video, start, WINDOW)
            assert np.array_equal(pairs.clip_B2THWC[row, view], opened.clip(*clip))
            assert np.array_equal(pairs.score_B2hw[row, view], opened.foreground(*clip))


def test_pairs_hold_the_map_of_each_frame(store: Path):
    opened = ClipStore.open(store)
    data = PairDataset([opened], seed=0, window=WINDOW, maps=True, frame_maps=True)
    [pairs] = read(data, start=0, stop=1)
    for row, sample in enumerate(pairs.sample_B.tolist()):
        video = int(data.video_S2[sample, 1])
        for view, start in enumerate(data.starts_of(0, sample)):
            assert np.array_equal(pairs.score_B2hw[row, view], opened.maps(video, start, WINDOW))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers_do_not_change_what_is_read(store: Path):
    plain = read(dataset(store), start=2, stop=7)
    for workers in (1, 2, 4):
        assert equal(plain, read(dataset(store), start=2, stop=7, workers=workers)), workers


def test_a_worker_decodes_into_shared_memory(store: Path, monkeypatch: pytest.MonkeyPatch):
    data = dataset(store)
    alone = data.__getitems__([(0, 1), (0, 2)])
    monkeypatch.setattr("train.data.get_worker_info", object)
    pairs = data.__getitems__([(0, 1), (0, 2)])
    assert pairs.clip_B2THWC.is_shared() and pairs.score_B2hw.is_shared()
    assert not alone.clip_B2THWC.is_shared()
    assert equal([alone], [pairs])
    where = pairs.clip_B2THWC.data_ptr()
    assert _shared(pairs).clip_B2THWC.data_ptr() == where  # nothing is copied to hand it over


class Copies(TorchDispatchMode):
    """Bytes that operations read, if they are pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.names = 0, set[str]()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not func.is_view and "empty" not in func.name():
            pixels = [leaf for leaf in tree_leaves(args) if isinstance(leaf, torch.Tensor)]
            self.read += sum(pixel.nbytes for pixel in pixels if pixel.dtype == torch.uint8)
            self.names.add(func.name())
        return func(*args, **(kwargs or {}))


def test_a_clip_is_copied_once_on_its_way_to_the_device(store: Path):
    data = dataset(store)
    parts = [data.__getitems__([(0, first), (0, first + 1)]) for first in (0, 2)]
    with Copies() as copies:
        whole = on_device(iter(parts), torch.device("meta"))
    assert whole.clip_B2THWC.shape == (4, *parts[0].clip_B2THWC.shape[1:])
    # copy_ reads what it overwrites, as this counts it: each byte here, each byte there.
    assert copies.read == 2 * (whole.clip_B2THWC.nbytes + whole.score_B2hw.nbytes)
    one = parts[0]
    with Copies() as copies:
        same = on_device([one], CPU)
    assert same.clip_B2THWC.data_ptr() == one.clip_B2THWC.data_ptr()
    assert equal([on_device(parts, CPU)], [data.__getitems__([(0, p) for p in range(4)])])


def test_copies_run_beside_the_step_before_and_what_follows_waits_for_them(
    store: Path, monkeypatch: pytest.MonkeyPatch
):
    """The order of events that CUDA would see, written down by a stand-in for its streams."""
    events: list[str] = []

    class Stream:
        def wait_stream(self, other: object) -> None:
            events.append(f"compute waits for {other}")

    @contextlib.contextmanager
    def beside(side: object) -> Iterator[None]:
        events.append(f"on {side}")
        yield
        events.append(f"off {side}")

    monkeypatch.setattr(torch.cuda, "stream", beside)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream())
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda *a: events.append("recorded"))
    placed = loading._placed
    monkeypatch.setattr("train.data._placed", lambda *a: events.append("copy") or placed(*a))
    part = dataset(store).__getitems__([(0, 0), (0, 1)])
    assert equal([on_device([part], CPU, "side")], [part])
    copied = ["on side", "copy", "copy", "off side"]
    assert events == [*copied, "compute waits for side", "recorded", "recorded"]


def test_a_resumed_stream_goes_on_where_it_was(store: Path):
    assert equal(read(dataset(store), start=0, stop=8)[5:], read(dataset(store), start=5, stop=8))


@given(st.integers(1, 5), st.integers(1, 3), st.integers(0, 9), st.integers(1, 7), st.data())
def test_what_is_fetched_ahead_is_what_comes_later(
    share: int, world: int, start: int, later: int, draws: st.DataObject
):
    part = draws.draw(st.sampled_from([size for size in range(1, share + 1) if share % size == 0]))
    sampler = StepSampler(
        samples=3 * share * world + 1,
        batch=share * world,
        start=start,
        stop=start + 5,
        part=part,
        rank=draws.draw(st.integers(0, world - 1)),
        world=world,
    )
    parts = [*sampler, *[[]] * later]
    for number, addresses in enumerate(sampler):
        assert sampler.later(addresses, later) == parts[number + later]


@given(st.integers(1, 40), st.integers(1, 6), st.integers(0, 30), st.integers(1, 20))
def test_processes_share_every_batch_without_overlap(
    share: int, world: int, start: int, count: int
):
    common = {
        "samples": 1000,
        "batch": share * world,
        "start": start,
        "stop": start + count,
        "part": part_size(share),
    }
    whole = [address for part in StepSampler(**common) for address in part]
    per_rank = [list(StepSampler(**common, rank=rank, world=world)) for rank in range(world)]
    by_step = [
        list(chain.from_iterable(rows))[step * share : (step + 1) * share]
        for step in range(count)
        for rows in per_rank
    ]
    assert list(chain.from_iterable(by_step)) == whole
    assert all(
        len(sampler) == len(StepSampler(**common, rank=0, world=world)) for sampler in per_rank
    )


def test_several_stores_are_one(store: Path, tmp_path: Path):
    other = make_store(tmp_path / "other", videos=4, seed=1)
    data = dataset(store, other)
    assert len(data) == 22
    sample = 18 + 2
    row = data.__getitems__([(0, int(np.flatnonzero(data.order(0) == sample)[0]))])
    first, _ = data.starts_of(0, sample)
    assert np.array_equal(row.clip_B2THWC[0, 0], ClipStore.open(other).clip(2, first, WINDOW))


def test_a_video_with_one_start_is_paired_with_itself(store: Path):
    assert dataset(store, window=Window(frames=12)).starts_of(0, 2) == (0, 0)


def damage(store: Path, target: Path) -> Path:
    """A copy of the store in which a frame of video 5, which every clip of 8 shows, is damaged."""
    shutil.copytree(store, target)
    shard = target / "frames" / "c.1.0.0.0.0"
    data = bytearray(shard.read_bytes())
    index = np.frombuffer(data[-4 - 16 * 4 * SPEC.slots : -4], "<u8").reshape(4, SPEC.slots, 2)
    data[int(index[1, 6, 0]) + 100] ^= 0xFF
    shard.write_bytes(bytes(data))
    return target


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_chunk_stops_the_run_with_its_place(store: Path, tmp_path: Path, workers: int):
    broken = damage(store, tmp_path / "broken")
    with pytest.raises(CorruptChunk, match=r"^[^\n]*broken: frames of video 5 \(shard 1\)[^\n]*$"):
        read(dataset(broken), start=0, stop=16, workers=workers)


def test_a_corrupt_chunk_is_skipped_and_counted_when_asked(store: Path, tmp_path: Path):
    broken = damage(store, tmp_path / "broken")
    skipping = read(dataset(broken, on_corrupt="skip"), start=0, stop=16)
    plain = read(dataset(store), start=0, stop=16)
    assert sum(pairs.skipped for pairs in skipping) > 0
    for one, two in zip(skipping, plain, strict=True):
        assert one.skipped or torch.equal(one.clip_B2THWC, two.clip_B2THWC)


def test_bad_stores_are_one_clear_line(store: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="no store"):
        dataset()
    with pytest.raises(ValueError, match="no video could be decoded"):
        dataset(make_store(tmp_path / "dead", videos=2, failed=(0, 1)))
    fields = {name: getattr(SPEC, name) for name in SPEC.__dataclass_fields__}
    with pytest.raises(ValueError, match="kept is 1 of 2 frames, but every frame in"):
        dataset(
            store,
            make_store(
                tmp_path / "sparse",
                videos=2,
                spec=StoreSpec(**fields | {"keep": 2, "seconds": 0.8}),
            ),
        )
    with pytest.raises(
        ValueError, match=r"8 frames at step 2 reaches over 15 kept frames.* set step to 1 or"
    ):
        dataset(store, window=Window(frames=8, step=2))
    bare = make_store(
        tmp_path / "bare", videos=2, spec=StoreSpec(**fields | {"foreground": "none"})
    )
    with pytest.raises(ValueError, match="no foreground maps; use mask=online"):
        dataset(bare)
    assert len(dataset(bare, maps=False)) == 2
    with pytest.raises(StoreError, match="cannot open"):
        ClipStore.open(tmp_path / "nothing")


def test_files_and_memory_stay_flat(store: Path):
    data, process = dataset(store), psutil.Process(os.getpid())
    batches = stream(data, TINY, start=0, stop=160, device=CPU)
    for _ in range(60):
        next(batches)
    files, memory = process.num_fds(), process.memory_info().rss
    for _ in batches:
        pass
    assert process.num_fds() <= files + 1
    assert process.memory_info().rss < memory + 20 * 2**20
