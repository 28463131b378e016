"""Find the moving foreground of a clip: soft scores of the clip alone, and the mask of its highest
pixels.

Scores are in 0..1, higher where foreground is likelier. `paper_score` is the method of the paper
(section 3.2, arXiv 2109.15130), `motion_score` its seed; `gauss_score` and `grid_score` are what
its ablation compares with. These give one map per clip, `median_score` one per frame. All take
clips of any float dtype, compute in float32 or better, return float32 on the clip's device and
track no gradient.

Shapes: B batch, C = 3 RGB channels in 0..1, T frames, H W height and width, P = H * W pixels, K
colours, N values of a whole clip.
"""

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

Hue = Literal["reference", "correct"]
Cut = Literal["frame", "clip", "adaptive"]

_LEVELS = 10  # of each of the three colour coordinates: K = 1000 colours
_SURE_FOREGROUND = (
    0.5  # share of the pixels, most motion first, whose colours make the foreground's histogram
)
_SURE_BACKGROUND = 0.1  # the same for the background, least motion first
_EPS = 1e-8
_PART = 4 * 224 * 224  # pixels of clips scored at once on a CPU, so that they stay in its cache
_LEAST = 0.2  # the smallest adaptive mask, as a share of the largest


@torch.no_grad()
def paper_score(
    clip_BCTHW: Float[Tensor, "b c t h w"], *, hue: Hue = "reference"
) -> Float32[Tensor, "b h w"]:
    """Return the frame difference refined by colour: how much more often a pixel's colour occurs
    where things move than elsewhere.

    ``hue="reference"`` multiplies the hue angle by 2 pi once too often, as the published
    implementation does; ``hue="correct"`` does not. A clip in which nothing changes scores 0
    everywhere. Raise ``ValueError`` for a bad shape or hue and for values that are not finite.
    """
    if hue not in get_args(Hue):
        raise ValueError(f"hue must be 'reference' or 'correct', got {hue!r}")
    _check_clip(clip_BCTHW)
    height, width = clip_BCTHW.shape[3:]
    at_once = max(1, _PART // (height * width))
    if not clip_BCTHW.is_cpu or torch.compiler.is_compiling() or len(clip_BCTHW) <= at_once:
        return _paper_score(clip_BCTHW, hue)
    # 10 clips, 4 at once: their first ones are the clips 0, 4 and 8.
    parts = enumerate(clip_BCTHW.split(at_once))
    return torch.cat([_paper_score(part, hue, number * at_once) for number, part in parts])


def _paper_score(clip_BCTHW: Tensor, hue: Hue, first: int = 0) -> Float32[Tensor, "b h w"]:
    """Return the `paper_score` of clips of which ``first`` is the number in their batch."""
    motion_BHW, mean_BCHW = _motion_and_mean(clip_BCTHW, first)
    colour_BP = _colour(mean_BCHW, hue).flatten(1)
    share_B2K = _colour_shares(motion_BHW.flatten(1), colour_BP)
    # A colour that only moving pixels have gets nearly 1, one as frequent among both 0.5.
    odds_BK = share_B2K[:, 0] / share_B2K.sum(1)
    score_BHW = _min_max(_blur(odds_BK.gather(1, colour_BP).view_as(motion_BHW)))
    return score_BHW * (motion_BHW.amax((1, 2), keepdim=True) > 0)


@torch.no_grad()
def motion_score(clip_BCTHW: Float[Tensor, "b c t h w"]) -> Float32[Tensor, "b h w"]:
    """Return the mean absolute difference of consecutive frames, blurred and min-max scaled: the
    paper's seed.

    All 0 where nothing changes. Raise ``ValueError`` for a bad shape and for values that are not
    finite.
    """
    return _motion_and_mean(clip_BCTHW)[0]


@torch.no_grad()
def median_score(clip_BCTHW: Float[Tensor, "b c t h w"]) -> Float32[Tensor, "b t h w"]:
    """Return how far the colours of each frame are from the clip's median over time: a map per
    frame.

    The median is what a place shows most of the time, so the map follows a mover from frame to
    frame where `motion_score` covers its whole path. Absolute differences, summed over colours,
    twice averaged over squares of a tenth of the shorter side, scaled by the highest of the clip.
    All 0 where nothing changes. Raise ``ValueError`` for a bad shape and for values that are not
    finite.
    """
    _check_clip(clip_BCTHW)
    usual_BCHW = clip_BCTHW.float().median(2).values
    away_BTHW = torch.stack(
        [(frame.float() - usual_BCHW).abs_().sum(1) for frame in clip_BCTHW.unbind(2)], 1
    )
    _refuse_where(~away_BTHW.isfinite(), "not finite")
    score_BTHW = _box_blur(_box_blur(away_BTHW))
    return score_BTHW / (score_BTHW.amax((1, 2, 3), keepdim=True) + _EPS)


@torch.no_grad()
def gauss_score(clip_BCTHW: Float[Tensor, "b c t h w"]) -> Float32[Tensor, "b h w"]:
    """Return a centre prior that looks at no pixel: a Gaussian with a standard deviation of a
    quarter of each side.
    """
    _check_clip(clip_BCTHW)
    batch, _, _, height, width = clip_BCTHW.shape
    y_H = _fall_off(height, device=clip_BCTHW.device)
    x_W = _fall_off(width, device=clip_BCTHW.device)
    return (y_H[:, None] * x_W).repeat(batch, 1, 1)


@torch.no_grad()
def grid_score(
    clip_BCTHW: Float[Tensor, "b c t h w"], *, generator: torch.Generator, cells: int = 4
) -> Float32[Tensor, "b h w"]:
    """Return a random score for each of ``cells`` x ``cells`` cells of each clip, drawn from a CPU
    ``generator``.

    Raise ``ValueError`` for a bad shape or for more cells than pixels.
    """
    _check_clip(clip_BCTHW)
    batch, _, _, height, width = clip_BCTHW.shape
    if not 1 <= cells <= min(height, width):
        raise ValueError(
            f"cells must lie in 1..{min(height, width)} for {height}x{width} pixels, got {cells}"
        )
    cell_Bhw = torch.rand(batch, cells, cells, generator=generator).to(clip_BCTHW.device)
    return spread_cells(cell_Bhw, height=height, width=width)


def spread_cells(
    cell_Bhw: Float[Tensor, "b rows columns"], *, height: int, width: int
) -> Float32[Tensor, "b h w"]:
    """Return the score of the cell that each pixel lies in."""
    rows, columns = cell_Bhw.shape[1:]
    # 5 rows in 2 cells: 0 2 4 6 8, divided by 5, give the cells 0 0 0 1 1.
    row_H = torch.arange(height, device=cell_Bhw.device) * rows // height
    column_W = torch.arange(width, device=cell_Bhw.device) * columns // width
    return cell_Bhw[:, row_H[:, None], column_W]


@torch.no_grad()
def foreground_mask(
    score: Float[Tensor, "b *t h w"], beta: float, *, cut: Cut = "frame"
) -> Bool[Tensor, "b *t h w"]:
    """Return the mask of the highest pixels of maps [B, H, W] of clips, or [B, T, H, W] of their
    frames.

    ``cut="frame"`` takes the share ``beta`` of every frame, ``"clip"`` that share of all frames of
    a clip together, so that a frame that shows more of the mover keeps more. ``"adaptive"`` lets
    each clip's scores choose a share between a fifth of ``beta`` and ``beta``: the one that parts
    them best (Otsu 1979). A clip whose scores are all equal has no foreground that differs from the
    rest: it is kept whole, so that merging leaves it as it is; a single frame of that kind is cut
    by the clip's mean map. Raise ``ValueError`` as `top_fraction` does.
    """
    score_BTHW = score if score.ndim == 4 else score[:, None]
    if cut == "frame":
        flat_BT11 = _flat(score_BTHW, (2, 3))
        # In a frame of equal scores `torch.topk` would take arbitrary pixels: the mean map decides.
        usual_BTHW = score_BTHW.mean(1, keepdim=True).expand_as(score_BTHW)
        mask_BTHW = top_fraction(torch.where(flat_BT11, usual_BTHW, score_BTHW), beta)
    elif cut == "clip":
        mask_BTHW = top_fraction(score_BTHW.flatten(1, 2), beta).view_as(score_BTHW)
    else:
        _check_beta(beta)
        mask_BTHW = _parted(score_BTHW.flatten(1), beta).view_as(score_BTHW)
    return (mask_BTHW | _flat(score_BTHW, (1, 2, 3))).view_as(score)


@torch.no_grad()
def top_fraction(score_BHW: Float[Tensor, "*b h w"], beta: float) -> Bool[Tensor, "*b h w"]:
    """Return the mask of the int(beta * H * W) highest pixels of each map.

    Of pixels with equal scores, those that `torch.topk` takes: as arbitrary as in the reference,
    and the same in every run on a device. Raise ``ValueError`` for a beta outside (0, 1] and, on
    the CPU, for a map with NaN.
    """
    _check_beta(beta)
    _refuse_where(score_BHW.isnan(), "NaN")
    height, width = score_BHW.shape[-2:]
    score_BP = score_BHW.reshape(-1, height * width)
    return _highest(score_BP, int(beta * height * width)).view_as(score_BHW)


def _check_clip(clip_BCTHW: Tensor) -> None:
    if not clip_BCTHW.is_floating_point():
        raise ValueError(
            f"a clip must be of a float dtype with values in 0..1, got {clip_BCTHW.dtype}"
        )
    _, channels, frames, height, width = clip_BCTHW.shape
    if channels != 3 or frames < 2 or height < 1 or width < 1:
        raise ValueError(
            "a clip must be [B, 3, T, H, W] with at least 2 frames, to see motion, "
            f"got {list(clip_BCTHW.shape)}"
        )


def _check_beta(beta: float) -> None:
    if not 0 < beta <= 1:
        raise ValueError(
            f"beta, the share of each clip that is foreground, must lie in (0, 1], got {beta}"
        )


def _refuse_where(bad_BHW: Tensor, what: str, first: int = 0) -> None:
    """Raise ``ValueError`` naming the first clip with a bad value, counted from ``first``; on a GPU
    and in compiled code ask nothing, since asking waits for all its work.

    Clips made from 8-bit frames have no such value, and in training a loss that is not finite stops
    the run.
    """
    if torch.compiler.is_compiling():
        return
    if bad_BHW.is_cpu and bad_BHW.any():
        item = first + int(bad_BHW.flatten(1).any(1).nonzero()[0, 0])
        raise ValueError(f"item {item} of the batch has values that are {what}")


def _motion_and_mean(clip_BCTHW: Tensor, first: int = 0) -> tuple[Tensor, Tensor]:
    """Return the motion score [B, H, W] and the mean frame [B, C, H, W], in one pass and in the
    memory of a few frames.
    """
    _check_clip(clip_BCTHW)
    frames = clip_BCTHW.shape[2]
    previous_BCHW = clip_BCTHW[:, :, 0].float()
    sum_BCHW, change_BHW = previous_BCHW.clone(), torch.zeros_like(previous_BCHW[:, 0])
    for t in range(1, frames):
        frame_BCHW = clip_BCTHW[:, :, t].float()
        change_BHW += (frame_BCHW - previous_BCHW).abs_().sum(1)
        sum_BCHW += frame_BCHW
        previous_BCHW = frame_BCHW
    _refuse_where(~change_BHW.isfinite(), "not finite", first)
    return _min_max(_blur(change_BHW / (frames - 1))), sum_BCHW / frames


def _colour(mean_BCHW: Tensor, hue: Hue) -> Int64[Tensor, "b h w"]:
    """Return the number of each pixel's colour among K: hue and saturation as a point in the unit
    disc, and value.
    """
    high_BHW, argmax_BHW = mean_BCHW.max(1)
    spread_BHW = high_BHW - mean_BCHW.amin(1)
    saturation_BHW = spread_BHW / (high_BHW + _EPS)
    spread_BHW = spread_BHW.where(spread_BHW > 0, 1)
    # How far each channel is below the highest. Where red is highest, blue - green is G - B.
    red, green, blue = (high_BHW[:, None] - mean_BCHW).unbind(1)
    sector_BHW = torch.stack(
        [blue - green, red - blue + 2 * spread_BHW, green - red + 4 * spread_BHW], 1
    )
    turn_BHW = sector_BHW.gather(1, argmax_BHW[:, None])[:, 0] / spread_BHW / 6 % 1
    turn_BHW = turn_BHW.masked_fill(
        turn_BHW >= 1, 0
    )  # the modulo of a tiny negative number rounds to the modulus
    angle_BHW = 2 * torch.pi * turn_BHW
    if hue == "reference":
        angle_BHW = angle_BHW * (2 * torch.pi)
    x_BHW = (saturation_BHW * angle_BHW.cos() + 1) / 2
    y_BHW = (saturation_BHW * angle_BHW.sin() + 1) / 2
    x_BHW, y_BHW, value_BHW = map(_level, (x_BHW, y_BHW, high_BHW))
    # The levels are three digits: 2, 7 and 9 are colour 279.
    return (x_BHW * _LEVELS + y_BHW) * _LEVELS + value_BHW


def _level(value: Tensor) -> Tensor:
    # The 1 decides which way halves are rounded: at 0.5, 5.5 rounds to 6, less 1 is 5, while 4.5
    # would round to 4. At grey pixels, x = y = 0.5, every colour depends on it.
    return (value * (_LEVELS - 1) + 1).round().long().sub_(1).clamp_(0, _LEVELS - 1)


def _colour_shares(motion_BP: Tensor, colour_BP: Tensor) -> Float32[Tensor, "b 2 k"]:
    """Return the share of each colour among the surely moving and among the surely still pixels."""
    pixels, colours = motion_BP.shape[1], _LEVELS**3
    moving_BP = _highest(motion_BP, int(_SURE_FOREGROUND * pixels))
    still_BP = _highest(-motion_BP, int(_SURE_BACKGROUND * pixels))
    # One scatter counts three histograms side by side, moving, still, neither: colour 7 is counted
    # at 7, 1007 or 2007.
    offset_BP = torch.where(moving_BP, 0, torch.where(still_BP, colours, 2 * colours))
    counts = torch.zeros(len(motion_BP), 3 * colours, dtype=torch.int32, device=motion_BP.device)
    counts.scatter_add_(1, colour_BP + offset_BP, counts.new_ones(1).expand_as(colour_BP))
    counts_B2K = counts.view(-1, 3, colours)[:, :2].float()
    counts_B2K[:, 1] += 1  # no colour is impossible in the background
    return counts_B2K / counts_B2K.sum(2, keepdim=True).clamp(min=1)


def _highest(value_BP: Tensor, count: int) -> Bool[Tensor, "b p"]:
    """Return the ``count`` highest of each row; `torch.topk` decides which of equal ones."""
    chosen_BN = value_BP.topk(count, sorted=False).indices
    return torch.zeros_like(value_BP, dtype=torch.bool).scatter_(1, chosen_BN, value=True)


def _parted(score_BN: Tensor, beta: float) -> Bool[Tensor, "b n"]:
    """Return the pixels above the cut that leaves the most variance between both sides, of all cuts
    that keep a fifth of ``beta`` to ``beta``.
    """
    count = score_BN.shape[1]
    most = max(1, int(beta * count))
    least = max(1, int(_LEAST * beta * count))
    high_BN, order_BN = score_BN.double().sort(dim=1, descending=True, stable=True)
    kept = torch.arange(least, most + 1, device=score_BN.device)
    # For each number of kept values from ``least`` to ``most``: the sum of those kept, and of the
    # others. 10 scores with beta 0.5 have cuts after 1, 2, 3, 4 and 5.
    sum_BK = high_BN.cumsum(1)[:, least - 1 : most]
    rest_BK = high_BN.sum(1, keepdim=True) - sum_BK
    # Of k kept values and N - k others: k (N - k) (mean of the kept - mean of the others)^2
    gap_BK = sum_BK / kept - rest_BK / (count - kept).clamp(min=1)
    best_B1 = (kept * (count - kept) * gap_BK.square()).argmax(1, keepdim=True) + least
    chosen_BN = torch.arange(count, device=score_BN.device) < best_B1
    # Back from the sorted order to the order of the pixels.
    return torch.zeros_like(chosen_BN).scatter_(1, order_BN, chosen_BN)


def _flat(score: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Return whether all values along ``axes`` are equal."""
    return score.amax(axes, keepdim=True) == score.amin(axes, keepdim=True)


def _min_max(value_BHW: Tensor) -> Tensor:
    low_B11, high_B11 = value_BHW.amin((1, 2), keepdim=True), value_BHW.amax((1, 2), keepdim=True)
    # The _EPS makes a map of equal values 0 everywhere.
    return (value_BHW - low_B11) / (high_B11 - low_B11 + _EPS)


def _blur(value_BHW: Tensor) -> Float32[Tensor, "b h w"]:
    """Blur with a Gaussian kernel as wide as a tenth of the shorter side; borders are mirrored
    without repeating the edge.

    Shifted sums and no convolution: tensor cores and autocast would round the products, and a
    plateau would not stay one; either moves pixels over the cut.
    """
    height, width = value_BHW.shape[1:]
    reach = int(0.1 * min(height, width)) // 2
    if reach == 0:
        return value_BHW
    weights = _gauss_weights(reach)
    # With a reach of 1 a row a b c d becomes b a b c d c.
    padded_BHW = F.pad(value_BHW[:, None], (reach,) * 4, mode="reflect")[:, 0]
    across_BHW = weights[0] * padded_BHW[:, :, :width]
    for j, weight in enumerate(weights[1:], start=1):
        across_BHW.add_(padded_BHW[:, :, j : j + width], alpha=weight)
    down_BHW = weights[0] * across_BHW[:, :height]
    for j, weight in enumerate(weights[1:], start=1):
        down_BHW.add_(across_BHW[:, j : j + height], alpha=weight)
    return down_BHW


def _box_blur(value_BTHW: Tensor) -> Float32[Tensor, "b t h w"]:
    """Return the mean over a square as wide as the kernel of `_blur`, less what lies outside the
    frame.
    """
    height, width = value_BTHW.shape[2:]
    reach = int(0.1 * min(height, width)) // 2
    # At a border the mean is over the pixels that exist.
    down_BTHW = F.avg_pool2d(value_BTHW, (2 * reach + 1, 1), 1, (reach, 0), count_include_pad=False)
    return F.avg_pool2d(down_BTHW, (1, 2 * reach + 1), 1, (0, reach), count_include_pad=False)


def _gauss_weights(reach: int) -> list[float]:
    """Return the 2 * reach + 1 weights of a Gaussian with a standard deviation of a third of the
    kernel, summing to 1.
    """
    sigma = (2 * reach + 1) / 3
    weights = [math.exp(-(offset**2) / (2 * sigma**2)) for offset in range(-reach, reach + 1)]
    return [weight / sum(weights) for weight in weights]


def _fall_off(size: int, *, device: torch.device) -> Tensor:
    # 4 pixels lie at -1.5 -0.5 0.5 1.5 standard deviations, each of one pixel.
    offset_S = (torch.arange(size, device=device, dtype=torch.float32) - (size - 1) / 2) / (
        size / 4
    )
    return torch.exp(-offset_S.square() / 2)
