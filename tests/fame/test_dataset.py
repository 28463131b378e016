"""Stores in anyone's loop: what an item holds, which clips an epoch shows, and how stores are mixed."""

import dataclasses
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

import fame
from fame.clipstore import ClipStore
from fame.dataset import ClipDataset, _mixture, _samples
from tests.stores import CLASSES, SPEC, WINDOW, make_store


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("stores") / "first", videos=6, failed=(1,))


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("stores") / "second", videos=3, seed=1)


def dataset(*stores: Path, **options: object) -> ClipDataset:
    return ClipDataset(stores, **({"window": WINDOW} | options))


def test_an_item_is_what_the_store_holds(first: Path, second: Path):
    data, opened = dataset(first, second, maps="clip"), ClipStore.open(second)
    assert len(data) == 8
    item = data[6]  # video 1 of the second store
    (start,) = data.starts_of(0, 6)
    assert item["clip"].shape == (3, 8, 36, 48) and item["clip"].is_contiguous()
    assert np.array_equal(item["clip"].permute(1, 2, 3, 0), opened.clip(1, start, WINDOW))
    assert np.array_equal(item["map"], opened.foreground(1, start, WINDOW))
    assert (item["label"], item["name"], item["sample"]) == (1, "right/001", 6)
    assert data.class_names == CLASSES


def test_layouts_frame_maps_and_several_clips(first: Path):
    opened = ClipStore.open(first)
    data = dataset(first, clips=2, maps="frames", layout="TCHW")
    item = data[0]
    assert item["clip"].shape == (2, 8, 3, 36, 48) and item["map"].shape == (2, 8, 9, 12)
    for row, start in enumerate(data.starts_of(0, 0)):
        clip = opened.clip(0, start, WINDOW)
        assert np.array_equal(item["clip"][row].permute(0, 2, 3, 1), clip)
        assert np.array_equal(item["map"][row], opened.maps(0, start, WINDOW))
    assert "map" not in dataset(first, layout="THWC")[0]
    assert dataset(first, layout="THWC")[0]["clip"].shape == (8, 36, 48, 3)


def test_an_epoch_has_clips_of_its_own_and_a_test_always_the_same(first: Path):
    data = dataset(first)
    starts: list[list[tuple[int, ...]]] = []
    for epoch in (0, 1, 0):
        data.set_epoch(epoch)
        starts.append([data.starts_of(data.epoch, sample) for sample in range(5)])
        assert torch.equal(data[2]["clip"], dataset(first)[epoch, place(data, epoch, 2)]["clip"])
    assert starts[0] == starts[2] != starts[1]
    test = dataset(first, clips=3, evenly=True)
    assert test.starts_of(0, 0) == test.starts_of(7, 0) == (0, 2, 4)


def place(data: ClipDataset, epoch: int, sample: int) -> int:
    return data.order(epoch).tolist().index(sample)


def test_a_transform_has_the_last_word(first: Path):
    data = dataset(first, transform=lambda item: (item["clip"].float() / 255, item["label"]))
    clips, labels = next(iter(DataLoader(data, batch_size=5, generator=torch.Generator())))
    assert clips.shape == (5, 3, 8, 36, 48) and float(clips.max()) <= 1
    assert labels.tolist() == [0, 0, 1, 0, 1]  # video 1 failed


def test_classes_of_several_stores_are_numbered_by_name(tmp_path: Path, first: Path):
    from fame.clipstore import StoreHeader, create, finalise, write_shard
    from tests.stores import tiny_video

    path, names = tmp_path / "jumps", ("jump", "left")
    header = StoreHeader(dataset="other", split="train", class_names=names, spec=SPEC)
    create(path, header, names=["a", "b", "c"], labels=[1, 0, -1])
    write_shard(path, 0, [tiny_video(SPEC, video) for video in range(3)])
    finalise(path)
    data = dataset(first, path)
    assert data.class_names == ("left", "right", "jump")
    assert [data[row]["label"] for row in (5, 6, 7)] == [0, 2, -1]


@given(
    st.lists(st.tuples(st.integers(1, 30), st.floats(0.05, 20)), min_size=1, max_size=4),
    st.integers(0, 9),
)
def test_a_mixture_shows_each_store_by_its_share(stores: list[tuple[int, float]], seed: int):
    sizes, shares = [size for size, _ in stores], [share for _, share in stores]
    total = sum(sizes)
    try:
        mixture = _mixture(sizes, shares, ["a store"] * len(sizes))
    except ValueError as error:
        assert "less than one video" in str(error)
        return
    assert mixture is not None
    assert [size for size, _ in mixture] == sizes and sum(count for _, count in mixture) == total
    exact = [Fraction(share) * total / sum(map(Fraction, shares)) for share in shares]
    for (_, count), wanted in zip(mixture, exact, strict=True):
        assert abs(count - wanted) < 1 + 1e-6
    samples = _samples(seed, 3, mixture).tolist()
    assert len(set(samples)) == len(samples) == total
    times, first = Counter(sample % total for sample in samples), 0
    for size, count in mixture:  # every video of a store as often as any other, or once more
        shown = [times[video] for video in range(first, first + size)]
        assert sum(shown) == count and max(shown) - min(shown) <= 1
        first += size


def test_a_video_that_is_shown_again_is_another_clip(first: Path, second: Path):
    data = dataset(first, second, proportion=(1.0, 3.0))
    assert data.mixture == ((5, 2), (3, 6))
    samples = data.order(0).tolist()
    again = [sample for sample in samples if sample >= len(data)]
    assert {sample % len(data) for sample in again} == {5, 6, 7}
    starts = {
        (data.starts_of(epoch, s), data.starts_of(epoch, s - 8))
        for epoch in range(5)
        for s in again
    }
    assert any(one != other for one, other in starts)
    drawn = {tuple(sorted(s for s in data.order(epoch).tolist() if s < 5)) for epoch in range(20)}
    assert len(drawn) > 3  # of the store that is not shown whole, another part in each epoch
    names = {data[row]["name"] for row in range(len(data))}
    assert len(names) >= 3


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers_read_what_one_process_reads(first: Path):
    def read(workers: int) -> list[torch.Tensor]:
        loader = DataLoader(
            dataset(first),
            batch_size=2,
            num_workers=workers,
            generator=torch.Generator(),
            multiprocessing_context="spawn" if workers else None,
        )
        return [batch["clip"] for batch in loader]

    assert all(torch.equal(a, b) for a, b in zip(read(0), read(2), strict=True))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"layout": "CHWT"}, "layout must be CTHW, TCHW or THWC, got 'CHWT'"),
        ({"maps": "all"}, "maps must be none, clip or frames, got 'all'"),
        ({"clips": 0}, "clips must be at least 1, got 0"),
        ({"proportion": [1.0]}, "proportion has 1 numbers for 2 stores"),
        ({"proportion": [1.0, 0.0]}, "proportion must be numbers above 0"),
        ({"proportion": [1.0, float("nan")]}, "proportion must be numbers above 0"),
        ({"proportion": [1.0, 1e-6]}, "second: its proportion is less than one video"),
        ({"window": fame.Window(frames=16, step=2)}, "reaches over 31 kept frames"),
    ],
)
def test_what_does_not_fit_is_one_line(first: Path, second: Path, options: dict, says: str):
    with pytest.raises(ValueError, match=says) as caught:
        dataset(first, second, **options)
    assert "\n" not in str(caught.value)


def test_stores_that_do_not_mix_are_refused(tmp_path: Path, first: Path):
    bare = make_store(
        tmp_path / "bare", videos=2, spec=dataclasses.replace(SPEC, foreground="none")
    )
    with pytest.raises(ValueError, match="no foreground maps"):
        dataset(bare, maps="clip")
    dead = make_store(tmp_path / "dead", videos=2, failed=(0, 1))
    with pytest.raises(ValueError, match="dead: no video could be decoded, nothing to mix in"):
        dataset(first, dead, proportion=(1.0, 1.0))
    assert len(dataset(first, dead)) == 5
