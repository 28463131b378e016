"""A reader written from docs/store-format.md alone, without this package: what it reads is what
ClipStore reads.
"""

import hashlib
import json
import struct
from io import BytesIO
from pathlib import Path

import google_crc32c
import numpy as np
from PIL import Image

from fame.clipstore import ClipStore


def checked(data: bytes) -> bytes:
    assert struct.unpack("<I", data[-4:]) == (google_crc32c.value(data[:-4]),)
    return data[:-4]


def chunk(store: Path, array: str, zeros: str, clip: int) -> bytes | None:
    spec = json.loads((store / "zarr.json").read_text())["attributes"]["fame_clip_store"]["spec"]
    per_shard = spec["clips_per_video"] * spec["videos_per_shard"]
    shard, position = divmod(clip, per_shard)
    data = (store / array / f"c.{shard}{zeros}").read_bytes()
    offset, length = struct.unpack_from("<QQ", checked(data[-16 * per_shard - 4 :]), 16 * position)
    return None if offset == length == 2**64 - 1 else checked(data[offset : offset + length])


def test_clips_by_the_page(finished: dict[str, Path]):
    path, store = finished["jpeg"], ClipStore.open(finished["jpeg"])
    for clip in range(10):
        data = chunk(path, "clips", ".0.0.0.0", clip)
        assert (data is not None) == store.valid_N[clip]
        if data is not None:
            picture = (
                np.asarray(Image.open(BytesIO(data)).convert("RGB"))
                .reshape(3, 16, 24, 3)
                .astype(int)
            )
            assert (
                np.abs(picture - store.clip(clip)).mean() < 2
            )  # two decoders round and upsample differently


def test_whole_arrays_by_the_page(finished: dict[str, Path]):
    path, store = finished["zstd"], ClipStore.open(finished["zstd"])
    for name, expected in (
        ("label", store.label_N),
        ("video", store.video_N),
        ("start_frame", store.start_frame_N),
    ):
        data = checked((path / name / "c.0").read_bytes())
        assert list(struct.unpack(f"<{len(data) // 4}i", data)) == expected.tolist()
    assert [
        byte == 1 for byte in checked((path / "valid/c.0").read_bytes())
    ] == store.valid_N.tolist()
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
        found = (path / f"clips/c.{shard}.0.0.0.0").read_bytes()
        assert record["objects"]["clips"] == {
            "size": len(found),
            "sha256": hashlib.sha256(found).hexdigest(),
        }
        assert record.pop("sha256") == hashlib.sha256(spelled(record)).hexdigest()
    seal = json.loads((path / "seal.json").read_text())
    assert seal["records"] == hashlib.sha256(b"".join(records)).hexdigest()
    for key, digest in seal["files"].items():
        assert digest == hashlib.sha256((path / key).read_bytes()).hexdigest()
    files = {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}
    sharded = {file for file in files if file.startswith(("clips/c.", "foreground/c.", "records/"))}
    assert files == {*seal["files"], *sharded, "seal.json"}
    videos = [attribute["num_videos"], attribute["videos_sha256"]]
    store = ClipStore.open(path)
    named = [list(store.names), store.labels_V.tolist()]
    assert videos == [5, hashlib.sha256(spelled(named)).hexdigest()]
