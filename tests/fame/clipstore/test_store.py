"""A finished store: what goes in comes out, through the reader and through plain zarr, byte for
byte.
"""

import dataclasses
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
    create,
    finalise,
    store_info,
    write_shard,
)
from fame.clipstore.chunk import decode_chunk, encode_chunk
from fame.clipstore.layout import WHOLE_ARRAYS, Layout
from tests.fame.clipstore import small


def specs() -> st.SearchStrategy[StoreSpec]:
    return st.builds(
        StoreSpec,
        frames=st.integers(1, 4),
        clips_per_video=st.integers(1, 3),
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
    layout = Layout(header=store.header, num_videos=count, videos_sha256="")
    for video, given_ in enumerate(small.videos(spec, count, failed=sorted(failed))):
        for clip, index in enumerate(store.clips_of(video)):
            assert store.valid_N[index] == (not isinstance(given_, VideoFailure))
            if isinstance(given_, VideoFailure):
                assert store.start_frame_N[index] == -1
                assert not group["clips"][index].any()
                continue
            chunk = np.frombuffer(encode_chunk(layout, "clips", given_.clips[clip]), np.uint8)
            assert np.array_equal(store.clip(index), decode_chunk(layout, "clips", chunk))
            assert np.array_equal(store.clip(index), group["clips"][index])
            assert spec.codec == "jpeg" or np.array_equal(store.clip(index), given_.clips[clip])
            assert store.start_frame_N[index] == given_.start_frame[clip]
            if given_.foreground is not None:
                assert np.array_equal(store.foreground(index), given_.foreground[clip])
                assert np.array_equal(store.foreground(index), group["foreground"][index])


def test_plain_zarr_sees_every_array_and_nothing_else(store: Path):
    group = zarr.open_group(store, mode="r")
    assert sorted(name for name, _ in group.members()) == sorted(
        ("clips", "foreground", *WHOLE_ARRAYS)
    )
    assert group["names"][:].tolist() == small.names(5)
    assert group["label"][:].tolist() == [label for label in small.labels(5) for _ in range(2)]
    assert group["video"][:].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert group["valid"][:].tolist() == [True] * 4 + [False] * 2 + [True] * 4
    assert group["start_frame"].dtype == np.int32
    assert group.attrs["fame_clip_store"]["spec"]["frames"] == 3


def test_each_array_opens_by_itself_in_plain_zarr(store: Path):
    consolidated = zarr.open_group(store, mode="r")
    for name in ("clips", "foreground", *WHOLE_ARRAYS):
        assert np.array_equal(zarr.open_array(store / name, mode="r")[:], consolidated[name][:])


@pytest.mark.parametrize("codec", ["jpeg", "lz4", "zstd"])
def test_shards_are_byte_for_byte_what_zarr_writes(tmp_path: Path, codec: str):
    spec = dataclasses.replace(small.SPEC, codec=codec)
    ours = small.make(tmp_path / "ours.zarr", spec, count=4, failed=())
    theirs = small.copy(ours, tmp_path / "theirs.zarr")
    with zarr.config.set({"array.write_empty_chunks": True}):
        for name in ("clips", "foreground", "names", "valid", "label"):
            data = zarr.open_array(theirs / name, mode="r")[:]
            for chunk in (theirs / name).glob("c.*"):
                chunk.unlink()
            if (
                name == "clips" and codec == "jpeg"
            ):  # what zarr encodes must be what was given, not what was decoded
                data = np.concatenate([video.clips for video in small.videos(spec, 4)])
            zarr.open_array(theirs / name, mode="r+")[:] = data
    assert small.contents(theirs) == small.contents(ours)


def test_zarr_itself_would_write_this_metadata(tmp_path: Path):
    path = small.make(tmp_path / "s.zarr")
    for name in ("clips", "foreground", *WHOLE_ARRAYS):
        array = zarr.open_array(path / name, mode="r")
        written = zarr.open_array(path / name, mode="r").metadata.to_dict()
        ours = small.header(), Layout(header=small.header(), num_videos=5, videos_sha256="")
        theirs = zarr.core.metadata.v3.ArrayV3Metadata.from_dict(ours[1].array_metadata()[name])
        assert written == theirs.to_dict()
        assert array.shape[0] == (5 if name == "names" else 10)


def test_store_tells_what_it_is(store: Path):
    opened = ClipStore.open(store)
    assert (opened.num_videos, opened.num_clips, len(opened)) == (5, 10, 10)
    assert opened.names == tuple(small.names(5))
    assert opened.labels_V.tolist() == small.labels(5)
    assert opened.label_N.tolist() == [label for label in small.labels(5) for _ in range(2)]
    assert opened.clips_of(4) == range(8, 10)
    assert opened.header == small.header(opened.spec)
    assert "5 videos, 10 clips of 3x16x24" in repr(opened)


def test_clips_that_are_not_there_are_refused(store: Path):
    opened = ClipStore.open(store)
    for index in (-1, 10):
        with pytest.raises(IndexError, match="no clip"):
            opened.clip(index)
    with pytest.raises(IndexError, match="no video 5"):
        opened.clips_of(5)
    with pytest.raises(StoreError, match=r"clip 4 .*shard 1, video 2.*could not be decoded"):
        opened.clip(4)


def test_a_store_without_maps_says_so(tmp_path: Path):
    store = ClipStore.open(
        small.make(tmp_path / "s.zarr", dataclasses.replace(small.SPEC, foreground="none"))
    )
    assert not (store.path / "foreground").exists()
    with pytest.raises(StoreError, match="without foreground maps"):
        store.foreground(0)


def test_a_black_clip_is_a_clip_and_not_a_hole(tmp_path: Path):
    black = small.video(small.SPEC, 0)
    black = dataclasses.replace(black, clips=np.zeros_like(black.clips))
    create(tmp_path / "s", small.header(), names=["a"], labels=[0])
    write_shard(tmp_path / "s", 0, [black])
    finalise(tmp_path / "s")
    assert not ClipStore.open(tmp_path / "s").clip(1).any()


def test_info_sums_up(store: Path):
    info = store_info(store)
    assert info.finished
    assert (info.num_shards, info.shards_done) == (3, 3)
    assert info.statuses == {"ok": 2, "looped": 2, "failed": 1}
    assert info.failures == ((small.names(5)[2], "cannot decode 2: é"),)
    assert info.classes == {"run": 2, "sit": 0, "(no label)": 2}
    files = store.rglob("c.?.0.0.0.0")
    assert info.array_bytes["clips"] == sum(file.stat().st_size for file in files)


def test_info_of_a_store_in_the_making(tmp_path: Path):
    small.begin(tmp_path / "s", small.SPEC, 5)
    write_shard(tmp_path / "s", 1, small.shard_videos(small.SPEC, 1, 5))
    info = store_info(tmp_path / "s")
    assert (info.finished, info.shards_done, info.statuses["ok"]) == (False, 1, 2)
