"""Merging in anyone's loop: equal to our own path, on any layout, and refused where it cannot be right."""

import copy
import pickle
import subprocess
import sys
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


@pytest.mark.parametrize("score", ["motion", "paper", "median"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_float_is_merged_and_keeps_its_type(score: str, dtype: torch.dtype):
    clip_BCTHW = clips().to(dtype)
    merged = fame.Merge(score=score, generator=drawn())(clip_BCTHW)
    assert merged.dtype == dtype and merged.shape == clip_BCTHW.shape
    source = derangement(4, generator=drawn())
    assert ((merged == clip_BCTHW) | (merged == clip_BCTHW[source])).all()
    assert not torch.equal(merged, clip_BCTHW)


def test_memory_of_any_order_gives_the_same_clips():
    clip_BCTHW = clips()
    expected = fame.Merge(generator=drawn())(clip_BCTHW)
    last = clip_BCTHW.to(memory_format=torch.channels_last_3d)
    mirrored = clip_BCTHW.transpose(3, 4).contiguous().transpose(3, 4)
    for other in (last, mirrored):
        assert not other.is_contiguous()
        assert torch.equal(fame.Merge(generator=drawn())(other), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(fame.Merge(generator=drawn())(clip_BCTHW), expected)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda merge: pickle.loads(pickle.dumps(merge))])
def test_a_copy_draws_as_the_first_would(copied: Callable[[fame.Merge], fame.Merge]):
    merge = fame.Merge(p=0.5, score="paper", generator=drawn())
    other = copied(merge)
    assert torch.equal(merge(clips()), other(clips()))
    assert merge.state_dict() == {} and not list(merge.parameters())


# As a user has it, without the checks of annotations that the tests run under.
SCRIPT = """
import torch, fame

clips = torch.rand(4, 3, 4, 16, 20, generator=torch.Generator().manual_seed(0))
drawn = lambda: torch.Generator().manual_seed(7)
expected = fame.Merge(p=0.5, generator=drawn())(clips)
whole = torch.nn.Sequential(fame.Merge(p=0.5, generator=drawn()), torch.nn.Identity())
assert torch.equal(torch.compile(whole, backend="eager")(clips), expected)
for bad, says in (
    (lambda: fame.Merge()(clips.numpy()), "clips must be a tensor, got ndarray"),
    (lambda: fame.Merge()(None), "clips must be a tensor, got NoneType"),
    (lambda: fame.Merge(background="intra")(clips, others=clips[:3]), "does not fit clips"),
    (lambda: fame.Merge(score=lambda c: c.mean((1, 2)).numpy())(clips), "got ndarray"),
    (lambda: fame.Merge(beta="half"), "beta must be above 0"),
    (lambda: fame.Merge(group=8.0), "group must be a whole number of at least 2"),
    (lambda: fame.Merge(score=["motion"]), "score must be motion, paper"),
    (lambda: fame.Merge(generator=3), "generator must be a torch.Generator, got 3"),
):
    try:
        bad()
    except ValueError as error:
        assert says in str(error) and "\\n" not in str(error), error
    else:
        raise AssertionError(says)
"""


def test_compiled_within_a_network_and_given_other_types():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_in_the_workers_of_a_loader_without_a_generator():
    class Numbers(torch.utils.data.Dataset[torch.Tensor]):
        def __len__(self) -> int:
            return 8

        def __getitem__(self, index: int) -> torch.Tensor:
            return clips(1, seed=index)[0]

    merge = fame.Merge()
    loader = torch.utils.data.DataLoader(
        Numbers(),
        batch_size=4,
        num_workers=2,
        collate_fn=lambda samples: merge(torch.stack(samples)),
        generator=drawn(),
        multiprocessing_context="fork",
    )
    merged = torch.cat(list(loader))
    clean = torch.stack([Numbers()[index] for index in range(8)])
    assert merged.shape == clean.shape and not torch.equal(merged, clean)
    own = (merged == clean).flatten(1).float().mean(1)
    assert (own >= 0.5).all()  # beta is 0.5


def test_maps_may_be_arrays_and_need_no_gradient():
    clip_BCTHW = clips()
    map_Bhw = torch.rand(4, 8, 8, generator=drawn(1))
    expected = fame.Merge(generator=drawn())(clip_BCTHW, map_Bhw)
    assert torch.equal(fame.Merge(generator=drawn())(clip_BCTHW, map_Bhw.numpy()), expected)
    tracked = fame.Merge(generator=drawn())(clip_BCTHW.requires_grad_(), map_Bhw.requires_grad_())
    assert torch.equal(tracked, expected) and not tracked.requires_grad


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
        (lambda: fame.Merge()(clips()[:0]), r"clips are empty: \[0, 3, 4, 16, 20\]"),
        (lambda: fame.Merge()(clips().to(torch.float8_e5m2)), "floats in 0..1 or uint8"),
        (lambda: fame.Merge()(clips(), torch.ones(4, 0, 0)), "maps must be numbers, got"),
        (lambda: fame.Merge()(clips(), torch.ones(4, 8, 8) * 1j), "maps must be numbers, got"),
        (lambda: fame.Merge()(clips(), torch.ones(4, 8, 8) * torch.nan), "values that are NaN"),
        (lambda: fame.Merge(score=lambda c: c.mean((1, 2)).numpy())(clips()), "got ndarray"),
        (lambda: fame.Merge(beta=0.0), "beta must be above 0"),
        (lambda: fame.Merge(p=float("nan")), "p must be"),
        (lambda: fame.Merge(p=2.0), "p must be"),
        (lambda: fame.Merge(group=1), "group must be a whole number of at least 2"),
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
