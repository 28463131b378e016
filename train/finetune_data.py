"""The data of fine-tuning: one random clip of every labelled video, cropped, merged if that is
asked for, and coloured, on its device.

Shapes: B clips of this process, C channels, T frames, H W height/width, S crop size, V videos of a
store, s samples (videos trained on).
"""

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from fame.augment import (
    crop_clip,
    crop_map,
    draw_colour,
    draw_crop,
    draw_order,
    sampling_grid,
    uniforms,
)
from fame.clipstore import ClipStore, Window
from fame.colour import apply_colour
from fame.foreground import foreground_mask, motion_score, paper_score
from fame.merging import derangement, merge, own_sources
from fame.normalize import normalise
from fame.randomness import generator
from fame.transfer import send
from train.config import FinetuneConfig
from train.data import PairDataset, Pairs
from train.evaluate.linear import hold_out
from train.views import middle_frames


class LabelledClips(PairDataset):
    """The videos of one store that can be shown, one clip of each, drawn again every epoch.

    ``without`` [V] marks videos that are left out, ``maps`` decides whether foreground maps are
    read. Raise ``ValueError`` for a video without a class, or nothing left.
    """

    views = 1

    def __init__(
        self,
        store: ClipStore,
        *,
        seed: int,
        window: Window,
        maps: bool = False,
        on_corrupt: str = "stop",
        without: np.ndarray | None = None,
    ) -> None:
        super().__init__([store], seed=seed, window=window, maps=maps, on_corrupt=on_corrupt)
        if without is not None:
            kept_S = ~without[self.video_S2[:, 1]]
            self.video_S2, self.label_S = self.video_S2[kept_S], self.label_S[kept_S]


def unseen_classes(store: ClipStore, dataset: LabelledClips) -> tuple[str, ...]:
    """Return the names of the classes without a training sample."""
    seen = set(dataset.label_S.tolist())
    return tuple(name for k, name in enumerate(store.header.class_names) if k not in seen)


def held_out_videos(store: ClipStore, config: FinetuneConfig) -> np.ndarray:
    """Return the videos that ``select="validation"`` judges by, bool [V]: ``val_share`` of each
    class, all of them decodable.

    Raise ``ValueError`` where a class has a single video that can be shown.
    """
    valid_V = store.valid_V
    label_S = torch.from_numpy(store.labels_V[valid_V])
    held_V = np.zeros(store.num_videos, bool)
    # `hold_out` numbers the videos that can be shown; here they get their places among all videos.
    held_V[valid_V] = hold_out(
        label_S,
        seed=config.seed,
        share=config.val_share,
        names=store.header.class_names,
        instead=f"train on all of {store.path} with --select last",
    ).numpy()
    return held_V


def reads_maps(config: FinetuneConfig) -> bool:
    """Return whether the step needs the store's foreground maps."""
    return config.merge > 0 and config.mask == "stored"


def make_view(
    clips: Pairs, config: FinetuneConfig, *, epoch: int, step: int, rank: int = 0
) -> Tensor:
    """Make one normalised view [B, 3, T, S, S] of each clip: crop, flip, merge, grey, jitter and
    blur are drawn once for all frames.

    As in pretraining, clips are merged after cropping, so that exactly ``beta`` of a crop stays,
    and before colour, so that foreground and background are coloured alike.
    """
    _, clip_BCTHW = _crop_and_merge(clips, config, epoch=epoch, step=step, rank=rank)
    colour = draw_colour(
        seed=config.seed,
        epoch=epoch,
        indices=clips.sample_B.tolist(),
        view=0,
        gray=config.gray,
        jitter=config.jitter,
        blur=config.blur,
    )
    order = draw_order(seed=config.seed, epoch=epoch, step=step, view=0)
    colour = send(colour, clip_BCTHW.device)
    return normalise(apply_colour(clip_BCTHW, colour, order=order, kind=config.jitter_kind))


@torch.no_grad()
def picture(
    clips: Pairs, config: FinetuneConfig, *, epoch: int, step: int
) -> UInt8[np.ndarray, "h w 3"]:
    """Return a captioned sheet of the first clips of the first process's batch: each as it was
    cropped and as it was merged.
    """
    crop_BCTHW, merged_BCTHW = _crop_and_merge(clips, config, epoch=epoch, step=step, rank=0)
    return middle_frames({"clip": crop_BCTHW, "clip, merged": merged_BCTHW})


def _crop_and_merge(
    clips: Pairs, config: FinetuneConfig, *, epoch: int, step: int, rank: int
) -> tuple[Tensor, Tensor]:
    """Return the crops of the clips [B, 3, T, S, S] in 0..1, and what merging makes of them."""
    indices = clips.sample_B.tolist()
    clip_BTHWC = clips.clip_B2THWC[:, 0]
    frame = (clip_BTHWC.shape[2], clip_BTHWC.shape[3])
    crop = draw_crop(
        seed=config.seed,
        epoch=epoch,
        indices=indices,
        view=0,
        size=frame,
        min_area=config.min_area,
        flip=config.flip,
    )
    grid = sampling_grid(send(crop, clip_BTHWC.device), size=config.crop, frame=frame)
    crop_BCTHW = crop_clip(clip_BTHWC, grid)
    if not config.merge:
        return crop_BCTHW, crop_BCTHW
    draws = _draw_merging(config, indices, epoch=epoch, step=step, rank=rank)
    kept_B, source_B = send(draws, clip_BTHWC.device)
    score_BHW = _score(crop_BCTHW, clips.score_B2hw, grid, config)
    # A mask of the whole crop leaves a clip as it is.
    mask_BHW = foreground_mask(score_BHW, config.beta) | kept_B[:, None, None]
    return crop_BCTHW, merge(crop_BCTHW, mask_BHW, source_B)


def _draw_merging(
    config: FinetuneConfig, samples: list[int], *, epoch: int, step: int, rank: int
) -> tuple[Tensor, Tensor]:
    """Return which clips stay as they are [B], a draw of each sample's own address, and whose
    background each of the others gets [B].

    A clip that stays lends its background all the same.
    """
    draw_B = uniforms(1, seed=config.seed, epoch=epoch, indices=samples, purpose="merge")[:, 0]
    source_B = own_sources(
        derangement,
        len(samples),
        generator=generator(config.seed, epoch, step, "background/0"),
        rank=rank,
        batch=config.batch,
        group=config.merge_group,
    )
    return draw_B >= config.merge, source_B


def _score(
    clip_BCTHW: Tensor, score_B1hw: Tensor, grid_BSS2: Tensor, config: FinetuneConfig
) -> Tensor:
    """Return the scores of ``config.mask`` for the crops: higher where foreground is likelier."""
    if reads_maps(config):
        return crop_map(score_B1hw[:, 0], grid_BSS2)
    return paper_score(clip_BCTHW) if config.mask == "online" else motion_score(clip_BCTHW)
