"""From pixels to what an encoder was trained on.

Shapes: B batch, C channels (RGB), T frames, H W height and width.
"""

from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

# Of Kinetics frames in 0..1, R G B: the reference's constants, used in pretraining and everywhere
# downstream.
MEAN = (0.43216, 0.394666, 0.37645)
STD = (0.22803, 0.22145, 0.216989)
# How far colours may lie outside 0..1: the weights of an interpolation add up to 1 but for its
# rounding.
ROUNDING = 1e-3
# The reference's retrieval alone takes those of ImageNet.
Normalisation = Literal["kinetics", "imagenet"]
_STATISTICS = {
    "kinetics": (MEAN, STD),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


def normalise(
    clip_BCTHW: Float[Tensor, "b 3 t h w"], by: Normalisation = "kinetics"
) -> Float[Tensor, "b 3 t h w"]:
    """Shift and scale colours in 0..1 to zero mean and unit deviation over the frames of ``by``."""
    # Filled on the device: a tensor made of Python numbers is copied there, and the host waits.
    mean, std = (
        torch.stack([clip_BCTHW.new_full((1, 1, 1), value) for value in values])
        for values in _STATISTICS[by]
    )
    return (clip_BCTHW - mean) / std


def to_colours(clip_BTHWC: UInt8[Tensor, "b t h w 3"]) -> Float[Tensor, "b 3 t h w"]:
    """Turn frames as the clip store holds them into colours in 0..1, channels first.

    The memory stays channels-last.
    """
    return clip_BTHWC.permute(0, 4, 1, 2, 3).to(torch.float32) / 255


def encoder_input(clips: Tensor, by: Normalisation = "kinetics") -> Float[Tensor, "b 3 t h w"]:
    """Normalise clips: uint8 frames ``[b, t, h, w, 3]``, or colours in 0..1 ``[b, 3, t, h, w]``.

    Raise ``ValueError`` for another dtype or shape, and for colours outside 0..1, the sign of a
    second normalisation.
    """
    if clips.ndim == 5 and clips.dtype == torch.uint8 and clips.shape[-1] == 3:
        return normalise(to_colours(clips), by)
    if clips.ndim == 5 and clips.is_floating_point() and clips.shape[1] == 3:
        low, high = torch.aminmax(clips)
        if low < -ROUNDING or high > 1 + ROUNDING:
            raise ValueError(
                f"float clips hold colours in 0..1, got {float(low):.3g}..{float(high):.3g}"
            )
        return normalise(clips, by)
    raise ValueError(
        "clips are uint8 [batch, frames, height, width, 3] or float 0..1 [batch, 3, "
        "frames, height, width], "
        f"got {clips.dtype} {list(clips.shape)}"
    )
