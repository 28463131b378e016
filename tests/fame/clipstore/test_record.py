"""Records, names and reads of a store that do not go together are refused, each with its reason."""

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fame.clipstore import StoreError
from fame.clipstore.arrays import check_name, encode_names, read_names
from fame.clipstore.chunk import crc32c
from fame.clipstore.locate import locate
from fame.clipstore.record import ShardRecord
from fame.clipstore.shard import side_by_side
from fame.clipstore.write import read_layout
from fame.store_spec import canonical_json
from tests.stores import make_store

Change = Callable[[dict[str, Any]], Any]
# The tests execute annotations, which refuse a value of another type first.
_TYPE = r"no whole number|no known status|has '12' frames|is not of this format"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("stores") / "store.zarr", videos=6, failed=[1])


def changed(store: Path, change: Change) -> bytes:
    """The record of the first shard with other values, its checksum made again."""
    body = json.loads((store / "records" / "0.json").read_bytes())
    del body["sha256"]
    change(body)
    body["sha256"] = hashlib.sha256(canonical_json(body)).hexdigest()
    return canonical_json(body)


def video(number: int, **values: object) -> Change:
    return lambda body: body["videos"][number].update(values)


def test_a_record_comes_back_as_it_was_written(store: Path) -> None:
    data = changed(store, lambda body: None)
    record = ShardRecord.from_json(data, read_layout(store), 0)
    assert record.to_json() == data == (store / "records" / "0.json").read_bytes()
    assert [outcome.status for outcome in record.videos] == ["ok", "failed", "ok", "ok"]


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda body: body["objects"].pop("source"), r"lists objects \[.*\], not \("),
        (lambda body: body["objects"]["frames"].update(size="9"), _TYPE),
        (lambda body: body["objects"]["frames"].update(more=1), "is not of this format"),
        (lambda body: body["videos"].pop(), "does not list exactly the videos of its shard"),
        (lambda body: body["videos"].reverse(), "does not list exactly the videos of its shard"),
        (lambda body: body.update(shard=1), "belongs to shard 1 of another store"),
        (lambda body: body.update(store="0" * 64), "belongs to shard 0 of another store"),
        (lambda body: body.update(more=1), "record 0"),
        (video(0, status="odd"), _TYPE),
        (video(0, reason=None), _TYPE),
        (video(0, length=13), r"video 0 \(ok\) has 13 frames"),
        (video(0, length=0), r"video 0 \(ok\) has 0 frames"),
        (video(0, length="12"), _TYPE),
        (video(0, stretches=5), "has 12 frames in 5 stretches"),
        (video(0, stretches=True), "has 12 frames in True stretches"),
        (video(0, frames_lost=-1), "-1 lost"),
        (video(0, flat_maps=13), "13 flat maps"),
        (video(0, flat_maps=-1), "-1 flat maps"),
        (video(1, length=12), r"video 1 \(failed\) has 12 frames"),
        (video(1, frames_lost=2), r"video 1 \(failed\) has 0 frames in 0 stretches, 2 lost"),
    ],
)
def test_a_record_that_cannot_be_is_refused(change: Change, found: str, store: Path) -> None:
    with pytest.raises(StoreError, match=found):
        ShardRecord.from_json(changed(store, change), read_layout(store), 0)


@pytest.mark.parametrize("frames", [None, 0, 12])
def test_flat_maps_need_not_be_counted(frames: int | None, store: Path) -> None:
    record = ShardRecord.from_json(
        changed(store, video(0, flat_maps=frames)), read_layout(store), 0
    )
    assert record.videos[0].flat_maps == frames


def test_a_record_has_one_spelling(store: Path) -> None:
    data = (store / "records" / "0.json").read_bytes()
    for other in (data + b"\n", json.dumps(json.loads(data), indent=1).encode()):
        with pytest.raises(StoreError, match="record 0 does not match its checksum"):
            ShardRecord.from_json(other, read_layout(store), 0)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda data: (5).to_bytes(4, "little") + data[4:], "5 names for 6 videos"),
        (lambda data: data + b"more", "the names end elsewhere than their array"),
        (lambda data: data[:-9], "the names end in the middle of a length|elsewhere|names"),
        (lambda data: data.replace(b"left/000", b"/eft/000"), "not a path below the source root"),
        (lambda data: data.replace(b"left/000", b"left/\xff00"), "names: .*decode"),
    ],
)
def test_names_that_cannot_be_are_refused(
    change: Callable[[bytes], bytes], found: str, store: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.zarr"
    shutil.copytree(store, copy)
    layout = read_layout(copy)
    path = copy / layout.whole_key("names")
    data = change(path.read_bytes()[:-4])
    path.write_bytes(data + crc32c(data))
    with pytest.raises(StoreError, match=found):
        read_names(locate(copy), layout)


def test_damaged_names_are_refused(store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.zarr"
    shutil.copytree(store, copy)
    path = copy / "names" / "c.0"
    data = bytearray(path.read_bytes())
    data[9] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreError, match="the checksum does not match"):
        read_names(locate(copy), read_layout(copy))


def test_names_come_back_in_any_script(store: Path) -> None:
    names = ["a", "Stra\u00dfe/\u2603.mp4", "\u8df3/\u821e", "x" * 200]
    data = encode_names(names)
    assert data[:4] == (4).to_bytes(4, "little") and data[-4:] == crc32c(data[:-4])
    assert all(name.encode() in data for name in names)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("x" * 100_000, "has 100000 letters: rename the file"),
        ("", "not a path below"),
        ("/etc/passwd", "not a path below"),
        ("a/../b", "not a path below"),
        ("a\\b", "not a path below"),
        ("a\0b", "not a path below"),
        ("half\udcff", "is not UTF-8: rename the file"),
    ],
)
def test_names_that_leave_the_root_are_refused(name: str, found: str) -> None:
    with pytest.raises(ValueError, match=found):
        check_name(name)


@pytest.mark.parametrize("seed", range(20))
def test_what_lies_side_by_side_is_read_at_once(seed: int) -> None:
    """Every chunk is in one run; runs go on over gaps of up to 256 KiB and end at larger ones."""
    draw = random.Random(seed)
    offsets: list[int] = []
    ends: list[int] = []
    at = 0
    for _ in range(draw.randrange(1, 12)):
        at += draw.choice([0, 0, 1, 2**18, 2**18 + 1, 2**20])
        offsets.append(at)
        at += draw.randrange(1, 1000)
        ends.append(at)
    runs = list(side_by_side(offsets, ends))
    assert [place for first, last in runs for place in range(first, last + 1)] == [
        *range(len(ends))
    ]
    gaps = [offset - end for offset, end in zip(offsets[1:], ends, strict=False)]
    breaks = {last + 1 for _, last in runs[:-1]}
    assert breaks == {place + 1 for place, gap in enumerate(gaps) if gap > 2**18}
