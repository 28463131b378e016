"""A finished store: what goes in comes out, through the reader and through plain zarr, byte for
byte.
"""

import dataclasses
import hashlib
import json
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fame.clipstore import (
    ClipStore,
    StoreError,
    StoreSpec,
    VideoFailure,
    Window,
    create,
    finalise,
    locate,
    read_record,
    store_info,
    verify,
    write_shard,
)
from fame.clipstore.chunk import crc32c
from fame.clipstore.layout import WHOLE_ARRAYS, Layout
from fame.clipstore.schema import canonical_json
from fame.clipstore.seal import make_seal
from fame.clipstore.write import layout_of
from fame.maps import mean_map
from tests.fame.clipstore import small


def specs() -> st.SearchStrategy[StoreSpec]:
    return st.builds(
        StoreSpec,
        keep=st.just(1),
        seconds=st.integers(1, 7).map(lambda slots: slots / 30),
        stretch=st.integers(2, 4),
        foreground_every=st.integers(1, 2),
        height=st.integers(1, 20),
        width=st.integers(1, 20),
        codec=st.sampled_from(["jpeg", "lz4", "zstd"]),
        quality=st.integers(1, 100),
        foreground=st.sampled_from(["flow", "none"]),
        foreground_height=st.integers(1, 5),
        foreground_width=st.integers(1, 5),
        videos_per_shard=st.integers(1, 4),
    )


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(spec=specs(), count=st.integers(1, 6), failed=st.sets(st.integers(0, 5)))
def test_what_was_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, spec: StoreSpec, count: int, failed: set
):
    path = small.make(
        tmp_path_factory.mktemp("s") / "s.zarr", spec, count=count, failed=sorted(failed)
    )
    store, group = ClipStore.open(path), zarr.open_group(path, mode="r")
    for video, given_ in enumerate(small.videos(spec, count, failed=sorted(failed))):
        assert store.valid_V[video] == (not isinstance(given_, VideoFailure))
        if isinstance(given_, VideoFailure):
            assert not group["frames"][video].any()
            assert (group["source"][video] == -1).all()
            continue
        length, stretches = len(given_.frames), given_.stretches
        assert (store.length_V[video], store.stretches_V[video]) == (length, stretches)
        assert np.array_equal(store.source(video), given_.source)
        assert np.array_equal(store.source(video), group["source"][video][:length])
        assert not group["frames"][video][length:].any()
        for window in (Window(frames=3), Window(frames=2, step=3), Window(frames=3, span=0.7)):
            for start in range(length):
                shown_T = slow_numbers(window, start, length // stretches)
                clip_THWC = store.clip(video, start, window)
                assert np.array_equal(clip_THWC, group["frames"][video][shown_T])
                if spec.codec != "jpeg":
                    assert np.array_equal(clip_THWC, given_.frames[shown_T])
                if given_.foreground is not None:
                    shown_T = [number // spec.foreground_every for number in shown_T]
                    map_Thw = store.maps(video, start, window)
                    assert np.array_equal(map_Thw, given_.foreground[shown_T])
                    assert np.array_equal(map_Thw, group["foreground"][video][shown_T])
                    assert np.array_equal(store.foreground(video, start, window), mean_map(map_Thw))


def slow_numbers(window: Window, start: int, room: int) -> list[int]:
    """The kept frames of a clip, one by one: they go round within the stretch of their start."""
    begin, numbers = start - start % room, []
    for t in range(window.frames):
        apart = (
            t * window.step if window.span is None else int(t * window.span * room / window.frames)
        )
        numbers.append(begin + (start - begin + apart) % room)
    return numbers


def test_plain_zarr_sees_every_array_and_nothing_else(store: Path):
    group = zarr.open_group(store, mode="r")
    assert sorted(name for name, _ in group.members()) == sorted(
        ("frames", "foreground", "source", *WHOLE_ARRAYS)
    )
    assert group["names"][:].tolist() == small.names(5)
    assert group["label"][:].tolist() == small.labels(5)
    assert group["length"][:].tolist() == [6, 6, 0, 3, 6]
    assert group["stretches"][:].tolist() == [1, 2, 0, 1, 2]
    assert group["length"].dtype == group["source"].dtype == np.int32
    assert group.attrs["fame_clip_store"]["spec"]["keep"] == 2


def test_each_array_opens_by_itself_in_plain_zarr(store: Path):
    consolidated = zarr.open_group(store, mode="r")
    for name in ("frames", "foreground", "source", *WHOLE_ARRAYS):
        assert np.array_equal(zarr.open_array(store / name, mode="r")[:], consolidated[name][:])


@pytest.mark.parametrize("codec", ["jpeg", "lz4", "zstd"])
def test_chunks_are_byte_for_byte_what_zarr_writes(tmp_path: Path, codec: str):
    spec = dataclasses.replace(small.SPEC, codec=codec)
    ours = small.make(tmp_path / "ours.zarr", spec, count=4, failed=())
    theirs = small.copy(ours, tmp_path / "theirs.zarr")
    for name in ("frames", "foreground", "source", "names", "label"):
        data = zarr.open_array(theirs / name, mode="r")[:]
        for chunk in (theirs / name).glob("c.*"):
            chunk.unlink()
        if name == "frames" and codec == "jpeg":
            # what zarr encodes must be what was given, not what was decoded
            for video, given_ in enumerate(small.videos(spec, 4)):
                data[video, : len(given_.frames)] = given_.frames
        zarr.open_array(theirs / name, mode="r+")[:] = data
    for name, data in small.contents(ours).items():
        # zarr writes the chunks of a shard in an order of its own
        in_shards = name.startswith(("frames/c", "foreground/c", "source/c"))
        split = chunks if in_shards else bytes
        assert split((theirs / name).read_bytes()) == split(data), name


def chunks(shard: bytes) -> list[bytes | None]:
    """The chunks of a shard in the order of its index, which is for 2 videos of this test."""
    room = next(n for n in (12, 6, 2) if crc32c(shard[-16 * n - 4 : -4]) == shard[-4:])
    index = np.frombuffer(shard[-16 * room - 4 : -4], "<u8").reshape(room, 2).tolist()
    return [
        None if length == 2**64 - 1 else shard[offset : offset + length] for offset, length in index
    ]


def test_zarr_itself_would_write_this_metadata(tmp_path: Path):
    path = small.make(tmp_path / "s.zarr")
    for name in ("frames", "foreground", "source", *WHOLE_ARRAYS):
        array = zarr.open_array(path / name, mode="r")
        written = zarr.open_array(path / name, mode="r").metadata.to_dict()
        ours = small.header(), Layout(header=small.header(), num_videos=5, videos_sha256="")
        theirs = zarr.core.metadata.v3.ArrayV3Metadata.from_dict(ours[1].array_metadata()[name])
        assert written == theirs.to_dict()
        assert array.shape[0] == 5


def test_store_tells_what_it_is(store: Path):
    opened = ClipStore.open(store)
    assert opened.num_videos == 5
    assert opened.names == tuple(small.names(5))
    assert opened.labels_V.tolist() == small.labels(5)
    assert opened.labels_V.dtype == np.int64
    assert opened.valid_V.tolist() == [True, True, False, True, True]
    assert opened.header == small.header(opened.spec)
    assert "5 videos, 21 frames of 16x24, 1 of 2 frames" in repr(opened)


def test_clips_that_are_not_there_are_refused(store: Path):
    opened = ClipStore.open(store)
    for start in (-1, 3):
        with pytest.raises(IndexError, match=f"no frame {start} in video 3: it has 3"):
            opened.clip(3, start, Window(frames=2))
    for video in (-1, 5):
        with pytest.raises(IndexError, match=f"no video {video}"):
            opened.starts(video, Window(frames=2))
    with pytest.raises(StoreError, match=r"video 2 could not be decoded"):
        opened.clip(2, 0, Window(frames=2))


def test_a_store_without_maps_says_so(tmp_path: Path):
    store = ClipStore.open(
        small.make(tmp_path / "s.zarr", dataclasses.replace(small.SPEC, foreground="none"))
    )
    assert not (store.path / "foreground").exists()
    with pytest.raises(StoreError, match="without foreground maps"):
        store.foreground(0, 0, Window(frames=2))


def test_a_black_frame_is_a_frame_and_not_a_hole(tmp_path: Path):
    black = small.video(small.SPEC, 0)
    black = dataclasses.replace(black, frames=np.zeros_like(black.frames))
    create(tmp_path / "s", small.header(), names=["a"], labels=[0])
    write_shard(tmp_path / "s", 0, [black])
    finalise(tmp_path / "s")
    assert not ClipStore.open(tmp_path / "s").clip(0, 1, Window(frames=2)).any()


def test_info_sums_up(store: Path):
    info = store_info(store)
    assert info.finished
    assert (info.num_shards, info.shards_done) == (3, 3)
    assert info.statuses == {"ok": 2, "cut": 2, "failed": 1}
    assert info.num_frames == 21
    assert info.failures == ((small.names(5)[2], "cannot decode 2: é"),)
    assert info.classes == {"run": 2, "sit": 0, "(no label)": 2}
    files = store.rglob("c.?.0.0.0.0")
    assert info.array_bytes["frames"] == sum(file.stat().st_size for file in files)


def test_flat_maps_are_marked(tmp_path: Path):
    videos = small.videos(small.SPEC, 4, failed=(2,))
    videos[0] = dataclasses.replace(videos[0], foreground=np.full_like(videos[0].foreground, 7))
    some = videos[1].foreground.copy()
    some[0] = 0
    videos[1] = dataclasses.replace(videos[1], foreground=some)
    path = tmp_path / "s"
    small.begin(path, small.SPEC, 4)
    for shard in (0, 1):
        write_shard(path, shard, videos[2 * shard : 2 * shard + 2])
    finalise(path)
    counts = [v.flat_maps for shard in (0, 1) for v in read_record(path, shard).videos]
    assert counts == [len(videos[0].foreground), 1, 0, 0]
    info = store_info(path)
    assert (info.still, info.flat_maps) == ((small.names(4)[0],), counts[0] + 1)
    assert info.num_maps == sum(len(v.foreground) for v in (videos[0], videos[1], videos[3]))
    report = verify(path)
    assert report.ok and report.flat_maps == info.flat_maps


@pytest.mark.parametrize("count", [0, 2, -1, 99, True, "1", 1.0, []])
def test_a_wrong_count_of_flat_maps_is_noticed(tmp_path: Path, count: object):
    path = small.make(tmp_path / "s.zarr")
    recount(path, 0, count)
    if count == 0 and type(count) is int:
        assert verify(path).ok
        return
    assert not verify(path).ok
    if count != 2:
        with pytest.raises(StoreError, match=r"flat.maps"):
            read_record(path, 0)


def test_stores_made_before_flat_maps_were_counted_are_read(tmp_path: Path):
    path = small.make(tmp_path / "s.zarr")
    before = ClipStore.open(path).clip(0, 0, Window(frames=2))
    for shard in range(3):
        recount(path, shard, None)
    assert np.array_equal(ClipStore.open(path).clip(0, 0, Window(frames=2)), before)
    info = store_info(path)
    assert info.finished and info.flat_maps is None and info.still == ()
    assert verify(path).ok and verify(path).flat_maps == 0


def recount(path: Path, shard: int, count: object) -> None:
    """Write another count of flat maps (None: none at all) into a record and seal the store."""
    body = json.loads((path / f"records/{shard}.json").read_bytes())
    for video in body["videos"]:
        if count is None:
            del video["flat_maps"]
        elif video["status"] != "failed":
            video["flat_maps"] = count
    del body["sha256"]
    digest = hashlib.sha256(canonical_json(body)).hexdigest()
    (path / f"records/{shard}.json").write_bytes(canonical_json(body | {"sha256": digest}))
    storage = locate(path)
    with suppress(StoreError):
        (path / "seal.json").write_bytes(make_seal(storage, layout_of(storage)))


def test_info_of_a_store_in_the_making(tmp_path: Path):
    small.begin(tmp_path / "s", small.SPEC, 5)
    write_shard(tmp_path / "s", 1, small.shard_videos(small.SPEC, 1, 5))
    info = store_info(tmp_path / "s")
    assert (info.finished, info.shards_done, info.statuses["ok"]) == (False, 1, 2)
