"""From stored pairs to what the encoders see: crop, merge, colour, normalise.

All numbers are drawn on the CPU, by address, and sent to the device in one copy. What follows is
one function of tensors on the device, which can be compiled.

Shapes: B batch, C channels, T frames, H W height/width, h w size of a map, S crop size.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from fame.augment import (
    Crop,
    crop_clip,
    crop_map,
    draw_colour,
    draw_crop,
    draw_order,
    sampling_grid,
)
from fame.colour import Colour, blur, blur_along, blur_kernel, blur_weights, jitter
from fame.foreground import (
    foreground_mask,
    gauss_score,
    median_score,
    motion_score,
    paper_score,
    spread_cells,
)
from fame.merging import derangement, merge, merge_with, own_sources, permutation
from fame.normalize import normalise
from fame.preview import tile
from fame.randomness import generator
from fame.transfer import send
from train.config import PretrainConfig
from train.data import Pairs

# Inductor writes a value to memory once its formula reads much, here the four corners of a bilinear
# sample and the taps of the blur. Computed where they are used, they move less. The jitter's
# formulas would grow without bound.
FUSE = {
    "realize_reads_threshold": 128,
    "realize_acc_reads_threshold": 128,
    "realize_opcount_threshold": 1024,
}

_CELLS = 4  # rows and columns of random cells of mask=grid


class Draws(NamedTuple):
    """The numbers drawn for one view of the pairs.

    ``order`` is that of the colour jitter, a tensor if the views are compiled; ``source_B`` names
    the clips that lend their background; ``cell_Bhw`` is empty unless the mask is random cells.
    """

    crop: Crop
    colour: Colour
    order: tuple[int, ...] | Tensor
    source_B: Tensor
    cell_Bhw: Tensor


def reads_maps(config: PretrainConfig) -> bool:
    """Return whether the step needs the store's foreground maps."""
    return config.merges and config.mask in ("stored", "frames")


def make_views(
    pairs: Pairs, config: PretrainConfig, *, epoch: int, step: int, rank: int = 0
) -> tuple[Tensor, Tensor]:
    """Return two normalised views [B, 3, T, S, S] of each pair: draw, send, :func:`render`."""
    draws = draw_views(pairs, config, epoch=epoch, step=step, rank=rank)
    draws = send(draws, pairs.clip_B2THWC.device)
    return render(pairs.clip_B2THWC, pairs.score_B2hw, draws, config)


def draw_views(
    pairs: Pairs, config: PretrainConfig, *, epoch: int, step: int, rank: int = 0
) -> tuple[Draws, Draws]:
    """Draw all numbers of both views, on the CPU."""
    samples = pairs.sample_B.tolist()
    # Crops are drawn in pixels of the stored frames.
    frame = (pairs.clip_B2THWC.shape[3], pairs.clip_B2THWC.shape[4])

    def one(view: int) -> Draws:
        # Crop and colour have the address of a sample, so that they do not depend on its batch. The
        # order of the jitter and the sources belong to the batch: their address has the step.
        at = {"seed": config.seed, "epoch": epoch, "view": view}
        crop = draw_crop(
            **at, indices=samples, size=frame, min_area=config.min_area, flip=config.flip
        )
        colour = draw_colour(
            **at, indices=samples, gray=config.gray, jitter=config.jitter, blur=config.blur
        )
        order = draw_order(**at, step=step)
        return Draws(
            crop=crop,
            colour=colour,
            # Plain numbers would be part of the program: 24 programs to compile.
            order=torch.tensor(order) if config.compile else order,
            source_B=_draw_sources(config, len(samples), **at, step=step, rank=rank),
            cell_Bhw=_draw_cells(config, samples, **at),
        )

    return one(0), one(1)


@torch.no_grad()
def render(
    clip_B2THWC: Tensor, score_B2hw: Tensor, draws: tuple[Draws, Draws], config: PretrainConfig
) -> tuple[Tensor, Tensor]:
    """Return both views; the first is merged, with ``views="both"`` the second too.

    Merging comes after cropping, so that exactly ``beta`` of each crop stays, and before colour, so
    that foreground and background are coloured alike. The views have the layout and, in bf16, the
    data type that the encoders compute in. Compiled, a view is five kernels that read and write
    whole clips, with float16 between them in bf16: its steps are an eighth of those of bf16.
    """
    crops, scores = _run(crop_pairs, config)(clip_B2THWC, score_B2hw, draws, config)
    first, second = (
        _coloured(
            _run(_jittered, config)(crops, view, mask, draws[view], config), draws[view], config
        )
        for view, mask in enumerate(_masks(crops, scores, draws, config))
    )
    return first, second


def crop_pairs(
    clip_B2THWC: Tensor, score_B2hw: Tensor, draws: tuple[Draws, Draws], config: PretrainConfig
) -> tuple[list[Tensor], list[Tensor]]:
    """Return crops of both views [B, 3, T, S, S] in 0..1, and of their maps where maps are read."""
    frame = (clip_B2THWC.shape[3], clip_B2THWC.shape[4])
    grids = [sampling_grid(draw.crop, size=config.crop, frame=frame) for draw in draws]
    clips = [
        crop_clip(clip_B2THWC[:, view], grid).to(_between(config))
        for view, grid in enumerate(grids)
    ]
    # No maps are read: the mask is computed from the crops.
    if not score_B2hw.numel():
        return clips, []
    return clips, [crop_map(score_B2hw[:, view], grid) for view, grid in enumerate(grids)]


def merge_views(
    clips: Sequence[Tensor],
    scores: Sequence[Tensor],
    draws: tuple[Draws, Draws],
    config: PretrainConfig,
) -> list[Tensor]:
    """Paste the foreground of the first view, or of both, on other backgrounds.

    Each view has sources of its own.
    """
    return [
        _merged(clips, view, mask, draws[view], config)
        for view, mask in enumerate(_masks(clips, scores, draws, config))
    ]


@torch.no_grad()
def picture(
    pairs: Pairs, config: PretrainConfig, *, epoch: int, step: int, rows: int = 4
) -> UInt8[np.ndarray, "h w 3"]:
    """Return a captioned sheet of the first clips of a batch at their middle frame: each view as
    it was cropped and, where it is merged, what the encoder was shown.
    """
    draws = draw_views(pairs, config, epoch=epoch, step=step)
    draws = send(draws, pairs.clip_B2THWC.device)
    # Not compiled: one picture per epoch would not repay the time.
    crops, scores = crop_pairs(pairs.clip_B2THWC, pairs.score_B2hw, draws, config)
    merged = merge_views(crops, scores, draws, config)
    # A dictionary keeps the order: each merged view is right of its crop.
    columns = {"view 1": crops[0]}
    if config.merges:
        columns["view 1, merged"] = merged[0]
    columns["view 2"] = crops[1]
    if config.merges and config.views == "both":
        columns["view 2, merged"] = merged[1]
    return middle_frames(columns, rows=rows)


def middle_frames(columns: Mapping[str, Tensor], *, rows: int = 4) -> UInt8[np.ndarray, "h w 3"]:
    """Return a captioned sheet of the middle frames of the first clips [B, 3, T, S, S] in 0..1 of
    each column.
    """
    panel_PB3SS = torch.stack([clip[:rows, :, clip.shape[2] // 2] for clip in columns.values()])
    # [panels, clips, 3, S, S] -> [clips, panels, S, S, 3]: a row of the sheet is a clip.
    panel_BPSS3 = (panel_PB3SS.permute(1, 0, 3, 4, 2) * 255).round().byte().cpu().numpy()
    return tile([list(row_PSS3) for row_PSS3 in panel_BPSS3], list(columns))


def _masks(
    clips: Sequence[Tensor],
    scores: Sequence[Tensor],
    draws: tuple[Draws, Draws],
    config: PretrainConfig,
) -> tuple[Tensor | None, Tensor | None]:
    """Return the foreground of each view, ``None`` for a view that is not merged."""

    def mask(view: int) -> Tensor:
        # Stored maps were cropped with the clip; other scores are of the crop itself, as in the
        # reference, and see no motion outside it.
        stored = config.mask in ("stored", "frames")
        score = scores[view] if stored else _score(clips[view], config, draws[view])
        return foreground_mask(score, config.beta, cut=config.cut)

    if not config.merges:
        return None, None
    return mask(0), mask(1) if config.views == "both" else None


def _merged(
    clips: Sequence[Tensor], view: int, mask: Tensor | None, draw: Draws, config: PretrainConfig
) -> Tensor:
    if mask is None:
        return clips[view]
    if config.background == "intra":
        # The background of the other clip of the same video.
        return merge_with(clips[view], mask, clips[1 - view])
    return merge(clips[view], mask, draw.source_B)


def _jittered(
    clips: Sequence[Tensor], view: int, mask: Tensor | None, draw: Draws, config: PretrainConfig
) -> Tensor:
    merged = _merged(clips, view, mask, draw, config)
    return jitter(merged, draw.colour, order=draw.order, kind=config.jitter_kind)


def _coloured(clip: Tensor, draw: Draws, config: PretrainConfig) -> Tensor:
    """Blur and normalise; compiled, one kernel for the rows and one for the columns."""
    weight_BK = blur_weights(draw.colour, blur_kernel(config.crop))
    if not config.compile:
        return _finished(blur(clip, weight_BK), config)
    across = _run(_blurred_rows, config)(clip, weight_BK, config)
    return _run(_blurred_columns, config)(across, weight_BK, config)


def _blurred_rows(clip: Tensor, weight_BK: Tensor, config: PretrainConfig) -> Tensor:
    return blur_along(clip, weight_BK, columns=False).to(_between(config))


def _blurred_columns(clip: Tensor, weight_BK: Tensor, config: PretrainConfig) -> Tensor:
    return _finished(blur_along(clip, weight_BK, columns=True), config)


def _finished(clip: Tensor, config: PretrainConfig) -> Tensor:
    """Normalise, in the type and layout of the encoders."""
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    memory = torch.channels_last_3d if config.channels_last else torch.contiguous_format
    return normalise(clip).to(dtype, memory_format=memory)


def _between(config: PretrainConfig) -> torch.dtype:
    """Return the data type of colours between two kernels."""
    return torch.float16 if config.compile and config.precision == "bf16" else torch.float32


def _run(function: Callable[..., Any], config: PretrainConfig) -> Callable[..., Any]:
    return _compiled(function) if config.compile else function


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return one compiled form of a function; it holds a program for each kind of input that it
    met.
    """
    # The jitter is left to the default limits: see FUSE.
    options: dict[str, Any] = {} if function is _jittered else dict(FUSE)
    return torch.compile(function, dynamic=False, fullgraph=True, options=options)


def _draw_sources(
    config: PretrainConfig, count: int, *, seed: int, epoch: int, view: int, step: int, rank: int
) -> Tensor:
    """Return for each of this process's ``count`` clips the one that lends it a background."""
    if not config.merges or config.background == "intra":
        # Each its own: nothing is merged, or the other clip of the video is the background.
        return torch.arange(count)
    draw = derangement if config.sources == "derangement" else permutation
    draws = generator(seed, epoch, step, f"background/{view}")
    batch, group = config.batch, config.merge_group
    return own_sources(draw, count, generator=draws, rank=rank, batch=batch, group=group)


def _draw_cells(
    config: PretrainConfig, samples: Sequence[int], *, seed: int, epoch: int, view: int
) -> Tensor:
    if config.mask != "grid":
        return torch.empty(len(samples), 0, 0)
    draws = (generator(seed, epoch, sample, f"grid/{view}") for sample in samples)
    # One generator for each sample, so that its cells do not depend on the batch that it is in.
    return torch.cat([torch.rand(1, _CELLS, _CELLS, generator=draw) for draw in draws])


def _score(clip: Tensor, config: PretrainConfig, draw: Draws) -> Tensor:
    """Return the score of masks that are made on the crop."""
    if config.mask == "online":
        return paper_score(clip, hue=config.hue)
    if config.mask == "difference":
        return motion_score(clip)
    if config.mask == "median":
        return median_score(clip)
    if config.mask == "gauss":
        return gauss_score(clip)
    return spread_cells(draw.cell_Bhw, height=config.crop, width=config.crop)
