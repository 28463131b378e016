"""Verify finds every damage, and repair has just that made again."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from fame.clipstore import (
    StoreError,
    finalise,
    is_finished,
    missing_shards,
    repair,
    verify,
    write_shard,
)
from fame.clipstore.layout import record_key
from fame.randomness import numpy_generator
from tests.fame.clipstore import small


def mend(path: Path) -> None:
    small.begin(path, small.SPEC, 5)
    for shard in missing_shards(path):
        write_shard(path, shard, small.shard_videos(small.SPEC, shard, 5, failed=[2]))
    finalise(path)


def test_a_sound_store_is_sound(store: Path):
    report = verify(store)
    assert report.ok, report
    assert report.flat_maps == 0


def test_shards_can_be_verified_in_parallel(store: Path):
    with ThreadPoolExecutor(2) as pool:
        assert verify(store, run=pool.map).ok


def test_one_flipped_bit_anywhere_is_found_and_mended(finished: dict[str, Path], tmp_path: Path):
    store = small.copy(finished["jpeg"], tmp_path / "s")
    sound = small.contents(store)
    for key, data in sound.items():
        rng = numpy_generator(0, 0, len(data), key)
        for bit in rng.choice(len(data) * 8, size=min(4, len(data) * 8), replace=False).tolist():
            damaged = bytearray(data)
            damaged[bit // 8] ^= 1 << bit % 8
            (store / key).write_bytes(damaged)
            report = verify(store)
            assert not report.ok, f"bit {bit} of {key}"
            if not key.endswith(".json") and key[0] in "fs" and key.split("/")[1] != "c.0":
                assert [shard.shard for shard in report.shards] == [int(key.split(".")[1])], key
        repair(store, report)
        assert not is_finished(store)
        mend(store)
        assert small.contents(store) == sound, key


@pytest.mark.parametrize(
    "key",
    ["zarr.json", "label/c.0", "names/c.0", "frames/zarr.json", "seal.json", "records/1.json"],
)
def test_lost_files_are_found_and_mended(finished: dict[str, Path], tmp_path: Path, key: str):
    store = small.copy(finished["jpeg"], tmp_path / "s")
    (store / key).unlink()
    report = verify(store)
    assert not report.ok
    repair(store, report)
    mend(store)
    assert small.contents(store) == small.contents(finished["jpeg"])


def test_repair_makes_only_damaged_shards_again(finished: dict[str, Path], tmp_path: Path):
    store = small.copy(finished["jpeg"], tmp_path / "s")
    (store / "foreground/c.1.0.0.0").write_bytes(b"")
    repair(store, verify(store))
    assert missing_shards(store) == [1]


def test_repair_leaves_a_sound_store_alone(finished: dict[str, Path], tmp_path: Path):
    store = small.copy(finished["jpeg"], tmp_path / "s")
    repair(store, verify(store))
    assert small.contents(store) == small.contents(finished["jpeg"])


def test_shards_that_changed_places_are_found(finished: dict[str, Path], tmp_path: Path):
    store = small.copy(finished["zstd"], tmp_path / "s")
    first, second = store / "frames/c.0.0.0.0.0", store / "frames/c.1.0.0.0.0"
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)
    assert [report.shard for report in verify(store).shards] == [0, 1]


def test_a_record_from_an_equal_shard_elsewhere_is_found_by_the_seal(
    finished: dict[str, Path], tmp_path: Path
):
    store = small.copy(finished["jpeg"], tmp_path / "s")
    write_shard(
        store, 0, small.shard_videos(small.SPEC, 0, 5, failed=[1])
    )  # a true record of other outcomes
    assert "seal.json" in verify(store).files


def test_flat_maps_are_counted_but_are_no_damage(tmp_path: Path):

    small.begin(tmp_path / "s", small.SPEC, 1)
    video = small.video(small.SPEC, 0)
    assert video.foreground is not None
    video = dataclasses.replace(video, foreground=np.full_like(video.foreground, 7))
    write_shard(tmp_path / "s", 0, [video])
    finalise(tmp_path / "s")
    report = verify(tmp_path / "s")
    assert report.ok
    assert report.flat_maps == 3


def test_an_unfinished_store_is_said_to_be_so(tmp_path: Path):
    small.begin(tmp_path / "s", small.SPEC, 5)
    report = verify(tmp_path / "s")
    assert "not finished" in report.files["seal.json"]
    assert [shard.shard for shard in report.shards] == [0, 1, 2]
    assert not (tmp_path / "s" / record_key(0)).exists()


def test_verifying_nothing_is_an_error(tmp_path: Path):
    with pytest.raises(StoreError, match="cannot read"):
        verify(tmp_path / "nothing")
