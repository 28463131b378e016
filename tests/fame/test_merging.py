import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fame.foreground import paper_score, top_fraction
from fame.merging import derangement, merge, merge_with, permutation
from fame.randomness import generator
from tests.oracle_foreground import straightforward_merge

seeds = st.integers(0, 2**32)


def draw(
    seed: int, *, batch: int = 4, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor]:
    rng = generator(seed, 0, 0, "merge")
    clip = torch.rand(batch, 3, 5, 6, 7, generator=rng).to(dtype)
    return clip, torch.rand(batch, 6, 7, generator=rng) > 0.5


@settings(max_examples=25, deadline=None)
@given(seed=seeds, dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float64]))
def test_merge_takes_each_pixel_from_its_clip_or_its_source(seed: int, dtype: torch.dtype) -> None:
    clip, mask = draw(seed, dtype=dtype)
    source = torch.randint(0, 4, (4,), generator=generator(seed, 0, 0, "source"))
    before = clip.clone(), mask.clone(), source.clone()
    merged = merge(clip, mask, source)
    for i in range(4):
        for y in range(6):
            for x in range(7):
                assert torch.equal(
                    merged[i, :, :, y, x], clip[i if mask[i, y, x] else int(source[i]), :, :, y, x]
                )
    assert merged.dtype == dtype
    assert all(torch.equal(a, b) for a, b in zip(before, (clip, mask, source), strict=True))


def test_merge_is_the_identity_where_the_source_is_the_clip(device: torch.device) -> None:
    clip, mask = (t.to(device) for t in draw(1))
    assert torch.equal(merge(clip, mask, torch.arange(4)), clip)


def test_merge_equals_the_straightforward_merge() -> None:
    clip = torch.rand(3, 3, 4, 20, 24, generator=generator(2, 0, 0, "merge"))
    score, source = paper_score(clip), derangement(3, generator=generator(2, 0, 0, "source"))
    torch.testing.assert_close(
        merge(clip, top_fraction(score, 0.3), source),
        straightforward_merge(clip, score, 0.3, source),
        rtol=0,
        atol=0,
    )


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_merge_follows_flips_and_batch_order(seed: int) -> None:
    clip, mask = draw(seed)
    source = derangement(4, generator=generator(seed, 0, 0, "source"))
    merged = merge(clip, mask, source)
    assert torch.equal(merge(clip.flip(-1), mask.flip(-1), source), merged.flip(-1))
    order = torch.randperm(4, generator=generator(seed, 0, 0, "order"))
    reordered = merge(clip[order], mask[order], order.argsort()[source[order]])
    assert torch.equal(reordered, merged[order])


def test_any_memory_layout_gives_the_same_pixels() -> None:
    clip, mask = draw(3)
    channels_last = clip.permute(0, 2, 3, 4, 1).contiguous().permute(0, 4, 1, 2, 3)
    source = torch.tensor([1, 2, 3, 0])
    assert torch.equal(merge(channels_last, mask, source), merge(clip, mask, source))


def test_merging_with_given_backgrounds_is_merging_with_another_clip() -> None:
    clip, mask = draw(4)
    source = torch.tensor([2, 3, 1, 0])
    assert torch.equal(merge_with(clip, mask, clip[source]), merge(clip, mask, source))
    assert torch.equal(
        merge_with(clip[:1], mask[:1], clip[1:2]), merge(clip, mask, torch.tensor([1, 0, 0, 0]))[:1]
    )


def test_no_gradient_is_tracked() -> None:
    clip, mask = draw(5)
    clip.requires_grad_()
    assert not merge(clip, mask, torch.tensor([1, 0, 3, 2])).requires_grad
    assert not merge_with(clip, mask, clip).requires_grad


def test_nan_of_a_background_does_not_leak_into_the_foreground() -> None:
    clip, mask = draw(6)
    clip[1] = float("nan")
    assert merge(clip, torch.ones_like(mask), torch.tensor([1, 1, 1, 1]))[0].isfinite().all()


@settings(max_examples=30, deadline=None)
@given(seed=seeds, n=st.integers(2, 40), group=st.integers(2, 12))
def test_sources_are_permutations_within_groups_and_derangements_have_no_fixed_point(
    seed: int, n: int, group: int
) -> None:
    if n % group == 1:
        n += 1
    for source_of in (derangement, permutation):
        source = source_of(n, generator=generator(seed, 0, 0, "source"), group=group)
        assert torch.equal(source.sort().values, torch.arange(n))
        assert torch.equal(source // group, torch.arange(n) // group)
        if source_of is derangement:
            assert (source != torch.arange(n)).all()


def test_every_other_clip_is_an_equally_likely_source_and_permutations_keep_one_on_average() -> (
    None
):
    rng = generator(0, 0, 0, "many")
    draws = torch.stack([derangement(5, generator=rng) for _ in range(500)])
    counts = torch.stack([(draws == j).sum(0) for j in range(5)])
    off_diagonal = counts[~torch.eye(5, dtype=torch.bool)]
    assert (
        counts.diagonal().sum() == 0 and (off_diagonal - 125).abs().max() < 50
    )  # 5 standard deviations
    kept = [int((permutation(8, generator=rng) == torch.arange(8)).sum()) for _ in range(400)]
    assert 0.75 < sum(kept) / 400 < 1.25  # 5 standard deviations


def test_sources_depend_on_the_generator_alone() -> None:
    first, again, other = (
        derangement(50, generator=generator(0, 0, i, "source")) for i in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize(("n", "group"), [(1, None), (4, 1), (9, 8), (1, 8)])
def test_a_clip_left_alone_is_an_error_that_says_why(n: int, group: int | None) -> None:
    for source_of in (derangement, permutation):
        with pytest.raises(ValueError, match="no other clip to take a background from"):
            source_of(n, generator=generator(0, 0, 0, "source"), group=group)


def test_bad_input_is_refused_by_value() -> None:
    clip, mask = draw(7)
    with pytest.raises(ValueError, match="batch of 1"):
        merge(clip[:1], mask[:1], torch.tensor([0]))
    for source in (torch.tensor([0, 1, 2, 4]), torch.tensor([-1, 1, 2, 3])):
        with pytest.raises(ValueError, match=r"0\.\.3"):
            merge(clip, mask, source)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        derangement(0, generator=generator(0, 0, 0, "source"))
    with pytest.raises(ValueError, match="bfloat16"):
        merge_with(clip, mask, clip.bfloat16())


def test_shapes_that_do_not_match_are_refused() -> None:
    clip, mask = draw(8)
    for call in (
        lambda: merge(clip, mask[:, :3], torch.tensor([1, 2, 3, 0])),
        lambda: merge(clip, mask, torch.tensor([1, 0])),
        lambda: merge_with(clip, mask, clip[:, :, :2]),
    ):
        with pytest.raises(Exception, match="clip_BCTHW"):
            call()
