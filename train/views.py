"""From stored pairs to what the encoders see: crop, merge, colour, normalise, all on the device of
the pairs.

Shapes: B batch, C channels, T frames, H W height/width, S crop size.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from fame.augment import apply_colour, crop_clip, crop_map, draw_colour, draw_crop, draw_order
from fame.foreground import (
    foreground_mask,
    gauss_score,
    grid_score,
    median_score,
    motion_score,
    paper_score,
)
from fame.merging import derangement, merge, merge_with, permutation
from fame.normalize import normalise
from fame.randomness import generator
from train.config import PretrainConfig
from train.data import Pairs


def reads_maps(config: PretrainConfig) -> bool:
    """Whether the step needs the store's foreground maps."""
    return config.merges and config.mask == "stored"


def make_views(
    pairs: Pairs, config: PretrainConfig, *, epoch: int, step: int, rank: int = 0
) -> tuple[Tensor, Tensor]:
    """Two normalised views [B, 3, T, S, S] of each pair; the first is merged, with ``views="both"``
    the second too.

    Merging comes after cropping, so that exactly ``beta`` of each crop stays, and before colour, so
    that foreground and background are coloured alike.
    """
    crops, scores = crop_pairs(pairs, config, epoch=epoch)
    merged = merge_views(
        crops, scores, config, pairs.sample_B.tolist(), epoch=epoch, step=step, rank=rank
    )
    first, second = (
        normalise(_colour(clip, config, pairs.sample_B.tolist(), epoch=epoch, step=step, view=view))
        for view, clip in enumerate(merged)
    )
    return first, second


def crop_pairs(
    pairs: Pairs, config: PretrainConfig, *, epoch: int
) -> tuple[list[Tensor], list[Tensor]]:
    """Crops of both views [B, 3, T, S, S] in 0..1, and of their maps [B, S, S] where maps are
    read.
    """
    indices = pairs.sample_B.tolist()
    frame = (pairs.clip_B2THWC.shape[3], pairs.clip_B2THWC.shape[4])
    clips: list[Tensor] = []
    scores: list[Tensor] = []
    for view in (0, 1):
        crop = draw_crop(
            seed=config.seed,
            epoch=epoch,
            indices=indices,
            view=view,
            size=frame,
            min_area=config.min_area,
            flip=config.flip,
        )
        clips.append(crop_clip(pairs.clip_B2THWC[:, view], crop, size=config.crop))
        if pairs.score_B2hw.numel():
            scores.append(crop_map(pairs.score_B2hw[:, view], crop, size=config.crop, frame=frame))
    return clips, scores


def merge_views(
    clips: Sequence[Tensor],
    scores: Sequence[Tensor],
    config: PretrainConfig,
    indices: Sequence[int],
    *,
    epoch: int,
    step: int,
    rank: int = 0,
) -> list[Tensor]:
    """Paste the foreground of the first view, or of both, on other backgrounds: each view draws its
    own sources.
    """
    merged = list(clips)
    if not config.merges:
        return merged
    for view in range(2 if config.views == "both" else 1):
        score = (
            scores[view]
            if config.mask == "stored"
            else _score(clips[view], config, indices, epoch=epoch, view=view)
        )
        mask = foreground_mask(score, config.beta, cut=config.cut)
        merged[view] = _merge(clips, view, mask, config, epoch=epoch, step=step, rank=rank)
    return merged


@torch.no_grad()
def picture(
    pairs: Pairs, config: PretrainConfig, *, epoch: int, step: int, rows: int = 4
) -> UInt8[np.ndarray, "h w 3"]:
    """The middle frame of the first clips of a batch: crop and merged crop of view 1, then of view
    2.
    """
    crops, scores = crop_pairs(pairs, config, epoch=epoch)
    merged = merge_views(crops, scores, config, pairs.sample_B.tolist(), epoch=epoch, step=step)
    columns = [
        clip[:rows, :, clip.shape[2] // 2]
        for view in (0, 1)
        for clip in (crops[view], merged[view])
    ]
    sheet = torch.cat([torch.cat(list(column), 1) for column in columns], 2)
    return (sheet.permute(1, 2, 0) * 255).round().byte().cpu().numpy()


def _merge(
    clips: Sequence[Tensor],
    view: int,
    mask: Tensor,
    config: PretrainConfig,
    *,
    epoch: int,
    step: int,
    rank: int,
) -> Tensor:
    clip = clips[view]
    if config.background == "intra":
        return merge_with(clip, mask, clips[1 - view])
    draw = derangement if config.sources == "derangement" else permutation
    draws = generator(config.seed, epoch, step, f"background/{view}")
    count = len(clip)
    if config.merge_group is None:
        return merge(clip, mask, draw(count, generator=draws))
    # Drawn for the whole batch by every process, so that a clip's source does not depend on their
    # number.
    source = (
        draw(config.batch, generator=draws, group=config.merge_group)[rank * count :][:count]
        - rank * count
    )
    return merge(clip, mask, source)


def _score(
    clip: Tensor, config: PretrainConfig, indices: Sequence[int], *, epoch: int, view: int
) -> Tensor:
    """The score of masks that are made on the crop."""
    if config.mask == "online":
        return paper_score(clip, hue=config.hue)
    if config.mask == "seed":
        return motion_score(clip)
    if config.mask == "median":
        return median_score(clip)
    if config.mask == "gauss":
        return gauss_score(clip)
    draws = (generator(config.seed, epoch, index, f"grid/{view}") for index in indices)
    return torch.cat(
        [grid_score(one, generator=draw) for one, draw in zip(clip.split(1), draws, strict=True)]
    )


def _colour(
    clip: Tensor,
    config: PretrainConfig,
    indices: Sequence[int],
    *,
    epoch: int,
    step: int,
    view: int,
) -> Tensor:
    colour = draw_colour(
        seed=config.seed,
        epoch=epoch,
        indices=indices,
        view=view,
        gray=config.gray,
        jitter=config.jitter,
        blur=config.blur,
    )
    return apply_colour(
        clip, colour, order=draw_order(seed=config.seed, epoch=epoch, step=step, view=view)
    )
