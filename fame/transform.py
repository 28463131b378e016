"""Merging as a module for anyone's training loop, used as kornia's and torchvision's MixUp are.

Shapes: B batch, C = 3 RGB channels, T frames, H W height and width, h w size of a given map.
"""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fame.foreground import foreground_mask, median_score, motion_score, paper_score
from fame.merging import derangement, merge, merge_with
from fame.normalize import ROUNDING

Score = Callable[[Tensor], Tensor]
_SCORES: dict[str, Score] = {
    "motion": motion_score,
    "paper": paper_score,
    "median": median_score,
}


class Merge(nn.Module):
    """Paste the moving foreground of each clip on the background of another clip of the batch.

    Call it on clips that are cropped but not yet colour-jittered or normalised, in training only.
    The result has the shape, layout, dtype and device of the input, which is left as it is.

    Args:
        beta: share of each clip that is foreground, above 0 and at most 1.
        p: probability that a clip is merged; the others come back unchanged.
        score: the method that finds the foreground: ``"motion"`` (differences of neighbouring
            frames), ``"paper"`` (the published method), ``"median"`` (a map for every frame), or a
            function from clips ``[B, 3, T, H, W]`` in 0..1 to scores ``[B, H, W]`` or
            ``[B, T, H, W]``. Maps given to the call replace it.
        background: ``"inter"`` takes it from another clip of the batch; ``"intra"`` from the clip
            in the same row of ``others``, for instance a second clip of the same video.
        group: clips that exchange backgrounds among themselves, at least 2; ``None`` for the whole
            batch. A single clip that would be left over joins the last group: 17 clips in groups
            of 8 make groups of 8 and 9.
        generator: a CPU generator that draws backgrounds and ``p``; ``None`` for torch's own. In
            the workers of a loader leave it out: each would have a copy of it, and draw the same.
        layout: axes of the clips, ``"BCTHW"`` or ``"BTCHW"``.

    Example:
        >>> merge = fame.Merge(beta=0.5)
        >>> merged = merge(torch.rand(8, 3, 16, 112, 112))
    """

    def __init__(
        self,
        beta: float = 0.5,
        p: float = 1.0,
        *,
        score: str | Score = "motion",
        background: str = "inter",
        group: int | None = None,
        generator: torch.Generator | None = None,
        layout: str = "BCTHW",
    ) -> None:
        super().__init__()
        if not (_of_type(beta, int, float) and 0 < beta <= 1):
            raise ValueError(f"beta must be above 0 and at most 1, got {beta!r}")
        if not (_of_type(p, int, float) and 0 <= p <= 1):
            raise ValueError(f"p must be at least 0 and at most 1, got {p!r}")
        if group is not None and not (_of_type(group, int) and group >= 2):
            raise ValueError(f"group must be a whole number of at least 2, got {group!r}")
        if not (callable(score) or (_of_type(score, str) and score in _SCORES)):
            raise ValueError(f"score must be motion, paper, median or a function, got {score!r}")
        if background not in ("inter", "intra"):
            raise ValueError(f"background must be inter or intra, got {background!r}")
        if layout not in ("BCTHW", "BTCHW"):
            raise ValueError(f"layout must be BCTHW or BTCHW, got {layout!r}")
        if not _of_type(generator, torch.Generator, type(None)):
            raise ValueError(f"generator must be a torch.Generator, got {generator!r}")
        self.beta, self.p, self.background, self.group = beta, p, background, group
        self.generator, self.layout = generator, layout
        self.score: Score = score if callable(score) else _SCORES[score]
        self._score_name = score if isinstance(score, str) else getattr(score, "__name__", "custom")

    @torch.no_grad()
    def forward(
        self,
        clips: Tensor,
        maps: Tensor | np.ndarray | None = None,
        *,
        labels: Any = None,
        others: Tensor | None = None,
    ) -> Any:
        """Return the merged clips, or ``(merged, labels)`` if labels are given.

        A clip's label follows its foreground, so labels come back as they are.

        Args:
            clips: floats in 0..1, or uint8.
            maps: scores of the clips, ``[B, h, w]``, or of their frames, ``[B, T, h, w]``, a tensor
                or array of any size and number type, higher where foreground is likelier.
            labels: anything; returned unchanged.
            others: the backgrounds of ``background="intra"``, shaped like ``clips``.

        A batch of one clip has no other background: it comes back unchanged, with a warning. Raise
        ``ValueError`` for values outside 0..1, another layout, and maps or others that do not fit.
        """
        merged = self._merged(clips, maps, others)
        return merged if labels is None else (merged, labels)

    def _merged(
        self, clips: Tensor, maps: Tensor | np.ndarray | None, others: Tensor | None
    ) -> Tensor:
        clip_BCTHW = self._channels_first(clips, "clips")
        if (others is None) == (self.background == "intra"):
            raise ValueError("others, one clip for each clip, belong to background='intra' only")
        if others is None and len(clip_BCTHW) == 1:
            warnings.warn("a batch of 1 has no other background: not merged", stacklevel=4)
            return clips.clone()
        mask = foreground_mask(self._scores(clip_BCTHW, maps), self.beta)
        if others is None:
            merged_BCTHW = merge(clip_BCTHW, mask, self._sources(len(clip_BCTHW)))
        else:
            background_BCTHW = self._channels_first(others, "others")
            merged_BCTHW = merge_with(clip_BCTHW, mask, background_BCTHW)
        if self.p < 1:
            # Drawn on the CPU, so that the choice does not depend on the device.
            keep_B = torch.rand(len(clip_BCTHW), generator=self.generator) >= self.p
            keep_B1111 = keep_B.to(clips.device)[:, None, None, None, None]
            merged_BCTHW = torch.where(keep_B1111, clip_BCTHW, merged_BCTHW)
        return merged_BCTHW if self.layout == "BCTHW" else merged_BCTHW.transpose(1, 2).contiguous()

    def extra_repr(self) -> str:
        """Return the settings as ``print`` shows them."""
        return (
            f"beta={self.beta}, p={self.p}, score={self._score_name}, "
            f"background={self.background}, group={self.group}, layout={self.layout}"
        )

    def _channels_first(self, clips: Tensor, name: str) -> Tensor:
        """Return the clips as [B, 3, T, H, W]. Raise ``ValueError`` if they cannot be colours."""
        channels = 1 if self.layout == "BCTHW" else 2
        if not _of_type(clips, Tensor):
            raise ValueError(f"{name} must be a tensor, got {type(clips).__name__}")
        if clips.ndim != 5 or clips.shape[channels] != 3:
            raise ValueError(
                f"{name} must be {self.layout} with 3 channels, got {list(clips.shape)}; "
                "the argument layout names other axes"
            )
        if not clips.numel():
            raise ValueError(f"{name} are empty: {list(clips.shape)}")
        if clips.dtype == torch.uint8:
            return clips if channels == 1 else clips.transpose(1, 2)
        if not clips.is_floating_point() or clips.dtype.itemsize == 1:
            raise ValueError(f"{name} must be floats in 0..1 or uint8, got {clips.dtype}")
        low, high = torch.aminmax(clips)
        if not (low >= -ROUNDING and high <= 1 + ROUNDING):
            raise ValueError(
                f"{name} must hold colours in 0..1, got {float(low):.3g}..{float(high):.3g}: "
                "merge before normalising, and divide 0..255 by 255"
            )
        return clips if channels == 1 else clips.transpose(1, 2)

    def _scores(self, clip_BCTHW: Tensor, maps: Tensor | np.ndarray | None) -> Tensor:
        """Return a score for every pixel, [B, H, W] or [B, T, H, W]."""
        batch, _, frames, height, width = clip_BCTHW.shape
        if maps is None:
            colours = clip_BCTHW if clip_BCTHW.is_floating_point() else clip_BCTHW.float() / 255
            score = self.score(colours)
            allowed = [batch, height, width], [batch, frames, height, width]
            found = list(score.shape) if _of_type(score, Tensor) else type(score).__name__
            if found not in allowed:
                raise ValueError(f"the score must give {allowed[0]} or {allowed[1]}, got {found}")
            return score if score.is_floating_point() else score.float()
        given = torch.as_tensor(maps)
        if not given.numel() or given.is_complex():
            raise ValueError(f"maps must be numbers, got {list(given.shape)} {given.dtype}")
        if given.ndim not in (3, 4) or given.shape[:-2] not in ((batch,), (batch, frames)):
            raise ValueError(
                f"maps must be [{batch}, height, width] or [{batch}, {frames}, height, width], "
                f"got {list(given.shape)}"
            )
        score = given.to(clip_BCTHW.device, torch.float32)
        if score.shape[-2:] == (height, width):
            return score
        map_BTHW = score if score.ndim == 4 else score[:, None]
        resized = F.interpolate(map_BTHW, (height, width), mode="bilinear", align_corners=False)
        return resized if score.ndim == 4 else resized[:, 0]

    def _sources(self, count: int) -> Tensor:
        """Return the clip that lends each clip its background, drawn within groups.

        A group of 8 and 17 clips: sources of rows 0..7 lie in 0..7, those of rows 8..16 in 8..16.
        """
        generator = self.generator or torch.default_generator
        group = self.group or count
        # 17 clips in groups of 8: the first 8 are one group, and the 9 others the last.
        alone = count > group and count % group == 1
        whole = count - group - 1 if alone else count
        first = derangement(whole, generator=generator, group=group) if whole else torch.empty(0)
        if not alone:
            return first
        rest = whole + derangement(group + 1, generator=generator)
        return torch.cat([first.long(), rest])


def _of_type(value: object, *kinds: type) -> bool:
    """Return whether a value has one of the types that its annotation promises: callers may be
    unchecked.
    """
    return isinstance(value, kinds)
