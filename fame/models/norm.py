"""Batch norm over groups of clips: one device that means what eight devices with eight clips each
meant.

The reference trained with 8 clips on each of 8 GPUs and no synchronised batch norm: its statistics
are of 8 clips. Shapes: B batch, G groups, C channels, T frames, H W height/width.
"""

from collections.abc import Generator, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


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
        passes = [self._pass(one, group) for one in input.split(size)]
        return torch.cat(passes) if len(passes) > 1 else passes[0]

    def _pass(self, input: Tensor, group: int) -> Tensor:  # noqa: A002
        """Return the groups of one batch, one after the other."""
        if group >= len(input):
            return self._normalise(input, update=True)
        if torch.compiler.is_compiling():
            return self._fused(input, group)
        first, *others = input.split(group)
        return torch.cat([self._normalise(first, update=True), *map(self._normalise, others)])

    def _normalise(self, input: Tensor, update: bool = False) -> Tensor:  # noqa: A002
        """Normalise one group by its own statistics with the native kernel, which may move the
        running ones.
        """
        assert self.momentum is not None
        mean, var = (self.running_mean, self.running_var) if update else (None, None)
        if self.frozen and mean is not None and var is not None:
            # Copies, because a recomputed forward must save as many tensors as the first.
            mean, var = mean.clone(), var.clone()
        return F.batch_norm(input, mean, var, self.weight, self.bias, True, self.momentum, self.eps)

    def _fused(self, input: Tensor, group: int, passes: int = 1) -> Tensor:  # noqa: A002
        """Return all whole groups in one expression, which a compiler fuses; uncompiled it is three
        times slower.
        """
        groups = len(input) // group
        whole, rest = input[: groups * group], input[groups * group :]
        # [groups, group, C, T, H, W], with a mean and a variance for each group and channel. (x -
        # mean) / deviation * weight + bias is x * scale + shift.
        grouped = whole.float().unflatten(0, (groups, group))
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
        return torch.cat([output, self._normalise(rest)]) if len(rest) else output

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
