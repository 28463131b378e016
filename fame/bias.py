"""Clips with parts taken away or exchanged, to see what an encoder goes by: background, foreground
or motion.

A clip has one mask for all its frames: the region that its foreground moves through, not where it
is at one moment. Where it is at one moment is found by what the clip itself shows of its background
(:func:`take_apart`).

Shapes: T frames, H W height and width, the last 3 RGB, V videos, P variants.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int, Int64, UInt8
from torch import Tensor

from fame.merging import derangement
from fame.normalize import MEAN
from fame.randomness import generator

VARIANTS = (
    "original",
    "background only",
    "foreground only",
    "background swapped",
    "foreground swapped",
    "frame repeated",
    "frames shuffled",
    "frames reversed",
)

_SAME_COLOUR = 24  # of 255, in every channel: more than what compression does to a still pixel
_COLOUR_LEVELS = 16  # of each channel, for the question whether a colour occurs in the background
_SEEN_PIXELS = 2  # so many of a colour are needed: one may be noise


def draw_variants(
    clip_THWC: UInt8[Tensor, "t h w 3"],
    mask_HW: Bool[Tensor, "h w"],
    other_THWC: UInt8[Tensor, "t h w 3"],
    other_mask_HW: Bool[Tensor, "h w"],
    *,
    generator: torch.Generator,
) -> UInt8[Tensor, "p t h w 3"]:
    """Return all :data:`VARIANTS` of a clip, in their order; ``other`` lends what is swapped.

    The frame that is repeated and the order of the shuffled frames are drawn from ``generator``; no
    shuffled frame stays in its place. Raise ``ValueError`` as :func:`take_apart` and for clips of
    one frame.
    """
    frames = len(clip_THWC)
    if frames < 2:
        raise ValueError(
            "a clip of 1 frame has no order of frames to change; clips of 2 or more are needed"
        )
    cover_THW, background_THWC = take_apart(clip_THWC, mask_HW)
    other_cover_THW, other_background_THWC = take_apart(other_THWC, other_mask_HW)
    repeated = int(torch.randint(frames, (1,), generator=generator))
    return torch.stack(
        [
            clip_THWC,
            background_THWC,
            over(clip_THWC, cover_THW, neutral_like(clip_THWC)),
            over(clip_THWC, cover_THW, other_background_THWC),
            over(other_THWC, other_cover_THW, background_THWC),
            clip_THWC[repeated].expand_as(clip_THWC),
            clip_THWC[derangement(frames, generator=generator)],
            clip_THWC.flip(0),
        ]
    )


def take_apart(
    clip_THWC: UInt8[Tensor, "t h w 3"], mask_HW: Bool[Tensor, "h w"]
) -> tuple[Bool[Tensor, "t h w"], UInt8[Tensor, "t h w 3"]]:
    """Return where the foreground covers each frame, and the clip without it.

    Inside the mask a pixel's background is its median over time, if at least half of the frames
    agree with it and the clip shows such a colour outside the mask; the foreground covers the pixel
    in the frames that disagree. Otherwise (a mover that stays, a moving camera) the background is
    hidden: the pixel counts as covered in every frame, and the mean colour outside the mask
    takes its place. Raise ``ValueError`` for a mask of the whole frame.
    """
    if mask_HW.all():
        raise ValueError("a mask of the whole frame leaves no background")
    median_HWC = clip_THWC.median(0).values
    differs_THW = (clip_THWC.short() - median_HWC.short()).abs().amax(-1) > _SAME_COLOUR
    known_HW = (differs_THW.sum(0) * 2 <= len(clip_THWC)) & _occurs(median_HWC, ~mask_HW)
    mean_C = clip_THWC[:, ~mask_HW].float().mean((0, 1)).round().to(torch.uint8)
    behind_HWC = torch.where(known_HW[..., None], median_HWC, mean_C)
    return mask_HW & (differs_THW | ~known_HW), over(behind_HWC, mask_HW, clip_THWC)


def _occurs(
    image_HWC: UInt8[Tensor, "h w 3"], where_HW: Bool[Tensor, "h w"]
) -> Bool[Tensor, "h w"]:
    """Return whether the colour of each pixel, or one beside it in a coarse cube of colours, occurs
    ``where``.
    """
    level_HWC = image_HWC.long() * _COLOUR_LEVELS // 256
    # The levels are digits in base 16: 2, 7 and 9 are bin 0x279.
    bin_HW = (level_HWC[..., 0] * _COLOUR_LEVELS + level_HWC[..., 1]) * _COLOUR_LEVELS + level_HWC[
        ..., 2
    ]
    cube = torch.bincount(bin_HW[where_HW], minlength=_COLOUR_LEVELS**3).view(
        1, 1, *(_COLOUR_LEVELS,) * 3
    )
    # A maximum over 3 x 3 x 3 bins: a colour one level away counts as the same.
    near = F.max_pool3d((cube >= _SEEN_PIXELS).float(), 3, stride=1, padding=1)
    return near.flatten()[bin_HW] > 0


def over(
    front: UInt8[Tensor, "*t h w 3"],
    mask: Bool[Tensor, "*t2 h w"],
    back_THWC: UInt8[Tensor, "t h w 3"],
) -> UInt8[Tensor, "t h w 3"]:
    """Return ``front`` where the mask is True and ``back`` elsewhere; a single picture or mask is
    used for every frame.
    """
    return torch.where(mask[..., None], front, back_THWC)


def neutral_like(clip_THWC: UInt8[Tensor, "t h w 3"]) -> UInt8[Tensor, "t h w 3"]:
    """Return a clip of one colour: the mean of the training data, which normalisation takes
    to 0.
    """
    neutral_C = torch.tensor(MEAN, device=clip_THWC.device).mul(255).round().to(torch.uint8)
    return neutral_C.expand_as(clip_THWC)


def choose_partners(
    label_V: Int[Tensor, " v"],
    *,
    seed: int,
    background_V: Int[Tensor, " v"] | None = None,
    names: Sequence[str] = (),
) -> Int64[Tensor, " v"]:
    """Choose for each video one that lends it what is swapped: of another class and, where
    backgrounds are given, on another background.

    All that qualify are equally likely. Raise ``ValueError`` where none does; the line names the
    video (by number without ``names``).
    """
    partners: list[int] = []
    for video in range(len(label_V)):
        other_V = label_V != label_V[video]
        if background_V is not None:
            other_V = other_V & (background_V != background_V[video])
        candidates = other_V.nonzero().flatten()
        if not len(candidates):
            elsewhere = "" if background_V is None else " on another background"
            who = names[video] if names else video
            raise ValueError(
                f"nothing can be swapped in video {who}: no video is of another class{elsewhere}"
            )
        draw = torch.randint(
            len(candidates), (1,), generator=generator(seed, 0, video, "bias/partner")
        )
        partners.append(int(candidates[draw]))
    return torch.tensor(partners)
