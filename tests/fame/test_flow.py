from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import UInt8

from fame import flow as motion
from fame.flow import FlowParameters, flow_score, map_clip
from fame.foreground import motion_score, paper_score
from fame.randomness import numpy_generator
from preprocess.world import WorldSpec, render


def world_clip(index: int, *, camera: bool) -> tuple[np.ndarray, np.ndarray]:
    """16 frames of a procedural video and where its object is in at least a quarter of them."""
    video = render(WorldSpec(videos=12, frames=31, camera_motion=camera, seed=5), index)
    return video.frames_THWC[::2], video.mask_THW[::2].mean(0) >= 0.25


def texture(seed: int, height: int = 96, width: int = 128) -> np.ndarray:
    rng = numpy_generator(seed, 0, 0, "texture")
    coarse = rng.integers(0, 256, (height // 6, width // 6, 3)).astype(np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def auc(score: np.ndarray, truth: np.ndarray) -> float:
    inside, outside = score[truth].astype(int), score[~truth].astype(int)
    wins = (inside[:, None] > outside).mean() + 0.5 * (inside[:, None] == outside).mean()
    return float(wins)


@pytest.mark.parametrize("camera", [False, True])
def test_the_object_ranks_above_the_background_whatever_the_camera_does(camera: bool) -> None:
    areas = []
    for index in (2, 3, 5):  # objects that move from place to place
        frames, truth = world_clip(index, camera=camera)
        areas.append(auc(flow_score(frames, height=96, width=128)[::3, ::3], truth[::3, ::3]))
    assert np.mean(areas) > 0.9, areas


def test_a_moving_camera_alone_leaves_little_and_an_object_stands_out_of_it() -> None:
    """The camera pans, zooms and turns over a texture; a patch that moves otherwise is the one
    thing left.
    """
    scene, frames = texture(1, 160, 200), []
    for t in range(8):
        turn = cv2.getRotationMatrix2D((100, 80), angle=0.4 * t, scale=1 + 0.01 * t)
        turn[:, 2] += (-36 + 1.5 * t, -32)
        frame = cv2.warpAffine(scene, turn, (128, 96))
        frame[40:60, 30 + 3 * t : 54 + 3 * t] = texture(2)[:20, :24]
        frames.append(frame)
    score = flow_score(np.stack(frames), height=48, width=64).astype(float)
    assert score[20:30, 18:36].mean() > 5 * score[:, 48:].mean()


def _noise(level: int) -> np.ndarray:
    return numpy_generator(0, 0, 0, "noise").integers(0, level, (16, 60, 80, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((16, 60, 80, 3), np.uint8),
        np.full((16, 60, 80, 3), 255, np.uint8),
        np.full((2, 60, 80, 3), (200, 30, 90), np.uint8),
        np.repeat(texture(3)[None], 16, axis=0),
    ],
    ids=["black", "white", "one colour", "no motion"],
)
@pytest.mark.parametrize("method", ["flow", "paper", "difference", "none"])
def test_where_there_is_nothing_to_see_the_map_is_uniform(
    method: motion.Method, frames: np.ndarray
) -> None:
    score = map_clip(method, frames, height=15, width=20)
    assert score.dtype == np.uint8 and score.shape == (15, 20) and not score.any()


@pytest.mark.parametrize(
    "frames",
    [
        np.concatenate(
            [np.zeros((8, 60, 80, 3), np.uint8), np.full((8, 60, 80, 3), 255, np.uint8)]
        ),
        _noise(256),
        _noise(3),
        np.repeat(_noise(256)[:2], 2, axis=0)[:3],
        np.repeat(texture(4, 12, 300)[None], 4, axis=0)[:, :, ::-1],
        _noise(256)[:, :1, :1],
    ],
    ids=["flash", "noise", "faint noise", "odd number", "wide", "one pixel"],
)
@pytest.mark.parametrize("method", ["flow", "paper", "difference"])
@pytest.mark.filterwarnings("error")
def test_odd_clips_give_a_map_without_warnings(method: motion.Method, frames: np.ndarray) -> None:
    assert map_clip(method, frames, height=16, width=21).shape == (16, 21)


def test_a_scene_cut_does_not_drown_the_object() -> None:
    """The cut falls inside a pair: its flow is wild, but one pair of five counts no more than
    another.
    """
    first, second = (
        render(WorldSpec(videos=12, frames=31, camera_motion=True, seed=5), index)
        for index in (2, 3)
    )
    frames = np.concatenate(
        [first.frames_THWC[:16:2], second.frames_THWC[16::2]]
    )  # the pair (7, 8) holds the cut
    truth = np.concatenate([first.mask_THW[:16:2], second.mask_THW[16::2]]).mean(0) >= 0.25
    assert auc(flow_score(frames, height=96, width=128)[::3, ::3], truth[::3, ::3]) > 0.8


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    height=st.integers(1, 70),
    width=st.integers(1, 90),
    frames=st.integers(2, 5),
)
def test_any_clip_gives_a_map_of_the_asked_size_that_spans_the_bytes(
    seed: int, height: int, width: int, frames: int
) -> None:
    rng = numpy_generator(seed, 0, 0, "clip")
    clip = rng.integers(
        0, 256, (frames, int(rng.integers(1, 90)), int(rng.integers(1, 90)), 3)
    ).astype(np.uint8)
    before = clip.copy()
    score = flow_score(clip, height=height, width=width)
    assert score.shape == (height, width)
    assert (score.min(), score.max()) in ((0, 0), (0, 255))
    assert np.array_equal(clip, before)


def test_the_bytes_do_not_depend_on_threads_and_their_number_is_restored() -> None:
    frames, _ = world_clip(0, camera=True)
    threads = cv2.getNumThreads(), torch.get_num_threads()
    maps: dict[str, list[bytes]] = {"flow": [], "paper": [], "difference": []}
    try:
        for count in (1, 2, 1):
            cv2.setNumThreads(count)
            torch.set_num_threads(count)
            for method, seen in maps.items():
                seen.append(map_clip(method, frames, height=24, width=32).tobytes())
            assert (cv2.getNumThreads(), torch.get_num_threads()) == (count, count)
    finally:
        cv2.setNumThreads(threads[0])
        torch.set_num_threads(threads[1])
    assert all(len(set(seen)) == 1 for seen in maps.values())


def test_paper_and_seed_are_the_librarys_at_the_size_of_the_map() -> None:
    frames, _ = world_clip(1, camera=False)
    small = np.stack(
        [cv2.resize(frame, (32, 24), interpolation=cv2.INTER_AREA) for frame in frames]
    )
    clip = torch.from_numpy(small).permute(3, 0, 1, 2)[None].float() / 255
    for method, score in (("paper", paper_score), ("difference", motion_score)):
        expected = score(clip)[0].numpy() * 255
        assert np.abs(map_clip(method, frames, height=24, width=32) - expected).max() <= 0.5


def terms(count: int, rng: np.random.Generator) -> np.ndarray:
    y, x = rng.uniform(-1, 1, (2, count)).astype(np.float32)
    return np.stack([np.ones_like(y), y, x, y * x], axis=1)


def test_the_camera_fit_recovers_a_motion_under_gross_outliers() -> None:
    rng = numpy_generator(0, 0, 0, "camera")
    term = terms(400, rng)
    truth = rng.normal(0, 2, (3, 4, 2)).astype(np.float32)
    truth[:, 3] = 0
    flow = term @ truth
    flow[:, :140] += (8, -5)  # a third of the pixels move on their own, all the same way
    camera, typical = motion._fit_camera(flow, term, trust_N=np.ones(400, np.float32))
    np.testing.assert_allclose(camera, truth, atol=0.05)
    assert (typical < 0.1).all()


def test_trust_decides_whose_motion_is_the_cameras_where_a_mover_fills_most_of_the_frame() -> None:
    rng = numpy_generator(2, 0, 0, "camera")
    flow = np.zeros((1, 400, 2), np.float32)
    flow[:, :240] = (4, 1)
    trust = np.where(np.arange(400) < 240, 0.01, 1).astype(np.float32)
    camera, _ = motion._fit_camera(flow, terms(400, rng), trust_N=trust)
    np.testing.assert_allclose(camera, 0, atol=0.05)


def test_slow_oracle_of_the_weighted_fit() -> None:
    rng = numpy_generator(1, 0, 0, "camera")
    term = terms(50, rng)
    flow, weight = (
        rng.normal(0, 1, (2, 50, 2)).astype(np.float32),
        rng.uniform(0.1, 1, (2, 50)).astype(np.float32),
    )
    camera, left = motion._fit_weighted(flow, term, weight)
    for p in range(2):
        root = np.sqrt(weight[p])[:, None].astype(np.float64)
        # The stiffness of the bilinear term is one more row of data that says it is 0.
        stiff = np.sqrt([[0, 0, 0, 0.1 * weight[p].sum()]])
        expected, *_ = np.linalg.lstsq(
            np.concatenate([root * term, stiff]),
            np.concatenate([root * flow[p], np.zeros((1, 2))]),
            rcond=None,
        )
        np.testing.assert_allclose(camera[p], expected, atol=1e-4)
        np.testing.assert_allclose(
            left[p], np.linalg.norm(flow[p] - term @ expected, axis=1), atol=1e-4
        )


def test_ripples_cancel_where_a_mover_does_not() -> None:
    """Small things that go to and fro, as water does, beside a patch that moves as one."""
    flow = np.zeros((1, 96, 96, 2), np.float32)
    checkers = np.indices((96, 40)).sum(0) // 4 % 2 * 2 - 1
    flow[0, :, 56:, 0] = 3 * checkers
    flow[0, 30:60, 10:40, 0] = 3
    smooth = motion._unexplained(flow, FlowParameters())[0]
    plain = motion._unexplained(flow, FlowParameters(smoothing=0.0))[0]
    mover, ripples = (slice(35, 55), slice(15, 35)), (slice(20, 76), slice(66, 86))
    assert plain[mover].mean() == pytest.approx(plain[ripples].mean(), rel=0.1)
    assert smooth[mover].mean() > 4 * smooth[ripples].mean()


def test_davis_stays_above_what_is_promised_on_a_hard_window(footage: Path) -> None:
    frames = [
        cv2.imread(str(path))
        for path in sorted((footage / "davis/drift-straight/frames").glob("*.jpg"))[:32:2]
    ]
    masks = [
        cv2.imread(str(path), 0)
        for path in sorted((footage / "davis/drift-straight/masks").glob("*.png"))[:32:2]
    ]
    small = np.stack(
        [cv2.resize(frame, (224, 224), interpolation=cv2.INTER_AREA)[..., ::-1] for frame in frames]
    )
    truth = (
        np.mean(
            [cv2.resize(mask, (56, 56), interpolation=cv2.INTER_NEAREST) > 127 for mask in masks],
            axis=0,
        )
        >= 0.5
    )
    score = flow_score(small, height=56, width=56)
    assert (score >= np.median(score))[truth].mean() > 0.97
    assert auc(score, truth) > 0.92


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((1, 8, 8, 3), np.uint8),
        np.zeros((4, 8, 8, 1), np.uint8),
        np.zeros((4, 8, 8), np.uint8),
        np.zeros((4, 8, 8, 3), np.float32),
        np.zeros((4, 0, 8, 3), np.uint8),
    ],
    ids=["one frame", "grey", "no channels", "float", "empty"],
)
def test_bad_clips_are_refused_by_shape_and_dtype(frames: UInt8[np.ndarray, "..."]) -> None:
    for method in ("flow", "paper", "difference", "none"):
        with pytest.raises(
            ValueError, match=r"uint8 \[T, H, W, 3\] with T >= 2, got " + str(frames.dtype)
        ):
            map_clip(method, frames, height=4, width=4)


def test_bad_options_are_refused_by_value() -> None:
    frames = np.zeros((2, 8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match="'optic'"):
        map_clip("optic", frames, height=4, width=4)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="0 x 4"):
        map_clip("flow", frames, height=0, width=4)
    for bad in ({"size": 8}, {"levels": 4}, {"noise": 0.0}, {"saturation": -1.0}, {"centre": 1.5}):
        with pytest.raises(ValueError, match=str(next(iter(bad.values())))):
            FlowParameters(**bad)
