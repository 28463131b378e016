"""Where the moving foreground of a clip is: soft scores from the clip alone, and the mask of its
highest pixels.

Scores are in 0..1, one map per clip, higher where foreground is likelier. `paper_score` is the
method of the paper (section 3.2, arXiv 2109.15130), `motion_score` its seed; `gauss_score` and
`grid_score` are what its ablation compares with. All take clips of any float dtype, compute in
float32 or better, return float32 on the clip's device and track no gradient.

Shapes: B batch, C = 3 RGB channels in 0..1, T frames, H W height and width, P = H * W pixels, K
colours.
"""

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

Hue = Literal["reference", "correct"]

_LEVELS = 10  # of each of the three colour coordinates: K = 1000 colours
_SURE_FOREGROUND = (
    0.5  # share of the pixels, most motion first, whose colours make the foreground's histogram
)
_SURE_BACKGROUND = 0.1  # the same for the background, least motion first
_EPS = 1e-8


@torch.no_grad()
def paper_score(
    clip_BCTHW: Float[Tensor, "b c t h w"], *, hue: Hue = "reference"
) -> Float32[Tensor, "b h w"]:
    """Frame difference refined by colour: how much more a pixel's colour is seen where things move
    than where not.

    ``hue="reference"`` multiplies the hue angle by 2 pi once too often, as the published
    implementation does; ``hue="correct"`` does not. A clip in which nothing changes scores 0
    everywhere. Raises ``ValueError`` for a bad shape or hue and for values that are not finite.
    """
    if hue not in get_args(Hue):
        raise ValueError(f"hue must be 'reference' or 'correct', got {hue!r}")
    motion_BHW, mean_BCHW = _motion_and_mean(clip_BCTHW)
    colour_BP = _colour(mean_BCHW, hue).flatten(1)
    share_B2K = _colour_shares(motion_BHW.flatten(1), colour_BP)
    odds_BK = share_B2K[:, 0] / share_B2K.sum(1)
    score_BHW = _min_max(_blur(odds_BK.gather(1, colour_BP).view_as(motion_BHW)))
    return score_BHW * (motion_BHW.amax((1, 2), keepdim=True) > 0)


@torch.no_grad()
def motion_score(clip_BCTHW: Float[Tensor, "b c t h w"]) -> Float32[Tensor, "b h w"]:
    """Mean absolute difference of consecutive frames, blurred and min-max scaled: the paper's seed.

    All 0 where nothing changes. Raises ``ValueError`` for a bad shape and for values that are not
    finite.
    """
    return _motion_and_mean(clip_BCTHW)[0]


@torch.no_grad()
def gauss_score(clip_BCTHW: Float[Tensor, "b c t h w"]) -> Float32[Tensor, "b h w"]:
    """A centre prior that looks at no pixel: a Gaussian with a standard deviation of a quarter of
    each side.
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
    """A random score for each of ``cells`` x ``cells`` cells of each clip, drawn from a CPU
    ``generator``.

    Raises ``ValueError`` for a bad shape or for more cells than pixels.
    """
    _check_clip(clip_BCTHW)
    batch, _, _, height, width = clip_BCTHW.shape
    if not 1 <= cells <= min(height, width):
        raise ValueError(
            f"cells must lie in 1..{min(height, width)} for {height}x{width} pixels, got {cells}"
        )
    cell_Bhw = torch.rand(batch, cells, cells, generator=generator).to(clip_BCTHW.device)
    row_H = torch.arange(height, device=clip_BCTHW.device) * cells // height
    column_W = torch.arange(width, device=clip_BCTHW.device) * cells // width
    return cell_Bhw[:, row_H[:, None], column_W]


@torch.no_grad()
def top_fraction(score_BHW: Float[Tensor, "b h w"], beta: float) -> Bool[Tensor, "b h w"]:
    """The mask of the int(beta * H * W) highest pixels of each map.

    Of pixels with equal scores, those that `torch.topk` takes: as arbitrary as in the reference,
    and the same in every run on a device. Raises ``ValueError`` for a beta outside (0, 1] and, on
    the CPU, for a map with NaN.
    """
    if not 0 < beta <= 1:
        raise ValueError(
            f"beta, the share of each clip that is foreground, must lie in (0, 1], got {beta}"
        )
    _refuse_where(score_BHW.isnan(), "NaN")
    return _highest(score_BHW.flatten(1), int(beta * score_BHW[0].numel())).view_as(score_BHW)


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


def _refuse_where(bad_BHW: Tensor, what: str) -> None:
    """``ValueError`` naming the first clip with a bad value; on a GPU nothing: asking waits for all
    its work.

    Clips made from 8-bit frames have no such value, and in training a loss that is not finite stops
    the run.
    """
    if bad_BHW.is_cpu and bad_BHW.any():
        item = int(bad_BHW.flatten(1).any(1).nonzero()[0, 0])
        raise ValueError(f"item {item} of the batch has values that are {what}")


def _motion_and_mean(clip_BCTHW: Tensor) -> tuple[Tensor, Tensor]:
    """The motion score [B, H, W] and the mean frame [B, C, H, W], in one pass and in the memory of
    a few frames.
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
    _refuse_where(~change_BHW.isfinite(), "not finite")
    return _min_max(_blur(change_BHW / (frames - 1))), sum_BCHW / frames


def _colour(mean_BCHW: Tensor, hue: Hue) -> Int64[Tensor, "b h w"]:
    """The number of each pixel's colour among K: hue and saturation as a point in the unit disc,
    and value.
    """
    high_BHW, argmax_BHW = mean_BCHW.max(1)
    spread_BHW = high_BHW - mean_BCHW.amin(1)
    saturation_BHW = spread_BHW / (high_BHW + _EPS)
    spread_BHW = spread_BHW.where(spread_BHW > 0, 1)
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
    return (x_BHW * _LEVELS + y_BHW) * _LEVELS + value_BHW


def _level(value: Tensor) -> Tensor:
    # The 1 decides which way halves go (to even): at grey pixels, x = y = 0.5, every colour hangs
    # on it.
    return (value * (_LEVELS - 1) + 1).round().long().sub_(1).clamp_(0, _LEVELS - 1)


def _colour_shares(motion_BP: Tensor, colour_BP: Tensor) -> Float32[Tensor, "b 2 k"]:
    """Share of each colour among the surely moving and among the surely still pixels."""
    pixels, colours = motion_BP.shape[1], _LEVELS**3
    moving_BP = _highest(motion_BP, int(_SURE_FOREGROUND * pixels))
    still_BP = _highest(-motion_BP, int(_SURE_BACKGROUND * pixels))
    # One scatter counts three histograms side by side: moving, still, neither.
    offset_BP = torch.where(moving_BP, 0, torch.where(still_BP, colours, 2 * colours))
    counts = torch.zeros(len(motion_BP), 3 * colours, dtype=torch.int32, device=motion_BP.device)
    counts.scatter_add_(1, colour_BP + offset_BP, counts.new_ones(1).expand_as(colour_BP))
    counts_B2K = counts.view(-1, 3, colours)[:, :2].float()
    counts_B2K[:, 1] += 1  # no colour is impossible in the background
    return counts_B2K / counts_B2K.sum(2, keepdim=True).clamp(min=1)


def _highest(value_BP: Tensor, count: int) -> Bool[Tensor, "b p"]:
    """The ``count`` highest of each row; which of equal ones is for `torch.topk` to say."""
    chosen_BN = value_BP.topk(count, sorted=False).indices
    return torch.zeros_like(value_BP, dtype=torch.bool).scatter_(1, chosen_BN, value=True)


def _min_max(value_BHW: Tensor) -> Tensor:
    low_B11, high_B11 = value_BHW.amin((1, 2), keepdim=True), value_BHW.amax((1, 2), keepdim=True)
    return (value_BHW - low_B11) / (high_B11 - low_B11 + _EPS)


def _blur(value_BHW: Tensor) -> Float32[Tensor, "b h w"]:
    """Gaussian blur, its kernel a tenth of the shorter side, borders mirrored without repeating the
    edge.

    Shifted sums and no convolution: tensor cores and autocast would round the products, and a
    plateau would not stay one; either moves pixels over the cut.
    """
    height, width = value_BHW.shape[1:]
    reach = int(0.1 * min(height, width)) // 2
    if reach == 0:
        return value_BHW
    weights = _gauss_weights(reach)
    padded_BHW = F.pad(value_BHW[:, None], (reach,) * 4, mode="reflect")[:, 0]
    across_BHW = weights[0] * padded_BHW[:, :, :width]
    for j, weight in enumerate(weights[1:], start=1):
        across_BHW.add_(padded_BHW[:, :, j : j + width], alpha=weight)
    down_BHW = weights[0] * across_BHW[:, :height]
    for j, weight in enumerate(weights[1:], start=1):
        down_BHW.add_(across_BHW[:, j : j + height], alpha=weight)
    return down_BHW


def _gauss_weights(reach: int) -> list[float]:
    """The 2 * reach + 1 weights of a Gaussian whose standard deviation is a third of the kernel,
    summing to 1.
    """
    sigma = (2 * reach + 1) / 3
    weights = [math.exp(-(offset**2) / (2 * sigma**2)) for offset in range(-reach, reach + 1)]
    return [weight / sum(weights) for weight in weights]


def _fall_off(size: int, *, device: torch.device) -> Tensor:
    offset_S = (torch.arange(size, device=device, dtype=torch.float32) - (size - 1) / 2) / (
        size / 4
    )
    return torch.exp(-offset_S.square() / 2)
