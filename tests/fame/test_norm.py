"""Grouped batch norm against nn.BatchNorm3d applied to each group by itself."""

import unittest.mock
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fame.models.norm import GroupedBatchNorm3d, frozen_statistics, in_passes, set_norm_group

Forward = Callable[[GroupedBatchNorm3d, Tensor], Tensor]

FORWARDS: dict[str, Forward] = {
    "in place": lambda norm, batch: norm(batch),
    "one by one": lambda norm, batch: one_by_one(norm, batch),
    "fused": lambda norm, batch: norm._fused(batch, norm.group),
}


def one_by_one(norm: GroupedBatchNorm3d, batch: Tensor) -> Tensor:
    """What other devices than a CPU do uncompiled."""
    with unittest.mock.patch.object(GroupedBatchNorm3d, "_in_place", norm.__class__._one_by_one):
        return norm(batch)


def pair(channels: int, group: int | None) -> tuple[GroupedBatchNorm3d, nn.BatchNorm3d]:
    """Ours and torch's with the same random scale and shift."""
    ours, plain = GroupedBatchNorm3d(channels, group=group), nn.BatchNorm3d(channels)
    source = torch.Generator().manual_seed(channels)
    with torch.no_grad():
        ours.weight.normal_(generator=source)
        ours.bias.normal_(generator=source)
    plain.load_state_dict(ours.state_dict())
    return ours, plain


def clips(batch: int, channels: int, *, seed: int = 0) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return 3 + 2 * torch.randn(batch, channels, 2, 3, 3, generator=source)


def by_group(plain: nn.BatchNorm3d, clip: Tensor, group: int) -> Tensor:
    """The oracle: each group normalised alone; only the first moves the running statistics."""
    outputs = []
    for start in range(0, len(clip), group):
        one = plain if start == 0 else nn.BatchNorm3d(clip.shape[1]).train()
        one.weight, one.bias = plain.weight, plain.bias
        outputs.append(one(clip[start : start + group]))
    return torch.cat(outputs)


def assert_same_step(
    forward: Forward, batch: int, group: int | None, *, memory: torch.memory_format
) -> None:
    ours, plain = pair(5, group)
    ours_input = clips(batch, 5).contiguous(memory_format=memory).requires_grad_()
    plain_input = ours_input.detach().clone().requires_grad_()
    output, expected = forward(ours, ours_input), by_group(plain, plain_input, group or batch)
    torch.testing.assert_close(output, expected, atol=1e-4, rtol=1e-4)
    gradient = clips(batch, 5, seed=1)
    output.backward(gradient)
    expected.backward(gradient)
    torch.testing.assert_close(ours_input.grad, plain_input.grad, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.weight.grad, plain.weight.grad, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(ours.bias.grad, plain.bias.grad, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(ours.running_mean, plain.running_mean)
    torch.testing.assert_close(ours.running_var, plain.running_var)


@settings(deadline=None, max_examples=60)
@given(
    form=st.sampled_from(["in place", "one by one"]),
    batch=st.integers(1, 11),
    group=st.none() | st.integers(1, 12),
    channels_last=st.booleans(),
)
def test_training_is_batch_norm_of_each_group(
    form: str, batch: int, group: int | None, channels_last: bool
) -> None:
    memory = torch.channels_last_3d if channels_last else torch.contiguous_format
    assert_same_step(FORWARDS[form], batch, group, memory=memory)


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last_3d])
def test_the_fused_form_is_the_same(memory: torch.memory_format) -> None:
    assert_same_step(FORWARDS["fused"], 8, 4, memory=memory)


@pytest.mark.parametrize("frames", [1, 2])
def test_a_slice_of_channels_is_normalised_as_its_copy_is(frames: int):
    """The native kernel writes wrong numbers where it is given a slice and a place for them."""
    outputs, slopes = [], []
    for copied in (False, True):
        norm, whole = pair(5, 2)[0], clips(4, 9)[:, :, :frames].requires_grad_()
        part = whole.contiguous(memory_format=torch.channels_last_3d)[:, 2:7]
        output = norm(part.clone(memory_format=torch.contiguous_format) if copied else part)
        output.square().sum().backward()
        outputs.append([output, *norm.buffers()])
        slopes.append([whole.grad, *(parameter.grad for parameter in norm.parameters())])
    torch.testing.assert_close(*outputs)
    torch.testing.assert_close(*slopes)


def test_a_group_of_one_number_is_refused() -> None:
    with pytest.raises(ValueError, match=r"more than one number.*one clip of \[3, 1, 1, 1\]"):
        pair(3, 1)[0](clips(2, 3)[..., :1, :1, :1])


def test_one_process_with_groups_is_several_processes_bitwise() -> None:
    together, apart = pair(4, 2)
    clip = clips(6, 4)
    separate = [nn.BatchNorm3d(4) for _ in range(3)]
    for norm in separate:
        norm.load_state_dict(apart.state_dict())
    expected = torch.cat([norm(part) for norm, part in zip(separate, clip.split(2), strict=True)])
    assert torch.equal(together(clip), expected)
    assert torch.equal(together.running_var, separate[0].running_var), "rank 0 saves the checkpoint"


def test_evaluation_and_state_are_those_of_batch_norm() -> None:
    ours, plain = pair(3, 2)
    ours(clips(4, 3))
    assert list(ours.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(ours.state_dict())
    assert int(ours.num_batches_tracked) == 1
    assert torch.equal(ours.eval()(clips(4, 3, seed=2)), plain.eval()(clips(4, 3, seed=2)))


@pytest.mark.parametrize("forward", FORWARDS)
def test_half_precision_keeps_its_type_and_full_statistics(forward: str) -> None:
    ours, plain = pair(5, 4)
    clip = clips(8, 5).bfloat16()
    output = FORWARDS[forward](ours, clip)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(
        output.float(), by_group(plain, clip.float(), 4), atol=0.05, rtol=0.02
    )
    torch.testing.assert_close(ours.running_mean, plain.running_mean)


@pytest.mark.parametrize("forward", FORWARDS)
def test_frozen_statistics_stay_and_thaw(forward: str) -> None:
    ours, _ = pair(3, 2)
    before = ours.running_mean.clone()
    with frozen_statistics(nn.Sequential(ours)):
        FORWARDS[forward](ours, clips(4, 3))
    assert torch.equal(ours.running_mean, before)
    assert int(ours.num_batches_tracked) == 0
    FORWARDS[forward](ours, clips(4, 3))
    assert not torch.equal(ours.running_mean, before)


def test_a_group_of_no_clips_is_refused() -> None:
    with pytest.raises(ValueError, match=r"at least 1 clip.*got 0"):
        set_norm_group(GroupedBatchNorm3d(3), 0)


@pytest.mark.parametrize("group", [1, 2, 4, 8, None])
@pytest.mark.parametrize("form", FORWARDS)
def test_passes_are_batches_one_after_the_other(form: str, group: int | None):
    once, twice = pair(5, group)[0], pair(5, group)[0]
    batches = [clips(4, 5, seed=seed) for seed in (0, 1)]
    expected = torch.cat([twice(batch) for batch in batches])
    with in_passes(once, 2):
        whole = torch.cat(batches)
        if form == "fused":
            once.num_batches_tracked += 2
            output = once._fused(whole, min(group or 4, 4), 2)
        else:
            output = FORWARDS[form](once, whole)
    torch.testing.assert_close(output, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(once.state_dict(), twice.state_dict())
    assert once.passes == 1
