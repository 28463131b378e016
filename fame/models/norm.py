"""Batch norm over groups of clips: one device that means what eight devices with eight clips each
meant.

The reference trained with 8 clips on each of 8 GPUs and no synchronised batch norm: its statistics
are of 8 clips. Shapes: B batch, G groups, C channels, T frames, H W height/width.
"""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_LAST = torch.channels_last_3d


class GroupedBatchNorm3d(nn.BatchNorm3d):
    """``nn.BatchNorm3d`` whose training statistics are those of consecutive groups of ``group``
    clips of the batch.

    ``group=None`` is plain batch norm; a last, smaller group has its own statistics. Parameters,
    buffers and evaluation are those of ``nn.BatchNorm3d``. The running statistics follow the first
    group alone: distributed data parallel training broadcasts and saves the buffers of rank 0, so
    that is what the reference's checkpoints hold, and the first group is the same clips whatever
    the number of processes. ``passes`` equal parts of the batch are as many batches, one after the
    other: no group straddles them, and each moves the running statistics.
    """

    def __init__(self, channels: int, *, group: int | None = None) -> None:
        super().__init__(channels)
        self.group = group
        self.frozen = False
        self.passes = 1

    def forward(self, input: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c t h w"]:  # noqa: A002
        """Normalise; in training update the running statistics from the first group unless
        ``frozen``.
        """
        if not self.training:
            return super().forward(input)
        if not self.frozen:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(self.passes)
        size = len(input) // self.passes
        group = min(self.group or size, size)
        if torch.compiler.is_compiling() and group < len(input) and size % group == 0:
            return self._fused(input, group, self.passes)
        # 2 passes of 4 clips in groups of 3 are groups of 3, 1, 3 and 1 clips.
        rest = [size % group] if size % group else []
        sizes = ([group] * (size // group) + rest) * self.passes
        in_place = input.is_cpu and not torch.compiler.is_compiling()
        return self._in_place(input, sizes) if in_place else self._one_by_one(input, sizes)

    def _in_place(self, input: Tensor, sizes: list[int]) -> Tensor:  # noqa: A002
        """Return the groups, each normalised to its place in the output."""
        if min(sizes) * input[0, 0].numel() == 1:
            raise ValueError(
                f"a batch-norm group needs more than one number of each channel, got one clip of "
                f"{list(input.shape[1:])}: larger groups or clips"
            )
        # A slice of channels: its copy is normalised in a quarter of the time, both ways.
        if not (input.is_contiguous() or input.is_contiguous(memory_format=_LAST)):
            input = input.contiguous(memory_format=_LAST)  # noqa: A001
        output = _Groups.apply(
            input, self.weight, self.bias, sizes, self._moved(len(sizes)), self.momentum, self.eps
        )
        assert isinstance(output, Tensor)
        return output

    def _one_by_one(self, input: Tensor, sizes: list[int]) -> Tensor:  # noqa: A002
        """Return the groups, normalised apart and concatenated."""
        assert self.momentum is not None
        groups = [
            F.batch_norm(part, *moved, self.weight, self.bias, True, self.momentum, self.eps)
            for part, moved in zip(input.split(sizes), self._moved(len(sizes)), strict=True)
        ]
        return torch.cat(groups) if len(groups) > 1 else groups[0]

    def _moved(self, groups: int) -> list[tuple[Tensor | None, Tensor | None]]:
        """Return the running statistics that each group moves: the first of each pass ours, the
        others none.
        """
        assert self.running_mean is not None
        assert self.running_var is not None
        own = self.running_mean, self.running_var
        if self.frozen:
            # Copies, because a recomputed forward must save as many tensors as the first.
            own = self.running_mean.clone(), self.running_var.clone()
        each = groups // self.passes
        return [(None, None) if number % each else own for number in range(groups)]

    def _fused(self, input: Tensor, group: int, passes: int = 1) -> Tensor:  # noqa: A002
        """Return groups of one size in one expression, which a compiler fuses; uncompiled it is
        three times slower.
        """
        groups = len(input) // group
        # [groups, group, C, T, H, W], with a mean and a variance for each group and channel. (x -
        # mean) / deviation * weight + bias is x * scale + shift.
        grouped = input.float().unflatten(0, (groups, group))
        var, mean = torch.var_mean(grouped, (1, 3, 4, 5), correction=0, keepdim=True)
        scale = torch.rsqrt(var + self.eps) * self.weight.view(-1, 1, 1, 1)
        shift = self.bias.view(-1, 1, 1, 1) - mean * scale
        output = torch.addcmul(shift, grouped, scale).flatten(0, 1).to(input.dtype)
        # Running variances are unbiased, with n / (n - 1) of the n numbers of a channel. Only the
        # first group of each pass counts: of 4 groups in 2 passes, groups 0 and 2.
        count = grouped[0].numel() // grouped.shape[2]
        for first in range(0, groups, groups // passes) if not self.frozen else ():
            spread = var[first].flatten().detach() * (count / (count - 1))
            self._update_(mean[first].flatten().detach(), spread)
        return output

    def _update_(self, mean: Tensor, var: Tensor) -> None:
        """Move the running statistics towards those of a batch, as native batch norm does."""
        assert self.momentum is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(var, self.momentum)

    def extra_repr(self) -> str:
        """Return the text of ``nn.BatchNorm3d`` with the group added."""
        return f"{super().extra_repr()}, group={self.group}"


class _Groups(torch.autograd.Function):
    """Native batch norm of runs of ``sizes`` clips without a copy that joins their outputs, on a
    CPU.
    """

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,  # noqa: A002
        weight: Tensor,
        bias: Tensor,
        sizes: list[int],
        moved: list[tuple[Tensor | None, Tensor | None]],
        momentum: float,
        eps: float,
    ) -> Tensor:
        output = torch.empty_like(input)
        saved: list[Tensor] = []  # of each group the mean and one over the deviation
        for part, place, running in zip(
            input.split(sizes), output.split(sizes), moved, strict=True
        ):
            own = torch.empty_like(weight), torch.empty_like(weight)
            torch.native_batch_norm(
                part, weight, bias, *running, True, momentum, eps, out=(place, *own)
            )
            saved.extend(own)
        ctx.save_for_backward(input, weight, *saved)
        ctx.sizes, ctx.eps = sizes, eps
        return output

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, slope: Tensor
    ) -> tuple[Tensor | None, ...]:
        input, weight, *saved = ctx.saved_tensors  # noqa: A001
        groups = zip(
            slope.split(ctx.sizes), input.split(ctx.sizes), saved[::2], saved[1::2], strict=True
        )
        slopes = [
            torch.ops.aten.native_batch_norm_backward(
                part_slope, part, weight, None, None, *own, True, ctx.eps, [True, True, True]
            )
            for part_slope, part, *own in groups
        ]
        whole = torch.cat([each[0] for each in slopes])
        weights, biases = (torch.stack([each[n] for each in slopes]).sum(0) for n in (1, 2))
        return whole, weights, biases, None, None, None, None


def set_norm_group(module: nn.Module, group: int | None) -> None:
    """Make every batch norm in ``module`` use statistics of ``group`` clips (``None``: of the whole
    batch).
    """
    if group is not None and group < 1:
        raise ValueError(
            f"a batch-norm group has at least 1 clip, or None for the whole batch; got {group}"
        )
    for norm in _grouped(module):
        norm.group = group


@contextmanager
def frozen_statistics(module: nn.Module) -> Generator[None]:
    """Keep the running statistics as they are within this context, also in training mode (for a
    forward that runs a second time).
    """
    norms = list(_grouped(module))
    before = [norm.frozen for norm in norms]
    for norm in norms:
        norm.frozen = True
    try:
        yield
    finally:
        for norm, frozen in zip(norms, before, strict=True):
            norm.frozen = frozen


@contextmanager
def in_passes(module: nn.Module, passes: int) -> Generator[None]:
    """Make one forward of ``passes`` concatenated batches within this context equal to ``passes``
    forwards.
    """
    norms = list(_grouped(module))
    for norm in norms:
        norm.passes = passes
    try:
        yield
    finally:
        for norm in norms:
            norm.passes = 1


def only_grouped(module: nn.Module) -> bool:
    """Return whether no other batch norm than the grouped one mixes the clips of a batch."""
    return not any(
        isinstance(child, nn.modules.batchnorm._BatchNorm)  # pyright: ignore[reportPrivateUsage]
        and not isinstance(child, GroupedBatchNorm3d)
        for child in module.modules()
    )


def _grouped(module: nn.Module) -> Iterator[GroupedBatchNorm3d]:
    return (child for child in module.modules() if isinstance(child, GroupedBatchNorm3d))
