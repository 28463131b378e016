"""Decoding against a slow oracle: read every frame, then index."""

from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocess.decode import (
    Decoded,
    DecodeError,
    Sampling,
    complaint,
    decode,
    fit,
    window_frames,
    window_starts,
)
from tests.preprocess.videos import all_frames, frame_number, write_video

samplings = st.builds(
    Sampling,
    clips=st.integers(1, 12),
    frames=st.integers(1, 9),
    stride=st.integers(1, 4),
    height=st.just(24),
    width=st.just(32),
    geometry=st.just("cover"),
)


def sampling(
    *,
    clips: int = 3,
    frames: int = 4,
    stride: int = 2,
    height: int = 24,
    width: int = 32,
    geometry: Literal["cover", "squash"] = "cover",
) -> Sampling:
    return Sampling(
        clips=clips, frames=frames, stride=stride, height=height, width=width, geometry=geometry
    )


def decoded(path: Path, wanted: Sampling) -> tuple[Decoded, np.ndarray]:
    clips_NTHW3 = np.zeros(wanted.shape, np.uint8)
    return decode(str(path), wanted, clips_NTHW3), clips_NTHW3


@given(samplings, st.integers(1, 400))
def test_windows_are_evenly_spaced_and_reach_both_ends(wanted: Sampling, frame_count: int) -> None:
    starts, span = window_starts(frame_count, wanted), (wanted.frames - 1) * wanted.stride + 1
    frames = np.array(window_frames(frame_count, wanted))
    assert frames.shape == (wanted.clips, wanted.frames)
    assert frames.min() >= 0 and frames.max() < frame_count
    gaps = np.diff(starts)
    assert gaps.size == 0 or (gaps.min() >= 0 and gaps.max() - gaps.min() <= 1)
    if frame_count >= span:
        assert (np.diff(frames, axis=1) == wanted.stride).all()
        if wanted.clips > 1:
            assert starts[0] == 0 and frames[-1, -1] == frame_count - 1
        else:
            assert abs(starts[0] - (frame_count - span) / 2) < 1


@settings(max_examples=40, deadline=None)
@given(samplings, st.integers(1, 40))
def test_decoding_equals_reading_everything_and_indexing(
    wanted: Sampling, frame_count: int
) -> None:
    path = LOSSLESS[frame_count]
    result, clips_NTHW3 = decoded(path, wanted)
    oracle = [fit(frame, wanted) for frame in all_frames(path)]
    indices = [
        [(s + t * wanted.stride) % frame_count for t in range(wanted.frames)]
        for s in result.start_frame
    ]
    assert result.frame_count == result.frames_read == frame_count
    assert result.looped == (frame_count < (wanted.frames - 1) * wanted.stride + 1)
    np.testing.assert_array_equal(
        clips_NTHW3, np.array([[oracle[i] for i in row] for row in indices])
    )
    assert [[frame_number(f) for f in clip] for clip in clips_NTHW3] == indices


@pytest.fixture(autouse=True, scope="module")
def lossless_videos(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("lossless")
    LOSSLESS.update({n: write_video(folder / f"{n}.mkv", n) for n in range(1, 41)})


LOSSLESS: dict[int, Path] = {}


@pytest.mark.parametrize("declared", [1, 3, 17, 21, 400, 2**31 - 1])
def test_a_wrong_frame_count_in_the_header_changes_nothing(tmp_path: Path, declared: int) -> None:
    path = write_video(tmp_path / "a.avi", 20, codec="MJPG")
    expected = decoded(path, sampling())
    data = bytearray(path.read_bytes())
    length_at = data.index(b"strh") + 8 + 32
    assert int.from_bytes(data[length_at : length_at + 4], "little") == 20
    data[length_at : length_at + 4] = declared.to_bytes(4, "little")
    (tmp_path / "b.avi").write_bytes(data)
    result, clips_NTHW3 = decoded(tmp_path / "b.avi", sampling())
    assert (result.start_frame, result.frame_count) == (expected[0].start_frame, 20)
    np.testing.assert_array_equal(clips_NTHW3, expected[1])


@pytest.mark.parametrize(
    ("source", "target"),
    [((64, 100), (32, 40)), ((100, 64), (40, 32)), ((96, 96), (24, 48)), ((48, 64), (24, 32))],
)
def test_cover_is_a_resize_and_a_centre_crop(
    source: tuple[int, int], target: tuple[int, int]
) -> None:
    frame_hw3 = np.random.Generator(np.random.Philox(0)).integers(0, 256, (*source, 3), np.uint8)
    scale = max(target[0] / source[0], target[1] / source[1])
    whole = cv2.resize(
        frame_hw3,
        (round(source[1] * scale), round(source[0] * scale)),
        interpolation=cv2.INTER_AREA,
    )
    top, left = (whole.shape[0] - target[0]) // 2, (whole.shape[1] - target[1]) // 2
    expected = whole[top : top + target[0], left : left + target[1]]
    np.testing.assert_array_equal(
        fit(frame_hw3, sampling(height=target[0], width=target[1])), expected
    )


@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from(["cover", "squash"]))
def test_any_source_size_fits(
    height: int, width: int, geometry: Literal["cover", "squash"]
) -> None:
    flat = np.full((height, width, 3), (10, 20, 30), np.uint8)
    fitted = fit(flat, sampling(geometry=geometry))
    assert fitted.shape == (24, 32, 3)
    assert (fitted == (10, 20, 30)).all(), "a flat picture stays flat"


def test_squash_keeps_what_cover_cuts_off() -> None:
    frame_hw3 = np.zeros((24, 96, 3), np.uint8)
    frame_hw3[:, :8] = 255
    assert fit(frame_hw3, sampling(geometry="squash"))[:, 0].min() == 255
    assert fit(frame_hw3, sampling(geometry="cover")).max() == 0


def test_rotation_is_honoured(footage: Path) -> None:
    path = footage / "robustness" / "nasa_13013_rotated.mp4"
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)
    assert capture.get(cv2.CAP_PROP_ORIENTATION_META) == 270
    frame_hw3 = cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB)
    upright = cv2.rotate(frame_hw3, cv2.ROTATE_90_COUNTERCLOCKWISE)
    capture.release()
    wanted = sampling(height=48, width=27, geometry="squash")
    np.testing.assert_array_equal(decoded(path, wanted)[1][0, 0], fit(upright, wanted))


def test_a_frame_size_that_changes_midway_is_decoded(tmp_path: Path) -> None:
    parts = [
        write_video(tmp_path / f"{w}.avi", 6, codec="MJPG", width=w).read_bytes() for w in (32, 64)
    ]
    path = tmp_path / "joined.mjpeg"
    path.write_bytes(b"".join(_jpegs(part) for part in parts))
    assert decoded(path, sampling())[0].frame_count == 12


def _jpegs(avi: bytes) -> bytes:
    pictures, start = [], avi.find(b"\xff\xd8")
    while start >= 0:
        end = avi.index(b"\xff\xd9", start) + 2
        pictures.append(avi[start:end])
        start = avi.find(b"\xff\xd8", end)
    return b"".join(pictures)


@pytest.mark.parametrize("content", [b"", b"not a video", b"\x00\x00\x00\x18ftypmp42"])
def test_what_is_no_video_says_so(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(DecodeError, match="no video stream could be opened"):
        decoded(tmp_path / "a.mp4", sampling())


def test_complaints_are_the_same_in_every_run() -> None:
    log = "\n[mov,mp4 @ 0x55d2c9539cc0] moov atom not found\n[av1 @ 0x1] second\n"
    assert complaint(log) == "mov,mp4: moov atom not found"
    assert complaint("") == complaint("\n \n") == ""
    assert len(complaint("x" * 1000)) == 200
