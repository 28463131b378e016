"""A reader written from docs/store-format.md alone, without this package: what it reads is what
ClipStore reads.
"""

import hashlib
import itertools
import json
import struct
from io import BytesIO
from pathlib import Path

import google_crc32c
import numcodecs
import numpy as np
from PIL import Image

from fame.clipstore import ClipStore, Window


def checked(data: bytes) -> bytes:
    assert struct.unpack("<I", data[-4:]) == (google_crc32c.value(data[:-4]),)
    return data[:-4]


def chunk(store: Path, array: str, zeros: str, video: int, frame: int) -> bytes | None:
    spec = json.loads((store / "zarr.json").read_text())["attributes"]["fame_clip_store"]["spec"]
    slots = max(1, round(spec["seconds"] * (spec["fps"] or 30 / spec["keep"])))
    every = spec["foreground_every"]
    room = {"frames": slots, "foreground": -(-slots // every), "source": 1}[array]
    per_shard = room * spec["videos_per_shard"]
    shard, place = divmod(video, spec["videos_per_shard"])
    position = place * room + frame
    data = (store / array / f"c.{shard}{zeros}").read_bytes()
    offset, length = struct.unpack_from("<QQ", checked(data[-16 * per_shard - 4 :]), 16 * position)
    return None if offset == length == 2**64 - 1 else checked(data[offset : offset + length])


def test_frames_maps_and_sources_by_the_page(finished: dict[str, Path]):
    path, store, one = finished["jpeg"], ClipStore.open(finished["jpeg"]), Window(frames=1)
    for video, frame in itertools.product(range(5), range(6)):
        data = chunk(path, "frames", ".0.0.0.0", video, frame)
        assert (data is not None) == (frame < store.length_V[video])
        if data is not None:
            picture = np.asarray(Image.open(BytesIO(data)).convert("RGB")).astype(int)
            # two decoders round and upsample differently
            assert np.abs(picture - store.clip(video, frame, one)[0]).mean() < 2
            data = chunk(path, "foreground", ".0.0.0", video, frame // 2)
            map_hw = np.frombuffer(numcodecs.Zstd().decode(data), np.uint8).reshape(4, 6)
            assert np.array_equal(map_hw, store.maps(video, frame, one)[0])
            data = chunk(path, "source", ".0.0", video, 0)
            number, milliseconds = struct.unpack_from("<2i", data, 8 * frame)
            assert [number, milliseconds] == store.source(video)[frame].tolist()


def test_whole_arrays_by_the_page(finished: dict[str, Path]):
    path, store = finished["zstd"], ClipStore.open(finished["zstd"])
    for name, expected in (
        ("label", store.labels_V),
        ("length", store.length_V),
        ("stretches", store.stretches_V),
    ):
        data = checked((path / name / "c.0").read_bytes())
        assert list(struct.unpack(f"<{len(data) // 4}i", data)) == expected.tolist()
    data, names, position = checked((path / "names/c.0").read_bytes()), [], 4
    while position < len(data):
        (length,) = struct.unpack_from("<I", data, position)
        names.append(data[position + 4 : position + 4 + length].decode())
        position += 4 + length
    assert tuple(names) == store.names
    assert struct.unpack_from("<I", data) == (len(names),)


def spelled(value: object) -> bytes:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return (text + "\n").encode()


def test_records_and_seal_by_the_page(finished: dict[str, Path]):
    path = finished["lz4"]
    attribute = json.loads((path / "zarr.json").read_text())["attributes"]["fame_clip_store"]
    del attribute["software"]
    records = [(path / f"records/{shard}.json").read_bytes() for shard in range(3)]
    for shard, data in enumerate(records):
        record = json.loads(data)
        assert data == spelled(record)
        assert record["store"] == hashlib.sha256(spelled(attribute)).hexdigest()
        found = (path / f"frames/c.{shard}.0.0.0.0").read_bytes()
        assert record["objects"]["frames"] == {
            "size": len(found),
            "sha256": hashlib.sha256(found).hexdigest(),
        }
        assert record.pop("sha256") == hashlib.sha256(spelled(record)).hexdigest()
    seal = json.loads((path / "seal.json").read_text())
    assert seal["records"] == hashlib.sha256(b"".join(records)).hexdigest()
    for key, digest in seal["files"].items():
        assert digest == hashlib.sha256((path / key).read_bytes()).hexdigest()
    files = {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}
    shards = ("frames/c.", "foreground/c.", "source/c.", "records/")
    sharded = {file for file in files if file.startswith(shards)}
    assert files == {*seal["files"], *sharded, "seal.json"}
    videos = [attribute["num_videos"], attribute["videos_sha256"]]
    store = ClipStore.open(path)
    named = [list(store.names), store.labels_V.tolist()]
    assert videos == [5, hashlib.sha256(spelled(named)).hexdigest()]
