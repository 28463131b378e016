"""Merging in anyone's loop: equal to our own path, on any layout, and refused where it cannot be right."""

import warnings
from collections.abc import Callable

import pytest
import torch

import fame
from fame.foreground import motion_score, top_fraction
from fame.merging import derangement, merge, merge_with


def clips(batch: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.rand(batch, 3, 4, 16, 20, generator=torch.Generator().manual_seed(seed))


def drawn(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_equals_the_functions_it_stands_on():
    clip_BCTHW = clips()
    mask_BHW = top_fraction(motion_score(clip_BCTHW), 0.3)
    expected = merge(clip_BCTHW, mask_BHW, derangement(4, generator=drawn()))
    assert torch.equal(fame.Merge(0.3, generator=drawn())(clip_BCTHW), expected)


def test_equals_the_views_of_pretraining():
    from fame.randomness import generator
    from tests.train.tiny import TINY
    from train.data import Pairs
    from train.views import draw_views, merge_views

    config = TINY.override(["mask=seed", "merge_group=none", "beta=0.4"])
    clip_BCTHW = clips(8)
    pairs = Pairs(torch.empty(8, 2, 4, 16, 20, 3), torch.empty(0), torch.arange(8))
    draws = draw_views(pairs, config, epoch=2, step=5)
    ours = merge_views([clip_BCTHW, clip_BCTHW], [], draws, config)[0]
    theirs = fame.Merge(0.4, generator=generator(config.seed, 2, 5, "background/0"))
    assert torch.equal(theirs(clip_BCTHW), ours)


def test_the_layout_of_torchvision_gives_the_same_clips():
    clip_BCTHW = clips()
    merged = fame.Merge(generator=drawn(), layout="BTCHW")(clip_BCTHW.transpose(1, 2))
    assert torch.equal(merged.transpose(1, 2), fame.Merge(generator=drawn())(clip_BCTHW))


def test_bytes_are_merged_where_their_colours_are():
    bytes_BCTHW = (clips() * 255).round().byte()
    merged = fame.Merge(generator=drawn())(bytes_BCTHW)
    colours = fame.Merge(generator=drawn())(bytes_BCTHW.float() / 255)
    assert merged.dtype == torch.uint8
    assert torch.equal(merged, (colours * 255).round().byte())


def test_colours_that_interpolation_rounds_above_1_are_colours():
    clip_BCTHW = clips().clamp(min=0.5) * (1 + 2e-6) / clips().max()
    assert 1 < clip_BCTHW.max() < 1.001
    assert fame.Merge(generator=drawn())(clip_BCTHW).max() == clip_BCTHW.max()
    with pytest.raises(ValueError, match=r"colours in 0\.\.1, got 0\.505\.\.1\.01:"):
        fame.Merge()(clip_BCTHW * 1.01)


def test_given_maps_of_any_size_replace_the_score():
    clip_BCTHW = clips()
    left_BHW = torch.zeros(4, 16, 20)
    left_BHW[:, :, :10] = 1
    merged = fame.Merge(generator=drawn())(clip_BCTHW, left_BHW)
    assert torch.equal(merged[..., :10], clip_BCTHW[..., :10])
    small = fame.Merge(generator=drawn())(clip_BCTHW, left_BHW[:, ::4, ::5].byte())
    assert torch.equal(small, merged)


def test_a_function_may_be_the_score():
    merged = fame.Merge(generator=drawn(), score=motion_score)(clips())
    assert torch.equal(merged, fame.Merge(generator=drawn())(clips()))


def test_labels_follow_the_foreground():
    labels = torch.arange(4)
    merged, same = fame.Merge(generator=drawn())(clips(), labels=labels)
    assert same is labels
    assert torch.equal(merged, fame.Merge(generator=drawn())(clips()))


def test_backgrounds_from_the_same_video():
    merged = fame.Merge(background="intra")(clips(), others=clips(seed=1))
    mask_BHW = top_fraction(motion_score(clips()), 0.5)
    assert torch.equal(merged, merge_with(clips(), mask_BHW, clips(seed=1)))


@pytest.mark.parametrize(("p", "low", "high"), [(0.0, 0, 0), (0.5, 20, 44), (1.0, 64, 64)])
def test_a_share_p_of_the_clips_is_merged(p: float, low: int, high: int):
    clip_BCTHW = clips(64)
    merged = fame.Merge(p=p, generator=drawn())(clip_BCTHW)
    assert low <= int((merged != clip_BCTHW).flatten(1).any(1).sum()) <= high


@pytest.mark.parametrize("count", [2, 8, 9, 15, 16, 17, 25])
def test_groups_never_leave_one_clip_alone(count: int):
    number_BCTHW = (torch.arange(count) / count).view(-1, 1, 1, 1, 1).expand(-1, 3, 2, 4, 4)
    left_BHW = (torch.arange(4) < 2).expand(count, 4, 4)
    merged = fame.Merge(group=8, generator=drawn())(number_BCTHW, left_BHW)
    sources = (merged[:, 0, 0, 0, 3] * count).round().int().tolist()  # of the right half
    assert sorted(sources) == list(range(count))
    last = count - 9 if count % 8 == 1 and count > 8 else count - (count % 8 or 8)
    for row, source in enumerate(sources):
        assert row != source
        group = row // 8 if row < last else -1
        assert group == (source // 8 if source < last else -1)


def test_one_clip_comes_back_unmerged_and_says_so():
    clip = clips(1)
    with pytest.warns(UserWarning, match="a batch of 1 has no other background"):
        merged = fame.Merge()(clip)
    assert torch.equal(merged, clip)


def test_the_input_is_left_alone_and_nothing_global_is_drawn_from():
    clip_BCTHW = clips()
    before = clip_BCTHW.clone()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fame.Merge(p=0.5, generator=drawn())(clip_BCTHW)
    assert torch.equal(clip_BCTHW, before)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (lambda: fame.Merge()(clips() * 255), "colours in 0..1, got .*merge before normalising"),
        (lambda: fame.Merge()(clips() - 0.5), "colours in 0..1"),
        (lambda: fame.Merge()(clips() * float("nan")), "colours in 0..1"),
        (lambda: fame.Merge()(clips().transpose(1, 2)), "clips must be BCTHW with 3 channels"),
        (lambda: fame.Merge()(clips()[0]), "clips must be BCTHW"),
        (lambda: fame.Merge()((clips() * 255).int()), "floats in 0..1 or uint8"),
        (
            lambda: fame.Merge()(clips(), torch.ones(3, 16, 20)),
            r"maps must be \[4, height, width\]",
        ),
        (lambda: fame.Merge(score=lambda c: c[:, 0, 0, 0])(clips()), "the score must give"),
        (lambda: fame.Merge()(clips(), others=clips()), "background='intra' only"),
        (lambda: fame.Merge(background="intra")(clips()), "background='intra' only"),
        (lambda: fame.Merge(beta=0.0), "beta must be above 0"),
        (lambda: fame.Merge(p=2.0), "p must be"),
        (lambda: fame.Merge(group=1), "group must be at least 2"),
        (lambda: fame.Merge(score="flow"), "score must be motion, paper"),
        (lambda: fame.Merge(background="other"), "background must be"),
        (lambda: fame.Merge(layout="BHWC"), "layout must be"),
    ],
)
def test_what_cannot_be_right_is_refused(bad: Callable[[], object], says: str):
    with pytest.raises(ValueError, match=says):
        bad()


def test_the_package_names_what_it_offers():
    assert {"Merge", "load", "ClipStore", "flow_map", "top_fraction"} <= set(dir(fame))
    for name in dir(fame):
        assert getattr(fame, name) is not None
    assert repr(fame.Merge(beta=0.25)).startswith("Merge(beta=0.25")
