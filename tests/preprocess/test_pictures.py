"""Folders of frames: their order, what is left out, and pictures that are not whole."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from preprocess.pictures import PictureFolder, is_whole
from preprocess.reading import DecodeError


def draw(shade: int, size: tuple[int, int] = (24, 32)) -> np.ndarray:
    """A BGR picture with detail, so that its file has some length."""
    noise = np.random.default_rng(shade).integers(0, 40, (*size, 3))
    return (noise + shade).astype(np.uint8)


def write(folder: Path, names: list[str]) -> Path:
    """Write pictures whose shade is ten times their number."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        number = int("".join(filter(str.isdigit, Path(name).stem))[-4:])
        assert cv2.imwrite(str(folder / name), draw(10 * number))
    return folder


def shades(folder: Path) -> list[int]:
    """The numbers of the frames by what is seen."""
    return [round((frame.rgb().mean() - 19.5) / 10) for frame in PictureFolder(str(folder))]


@pytest.mark.parametrize(
    "names",
    [
        ["img_00001.jpg", "img_00002.jpg", "img_00010.jpg"],
        ["1.png", "2.png", "10.png"],
        ["182040_0001.jpeg", "182040_0002.jpeg", "182040_0010.jpeg"],
        ["f1.bmp", "f2.webp", "f10.PNG"],
    ],
)
def test_pictures_come_in_the_order_of_their_numbers(tmp_path: Path, names: list[str]) -> None:
    folder = write(tmp_path / "v", names)
    (folder / "notes.txt").touch()
    (folder / ".1.jpg").touch()
    assert shades(folder) == [1, 2, 10]
    video = PictureFolder(str(folder))
    assert (video.declared_frames, video.lost) == (3, 7)
    assert [frame.seconds * video.rate for frame in video] == [0, 1, 9]
    assert [frame.index for frame in video] == [0, 1, 2]


def test_steps_between_pictures_are_no_loss(tmp_path: Path) -> None:
    video = PictureFolder(str(write(tmp_path, ["1.png", "6.png", "16.png"])))
    assert video.lost == 1 and [frame.seconds * video.rate for frame in video] == [0, 1, 3]
    assert PictureFolder(str(write(tmp_path / "one", ["7.png"]))).lost == 0


def test_flow_beside_the_pictures_is_left_alone(tmp_path: Path) -> None:
    folder = write(tmp_path, ["img_1.png", "img_2.png"])
    write(tmp_path, ["flow_x_0003.png", "flow_y_0003.png"])
    assert shades(folder) == [1, 2]


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["flow_x_1.png", "flow_y_1.png"], "several series of pictures: flow_x_, flow_y_"),
        (["a1.png", "a01.png"], "a01.png and a1.png have one number"),
        (["1.png", "1.jpg"], "1.jpg and 1.png have one number"),
    ],
)
def test_what_has_no_order_is_refused(tmp_path: Path, names: list[str], reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        PictureFolder(str(write(tmp_path, names)))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DecodeError, match="no numbered picture"):
        PictureFolder(str(tmp_path / "empty"))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp"])
def test_a_picture_that_was_cut_short_is_no_picture(tmp_path: Path, suffix: str) -> None:
    folder = write(tmp_path, [f"1.{suffix}"])
    whole = (folder / f"1.{suffix}").read_bytes()
    assert is_whole(whole)
    for length in (0, 1, 20, len(whole) // 2, len(whole) - 70):
        (folder / f"1.{suffix}").write_bytes(whole[:length])
        (frame,) = PictureFolder(str(folder))
        with pytest.raises(DecodeError, match=rf"1.{suffix} is no whole picture"):
            frame.rgb()


def test_a_thumbnail_is_not_the_end_of_a_picture() -> None:
    scan, end = b"\xff\xda....", b"\xff\xd9"
    assert is_whole(b"\xff\xd8" + scan + end + scan + end)
    assert not is_whole(b"\xff\xd8" + scan + end + scan)


def test_grey_deep_and_transparent_pictures(tmp_path: Path) -> None:
    grey_hw = draw(90)[..., 0]
    cv2.imwrite(str(tmp_path / "1.png"), grey_hw)
    cv2.imwrite(str(tmp_path / "2.png"), grey_hw.astype(np.uint16) * 257)
    cv2.imwrite(str(tmp_path / "3.png"), cv2.cvtColor(grey_hw, cv2.COLOR_GRAY2BGRA))
    for frame in PictureFolder(str(tmp_path)):
        np.testing.assert_array_equal(frame.rgb(), np.stack([grey_hw] * 3, axis=-1))


def test_colours_are_red_green_blue(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "1.png"), np.full((2, 2, 3), (10, 20, 30), np.uint8))
    (frame,) = PictureFolder(str(tmp_path))
    assert frame.rgb()[0, 0].tolist() == [30, 20, 10]
