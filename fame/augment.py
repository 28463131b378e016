"""Augmentation of clips on their device with numbers drawn beforehand, by address, on the CPU.

Geometry is drawn once per view and applied to a clip and to its foreground map in one resampling
each. Colour is drawn once per view and applied to all frames of the clip. The recipe is the
reference's: crop and flip, then (after merging) grey, colour jitter, blur.

Shapes: B batch, C = 3 RGB channels, T frames, H W height/width, h w size of a map, S crop size, U
numbers per sample.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float32, UInt8
from torch import Tensor
from torch.nn import functional as F

from fame.colour import Colour
from fame.randomness import generator

_TRIES = 10  # crops tried before the central one is taken
_RATIO = (3 / 4, 4 / 3)
_JITTER = (0.4, 0.4, 0.4, 0.1)  # brightness, contrast, saturation, hue (in turns)
_SIGMA = (0.1, 2.0)
_CROP_DRAWS = 2 * _TRIES + 3
_COLOUR_DRAWS = 8


class Crop(NamedTuple):
    """A box in pixels of the source (top, left, height, width) and whether it is mirrored, per
    clip; on the CPU.
    """

    box_B4: Float32[Tensor, "b 4"]
    flip_B: Bool[Tensor, " b"]


def uniforms(
    count: int, *, seed: int, epoch: int, indices: Sequence[int], purpose: str
) -> Float32[Tensor, "b u"]:
    """Draw ``count`` numbers in [0, 1) for each sample, a function of the sample's own address,
    whatever its batch.
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
    """Draw random resized crops of frames of ``size`` (height, width): area ``min_area``..1, aspect
    3/4..4/3, mirrored.

    The first of ten draws that fits is taken, else the largest central box of an allowed aspect.
    """
    height, width = size
    u_BU = uniforms(_CROP_DRAWS, seed=seed, epoch=epoch, indices=indices, purpose=f"crop/{view}")
    # All ten tries are drawn at once: a sample's numbers do not depend on how many of them fail.
    area_BK = height * width * (min_area + (1 - min_area) * u_BU[:, :_TRIES])
    low, high = math.log(_RATIO[0]), math.log(_RATIO[1])
    ratio_BK = torch.exp(low + (high - low) * u_BU[:, _TRIES : 2 * _TRIES])
    w_BK, h_BK = (area_BK * ratio_BK).sqrt().round(), (area_BK / ratio_BK).sqrt().round()
    fits_BK = (w_BK > 0) & (h_BK > 0) & (w_BK <= width) & (h_BK <= height)
    # argmax of [0 0 1 0 1] is 2, the first that fits; of [0 0 0 0 0] it is 0, replaced below.
    first_B1 = fits_BK.int().argmax(1, keepdim=True)
    w_B, h_B = w_BK.gather(1, first_B1)[:, 0], h_BK.gather(1, first_B1)[:, 0]
    # A box of 100 rows in a frame of 112 begins at one of the rows 0 to 12, each equally likely.
    top_B = torch.floor(u_BU[:, -3] * (height - h_B + 1))
    left_B = torch.floor(u_BU[:, -2] * (width - w_B + 1))
    box_B4 = torch.stack([top_B, left_B, h_B, w_B], 1)
    box_B4 = torch.where(fits_BK.any(1, keepdim=True), box_B4, _central_box(height, width))
    return Crop(box_B4=box_B4, flip_B=u_BU[:, -1] < flip)


def sampling_grid(crop: Crop, *, size: int, frame: tuple[int, int]) -> Float32[Tensor, "b s s 2"]:
    """Return where the centre of each output pixel lies in a frame of size ``frame``, on the
    device of the boxes.

    Coordinates are those of ``grid_sample``: x, then y, from -1 to 1 between the frame's edges. A
    box that begins at column 10 of 40 and is 20 wide, sampled to 4 pixels, has its centres at
    columns 12.5, 17.5, 22.5, 27.5, which are -0.375, -0.125, 0.125, 0.375; mirrored, the reverse.
    """
    centre_S = torch.arange(size, dtype=torch.float32, device=crop.box_B4.device).add(0.5) / size
    top_B1, left_B1, h_B1, w_B1 = crop.box_B4.split(1, 1)
    x_BS = (left_B1 + w_B1 * torch.where(crop.flip_B[:, None], 1 - centre_S, centre_S)) / frame[1]
    y_BS = (top_B1 + h_B1 * centre_S) / frame[0]
    shape = (len(x_BS), size, size)
    return torch.stack([x_BS[:, None, :].expand(shape), y_BS[:, :, None].expand(shape)], 3) * 2 - 1


def crop_clip(
    clip_BTHWC: UInt8[Tensor, "b t h w 3"], grid_BSS2: Float32[Tensor, "b s s 2"]
) -> Float32[Tensor, "b 3 t s s"]:
    """Cut, resize and mirror each clip in one bilinear resampling; colours in 0..1."""
    b, t, h, w, c = clip_BTHWC.shape
    # [B, T, H, W, 3] -> [B, 3 T, H, W]: all frames become channels of one picture, sampled with one
    # grid.
    planes = clip_BTHWC.permute(0, 4, 1, 2, 3).reshape(b, c * t, h, w)
    size = grid_BSS2.shape[1]
    return (_sample(planes.float(), grid_BSS2) / 255).view(b, c, t, size, size)


def crop_map(
    map_BHW: UInt8[Tensor, "b *t mh mw"], grid_BSS2: Float32[Tensor, "b s s 2"]
) -> Float32[Tensor, "b *t s s"]:
    """Cut, resize and mirror maps, one a clip or one a frame, as their clips; values stay 0..255.

    The grid is that of the clip: its coordinates are shares of the frame, which a map covers
    whatever its size.
    """
    # Frames or maps become the channels of one picture: a clip is sampled with one grid.
    planes = map_BHW.float().flatten(1, -3) if map_BHW.ndim > 3 else map_BHW[:, None].float()
    sampled = _sample(planes, grid_BSS2)
    return sampled.view(*map_BHW.shape[:-2], *sampled.shape[2:])


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
    """Draw the colour augmentation of each clip; ``gray``, ``jitter`` and ``blur`` are
    probabilities.
    """
    u_BU = uniforms(
        _COLOUR_DRAWS, seed=seed, epoch=epoch, indices=indices, purpose=f"colour/{view}"
    )
    # Factors about 1 of brightness, contrast and saturation; the hue turns by a share about 0.
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
    """Return the order of brightness, contrast, saturation and hue: one for the whole batch of a
    step, as kornia has it.
    """
    return tuple(
        torch.randperm(4, generator=generator(seed, epoch, step, f"colour-order/{view}")).tolist()
    )


def _central_box(height: int, width: int) -> Float32[Tensor, "4"]:
    """Return [top, left, height, width] of the largest central box of an allowed aspect ratio."""
    # 340 columns of 128 rows are too wide: the box has columns 84 to 254, an aspect of 4/3.
    w = min(width, round(height * _RATIO[1]))
    h = min(height, round(width / _RATIO[0]))
    return torch.tensor(((height - h) // 2, (width - w) // 2, h, w), dtype=torch.float32)


def _sample(planes_BCHW: Tensor, grid_BSS2: Tensor) -> Tensor:
    return F.grid_sample(
        planes_BCHW, grid_BSS2, mode="bilinear", padding_mode="border", align_corners=False
    )
