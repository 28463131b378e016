"""The controlled world: what it promises about masks, bias, splits and repeatability."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from preprocess.world import MOTIONS, WorldSpec, read_mask, render, write_world

SMALL = WorldSpec(videos=24, frames=24, height=48, width=64, seed=3)


def test_a_video_depends_on_spec_and_index_alone() -> None:
    first, again, other = render(SMALL, 5), render(SMALL, 5), render(SMALL, 11)
    assert np.array_equal(first.frames_THWC, again.frames_THWC)
    assert first.motion == other.motion == MOTIONS[5]
    assert not np.array_equal(first.frames_THWC, other.frames_THWC)


@pytest.mark.parametrize("index", range(len(MOTIONS)))
def test_the_mask_covers_every_pixel_that_moves(index: int) -> None:
    """With a still camera, pixels outside every mask (and its soft edge) never change."""
    video = render(SMALL, index)
    seen_HW = video.mask_THW.any(0)
    near_HW = cv2.dilate(seen_HW.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
    changes_HW = (video.frames_THWC != video.frames_THWC[:1]).any((0, 3))
    assert changes_HW.any()
    assert not (changes_HW & ~near_HW).any()


def test_every_motion_moves_its_mask_and_only_its_own_way() -> None:
    centres = {}
    for index, motion in enumerate(MOTIONS):
        mask_THW = render(SMALL, index).mask_THW
        centres[motion] = np.array([np.argwhere(mask_HW).mean(0) for mask_HW in mask_THW])
    span = {motion: np.ptp(centre, axis=0) for motion, centre in centres.items()}
    assert span["horizontal"][1] > 5 * span["horizontal"][0]
    assert span["vertical"][0] > 5 * span["vertical"][1]
    assert min(span["circle"]) > 8
    assert min(span["diagonal"]) > 8
    assert max(span["spin"]) < 4
    assert max(span["pulse"]) < 4
    areas_T = render(SMALL, MOTIONS.index("pulse")).mask_THW.sum((1, 2))
    assert areas_T.max() > 3 * areas_T.min()


def test_each_video_may_have_a_background_of_its_own() -> None:
    spec = WorldSpec(videos=24, frames=2, height=48, width=64, rho=0.0, backgrounds=None)
    assert [render(spec, index).background for index in (0, 5, 23)] == [0, 5, 23]
    with pytest.raises(ValueError, match="rho must be 0"):
        WorldSpec(videos=24, rho=0.5, backgrounds=None)


def test_contrast_makes_backgrounds_stand_out() -> None:
    spreads = [
        render(replace(SMALL, contrast=contrast), 0).frames_THWC[0].std()
        for contrast in (0.5, 1.0, 2.0)
    ]
    assert spreads[0] < spreads[1] < spreads[2]


def test_a_moving_camera_changes_the_background() -> None:
    spec = WorldSpec(videos=24, frames=24, height=48, width=64, camera_motion=True)
    video = render(spec, 0)
    outside_HW = ~cv2.dilate(
        video.mask_THW.any(0).astype(np.uint8), np.ones((5, 5), np.uint8)
    ).astype(bool)
    changes_HW = (video.frames_THWC[0] != video.frames_THWC[12]).any(-1)
    assert changes_HW[outside_HW].mean() > 0.5


@pytest.mark.parametrize(
    ("rho", "low", "high"), [(0.0, 0.05, 0.35), (0.5, 0.4, 0.75), (1.0, 1.0, 1.0)]
)
def test_rho_is_the_bias_between_class_and_background(rho: float, low: float, high: float) -> None:
    spec = WorldSpec(videos=120, frames=2, height=16, width=16, rho=rho)
    videos = [render(spec, index) for index in range(spec.videos)]
    own = np.mean(
        [video.background % len(MOTIONS) == MOTIONS.index(video.motion) for video in videos]
    )
    assert low <= own <= high


def test_test_backgrounds_are_never_seen_in_training() -> None:
    videos = [render(SMALL, index) for index in range(SMALL.videos)]
    seen = {video.background for video in videos if video.split == "train"}
    unseen = {video.background for video in videos if video.split == "test"}
    assert seen
    assert unseen
    assert not seen & unseen


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    spec = WorldSpec(videos=12, frames=10, height=48, width=64)
    done: list[int] = []
    write_world(spec, tmp_path, on_video=done.append)
    assert done == list(range(1, 13))
    listed = (tmp_path / "train.txt").read_text().split() + (
        tmp_path / "test.txt"
    ).read_text().split()
    assert sorted(listed) == sorted(render(spec, index).name for index in range(12))
    video = render(spec, 7)
    assert np.array_equal(
        read_mask(tmp_path / "masks" / video.motion / "00007.npz"), video.mask_THW
    )
    capture = cv2.VideoCapture(str(tmp_path / "videos" / video.name))
    for frame_HWC in video.frames_THWC:
        ok, decoded_HWC = capture.read()
        assert ok
        error = np.abs(decoded_HWC[..., ::-1].astype(float) - frame_HWC).mean()
        assert error < 10
    assert not capture.read()[0]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rho", 1.5),
        ("test_rho", -0.5),
        ("backgrounds", 3),
        ("videos", 1),
        ("height", 8),
        ("test_share", 1.0),
        ("test_share", 0.01),
    ],
)
def test_impossible_worlds_are_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        WorldSpec(**{"videos": 24, field: value})


def test_a_video_outside_the_world_is_refused() -> None:
    with pytest.raises(ValueError, match="24"):
        render(SMALL, 24)


def test_the_test_split_may_have_a_bias_of_its_own() -> None:
    spec = WorldSpec(videos=120, frames=2, height=16, width=16, rho=1.0, test_rho=0.0)
    own: dict[str, list[bool]] = {"train": [], "test": []}
    for index in range(spec.videos):
        video = render(spec, index)
        own[video.split].append(video.background % len(MOTIONS) == MOTIONS.index(video.motion))
    assert all(own["train"])
    assert np.mean(own["test"]) < 0.4
