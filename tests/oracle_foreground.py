"""The foreground method spelled out in NumPy, a clip and a pixel at a time where that is the
plainest way.

Slow on purpose: the tests hold `fame.foreground` against it. `straightforward_*` are the same steps
as whole-tensor torch operations, one line a step: what a reader of the paper would write first, and
what the benchmark compares with.

Shapes: B batch, C = 3 RGB in 0..1, T frames, H W height and width.
"""

import colorsys
import math

import numpy as np
import torch
import torch.nn.functional as F
from kornia.color import rgb_to_hsv

LEVELS, EPS = 10, 1e-8


def blur(value_HW: np.ndarray) -> np.ndarray:
    height, width = value_HW.shape
    reach = int(0.1 * min(height, width)) // 2
    sigma = (2 * reach + 1) / 3
    weight = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    weight_KK = np.outer(weight, weight) / weight.sum() ** 2
    padded = np.pad(value_HW.astype(np.float64), reach, mode="reflect")
    patches = np.lib.stride_tricks.sliding_window_view(padded, weight_KK.shape)
    return (patches * weight_KK).sum((2, 3))


def min_max(value_HW: np.ndarray) -> np.ndarray:
    return (value_HW - value_HW.min()) / (value_HW.max() - value_HW.min() + EPS)


def motion_score(clip_CTHW: np.ndarray) -> np.ndarray:
    clip_CTHW = clip_CTHW.astype(np.float64)
    return min_max(blur(np.abs(np.diff(clip_CTHW, axis=1)).sum(0).mean(0)))


def box_mean(value_HW: np.ndarray) -> np.ndarray:
    """Mean over a square around each pixel, as much of it as lies in the frame."""
    height, width = value_HW.shape
    reach = int(0.1 * min(height, width)) // 2
    result = np.empty_like(value_HW)
    for y in range(height):
        for x in range(width):
            rows = slice(max(0, y - reach), y + reach + 1)
            result[y, x] = value_HW[rows, max(0, x - reach) : x + reach + 1].mean()
    return result


def median_score(clip_CTHW: np.ndarray) -> np.ndarray:
    clip_CTHW = clip_CTHW.astype(np.float64)
    usual_CHW = np.sort(clip_CTHW, axis=1)[:, (clip_CTHW.shape[1] - 1) // 2]
    away_THW = np.abs(clip_CTHW - usual_CHW[:, None]).sum(0)
    score_THW = np.stack([box_mean(box_mean(frame)) for frame in away_THW])
    return score_THW / (score_THW.max() + EPS)


def best_cut(values: np.ndarray, least: int, most: int) -> int:
    """How many of the highest values to keep, so that kept and others differ most (Otsu)."""
    high = np.sort(values.astype(np.float64).ravel())[::-1]

    def gap(kept: int) -> float:
        others = high[kept:].mean() if kept < len(high) else 0.0
        return kept * (len(high) - kept) * (high[:kept].mean() - others) ** 2

    return max(range(least, most + 1), key=gap)


def colour(rgb: np.ndarray, hue_scale: float) -> int:
    hue, _, value = colorsys.rgb_to_hsv(*(float(c) for c in rgb))
    saturation = (rgb.max() - rgb.min()) / (rgb.max() + EPS)
    angle = hue * 2 * math.pi * hue_scale
    coordinates = (
        (saturation * math.cos(angle) + 1) / 2,
        (saturation * math.sin(angle) + 1) / 2,
        value,
    )
    x, y, v = (round(c * (LEVELS - 1) + 1) - 1 for c in coordinates)
    return (x * LEVELS + y) * LEVELS + v


def paper_score(clip_CTHW: np.ndarray, *, hue: str) -> np.ndarray:
    motion_P = motion_score(clip_CTHW).ravel()
    scale = 2 * math.pi if hue == "reference" else 1.0
    mean_CP = clip_CTHW.astype(np.float64).mean(1).reshape(3, -1)
    colour_P = np.array([colour(rgb, scale) for rgb in mean_CP.T])
    order = np.argsort(motion_P)
    moving, still = order[len(order) - int(0.5 * len(order)) :], order[: int(0.1 * len(order))]
    foreground_K = np.bincount(colour_P[moving], minlength=LEVELS**3).astype(np.float64)
    background_K = 1.0 + np.bincount(colour_P[still], minlength=LEVELS**3)
    foreground_K, background_K = (
        foreground_K / foreground_K.sum(),
        background_K / background_K.sum(),
    )
    odds_P = foreground_K[colour_P] / (foreground_K[colour_P] + background_K[colour_P])
    return min_max(blur(odds_P.reshape(clip_CTHW.shape[2:])))


def straightforward_score(clip_BCTHW: torch.Tensor) -> torch.Tensor:
    batch, _, _, height, width = clip_BCTHW.shape
    pixels, colours = height * width, LEVELS**3
    difference = (clip_BCTHW[:, :, :-1] - clip_BCTHW[:, :, 1:]).abs().sum(1).mean(1)
    motion = _scaled_blur(difference).flatten(1)
    hue, saturation, value = rgb_to_hsv(clip_BCTHW.mean(2)).unbind(1)
    hue = hue * 2 * math.pi
    x, y = (saturation * hue.cos() + 1) / 2, (saturation * hue.sin() + 1) / 2
    x, y, v = (((c * (LEVELS - 1) + 1).round() - 1).long() for c in (x, y, value))
    colour = ((x * LEVELS + y) * LEVELS + v).flatten(1)
    moving = motion.topk(int(0.5 * pixels)).indices
    still = motion.topk(int(0.1 * pixels), largest=False).indices
    one_hot = torch.zeros(2, batch, colours)
    foreground = one_hot[0].scatter_add(1, colour.gather(1, moving), torch.ones(moving.shape))
    background = one_hot[1].scatter_add(1, colour.gather(1, still), torch.ones(still.shape)) + 1
    foreground, background = (
        foreground / foreground.sum(1, True),
        background / background.sum(1, True),
    )
    odds = (foreground / (foreground + background)).gather(1, colour)
    return _scaled_blur(odds.view(batch, height, width))


def straightforward_merge(
    clip_BCTHW: torch.Tensor, score_BHW: torch.Tensor, beta: float, source_B: torch.Tensor
) -> torch.Tensor:
    chosen = score_BHW.flatten(1).topk(int(beta * score_BHW[0].numel())).indices
    mask = (
        torch.zeros_like(score_BHW.flatten(1))
        .scatter(1, chosen, 1.0)
        .view_as(score_BHW)[:, None, None]
    )
    return clip_BCTHW * mask + clip_BCTHW[source_B] * (1 - mask)


def _scaled_blur(value_BHW: torch.Tensor) -> torch.Tensor:
    height, width = value_BHW.shape[1:]
    reach = int(0.1 * min(height, width)) // 2
    sigma = (2 * reach + 1) / 3
    weight = torch.exp(-(torch.arange(-reach, reach + 1.0) ** 2) / (2 * sigma**2))
    weight = weight / weight.sum()
    padded = F.pad(value_BHW[:, None], (reach,) * 4, mode="reflect")
    blurred = F.conv2d(F.conv2d(padded, weight.view(1, 1, 1, -1)), weight.view(1, 1, -1, 1))[:, 0]
    low, high = blurred.amin((1, 2), True), blurred.amax((1, 2), True)
    return (blurred - low) / (high - low + EPS)
