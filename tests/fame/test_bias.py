"""Taking clips apart and exchanging their parts, against slow counterparts."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fame.bias import VARIANTS, choose_partners, draw_variants, neutral_like, over, take_apart
from fame.randomness import generator

seeds = st.integers(0, 2**31)


def few_colours(
    seed: int, frames: int = 5, height: int = 6, width: int = 7
) -> tuple[Tensor, Tensor]:
    """A clip of a few colours, so that pixels agree over time, with a little noise, and a mask."""
    rng = np.random.default_rng(seed)
    palette = rng.integers(0, 256, (3, 3))
    colour_THW = rng.choice(3, (frames, height, width), p=(0.7, 0.2, 0.1))
    noise = rng.integers(-6, 7, (frames, height, width, 3))
    mask_HW = rng.random((height, width)) < 0.5
    mask_HW[0, 0] = False
    clip_THWC = np.clip(palette[colour_THW] + noise, 0, 255).astype(np.uint8)
    return torch.from_numpy(clip_THWC), torch.from_numpy(mask_HW)


def variants(seed: int) -> dict[str, Tensor]:
    clip, mask = few_colours(seed)
    drawn = draw_variants(
        clip, mask, *few_colours(seed + 1), generator=generator(seed, 0, 0, "test")
    )
    return dict(zip(VARIANTS, drawn, strict=True))


def slow_take_apart(clip: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixel by pixel, as the docstring says it."""
    frames, height, width, _ = clip.shape
    pixels = [(y, x) for y in range(height) for x in range(width)]
    middle = {
        (y, x): np.array([sorted(clip[:, y, x, c])[(frames - 1) // 2] for c in range(3)], int)
        for y, x in pixels
    }
    outside = [middle[pixel] // 16 for pixel in pixels if not mask[pixel]]
    occurs = {
        tuple(level) for level in outside if sum((level == other).all() for other in outside) >= 2
    }
    fill = np.round(
        np.mean([clip[:, y, x] for y, x in pixels if not mask[y, x]], axis=(0, 1)).astype(
            np.float32
        )
    )
    cover, background = np.zeros(clip.shape[:3], bool), clip.copy()
    for y, x in pixels:
        if not mask[y, x]:
            continue
        differs = [max(abs(clip[t, y, x].astype(int) - middle[y, x])) > 24 for t in range(frames)]
        seen = any(max(abs(middle[y, x] // 16 - np.array(level))) <= 1 for level in occurs)
        known = sum(differs) <= frames / 2 and seen
        cover[:, y, x] = differs if known else True
        background[:, y, x] = middle[y, x] if known else fill
    return cover, background


@given(seed=seeds, frames=st.integers(2, 7))
@settings(max_examples=40)
def test_taking_apart_equals_a_slow_counterpart(seed: int, frames: int) -> None:
    clip, mask = few_colours(seed, frames)
    cover, background = take_apart(clip, mask)
    slow_cover, slow_background = slow_take_apart(clip.numpy(), mask.numpy())
    assert np.array_equal(cover.numpy(), slow_cover)
    assert np.array_equal(background.numpy(), slow_background)


def test_a_mover_is_cut_out_and_the_background_behind_it_is_found() -> None:
    """A red block crosses a grey ramp; the mask covers its whole way and more."""
    ramp = torch.arange(40, 200, 4, dtype=torch.uint8)[None, :, None].expand(12, 40, 3)
    clip, truth = ramp.expand(10, 12, 40, 3).clone(), torch.zeros(10, 12, 40, dtype=torch.bool)
    for t in range(10):
        clip[t, 4:8, 3 * t : 3 * t + 6] = torch.tensor([255, 0, 0], dtype=torch.uint8)
        truth[t, 4:8, 3 * t : 3 * t + 6] = True
    mask = torch.zeros(12, 40, dtype=torch.bool)
    mask[2:10] = True
    cover, background = take_apart(clip, mask)
    assert torch.equal(cover, truth)
    assert torch.equal(background, ramp.expand_as(clip))


def test_a_mover_that_stays_is_not_taken_for_background() -> None:
    clip = torch.full((6, 8, 8, 3), 90, dtype=torch.uint8)
    clip[:, 2:5, 2:5] = torch.tensor([250, 10, 10], dtype=torch.uint8)  # nowhere else in the clip
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[1:6, 1:6] = True
    cover, background = take_apart(clip, mask)
    assert cover[:, 2:5, 2:5].all()
    assert (background == 90).all()


def test_what_never_settles_is_filled_with_the_mean_of_the_rest() -> None:
    clip = torch.full((4, 6, 6, 3), 100, dtype=torch.uint8)
    clip[:, 2, 2] = torch.tensor([0, 60, 120, 180], dtype=torch.uint8)[:, None]
    mask = torch.zeros(6, 6, dtype=torch.bool)
    mask[2, 2] = True
    cover, background = take_apart(clip, mask)
    assert cover[:, 2, 2].all()
    assert (background == 100).all()


@given(seed=seeds)
def test_swapping_the_background_back_restores_the_clip(seed: int) -> None:
    clip, mask = few_colours(seed)
    cover, _ = take_apart(clip, mask)
    swapped = variants(seed)["background swapped"]
    assert torch.equal(over(swapped, cover, clip), clip)


@given(seed=seeds)
def test_parts_come_from_where_they_should(seed: int) -> None:
    (clip, mask), (other, other_mask) = few_colours(seed), few_colours(seed + 1)
    (cover, background), (other_cover, other_background) = (
        take_apart(clip, mask),
        take_apart(other, other_mask),
    )
    drawn = variants(seed)
    assert torch.equal(drawn["original"], clip)
    assert torch.equal(drawn["background only"], background)
    for name, back in (
        ("foreground only", neutral_like(clip)),
        ("background swapped", other_background),
    ):
        assert torch.equal(drawn[name][cover], clip[cover])
        assert torch.equal(drawn[name][~cover], back[~cover])
    assert torch.equal(drawn["foreground swapped"][other_cover], other[other_cover])
    assert torch.equal(drawn["foreground swapped"][~other_cover], background[~other_cover])


@given(seed=seeds)
def test_time_is_all_that_changes_when_frames_are_reordered(seed: int) -> None:
    clip, drawn = few_colours(seed)[0], variants(seed)
    assert torch.equal(drawn["frames reversed"].flip(0), clip)
    frames = [frame.numpy().tobytes() for frame in clip]
    shuffled = [frame.numpy().tobytes() for frame in drawn["frames shuffled"]]
    assert sorted(shuffled) == sorted(frames)
    if len(set(frames)) == len(frames):
        assert all(before != after for before, after in zip(frames, shuffled, strict=True))
    repeated = {frame.numpy().tobytes() for frame in drawn["frame repeated"]}
    assert len(repeated) == 1
    assert repeated <= set(frames)


def test_clips_that_cannot_be_taken_apart_are_refused() -> None:
    clip, mask = few_colours(0)
    with pytest.raises(ValueError, match="leaves no background"):
        take_apart(clip, torch.ones_like(mask))
    with pytest.raises(ValueError, match="1 frame"):
        draw_variants(clip[:1], mask, clip[:1], mask, generator=generator(0, 0, 0, "test"))


@given(seed=seeds, videos=st.integers(4, 30), known=st.booleans())
def test_partners_are_of_another_class_and_on_another_background(
    seed: int, videos: int, known: bool
) -> None:
    label_V, background_V = torch.arange(videos) % 2, torch.arange(videos) // 2 % 2
    chosen = choose_partners(label_V, seed=seed, background_V=background_V if known else None)
    assert torch.equal(
        chosen, choose_partners(label_V, seed=seed, background_V=background_V if known else None)
    )
    assert (label_V[chosen] != label_V).all()
    assert not known or (background_V[chosen] != background_V).all()


def test_every_possible_partner_is_drawn() -> None:
    label_V = torch.tensor([0, 0, 1, 2])
    drawn = {int(choose_partners(label_V, seed=seed)[0]) for seed in range(40)}
    assert drawn == {2, 3}


def test_a_video_without_a_partner_is_named() -> None:
    label_V, background_V = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1])
    with pytest.raises(
        ValueError, match="in video b: no video is of another class on another background"
    ):
        choose_partners(label_V, seed=0, background_V=background_V, names=["a", "b", "c"])
    with pytest.raises(ValueError, match=r"in video 0: no video is of another class$"):
        choose_partners(torch.zeros(3, dtype=torch.int64), seed=0)
