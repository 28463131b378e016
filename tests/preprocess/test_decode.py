"""Decoding against a slow oracle: read every frame, then index."""

from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocess.decode import Decoded, DecodeError, complaint, decode, fit
from preprocess.part import Part
from preprocess.selection import Sampling
from tests.preprocess.test_selection import slow_kept, slow_wanted
from tests.preprocess.videos import all_frames, frame, frame_number, write_video

samplings = st.builds(
    Sampling,
    slots=st.integers(1, 16),
    keep=st.integers(1, 4),
    fps=st.sampled_from([None, 7.5, 12.0, 15.0, 25.0, 60.0]),
    stretch=st.integers(2, 5),
    aligned=st.integers(1, 2),
    height=st.just(24),
    width=st.just(32),
    geometry=st.just("cover"),
)


def sampling(
    *,
    slots: int = 6,
    keep: int = 2,
    fps: float | None = None,
    height: int = 24,
    width: int = 32,
    geometry: Literal["cover", "squash"] = "cover",
) -> Sampling:
    return Sampling(
        slots=slots,
        keep=keep,
        fps=fps,
        stretch=2,
        aligned=1,
        height=height,
        width=width,
        geometry=geometry,
    )


def decoded(path: Path, wanted: Sampling) -> tuple[Decoded, np.ndarray]:
    frames_FHW3 = np.zeros(wanted.shape, np.uint8)
    result = decode(str(path), wanted, frames_FHW3)
    return result, frames_FHW3[: len(result.source)]


@settings(max_examples=40, deadline=None)
@given(samplings, st.integers(1, 40))
def test_decoding_equals_reading_everything_and_indexing(
    wanted: Sampling, frame_count: int
) -> None:
    path = LOSSLESS[frame_count]
    result, frames_LHW3 = decoded(path, wanted)
    oracle = [fit(frame, wanted) for frame in all_frames(path)]
    numbers = slow_wanted(wanted, [n / 25 for n in range(frame_count)])
    kept = [numbers[place] for stretch in slow_kept(wanted, len(numbers)) for place in stretch]
    assert [number for number, _ in result.source] == kept
    assert [ms for _, ms in result.source] == [40 * number for number in kept]
    assert result.cut == (len(numbers) > wanted.slots)
    assert result.frame_count == frame_count
    np.testing.assert_array_equal(frames_LHW3, np.array([oracle[number] for number in kept]))
    assert [frame_number(frame) for frame in frames_LHW3] == kept


@pytest.fixture(autouse=True, scope="module")
def lossless_videos(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("lossless")
    LOSSLESS.update({n: write_video(folder / f"{n}.mkv", n) for n in range(1, 41)})


LOSSLESS: dict[int, Path] = {}


@settings(max_examples=40, deadline=None)
@given(samplings, st.integers(1, 40), st.data())
def test_a_part_is_what_its_frames_alone_would_give(
    wanted: Sampling, frame_count: int, data: st.DataObject
) -> None:
    path = LOSSLESS[frame_count]
    start = data.draw(st.integers(0, frame_count - 1), "start")
    stop = data.draw(st.one_of(st.none(), st.integers(start + 1, frame_count + 5)), "stop")
    result, frames_LHW3 = decoded(path.with_name(Part(start, stop).named(path.name)), wanted)
    last = min(stop or frame_count, frame_count)
    alone, alone_LHW3 = decoded(LOSSLESS[last - start], wanted)
    assert [number - start for number, _ in result.source] == [n for n, _ in alone.source]
    assert [ms - 40 * start for _, ms in result.source] == [ms for _, ms in alone.source]
    assert (result.stretches, result.cut) == (alone.stretches, alone.cut)
    assert [frame_number(frame) - start for frame in frames_LHW3] == [
        frame_number(frame) for frame in alone_LHW3
    ]
    assert result.lost == max(0, (stop or 0) - frame_count), "frames that the list promised"
    assert (result.frame_count, result.frames_read % last) == (last - start, 0)


def test_a_part_that_no_frame_belongs_to(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", 9)
    with pytest.raises(DecodeError, match="the part begins at frame 9, the video has 9"):
        decoded(path.with_name("a.mkv[9:20]"), sampling())
    with pytest.raises(FileNotFoundError):
        decoded(path.with_name("b.mkv[0:9]"), sampling())


def test_a_file_may_be_called_like_a_part(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", 9).rename(tmp_path / "a.mkv[2:4]")
    assert decoded(path, sampling())[0].frame_count == 9


@pytest.mark.parametrize(
    ("part", "numbers", "lost"),
    [("[0:4]", [1, 2, 4], 1), ("[2:6]", [4], 3), ("[3:]", [4, 9], 4), ("[8:99]", [9], 90)],
)
def test_a_part_of_a_folder_counts_the_pictures_that_are_left_out(
    tmp_path: Path, part: str, numbers: list[int], lost: int
) -> None:
    for number in (1, 2, 4, 9):
        cv2.imwrite(str(tmp_path / f"img_{number:05d}.png"), frame(number))
    result, frames_LHW3 = decoded(Path(f"{tmp_path}{part}"), sampling(keep=1))
    assert [frame_number(frame_HW3) for frame_HW3 in frames_LHW3] == numbers
    assert result.lost == lost


@pytest.mark.parametrize("wanted", [sampling(), sampling(fps=20.0), sampling(slots=12)])
@pytest.mark.parametrize("declared", [1, 3, 17, 21, 400, 2**31 - 1])
def test_a_wrong_frame_count_in_the_header_changes_nothing(
    tmp_path: Path, declared: int, wanted: Sampling
) -> None:
    path = write_video(tmp_path / "a.avi", 20, codec="MJPG")
    expected = decoded(path, wanted)
    data = bytearray(path.read_bytes())
    length_at = data.index(b"strh") + 8 + 32
    assert int.from_bytes(data[length_at : length_at + 4], "little") == 20
    data[length_at : length_at + 4] = declared.to_bytes(4, "little")
    (tmp_path / "b.avi").write_bytes(data)
    result, frames_LHW3 = decoded(tmp_path / "b.avi", wanted)
    assert (result.source, result.frame_count) == (expected[0].source, 20)
    np.testing.assert_array_equal(frames_LHW3, expected[1])


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
    np.testing.assert_array_equal(decoded(path, wanted)[1][0], fit(upright, wanted))


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


def test_the_first_complaint_is_told() -> None:
    assert (
        complaint("\nlibav.mov,mp4: moov atom not found\nlibav.av1: second\n")
        == "mov,mp4: moov atom not found"
    )
    assert complaint("") == complaint("\n \n") == ""
    assert len(complaint("x" * 1000)) == 200
