"""Stores that a stranger made to mislead: refused with an error, never a crash, a huge allocation
or a foreign file.
"""

import dataclasses
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

from fame.clipstore import ClipStore, StoreError, Window, verify
from fame.clipstore.arrays import encode_names, encode_numbers
from fame.clipstore.chunk import crc32c
from fame.clipstore.layout import Layout
from fame.clipstore.locate import locate
from fame.clipstore.schema import canonical_json
from fame.clipstore.seal import make_seal
from tests.fame.clipstore import small


@pytest.fixture
def forged(finished: dict[str, Path], tmp_path: Path) -> Path:
    return small.copy(finished["zstd"], tmp_path / "forged")


def reseal(store: Path) -> None:
    layout = Layout.from_root_json((store / "zarr.json").read_bytes())
    (store / "seal.json").write_bytes(make_seal(locate(store), layout))


def forge_root(store: Path, **changes: object) -> None:
    root = json.loads((store / "zarr.json").read_bytes())
    attribute = root["attributes"]["fame_clip_store"]
    for key, value in changes.items():
        (attribute["spec"] if key in attribute["spec"] else attribute)[key] = value
    (store / "zarr.json").write_bytes(canonical_json(root))


def write_root(store: Path, lie: Layout) -> None:
    """Replace the root metadata and seal the lie."""
    (store / "zarr.json").write_bytes(lie.root_json())
    seal = json.loads((store / "seal.json").read_bytes())
    seal["files"]["zarr.json"] = hashlib.sha256(lie.root_json()).hexdigest()
    (store / "seal.json").write_bytes(canonical_json(seal))


@pytest.mark.parametrize(
    "changes",
    [
        {"num_videos": 2**31},
        {"num_videos": 0},
        {"num_videos": True},
        {"height": 2**40},
        {"keep": -1},
        {"seconds": 1e300},
        {"codec": "../jpeg"},
        {"videos_per_shard": 2**25},
        {"class_names": ["a", 1]},
        {"class_names": "ab"},
        {"foreground_parameters": {"x": []}},
        {"spec": []},
        {"extra": 1},
        {"version": "1"},
    ],
)
def test_forged_headers_are_refused(forged: Path, changes: dict):
    forge_root(forged, **changes)
    with pytest.raises(StoreError):
        ClipStore.open(forged)
    assert not verify(forged).ok


@pytest.mark.parametrize("changes", [{"height": 20_000}, {"seconds": 1e4}])
def test_consistent_lies_about_the_recipe_are_found_without_allocating_them(
    forged: Path, changes: dict
):
    spec = dataclasses.replace(small.SPEC, codec="zstd", **changes)
    write_root(forged, Layout(header=small.header(spec), num_videos=5, videos_sha256=""))
    with pytest.raises(StoreError):
        ClipStore.open(forged).clip(0, 0, Window(frames=2))


def test_a_lie_about_the_number_of_videos_is_found_without_allocating_them(forged: Path):
    write_root(forged, Layout(header=small.header(), num_videos=10**9, videos_sha256=""))
    with pytest.raises(StoreError, match="cannot be of 1000000000 videos"):
        ClipStore.open(forged)


@pytest.mark.parametrize("name", ["../x.mp4", "/etc/passwd", "a/../../b", "", "a\0b", "..\\x"])
def test_names_that_leave_the_root_are_refused(forged: Path, name: str):
    (forged / "names/c.0").write_bytes(encode_names([name, *small.names(5)[1:]]))
    reseal(forged)
    with pytest.raises(StoreError, match="not a path below"):
        _ = ClipStore.open(forged).names


@pytest.mark.parametrize(
    "data",
    [b"", b"\5\0\0\0", b"\5\0\0\0\xff\xff\xff\xff", b"\4\0\0\0", b"\5\0\0\0" + b"\1\0\0\0\xff" * 5],
)
def test_names_that_lie_about_their_lengths_are_refused(forged: Path, data: bytes):
    (forged / "names/c.0").write_bytes(data + crc32c(data))
    reseal(forged)
    with pytest.raises(StoreError, match="names"):
        _ = ClipStore.open(forged).names


@pytest.mark.parametrize(
    ("array", "values"),
    [
        ("label", [7] * 5),
        ("label", [-2] * 5),
        ("label", [0] * 4),
        ("length", [7] * 5),
        ("length", [-1] * 5),
        ("length", [0] * 5),
        ("stretches", [0] * 5),
        ("stretches", [4] * 5),
        ("stretches", [7] * 5),
    ],
)
def test_arrays_that_contradict_the_store_are_refused(forged: Path, array: str, values: list):
    (forged / array / "c.0").write_bytes(encode_numbers(np.array(values, np.int32)))
    reseal(forged)
    with pytest.raises(StoreError):
        ClipStore.open(forged)


@pytest.mark.parametrize(
    ("offset", "length"),
    [(2**63, 10), (0, 2**63), (2**64 - 1, 5), (0, 2**64 - 1), (10**6, 100), (0, 0)],
)
def test_an_index_that_points_elsewhere_is_refused(forged: Path, offset: int, length: int):
    file = forged / "frames/c.0.0.0.0.0"
    data = file.read_bytes()
    index = np.frombuffer(data[-196:-4], "<u8").copy().reshape(12, 2)
    index[0] = offset, length
    file.write_bytes(data[:-196] + index.tobytes() + crc32c(index.tobytes()))
    with pytest.raises(StoreError, match="shard 0"):
        ClipStore.open(forged).clip(0, 0, Window(frames=2))


def test_links_are_not_followed(forged: Path, tmp_path: Path):
    secret = tmp_path / "secret"
    (forged / "frames/c.0.0.0.0.0").rename(secret)
    (forged / "frames/c.0.0.0.0.0").symlink_to(secret)
    with pytest.raises(StoreError, match="link"):
        ClipStore.open(forged).clip(0, 0, Window(frames=2))
    assert not verify(forged).ok


def test_a_folder_that_is_a_link_is_not_followed(forged: Path, tmp_path: Path):
    (forged / "frames").rename(tmp_path / "elsewhere")
    (forged / "frames").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="link"):
        ClipStore.open(forged).clip(0, 0, Window(frames=2))


@pytest.mark.timeout(10)
def test_a_pipe_does_not_hang_the_reader(forged: Path):
    for key in ("frames/c.0.0.0.0.0", "zarr.json"):
        (forged / key).unlink()
        os.mkfifo(forged / key)
        with pytest.raises(StoreError, match=r"regular file|shard 0"):
            ClipStore.open(forged).clip(0, 0, Window(frames=2))
        (forged / key).unlink()
        (forged / key).write_bytes(b"")


def test_a_huge_sparse_file_is_not_read(forged: Path):
    os.truncate(forged / "zarr.json", 2**40)
    with pytest.raises(StoreError, match="at most"):
        ClipStore.open(forged)


def test_names_larger_than_names_can_be_are_not_read(forged: Path) -> None:
    os.truncate(forged / "names" / "c.0", 40 * 2**30)  # sparse: it takes no disk
    with pytest.raises(StoreError, match=r"names/c.0: 42949672960 bytes cannot be of"):
        ClipStore.open(forged).names  # noqa: B018
    assert not verify(forged).ok


def test_shards_that_were_never_there_are_not_gone_through(forged: Path) -> None:
    old = Layout.from_root_json((forged / "zarr.json").read_bytes())
    spec = dataclasses.replace(old.header.spec, videos_per_shard=1)
    header = dataclasses.replace(old.header, spec=spec)
    lie = Layout(header=header, num_videos=2**31 - 1, videos_sha256="").root_json()
    (forged / "zarr.json").write_bytes(lie)
    seal = json.loads((forged / "seal.json").read_bytes())
    seal["files"]["zarr.json"] = hashlib.sha256(lie).hexdigest()
    (forged / "seal.json").write_bytes(canonical_json(seal))
    report = verify(forged)
    assert "claims 2147483647 shards" in report.files["zarr.json"]
    with pytest.raises(StoreError, match="cannot be of 2147483647 videos"):
        ClipStore.open(forged)
