"""Augmentation of clips on their device with numbers drawn beforehand, by address, on the CPU.

Geometry is drawn once per view and applied to a clip and to its foreground map in one resampling
each. Colour is drawn once per view and applied to all frames of the clip. The recipe is the
reference's: crop and flip, then (after merging) grey, colour jitter, blur.

Shapes: B batch, C = 3 RGB channels, T frames, H W height/width, h w size of a map, S crop size, U
numbers per sample.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float32, UInt8
from kornia.color import rgb_to_grayscale
from kornia.enhance import (
    adjust_brightness_accumulative,
    adjust_contrast_with_mean_subtraction,
    adjust_hue,
    adjust_saturation_with_gray_subtraction,
)
from kornia.filters import gaussian_blur2d
from torch import Tensor
from torch.nn import functional as F

from fame.randomness import generator

_TRIES = 10  # crops tried before the central one is taken
_RATIO = (3 / 4, 4 / 3)
_JITTER = (0.4, 0.4, 0.4, 0.1)  # brightness, contrast, saturation, hue (in turns)
_SIGMA = (0.1, 2.0)
_CROP_DRAWS = 2 * _TRIES + 3
_COLOUR_DRAWS = 8

Clips = Float[Tensor, "b 3 t h w"]


class Crop(NamedTuple):
    """A box in pixels of the source (top, left, height, width) and whether it is mirrored, per
    clip; on the CPU.
    """

    box_B4: Float32[Tensor, "b 4"]
    flip_B: Bool[Tensor, " b"]


class Colour(NamedTuple):
    """What happens to the colours of each clip; on the CPU. ``factor_B4``: brightness, contrast,
    saturation, hue.
    """

    gray_B: Bool[Tensor, " b"]
    jitter_B: Bool[Tensor, " b"]
    factor_B4: Float32[Tensor, "b 4"]
    blur_B: Bool[Tensor, " b"]
    sigma_B: Float32[Tensor, " b"]


def uniforms(
    count: int, *, seed: int, epoch: int, indices: Sequence[int], purpose: str
) -> Float32[Tensor, "b u"]:
    """``count`` numbers in [0, 1) for each sample: a function of the sample's own address, whatever
    its batch.
    """
    rows = [
        torch.rand(count, generator=generator(seed, epoch, index, purpose)) for index in indices
    ]
    return torch.stack(rows)


def draw_crop(
    *,
    seed: int,
    epoch: int,
    indices: Sequence[int],
    view: int,
    size: tuple[int, int],
    min_area: float,
    flip: float,
) -> Crop:
    """Random resized crops of frames of ``size`` (height, width): area ``min_area``..1, aspect
    3/4..4/3, mirrored.

    The first of ten draws that fits is taken, else the largest central box of an allowed aspect.
    """
    height, width = size
    u_BU = uniforms(_CROP_DRAWS, seed=seed, epoch=epoch, indices=indices, purpose=f"crop/{view}")
    area_BK = height * width * (min_area + (1 - min_area) * u_BU[:, :_TRIES])
    low, high = math.log(_RATIO[0]), math.log(_RATIO[1])
    ratio_BK = torch.exp(low + (high - low) * u_BU[:, _TRIES : 2 * _TRIES])
    w_BK, h_BK = (area_BK * ratio_BK).sqrt().round(), (area_BK / ratio_BK).sqrt().round()
    fits_BK = (w_BK > 0) & (h_BK > 0) & (w_BK <= width) & (h_BK <= height)
    first_B1 = fits_BK.int().argmax(1, keepdim=True)
    w_B, h_B = w_BK.gather(1, first_B1)[:, 0], h_BK.gather(1, first_B1)[:, 0]
    top_B = torch.floor(u_BU[:, -3] * (height - h_B + 1))
    left_B = torch.floor(u_BU[:, -2] * (width - w_B + 1))
    box_B4 = torch.stack([top_B, left_B, h_B, w_B], 1)
    box_B4 = torch.where(fits_BK.any(1, keepdim=True), box_B4, _central_box(height, width))
    return Crop(box_B4=box_B4, flip_B=u_BU[:, -1] < flip)


def crop_clip(
    clip_BTHWC: UInt8[Tensor, "b t h w 3"], crop: Crop, *, size: int
) -> Float32[Tensor, "b 3 t s s"]:
    """Cut, resize to ``size`` x ``size`` and mirror each clip by its box: one bilinear resampling,
    colours in 0..1.
    """
    b, t, h, w, c = clip_BTHWC.shape
    planes = clip_BTHWC.permute(0, 4, 1, 2, 3).reshape(b, c * t, h, w)
    grid = _grid(crop, size, (h, w)).to(planes.device, non_blocking=True)
    return (_sample(planes.float(), grid) / 255).view(b, c, t, size, size)


def crop_map(
    map_BHW: UInt8[Tensor, "b mh mw"], crop: Crop, *, size: int, frame: tuple[int, int]
) -> Float32[Tensor, "b s s"]:
    """Cut, resize and mirror maps of frames of size ``frame`` by the same boxes; values stay
    0..255.
    """
    grid = _grid(crop, size, frame).to(map_BHW.device, non_blocking=True)
    return _sample(map_BHW[:, None].float(), grid)[:, 0]


def draw_colour(
    *,
    seed: int,
    epoch: int,
    indices: Sequence[int],
    view: int,
    gray: float,
    jitter: float,
    blur: float,
) -> Colour:
    """Colour augmentation of each clip: applied with probabilities ``gray``, ``jitter`` and
    ``blur``.
    """
    u_BU = uniforms(
        _COLOUR_DRAWS, seed=seed, epoch=epoch, indices=indices, purpose=f"colour/{view}"
    )
    amount_4 = torch.tensor(_JITTER)
    centre_4 = torch.tensor((1.0, 1.0, 1.0, 0.0))
    return Colour(
        gray_B=u_BU[:, 0] < gray,
        jitter_B=u_BU[:, 1] < jitter,
        factor_B4=centre_4 + amount_4 * (2 * u_BU[:, 2:6] - 1),
        blur_B=u_BU[:, 6] < blur,
        sigma_B=_SIGMA[0] + (_SIGMA[1] - _SIGMA[0]) * u_BU[:, 7],
    )


def draw_order(*, seed: int, epoch: int, step: int, view: int) -> tuple[int, ...]:
    """The order of brightness, contrast, saturation and hue: one for the whole batch of a step, as
    kornia has it.
    """
    return tuple(
        torch.randperm(4, generator=generator(seed, epoch, step, f"colour-order/{view}")).tolist()
    )


def apply_colour(
    clip_BCTHW: Clips, colour: Colour, *, order: Sequence[int] = (0, 1, 2, 3)
) -> Clips:
    """Grey, jitter and blur each clip as drawn, the same for all its frames; colours in 0..1.

    Each operation runs on the clips that drew it only; which ones is known on the CPU, so the
    device never waits.
    """
    result = clip_BCTHW.clone()
    _on_rows_(
        result,
        colour.gray_B,
        lambda clips, rows: _per_frame(rgb_to_grayscale, clips).expand_as(clips),
    )
    _on_rows_(
        result, colour.jitter_B, lambda clips, rows: _jitter(clips, colour.factor_B4[rows], order)
    )
    _on_rows_(result, colour.blur_B, lambda clips, rows: _blur(clips, colour.sigma_B[rows]))
    return result


def blur_kernel(size: int) -> int:
    """Side of the blur's kernel for crops of ``size`` pixels: the odd number nearest below or at a
    tenth, plus one.
    """
    return int(0.1 * size) // 2 * 2 + 1


def _central_box(height: int, width: int) -> Float32[Tensor, "4"]:
    """The largest central box whose aspect is allowed."""
    w = min(width, round(height * _RATIO[1]))
    h = min(height, round(width / _RATIO[0]))
    return torch.tensor(((height - h) // 2, (width - w) // 2, h, w), dtype=torch.float32)


def _grid(crop: Crop, size: int, frame: tuple[int, int]) -> Float32[Tensor, "b s s 2"]:
    """Where each output pixel's centre lies in its source, in grid_sample's -1..1 from edge to edge
    of the frame.
    """
    centre_S = (torch.arange(size, dtype=torch.float32) + 0.5) / size
    top_B1, left_B1, h_B1, w_B1 = crop.box_B4.split(1, 1)
    x_BS = (left_B1 + w_B1 * torch.where(crop.flip_B[:, None], 1 - centre_S, centre_S)) / frame[1]
    y_BS = (top_B1 + h_B1 * centre_S) / frame[0]
    shape = (len(x_BS), size, size)
    return torch.stack([x_BS[:, None, :].expand(shape), y_BS[:, :, None].expand(shape)], 3) * 2 - 1


def _sample(planes_BCHW: Tensor, grid_BSS2: Tensor) -> Tensor:
    return F.grid_sample(
        planes_BCHW, grid_BSS2, mode="bilinear", padding_mode="border", align_corners=False
    )


def _on_rows_(
    clip_BCTHW: Tensor, chosen_B: Tensor, change: Callable[[Tensor, Tensor], Tensor]
) -> None:
    """Replace the chosen clips by what ``change(clips, their rows)`` makes of them."""
    rows = torch.nonzero(chosen_B).flatten()
    if len(rows):
        there = rows.to(clip_BCTHW.device, non_blocking=True)
        clip_BCTHW[there] = change(clip_BCTHW[there], rows)


def _per_frame(operation: Callable[..., Tensor], clip_BCTHW: Tensor, *values_B: Tensor) -> Tensor:
    """Run a kornia operation, which wants channels third from the end, on every frame with its
    clip's value.
    """
    frames_BTCHW = clip_BCTHW.transpose(1, 2)
    per_frame = [
        value.to(clip_BCTHW.device, non_blocking=True).view(-1, 1, 1, 1, 1) for value in values_B
    ]
    return operation(frames_BTCHW, *per_frame).transpose(1, 2)


def _adjust_hue_turns(frames_BTCHW: Tensor, turns: Tensor) -> Tensor:
    return adjust_hue(frames_BTCHW, turns * 2 * math.pi)


def _jitter(clip_BCTHW: Tensor, factor_B4: Tensor, order: Sequence[int]) -> Tensor:
    operations: tuple[Callable[..., Tensor], ...] = (
        adjust_brightness_accumulative,
        adjust_contrast_with_mean_subtraction,
        adjust_saturation_with_gray_subtraction,
        _adjust_hue_turns,
    )
    for number in order:
        clip_BCTHW = _per_frame(operations[number], clip_BCTHW, factor_B4[:, number])
    return clip_BCTHW


def _blur(clip_BCTHW: Tensor, sigma_B: Tensor) -> Tensor:
    kernel = blur_kernel(clip_BCTHW.shape[-1])
    planes = clip_BCTHW.flatten(1, 2)
    sigma_B2 = sigma_B[:, None].expand(-1, 2)  # still on the CPU, where kornia looks at the values
    return gaussian_blur2d(planes, (kernel, kernel), sigma_B2).view_as(clip_BCTHW)
