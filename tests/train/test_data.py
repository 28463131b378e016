"""What is trained on when: a pure function of seed and step, whatever the workers, processes and
damage.
"""

import os
import shutil
from itertools import chain
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fame.clipstore import ClipStore, CorruptChunk, StoreError, StoreSpec
from tests.stores import SPEC, make_store
from tests.train.tiny import TINY
from train.data import PairDataset, Pairs, StepSampler, part_size, stream

CPU = torch.device("cpu")


def dataset(*stores: Path, **changes: object) -> PairDataset:
    return PairDataset(
        [ClipStore.open(path) for path in stores], **({"seed": 0, "maps": True} | changes)
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
    pairs = {epoch: [data.clips_of(epoch, sample) for sample in range(18)] for epoch in (0, 1)}
    assert all(first != second for first, second in pairs[0])
    assert pairs[0] != pairs[1]
    videos = ClipStore.open(store).video_N
    assert all(videos[first] == videos[second] not in (3, 11) for first, second in pairs[0])


def test_pairs_hold_the_stored_clips_and_maps(store: Path):
    data, opened = dataset(store), ClipStore.open(store)
    [pairs] = read(data, start=5, stop=6)
    epoch, within = divmod(5, len(data) // TINY.batch)
    assert pairs.sample_B.tolist() == data.order(epoch)[within * 4 : within * 4 + 4].tolist()
    for row, sample in enumerate(pairs.sample_B.tolist()):
        for view, index in enumerate(data.clips_of(epoch, sample)):
            assert np.array_equal(pairs.clip_B2THWC[row, view], opened.clip(index))
            assert np.array_equal(pairs.score_B2hw[row, view], opened.foreground(index))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers_do_not_change_what_is_read(store: Path):
    plain = read(dataset(store), start=2, stop=7)
    for workers in (1, 2, 4):
        assert equal(plain, read(dataset(store), start=2, stop=7, workers=workers)), workers


def test_a_resumed_stream_goes_on_where_it_was(store: Path):
    assert equal(read(dataset(store), start=0, stop=8)[5:], read(dataset(store), start=5, stop=8))


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
    row = data.__getitem__((0, int(np.flatnonzero(data.order(0) == sample)[0])))
    first, _ = data.clips_of(0, sample)
    assert np.array_equal(row.clip_B2THWC[0, 0], ClipStore.open(other).clip(first))


def test_a_video_with_one_clip_slot_is_paired_with_itself(tmp_path: Path):
    fields = {name: getattr(SPEC, name) for name in SPEC.__dataclass_fields__} | {
        "clips_per_video": 1
    }
    data = dataset(make_store(tmp_path / "one", videos=4, spec=StoreSpec(**fields)))
    assert data.clips_of(0, 2) == (2, 2)


def damage(store: Path, target: Path, clip: int) -> Path:
    """A copy of the store in which one clip cannot be read."""
    shutil.copytree(store, target)
    shard = sorted(
        path
        for path in (target / "clips").rglob("*")
        if path.is_file() and path.name != "zarr.json"
    )
    index, position = divmod(clip, SPEC.clips_per_video * SPEC.videos_per_shard)
    data = bytearray(shard[index].read_bytes())
    spacing = len(data) // (SPEC.clips_per_video * SPEC.videos_per_shard)
    middle = position * spacing + spacing // 2
    data[middle] ^= 0xFF
    shard[index].write_bytes(bytes(data))
    return target


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_chunk_stops_the_run_with_its_place(store: Path, tmp_path: Path, workers: int):
    broken = damage(store, tmp_path / "broken", clip=17)
    with pytest.raises(CorruptChunk, match=r"^[^\n]*broken[^\n]*shard 1[^\n]*video [45][^\n]*$"):
        read(dataset(broken), start=0, stop=16, workers=workers)


def test_a_corrupt_chunk_is_skipped_and_counted_when_asked(store: Path, tmp_path: Path):
    broken = damage(store, tmp_path / "broken", clip=17)
    skipping = read(dataset(broken, on_corrupt="skip"), start=0, stop=16)
    plain = read(dataset(store), start=0, stop=16)
    assert sum(pairs.skipped for pairs in skipping) > 0
    for one, two in zip(skipping, plain, strict=True):
        assert one.skipped or torch.equal(one.clip_B2THWC, two.clip_B2THWC)


def test_bad_stores_are_one_clear_line(store: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="no store"):
        dataset()
    with pytest.raises(ValueError, match="no video has a valid clip"):
        dataset(make_store(tmp_path / "dead", videos=2, failed=(0, 1)))
    fields = {name: getattr(SPEC, name) for name in SPEC.__dataclass_fields__}
    with pytest.raises(ValueError, match="frames is 4, but 8 in"):
        dataset(
            store,
            make_store(tmp_path / "short", videos=2, spec=StoreSpec(**fields | {"frames": 4})),
        )
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
