from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fame.foreground import top_fraction
from fame.maps import mean_map
from fame.merging import merge
from fame.preview import dim, enlarge, heat, sheet, tile, write_gif, write_png
from fame.randomness import numpy_generator

SOURCES = np.array([1, 2, 0])
GAP, CAPTION = 6, 24


def clips_and_maps() -> tuple[np.ndarray, np.ndarray]:
    """Three clips of 4 frames, and a map for each frame."""
    rng = numpy_generator(0, 0, 0, "preview")
    clips = rng.integers(0, 256, (3, 4, 40, 56, 3)).astype(np.uint8)
    return clips, rng.integers(0, 200, (3, 4, 10, 14)).astype(np.uint8)


def panel(picture: np.ndarray, row: int, column: int) -> np.ndarray:
    """A panel, which the sheet shows at twice its size."""
    top, left = CAPTION + row * (80 + GAP), GAP + column * (112 + GAP)
    return picture[top : top + 80 : 2, left : left + 112 : 2]


def test_the_panels_are_frame_heat_mask_and_what_merging_gives() -> None:
    clips, maps = clips_and_maps()
    picture = sheet(clips, maps, beta=0.4, sources_N=SOURCES, frames=[3])
    scores = torch.from_numpy(np.stack([enlarge(mean_map(one), 40, 56) for one in maps]))
    masks = top_fraction(scores, 0.4)
    as_float = torch.from_numpy(clips).permute(0, 4, 1, 2, 3).double()
    merged = (
        merge(as_float, masks, torch.from_numpy(SOURCES))
        .permute(0, 2, 3, 4, 1)
        .numpy()
        .astype(np.uint8)
    )
    for i in range(3):
        assert np.array_equal(panel(picture, i, 0), clips[i, 3])
        strength = enlarge(maps[i, 3], 40, 56) * np.float32(255 / maps[i].max())
        assert np.array_equal(panel(picture, i, 1), heat(clips[i, 3], strength))
        assert np.array_equal(panel(picture, i, 2), dim(clips[i, 3], masks[i].numpy()))
        assert np.array_equal(panel(picture, i, 3), merged[i, 3])


def test_several_frames_show_their_own_maps_and_the_clips_map() -> None:
    clips, maps = clips_and_maps()
    picture = sheet(clips, maps, beta=0.4, sources_N=SOURCES)
    alone = sheet(clips, maps, beta=0.4, sources_N=SOURCES, frames=[2])
    assert picture.shape[1] == GAP + 9 * (112 + GAP)
    for i in range(3):
        for column, t in enumerate((0, 2, 3)):
            assert np.array_equal(panel(picture, i, 2 * column), clips[i, t])
            strength = enlarge(maps[i, t], 40, 56) * np.float32(255 / maps[i].max())
            assert np.array_equal(panel(picture, i, 2 * column + 1), heat(clips[i, t], strength))
        mean = enlarge(mean_map(maps[i]), 40, 56)
        assert np.array_equal(panel(picture, i, 6), heat(clips[i, 2], mean))
        for many, one in ((7, 2), (8, 3)):
            assert np.array_equal(panel(picture, i, many), panel(alone, i, one))


@pytest.mark.parametrize(("width", "shown"), [(199, 199), (200, 100), (340, 170), (400, 134)])
def test_wide_panels_are_reduced_where_a_row_has_many(width: int, shown: int) -> None:
    clips, maps = np.zeros((1, 3, 8, width, 3), np.uint8), np.zeros((1, 3, 4, 6), np.uint8)
    drawn = -(-112 // shown) * shown
    picture = sheet(clips, maps, beta=0.5, sources_N=np.array([0]))
    assert picture.shape[1] == GAP + 9 * (drawn + GAP)
    single = sheet(clips, maps, beta=0.5, sources_N=np.array([0]), frames=[1])
    assert single.shape[1] == GAP + 4 * (width + GAP)


def test_every_column_has_a_caption_and_margins_are_blank() -> None:
    clips, maps = clips_and_maps()
    picture = sheet(clips, maps, beta=0.5, sources_N=SOURCES)
    for column in range(9):
        left = GAP + column * (112 + GAP)
        assert picture[: CAPTION - 2, left : left + 112].min() < 128
    assert (picture[CAPTION:, :GAP] == 255).all() and (picture[-GAP:] == 255).all()


def test_heat_rises_from_dark_to_bright_and_dim_keeps_the_inside() -> None:
    grey = np.full((1, 5, 3), 100, np.uint8)
    brightness = heat(grey, np.linspace(0, 1, 5, dtype=np.float32)[None]).astype(int).sum(-1)[0]
    assert (np.diff(brightness) > 0).all()
    mask = np.array([[True, False, True, False, False]])
    assert np.array_equal((dim(grey, mask) == grey).all(-1), mask)


def test_enlarging_keeps_constants_and_range() -> None:
    assert np.array_equal(
        enlarge(np.full((3, 4), 51, np.uint8), 9, 7), np.full((9, 7), np.float32(0.2))
    )
    ramp = enlarge(np.array([[0, 255]], np.uint8), 4, 16)
    assert (
        ramp.shape == (4, 16)
        and ramp[0, 0] == 0
        and ramp[0, -1] == 1
        and (np.diff(ramp[0]) >= 0).all()
    )


def test_files_hold_the_sheet_and_every_frame(tmp_path: Path) -> None:
    clips, maps = clips_and_maps()
    write_png(tmp_path / "sheet.png", clips, maps, beta=0.5, sources_N=SOURCES)
    expected = sheet(clips, maps, beta=0.5, sources_N=SOURCES, frames=[0, 2, 3])
    with Image.open(tmp_path / "sheet.png") as image:
        assert np.array_equal(np.asarray(image), expected)
    expected = sheet(clips, maps, beta=0.5, sources_N=SOURCES, frames=[2])
    write_gif(tmp_path / "sheet.gif", clips, maps, beta=0.5, sources_N=SOURCES)
    with Image.open(tmp_path / "sheet.gif") as image:
        assert (image.n_frames, image.size, image.info["loop"]) == (4, expected.shape[1::-1], 0)  # type: ignore[attr-defined]
        image.seek(2)
        off = np.abs(np.asarray(image.convert("RGB")).astype(int) - expected)
    assert off.mean() < 15  # 256 colours


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beta": 0.0}, "beta"),
        ({"frames": [0, 4]}, r"0\.\.3, got 4"),
        ({"sources_N": np.array([0, 1, 3])}, r"0\.\.2"),
        ({"sources_N": np.array([-1, 1, 2])}, r"0\.\.2"),
    ],
)
def test_bad_input_is_refused_by_value(change: dict, message: str) -> None:
    clips, maps = clips_and_maps()
    with pytest.raises(ValueError, match=message):
        sheet(clips, maps, **({"beta": 0.5, "sources_N": SOURCES} | change))


def test_no_clips_and_ragged_grids_are_refused() -> None:
    clips, maps = clips_and_maps()
    with pytest.raises(ValueError, match="0 clips"):
        sheet(clips[:0], maps[:0], beta=0.5, sources_N=SOURCES[:0])
    with pytest.raises(ValueError, match="every row needs 2 panels"):
        tile([[clips[0, 0]]], ("a", "b"))
    with pytest.raises(ValueError, match="1 rows need as many labels, got 2"):
        tile([[clips[0, 0]]], ("a",), labels=("x", "y"))


def test_labels_stand_left_of_the_rows_and_the_key_below() -> None:
    panel = np.full((50, 60, 3), 77, np.uint8)
    bare = tile([[panel], [panel]], ("a",))
    assert (bare[24:124, 6:126] == 77).all()  # enlarged to 120 pixels, more than 112
    full = tile([[panel], [panel]], ("a",), labels=("circle", "demo/run"), key=("no", "yes"))
    edge, below = full.shape[1] - bare.shape[1], full.shape[0] - bare.shape[0]
    assert edge > 20 and below > 10
    assert (full[: len(bare), edge:] == bare).all()
    assert (full[: len(bare), :edge] < 60).any()  # ink
    key = full[len(bare) :].reshape(-1, 3).astype(int)
    assert (key[:, 0] > key[:, 2] + 100).any()  # the hot end of the colours


def test_captions_too_long_for_their_column_are_broken_and_not_small() -> None:
    panel_HW3 = np.full((112, 112, 3), 90, np.uint8)
    short = tile([[panel_HW3]], ["frame"])
    long = tile([[panel_HW3, panel_HW3]], ["background swapped", "original"])
    assert long.shape[0] - short.shape[0] == 16  # a second line
    np.testing.assert_array_equal(long[CAPTION + 16 :][:112, GAP : GAP + 112], panel_HW3)
    lines = np.flatnonzero((long[: CAPTION + 16, : GAP + 112] < 128).any((1, 2)))
    assert lines.max() - lines.min() > 20  # two lines of letters
