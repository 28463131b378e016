"""Foreground of one clip over the background of another, and which clip lends its background to
which (paper, section 3.3).

Sources are drawn on the CPU from an explicit generator, so that a step is a pure function of its
address (`fame.randomness`) on any device.

Shapes: B batch, C channels, T frames, H W height and width.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Int64, Shaped
from torch import Tensor


@torch.no_grad()
def merge(
    clip_BCTHW: Shaped[Tensor, "b c t h w"],
    mask: Bool[Tensor, "b *t h w"],
    source_B: Int64[Tensor, " b"],
) -> Shaped[Tensor, "b c t h w"]:
    """Keep clip i where its mask is True; elsewhere show clip ``source_B[i]`` (inter-video
    merging). Masks are [B, H, W], one for all frames of a clip, or [B, T, H, W], one per frame.

    Return a new tensor. Raise ``ValueError`` for shapes that do not match, for a batch of one clip,
    which has no other background to be merged with, and, if the sources are on the CPU, for an
    index outside the batch: on a GPU, asking would wait for all its work.
    """
    mask_B1THW = _fitted(mask, clip_BCTHW)
    batch = len(clip_BCTHW)
    if batch == 1:
        raise ValueError(
            "a batch of 1 has no other clip to take a background from: merging needs at least 2"
        )
    if len(source_B) != batch:
        raise ValueError(f"{len(source_B)} sources for {batch} clips")
    on_host = source_B.is_cpu and not torch.compiler.is_compiling()
    if on_host and (int(source_B.min()) < 0 or int(source_B.max()) >= batch):
        raise ValueError(f"sources must lie in 0..{batch - 1}, got {source_B}")
    # The copy of the backgrounds is also the memory of the result: saves a second batch of clips.
    merged_BCTHW = clip_BCTHW.index_select(0, source_B.to(clip_BCTHW.device))
    return torch.where(mask_B1THW, clip_BCTHW, merged_BCTHW, out=merged_BCTHW)


@torch.no_grad()
def merge_with(
    clip_BCTHW: Shaped[Tensor, "b c t h w"],
    mask: Bool[Tensor, "b *t h w"],
    background_BCTHW: Shaped[Tensor, "b c t h w"],
) -> Shaped[Tensor, "b c t h w"]:
    """Keep clip i where its mask is True; elsewhere show ``background_BCTHW[i]``. Masks are as
    those of :func:`merge`.

    With another clip of the same video as background this is the paper's intra-video merging.
    Returns a new tensor. Raise ``ValueError`` for shapes or dtypes that do not match.
    """
    mask_B1THW = _fitted(mask, clip_BCTHW)
    if background_BCTHW.shape != clip_BCTHW.shape or background_BCTHW.dtype != clip_BCTHW.dtype:
        raise ValueError(
            f"a background of {list(background_BCTHW.shape)} {background_BCTHW.dtype} "
            "does not fit clips of"
            f" {list(clip_BCTHW.shape)} {clip_BCTHW.dtype}"
        )
    return torch.where(mask_B1THW, clip_BCTHW, background_BCTHW)


def derangement(
    n: int, *, generator: torch.Generator, group: int | None = None
) -> Int64[Tensor, " n"]:
    """Return a background for each of n clips that is never its own, drawn within groups of
    ``group`` clips (default: all).

    Each group is one random cycle, so every other clip of it is equally likely, and every clip
    lends its background once. The last group may be smaller. Raise ``ValueError`` where a group has
    a single clip.
    """

    # The order 2 0 1 is the cycle 2 -> 0 -> 1 -> 2, read as "lends to": clip 0 gets the background
    # of 2, 1 that of 0, 2 that of 1. A cycle through all clips has no fixed point.
    def cycle(size: int) -> Tensor:
        order = torch.randperm(size, generator=generator)
        return torch.empty_like(order).scatter_(0, order, order.roll(1))

    return _in_groups(n, group, cycle)


def permutation(
    n: int, *, generator: torch.Generator, group: int | None = None
) -> Int64[Tensor, " n"]:
    """Return the reference's draw: a plain random permutation within groups; about one clip a group
    keeps its background.

    Raise ``ValueError`` where a group has a single clip.
    """
    return _in_groups(n, group, lambda size: torch.randperm(size, generator=generator))


def own_sources(
    draw: Callable[..., Tensor],
    count: int,
    *,
    generator: torch.Generator,
    rank: int,
    batch: int,
    group: int | None,
) -> Int64[Tensor, " n"]:
    """Return the sources of the ``count`` clips of process ``rank``, by ``draw`` (`derangement`,
    `permutation`), counted from its first clip.

    With a ``group`` they are drawn for the whole ``batch`` by every process, so that a clip's
    source does not depend on their number; without one, among the clips of this process. Raise
    ``ValueError`` where a group has a single clip.
    """
    if group is None:
        return draw(count, generator=generator)
    # Process 1 of 2 in a batch of 8 takes the last 4 of, say, [1 0 3 2 | 6 4 7 5], which lie
    # within its own rows because whole groups do, and counts them from its first: [2 0 3 1].
    whole = draw(batch, generator=generator, group=group)
    return whole[rank * count :][:count] - rank * count


def _in_groups(n: int, group: int | None, draw: Callable[[int], Tensor]) -> Tensor:
    group = n if group is None else group
    if n < 1 or group < 1:
        raise ValueError(
            f"the number of clips and the group must be at least 1, got {n} and {group}"
        )
    if n == 1 or group == 1 or n % group == 1:
        raise ValueError(
            f"{n} clips in groups of {group} leave one clip alone, with no other clip "
            "to take a background from:"
            " change the batch size or the group"
        )
    # 5 clips in groups of 3: one of 3 from row 0 on, one of 2 from row 3 on.
    return torch.cat([start + draw(min(group, n - start)) for start in range(0, n, group)])


def _fitted(mask: Tensor, clip_BCTHW: Tensor) -> Bool[Tensor, "b 1 t h w"]:
    batch, _, frames, height, width = clip_BCTHW.shape
    if mask.shape not in ((batch, height, width), (batch, frames, height, width)):
        raise ValueError(
            f"masks of {list(mask.shape)} do not fit clips of "
            f"{list(clip_BCTHW.shape)}: they must be"
            f" {[batch, height, width]} or {[batch, frames, height, width]}"
        )
    # One mask for all channels and, of three axes, for all frames.
    return mask[:, None, None] if mask.ndim == 3 else mask[:, None]
