from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fame import foreground
from fame.foreground import (
    foreground_mask,
    gauss_score,
    grid_score,
    median_score,
    motion_score,
    paper_score,
    top_fraction,
)
from fame.randomness import generator, numpy_generator
from tests import oracle_foreground as oracle

SCORES = (paper_score, motion_score, median_score, gauss_score)
seeds = st.integers(0, 2**32)


def random_clip(
    seed: int, *, batch: int = 2, frames: int = 4, height: int = 24, width: int = 30
) -> torch.Tensor:
    """A bright square that moves over noise; a little noise in every frame, so that no two pixels
    tie in motion.
    """
    rng = numpy_generator(seed, 0, 0, "clip")
    clip = np.repeat(rng.random((batch, 3, 1, height, width)), frames, axis=2) * 0.8
    for b in range(batch):
        top, left = rng.integers(0, height - 9), rng.integers(0, width - 8 - frames)
        for t in range(frames):
            clip[b, :, t, top : top + 9, left + t : left + t + 8] = (
                rng.random((3, 9, 8)) * 0.3 + 0.6
            )
    clip += rng.random(clip.shape) * 0.05
    return torch.from_numpy(clip.clip(0, 1).astype(np.float32))


@pytest.mark.parametrize("group", ["toy64", "real112", "real224"])
def test_paper_score_and_masks_match_the_reference(
    golden: Path, group: str, device: torch.device
) -> None:
    with np.load(golden / "foreground_reference.npz") as file:
        clip = (
            torch.from_numpy(file[f"{group}/clips"])
            .permute(0, 4, 1, 2, 3)
            .float()
            .div(255)
            .to(device)
        )
        motion, score = (torch.from_numpy(file[f"{group}/{name}"]) for name in ("motion", "score"))
        masks = {beta: file.get(f"{group}/mask_beta_{beta}") for beta in (0.3, 0.5)}
    torch.testing.assert_close(motion_score(clip).cpu(), motion, rtol=0, atol=1e-5)
    ours = paper_score(clip)
    torch.testing.assert_close(ours.cpu(), score, rtol=0, atol=1e-4)
    assert masks[0.5] is not None
    for beta, packed in masks.items():
        if packed is not None:
            theirs = torch.from_numpy(np.unpackbits(packed, axis=-1)).bool()
            assert (top_fraction(ours, beta).cpu() == theirs).float().mean() >= 0.995


def nudged(clip_CTHW: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    """The clip, then it within rounding: a colour on the edge between two levels may fall on either
    side.
    """
    yield clip_CTHW
    rng = numpy_generator(seed, 0, 0, "nudge")
    for _ in range(8):
        yield clip_CTHW + rng.uniform(-1e-6, 1e-6, clip_CTHW.shape)


@settings(max_examples=6, deadline=None)
@given(seed=seeds, hue=st.sampled_from(["reference", "correct"]))
def test_scores_match_the_slow_oracle(seed: int, hue: str) -> None:
    clip = random_clip(seed)
    for one, motion, paper in zip(
        clip.double().numpy(), motion_score(clip), paper_score(clip, hue=hue), strict=True
    ):
        np.testing.assert_allclose(motion.numpy(), oracle.motion_score(one), atol=1e-5)
        errors = (
            np.abs(paper.numpy() - oracle.paper_score(like, hue=hue)).mean()
            for like in nudged(one, seed)
        )
        assert any(error < 1e-5 for error in errors)


@settings(max_examples=8, deadline=None)
@given(seed=seeds, frames=st.integers(2, 6), height=st.sampled_from([9, 24, 45]))
def test_the_map_of_every_frame_matches_the_slow_oracle(seed: int, frames: int, height: int):
    clip = random_clip(seed, frames=frames, height=max(height, 12))[..., :height, :]
    for one, score in zip(clip.double().numpy(), median_score(clip), strict=True):
        np.testing.assert_allclose(score.numpy(), oracle.median_score(one), atol=1e-5)


def test_the_map_of_every_frame_follows_the_mover():
    clip = torch.zeros(1, 3, 6, 20, 60)
    for t in range(6):
        clip[:, :, t, 5:15, 10 * t : 10 * t + 10] = 1
    mask = foreground_mask(median_score(clip), 101 / 1200)
    for t in range(6):
        inside = mask[0, t, :, 10 * t : 10 * t + 10].sum()
        assert int(mask[0, t].sum()) == 101
        assert inside >= 90


@settings(max_examples=30, deadline=None)
@given(seed=seeds, beta=st.floats(0.05, 1), cut=st.sampled_from(["frame", "clip", "adaptive"]))
def test_masks_keep_the_highest_of_a_frame_or_of_a_clip(seed: int, beta: float, cut: str):
    rng = numpy_generator(seed, 0, 0, "score")
    score = torch.from_numpy(rng.random((2, 3, 6, 7), dtype=np.float32) ** 3)
    masks = foreground_mask(score, beta, cut=cut)
    for one, mask in zip(score, masks, strict=True):
        if cut == "frame":
            assert torch.equal(mask, top_fraction(one, beta))
            continue
        kept = int(beta * 126)
        if cut == "adaptive":
            kept = oracle.best_cut(one.numpy(), max(1, int(beta * 126 / 5)), max(1, kept))
        assert int(mask.sum()) == kept
        if 0 < kept < 126:
            assert one[mask].min() >= one[~mask].max()


def test_an_adaptive_mask_is_as_large_as_the_mover_within_bounds():
    score = torch.full((3, 2, 10, 10), 0.1)
    for clip, size in enumerate((3, 30, 90)):
        score[clip].view(2, 100)[:, :size] = 0.9
    assert foreground_mask(score, 0.5, cut="adaptive").sum((1, 2, 3)).tolist() == [20, 60, 100]


@pytest.mark.parametrize("cut", ["frame", "clip", "adaptive"])
@pytest.mark.parametrize("shape", [(2, 6, 7), (2, 3, 6, 7)])
def test_a_clip_without_foreground_is_kept_whole(cut: str, shape: tuple[int, ...]):
    score = torch.rand(shape, generator=generator(0, 0, 0, "flat"))
    score[0] = 0
    mask = foreground_mask(score, 0.5, cut=cut)
    assert mask[0].all()
    assert not mask[1].all()


def test_a_frame_without_foreground_is_cut_by_the_clips_mean_map():
    score = torch.rand(1, 3, 6, 7, generator=generator(0, 0, 0, "flat"))
    score[0, 1] = 0
    mask = foreground_mask(score, 0.5)
    assert torch.equal(mask[0, 1], top_fraction(score.mean(1), 0.5)[0])


def test_fast_score_equals_the_straightforward_one() -> None:
    clip = random_clip(3, batch=3, height=64, width=48)
    torch.testing.assert_close(
        paper_score(clip), oracle.straightforward_score(clip), rtol=0, atol=1e-5
    )


def test_clips_scored_in_parts_score_as_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    clip = random_clip(8, batch=5)
    whole = paper_score(clip)
    for at_once in (1, 2, 4):
        monkeypatch.setattr(foreground, "_PART", at_once * 24 * 30 + 1)
        assert torch.equal(paper_score(clip), whole)
    clip[3, 0, 1, 2, 3] = float("nan")
    with pytest.raises(ValueError, match="item 3 of the batch"):
        paper_score(clip)


def test_gauss_score_falls_off_from_the_centre() -> None:
    score = gauss_score(torch.zeros(2, 3, 2, 9, 13))
    expected = [
        [np.exp(-(((y - 4) / 2.25) ** 2 + ((x - 6) / 3.25) ** 2) / 2) for x in range(13)]
        for y in range(9)
    ]
    np.testing.assert_allclose(score[1].numpy(), expected, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=seeds, cells=st.integers(1, 6), height=st.integers(6, 20), width=st.integers(6, 20))
def test_grid_score_is_constant_in_each_cell(
    seed: int, cells: int, height: int, width: int
) -> None:
    clip = torch.zeros(3, 3, 2, height, width)
    score = grid_score(clip, generator=generator(seed, 0, 0, "grid"), cells=cells)
    draw = torch.rand(3, cells, cells, generator=generator(seed, 0, 0, "grid"))
    for y in range(height):
        for x in range(width):
            assert torch.equal(score[:, y, x], draw[:, y * cells // height, x * cells // width])


@settings(max_examples=30, deadline=None)
@given(seed=seeds, beta=st.floats(0, 1, exclude_min=True), levels=st.integers(1, 50))
def test_mask_has_exactly_k_pixels_and_none_higher_outside(
    seed: int, beta: float, levels: int
) -> None:
    rng = numpy_generator(seed, 0, 0, "score")
    score = torch.from_numpy(rng.integers(0, levels, (3, 11, 7)).astype(np.float32))
    mask = top_fraction(score, beta)
    assert mask.sum((1, 2)).tolist() == [int(beta * 77)] * 3
    for one, chosen in zip(score, mask, strict=True):
        if 0 < int(chosen.sum()) < 77:
            assert one[chosen].min() >= one[~chosen].max()
    assert torch.equal(mask, top_fraction(score.clone(), beta)), "ties must not be broken by chance"


@settings(max_examples=6, deadline=None)
@given(seed=seeds)
@pytest.mark.parametrize("score", SCORES)
def test_scores_follow_flips_and_batch_order(score, seed: int) -> None:
    clip = random_clip(seed, batch=3)
    straight = score(clip)
    for axis in (-1, -2):
        # Mirrored sums round differently; one pixel that changes sides in a ranking moves one count
        # of a histogram.
        assert (score(clip.flip(axis)) - straight.flip(axis)).abs().mean() < 2e-3
    assert torch.equal(score(clip[[2, 0, 1]]), straight[[2, 0, 1]])
    assert torch.equal(score(clip[1:2]), straight[1:2])


@pytest.mark.parametrize("score", SCORES)
def test_scores_span_0_to_1_leave_the_clip_alone_and_track_no_gradient(
    score, device: torch.device
) -> None:
    clip = random_clip(1).to(device).requires_grad_()
    before = clip.detach().clone()
    result = score(clip)
    assert (
        result.dtype == torch.float32
        and result.device.type == device.type
        and not result.requires_grad
    )
    assert result.min() >= 0 and result.max() <= 1
    assert torch.equal(clip, before)


def test_half_precision_clips_score_as_their_float32_copies(device: torch.device) -> None:
    clip = random_clip(2).to(device)
    for dtype in (torch.bfloat16, torch.float16):
        assert torch.equal(paper_score(clip.to(dtype)), paper_score(clip.to(dtype).float()))
        torch.testing.assert_close(
            motion_score(clip.to(dtype)), motion_score(clip), rtol=0, atol=0.02
        )
        assert (paper_score(clip.to(dtype)) - paper_score(clip)).abs().mean() < 0.05


def test_autocast_and_memory_layout_change_nothing(device: torch.device) -> None:
    clip = random_clip(4).to(device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        assert torch.equal(paper_score(clip), paper_score(clip.clone()))
    channels_last = clip.permute(0, 2, 3, 4, 1).contiguous().permute(0, 4, 1, 2, 3)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        under_autocast = paper_score(channels_last)
    assert torch.equal(under_autocast, paper_score(clip))


@pytest.mark.parametrize("value", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("score", [paper_score, motion_score])
def test_where_nothing_changes_the_map_is_uniform(score, value: float) -> None:
    still = random_clip(5)[:, :, :1].expand(-1, -1, 4, -1, -1)
    for clip in (torch.full((2, 3, 4, 12, 12), value), still):
        assert torch.equal(score(clip), torch.zeros(2, *clip.shape[3:]))
        assert (
            top_fraction(score(clip), 0.5).sum((1, 2)).tolist() == [clip[0, 0, 0].numel() // 2] * 2
        )


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 40), (64, 8)])
def test_small_and_long_frames_give_finite_maps(size: tuple[int, int]) -> None:
    clip = torch.rand(2, 3, 3, *size, generator=generator(0, 0, 0, "small"))
    for score in SCORES:
        assert score(clip).isfinite().all()
        assert score(clip).shape[-2:] == size


@pytest.mark.parametrize("shape", [(2, 1, 4, 8, 8), (2, 3, 1, 8, 8), (2, 3, 4, 0, 8)])
@pytest.mark.parametrize("score", SCORES)
def test_bad_clips_are_refused_by_shape(score, shape: tuple[int, ...]) -> None:
    with pytest.raises(
        ValueError, match=r"\[B, 3, T, H, W\].*" + str(list(shape)).replace("[", r"\[")
    ):
        score(torch.zeros(shape))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("score", [paper_score, motion_score])
def test_values_that_are_not_finite_are_refused_by_item(score, bad: float) -> None:
    clip = random_clip(6)
    clip[1, 2, 3, 4, 5] = bad
    with pytest.raises(ValueError, match="item 1 of the batch"):
        score(clip)


def test_bad_options_are_refused_by_value() -> None:
    clip = random_clip(7)
    with pytest.raises(
        Exception, match="'true'"
    ):  # by the type check in tests, by the function elsewhere
        paper_score(clip, hue="true")
    for beta in (0.0, -0.5, 1.01, float("nan")):
        with pytest.raises(ValueError, match=r"\(0, 1\]"):
            top_fraction(clip[:, 0, 0], beta)
    with pytest.raises(ValueError, match="item 0"):
        top_fraction(torch.full((1, 2, 2), float("nan")), 0.5)
    for cells in (0, 25):
        with pytest.raises(ValueError, match=f"got {cells}"):
            grid_score(clip, generator=generator(0, 0, 0, "grid"), cells=cells)


def test_clips_that_are_not_float_are_refused() -> None:
    with pytest.raises(Exception, match="clip_BCTHW"):
        paper_score(torch.zeros(2, 3, 4, 8, 8, dtype=torch.uint8))
