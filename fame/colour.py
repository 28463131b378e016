"""Colour augmentation of clips on their device: grey, jitter and blur.

What happens to a clip is data: a flag decides whether an operation applies, numbers how much. Every
clip takes every operation and a mask keeps the outcome, so no shape depends on what was drawn,
nothing waits for the device, and one compiled program serves every step.

Shapes: B batch, C = 3 RGB channels in 0..1, T frames, H W height and width, K taps of a kernel.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor
from torch.nn import functional as F

JitterKind = Literal["current", "paper"]
Clips = Float[Tensor, "b 3 t h w"]
Planes = tuple[Tensor, ...]  # red, green, blue, each [B, T, H, W]: what works pixel by pixel fuses

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
_IDENTITY = (1.0, 0.0, 0.0, 1.0)  # of _Blend: x itself, no grey, no shift, saturation times 1


class Colour(NamedTuple):
    """The numbers of the colour augmentation of each clip.

    ``factor_B4`` holds brightness, contrast and saturation around 1, and hue in turns around 0.
    """

    gray_B: Bool[Tensor, " b"]
    jitter_B: Bool[Tensor, " b"]
    factor_B4: Float32[Tensor, "b 4"]
    blur_B: Bool[Tensor, " b"]
    sigma_B: Float32[Tensor, " b"]


def apply_colour(
    clip_BCTHW: Clips,
    colour: Colour,
    *,
    order: Sequence[int] | Tensor = (0, 1, 2, 3),
    kind: JitterKind = "current",
) -> Clips:
    """Grey, jitter and blur each clip as drawn, the same for all its frames; colours in 0..1.

    ``order`` and ``kind`` are those of :func:`jitter`.
    """
    clip_BCTHW = jitter(clip_BCTHW, colour, order=order, kind=kind)
    weight_BK = blur_weights(colour, blur_kernel(clip_BCTHW.shape[-1]))
    return blur(clip_BCTHW, weight_BK)


def jitter(
    clip_BCTHW: Clips, colour: Colour, *, order: Sequence[int] | Tensor, kind: JitterKind
) -> Clips:
    """Grey and jitter each clip as drawn.

    ``order`` is that of brightness 0, contrast 1, saturation 2 and hue 3: plain numbers, or a
    tensor on the device, with which one compiled program serves all 24 orders. ``kind`` selects the
    meaning of the jitter: ``"current"`` is torchvision's and kornia's meaning since 0.6.4,
    ``"paper"`` that of kornia before it, which the reference ran with. There brightness is added,
    contrast multiplies without the mean, and saturation is scaled in HSV.
    """
    if isinstance(order, Tensor):
        return _jitter_frames(clip_BCTHW, colour, order, kind)
    planes = jittered = _greyed(clip_BCTHW, colour)
    for number in order:
        factor = _wide(colour.factor_B4[:, number])
        jittered = _OPERATIONS[kind][number](jittered, factor)
    return torch.stack(_chosen(colour.jitter_B, jittered, planes), 1)


def blur_kernel(size: int) -> int:
    """Return the side of the blur's kernel for crops of ``size`` pixels.

    It is half of a tenth of the size, rounded down, times two, plus one: 224 -> 23, 112 -> 11.
    """
    return int(0.1 * size) // 2 * 2 + 1


def _wide(value_B: Tensor) -> Tensor:
    """Return one value per clip, to be combined with [B, T, H, W]."""
    return value_B.view(-1, 1, 1, 1)


def _chosen(chosen_B: Tensor, new: Planes, old: Planes) -> Planes:
    wide = _wide(chosen_B)
    return tuple(torch.where(wide, one, other) for one, other in zip(new, old, strict=True))


def _greyed(clip_BCTHW: Tensor, colour: Colour) -> Planes:
    planes = clip_BCTHW.unbind(1)
    return _chosen(colour.gray_B, (_grey(planes),) * 3, planes)


def _grey(planes: Planes) -> Tensor:
    """Return the luma (ITU-R BT.601)."""
    red, green, blue = planes
    return torch.add(red * 0.299, green, alpha=0.587).add_(blue, alpha=0.114)


def _frame_means(planes: Planes) -> Tensor:
    """Return the mean luma of each frame [B, T, 1, 1]."""
    return _grey(tuple(plane.mean((2, 3), keepdim=True) for plane in planes))


def _multiply(planes: Planes, factor: Tensor) -> Planes:
    return tuple((plane * factor).clamp_(0, 1) for plane in planes)


def _add(planes: Planes, factor: Tensor) -> Planes:
    # Factors are drawn around 1, which adds nothing.
    return tuple((plane + (factor - 1)).clamp_(0, 1) for plane in planes)


def _contrast(planes: Planes, factor: Tensor) -> Planes:
    # A factor of 0 gives the mean of the frame, 1 the frame itself.
    shift = _frame_means(planes) * (1 - factor)
    return tuple(torch.addcmul(shift, plane, factor).clamp_(0, 1) for plane in planes)


def _saturate(planes: Planes, factor: Tensor) -> Planes:
    # A factor of 0 gives grey, 1 the colours themselves.
    shift = _grey(planes) * (1 - factor)
    return tuple(torch.addcmul(shift, plane, factor).clamp_(0, 1) for plane in planes)


def _saturate_hsv(planes: Planes, factor: Tensor) -> Planes:
    """Scale S of HSV, at most to 1.

    With v the highest and d the spread of the channels, S = d / v, and a channel is
    v - S * (v - x) / S: scaling S scales its distance from v. The scale is ``factor``, or v / d
    where that would take S above 1.
    """
    high, spread = _high_and_spread(planes)
    # A grey pixel has spread 0 and stays grey at any scale: the 1 only avoids a division by 0.
    scale = torch.minimum(factor, high / spread.where(spread > 0, 1))
    return tuple(high - (high - plane) * scale for plane in planes)


def _rotate_hue(planes: Planes, turns: Tensor) -> Planes:
    """Add ``turns`` to H of HSV, S and V as they are.

    H counts sextants from red: red 0, yellow 1, green 2, cyan 3, blue 4, magenta 5. A channel is
    the lowest one plus the spread times a ramp of H, which is 1 within one sextant of the channel's
    own colour and 0 beyond two: for red |H - 3| - 1, for green 2 - |H - 2|, for blue 2 - |H - 4|,
    each clamped to 0..1.
    """
    red, green, blue = planes
    high, spread = _high_and_spread(planes)
    is_red, is_green = red == high, green == high
    # Orange (1, 0.5, 0) lies 0.5 sextants from red. A sixth of a turn makes that 1.5, where the
    # ramps are 0.5, 1 and 0: (0.5, 1, 0), a yellowish green.
    sextant = torch.where(
        is_red, green - blue, torch.where(is_green, blue - red, red - green)
    ) / spread.where(spread > 0, 1)
    start = torch.where(is_red, 0.0, torch.where(is_green, 2.0, 4.0))
    hue = sextant.add_(start).add_(6 * turns).remainder_(6)
    ramps = (hue - 3).abs_().sub_(1), 2 - (hue - 2).abs_(), 2 - (hue - 4).abs_()
    low = high - spread
    return tuple(torch.addcmul(low, ramp.clamp_(0, 1), spread) for ramp in ramps)


def _high_and_spread(planes: Planes) -> tuple[Tensor, Tensor]:
    """Return the highest channel and its distance to the lowest."""
    red, green, blue = planes
    high = torch.maximum(torch.maximum(red, green), blue)
    return high, high - torch.minimum(torch.minimum(red, green), blue)


_OPERATIONS: dict[str, tuple[Callable[[Planes, Tensor], Planes], ...]] = {
    "current": (_multiply, _contrast, _saturate, _rotate_hue),
    "paper": (_add, _multiply, _saturate_hsv, _rotate_hue),
}


class _Blend(NamedTuple):
    """Up to three operations in their order, each as four numbers per clip and frame.

    An operation is clamp(a * x + b * grey + c), then saturation in HSV times s; (1, 0, 0, 1) leaves
    colours as they are. ``number_3`` is the place of each operation of the four.
    """

    abcs_3BT4: Tensor
    number_3: Tensor
    place_4: Tensor  # the place of each of the four operations in the order

    def only(self, wanted_3: Tensor) -> Tensor:
        """Return the numbers, with the identity where an operation is not wanted."""
        identity = torch.stack([self.abcs_3BT4.new_full((), value) for value in _IDENTITY])
        return torch.where(wanted_3.view(3, 1, 1, 1), self.abcs_3BT4, identity)


def _jitter_frames(clip_BCTHW: Tensor, colour: Colour, order_4: Tensor, kind: JitterKind) -> Tensor:
    """Grey and jitter with the order as data, in float32, every frame as a clip of its own.

    So all numbers are one a frame and all planes are [frames, pixels], which is what lets a
    compiler put one operation after the other into the same kernel.
    """
    frames = clip_BCTHW.shape[2]
    # 2 clips of 3 frames become 6 clips of one frame: frames 0 1 2 of clip 0, then of clip 1. The
    # numbers of a clip are repeated in the same order.
    clip_N31HW = clip_BCTHW.transpose(1, 2).flatten(0, 1)[:, :, None].float()
    each = Colour(*(value.repeat_interleave(frames, 0) for value in colour))
    # Who is not jittered takes factors that change nothing: a choice at the end would read twice.
    nothing_4 = (torch.arange(4, device=each.factor_B4.device) != HUE).float()
    factor_B4 = torch.where(each.jitter_B[:, None], each.factor_B4, nothing_4)
    jittered = _jitter_by_data(_greyed(clip_N31HW, each), factor_B4, order_4, kind)
    kept = [plane.to(clip_BCTHW.dtype).unflatten(0, (-1, frames))[:, :, 0] for plane in jittered]
    return torch.stack(kept, 1)


def _jitter_by_data(planes: Planes, factor_B4: Tensor, order_4: Tensor, kind: JitterKind) -> Planes:
    """Apply the operations in an order that is a tensor on the device.

    All but hue are blends, so hue is computed once, with the blends that come before it and after
    it on its two sides. For order (2, 3, 0, 1), saturation, hue, brightness, contrast: before are
    (saturation, identity, identity), after are (identity, brightness, contrast). The current
    contrast needs the mean luma of what reaches it: a first run stops there.
    """
    blend = _blend(factor_B4, order_4, planes[0].new_zeros(planes[0].shape[:2]), kind)
    place_3, hue_place = blend.place_4[blend.number_3], blend.place_4[HUE]
    turns_B = factor_B4[:, HUE]
    if kind == "current":
        # Only what comes before contrast reaches it: later blends are replaced by the identity, and
        # hue after it turns by 0.
        reached_3 = place_3 < blend.place_4[CONTRAST]
        at_contrast = _around_hue(
            planes,
            blend.only(reached_3 & (place_3 < hue_place)),
            torch.where(hue_place < blend.place_4[CONTRAST], turns_B, 0),
            blend.only(reached_3 & (place_3 > hue_place)),
            kind,
        )
        blend = _blend(factor_B4, order_4, _frame_means(at_contrast)[:, :, 0, 0], kind)
    before, after = blend.only(place_3 < hue_place), blend.only(place_3 > hue_place)
    return _around_hue(planes, before, turns_B, after, kind)


def _blend(factor_B4: Tensor, order_4: Tensor, mean_BT: Tensor, kind: JitterKind) -> _Blend:
    place_4 = torch.argsort(order_4)
    # The numbers of the blends that come first, second and third. Order (2, 3, 0, 1) has the places
    # (2, 3, 0, 1): the blends 0, 1, 2 have places 2, 3, 0, so their own order is (2, 0, 1).
    number_3 = torch.argsort(place_4[:HUE])
    one, zero = torch.ones_like(mean_BT), torch.zeros_like(mean_BT)
    brightness, contrast, saturation = (factor_B4[:, number, None] * one for number in range(3))
    if kind == "current":
        abcs = (
            (brightness, zero, zero, one),
            (contrast, zero, (1 - contrast) * mean_BT, one),
            (saturation, 1 - saturation, zero, one),
        )
    else:
        abcs = (
            (one, zero, brightness - 1, one),
            (contrast, zero, zero, one),
            (one, zero, zero, saturation),
        )
    table_3BT4 = torch.stack([torch.stack(numbers, -1) for numbers in abcs])
    return _Blend(abcs_3BT4=table_3BT4[number_3], number_3=number_3, place_4=place_4)


def _around_hue(
    planes: Planes, before: Tensor, turns_B: Tensor, after: Tensor, kind: JitterKind
) -> Planes:
    """Blend, rotate the hue, blend."""
    for abcs_BT4 in before:
        planes = _blended(planes, abcs_BT4, kind)
    planes = _rotate_hue(planes, _wide(turns_B))
    for abcs_BT4 in after:
        planes = _blended(planes, abcs_BT4, kind)
    return planes


def _blended(planes: Planes, abcs_BT4: Tensor, kind: JitterKind) -> Planes:
    a, b, c, s = abcs_BT4[:, :, None, None].unbind(-1)
    shift = _grey(planes) * b + c
    planes = tuple((plane * a + shift).clamp_(0, 1) for plane in planes)
    return _saturate_hsv(planes, s) if kind == "paper" else planes


def blur_weights(colour: Colour, kernel: int) -> Float32[Tensor, "b k"]:
    """Return a Gaussian of ``kernel`` taps per clip, summing to 1.

    A clip that is not blurred has one tap of 1, which changes nothing.
    """
    # For 5 taps the offsets are -2 -1 0 1 2.
    offset_K = torch.arange(kernel, device=colour.sigma_B.device) - kernel // 2
    gauss_BK = torch.exp(-offset_K.square() / (2 * colour.sigma_B[:, None].square()))
    gauss_BK = gauss_BK / gauss_BK.sum(1, keepdim=True)
    return torch.where(colour.blur_B[:, None], gauss_BK, (offset_K == 0).float())


def blur(clip_BCTHW: Clips, weight_BK: Float32[Tensor, "b k"]) -> Clips:
    """Blur frames along rows, then columns; borders mirror without repeating the edge."""
    reach, planes = weight_BK.shape[1] // 2, clip_BCTHW.flatten(1, 2)
    padded = F.pad(planes, (reach, reach, reach, reach), mode="reflect")
    # A convolution of all planes at once, each with the weights of its clip.
    batch, count = planes.shape[:2]
    weight = weight_BK.repeat_interleave(count, 0)[:, None, None]
    across = F.conv2d(padded.view(1, batch * count, *padded.shape[2:]), weight, groups=len(weight))
    return F.conv2d(across, weight.transpose(2, 3), groups=len(weight)).view_as(clip_BCTHW)


def blur_along(clip_BCTHW: Tensor, weight_BK: Tensor, *, columns: bool) -> Tensor:
    """Return one of the two passes of :func:`blur` as a sum of shifted clips.

    A compiler makes one kernel of it that reads the clip once. With 3 taps a row a b c d is padded
    to b a b c d c, and the shifts are b a b c, a b c d and b c d c.
    """
    kernel, size = weight_BK.shape[1], clip_BCTHW.shape[-2 if columns else -1]
    reach, frames = kernel // 2, clip_BCTHW.flatten(1, 2)
    sides = (0, 0, reach, reach) if columns else (reach, reach, 0, 0)
    padded = F.pad(frames, sides, mode="reflect")
    blurred = torch.zeros_like(frames, dtype=torch.float32)
    for tap, weight in enumerate(weight_BK[:, :, None, None, None].unbind(1)):
        blurred = blurred + weight * padded.narrow(-2 if columns else -1, tap, size)
    return blurred.view_as(clip_BCTHW)
