"""The baseline of the training benchmarks: the reference's step written plainly, one clip and one
operation at a time.

Same mathematics as a step of ``train.pretrain``: same draws, networks, losses; :func:`check_equal`
proves it for the views (with maps of the frames' size, where both round boxes alike). Plain means:
every clip cropped, resized and coloured alone; TF-style padding copied before every convolution and
pooling; batch norm group by group; the two directions as two asymmetric steps; parameters moved one
by one; optimiser not fused; contiguous memory; fp32.

Shapes: B batch, C channels, T frames, H W height/width, D feature dim, K queue length.
"""

import copy
import math

import torch
from kornia.color import rgb_to_grayscale
from kornia.enhance import (
    adjust_brightness_accumulative,
    adjust_contrast_with_mean_subtraction,
    adjust_hue,
    adjust_saturation_with_gray_subtraction,
)
from kornia.filters import gaussian_blur2d
from torch import Tensor, nn
from torch.nn import functional as F

from fame.augment import draw_colour, draw_crop, draw_order
from fame.clipstore import StoreSpec
from fame.colour import blur_kernel
from fame.foreground import top_fraction
from fame.merging import derangement, permutation
from fame.moco import MoCo, shuffle
from fame.models.i3d import MaxPool, Mixed, Unit, same_padding
from fame.normalize import MEAN, STD
from fame.randomness import generator
from train.config import PretrainConfig
from train.data import Pairs
from train.views import make_views


def synthetic_pairs(
    config: PretrainConfig, spec: StoreSpec, device: torch.device, *, seed: int = 0
) -> Pairs:
    """A batch as the loader gives it: smooth random frames that move a little, and random maps, of
    clips or, with ``mask=frames``, of frames.
    """
    draws = generator(seed, 0, 0, "benchmark")
    shape = (config.batch, 2, config.frames, spec.height, spec.width, 3)
    small = torch.rand(config.batch * 2, 3 * config.frames, 8, 10, generator=draws)
    frames = F.interpolate(small, size=(spec.height, spec.width), mode="bilinear")
    clips = (
        (frames * 255)
        .byte()
        .view(config.batch, 2, 3, *shape[2:5])
        .permute(0, 1, 3, 4, 5, 2)
        .contiguous()
    )
    each = (config.frames,) if config.mask == "frames" else ()
    size = (spec.foreground_height, spec.foreground_width)
    maps = torch.rand(config.batch, 2, *each, *size, generator=draws)
    return Pairs(clips.to(device), (maps * 255).byte().to(device), torch.arange(config.batch))


def plain_views(
    pairs: Pairs, config: PretrainConfig, *, epoch: int, step: int
) -> tuple[Tensor, Tensor]:
    """The views of a step, clip by clip; ``mask=stored`` or ``frames``, one merged view or both,
    backgrounds of other videos.
    """
    indices = pairs.sample_B.tolist()
    frame = tuple(pairs.clip_B2THWC.shape[3:5])
    views: list[Tensor] = []
    for view in (0, 1):
        draws = {"seed": config.seed, "epoch": epoch, "indices": indices, "view": view}
        crop = draw_crop(**draws, size=frame, min_area=config.min_area, flip=config.flip)
        clips, maps = [], []
        for row in range(len(indices)):
            box, mirrored = crop.box_B4[row].tolist(), bool(crop.flip_B[row])
            frames_TCHW = pairs.clip_B2THWC[row, view].permute(0, 3, 1, 2).float() / 255
            clips.append(_resized(frames_TCHW, box, mirrored, config.crop, frame).transpose(0, 1))
            # One map, or one of each frame: [1 or T, 1, h, w], as pictures of one channel.
            score_N1hw = (
                pairs.score_B2hw[row, view].float().view(-1, 1, *pairs.score_B2hw.shape[-2:])
            )
            maps.append(_resized(score_N1hw, box, mirrored, config.crop, frame)[:, 0])
        if view == 0 or config.views == "both":
            clips = _merged(clips, maps, config, view=view, epoch=epoch, step=step)
        colour = draw_colour(**draws, gray=config.gray, jitter=config.jitter, blur=config.blur)
        order = draw_order(seed=config.seed, epoch=epoch, step=step, view=view)
        views.append(
            torch.stack([_coloured(clip, colour, row, order) for row, clip in enumerate(clips)])
        )
    return views[0], views[1]


class PlainStep:
    """A copy of a MoCo and its own plain optimiser."""

    def __init__(self, moco: MoCo, config: PretrainConfig) -> None:
        self.moco, self.config = copy.deepcopy(moco), config
        self.optimizer = torch.optim.SGD(
            self.moco.encoder_q.parameters(),
            config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            foreach=False,
        )

    def step(self, view_1: Tensor, view_2: Tensor, *, step: int, momentum: float) -> Tensor:
        """Both directions, one after the other, the keys of each entering the queue at its end."""
        moco = self.moco
        for key, query in zip(
            moco.encoder_k.parameters(), moco.encoder_q.parameters(), strict=True
        ):
            key.data = key.data * momentum + query.data * (1 - momentum)
        losses = []
        for queries, keys, number in ((view_1, view_2, 2), (view_2, view_1, 1)):
            query = F.normalize(self._encode(moco.encoder_q, queries), dim=1)
            with torch.no_grad():
                order = shuffle(
                    self.config.batch, seed=self.config.seed, epoch=0, step=step, view=number
                )
                order = order.to(keys.device)
                key = F.normalize(self._encode(moco.encoder_k, keys[order]), dim=1)[
                    torch.argsort(order)
                ]
            positive = torch.einsum("bd,bd->b", query, key)[:, None]
            logits = (
                torch.cat([positive, torch.einsum("bd,dk->bk", query, moco.queue.clone())], 1)
                / moco.temperature
            )
            losses.append(
                F.cross_entropy(
                    logits, torch.zeros(len(query), dtype=torch.long, device=query.device)
                )
            )
            moco.enqueue_(key)
        loss = (losses[0] + losses[1]) / 2
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def _encode(self, encoder: nn.Module, clips: Tensor) -> Tensor:
        features = clips
        for name, stage in encoder.named_children():
            if name != "id_head":
                features = plain(stage, features)
        return encoder.get_submodule("id_head")(features.mean((2, 3, 4)))


def plain(module: nn.Module, x: Tensor) -> Tensor:
    """One module of I3D as its definition reads."""
    if isinstance(module, Unit):
        return F.relu(_norm(module.batch3d, _convolved(module, x)))
    if isinstance(module, MaxPool):
        return F.max_pool3d(_padded(x, module.kernel, module.stride), module.kernel, module.stride)
    if isinstance(module, Mixed):
        return torch.cat([plain(branch, x) for branch in module.children()], 1)
    for child in module.children():
        x = plain(child, x)
    return x


def check_equal(moco: MoCo, pairs: Pairs, config: PretrainConfig) -> float:
    """The largest difference between the two ways to make the views; raises where they are not the
    same views.
    """
    fast, slow = (
        make_views(pairs, config, epoch=0, step=0),
        plain_views(pairs, config, epoch=0, step=0),
    )
    worst = max(float((left - right).abs().mean()) for left, right in zip(fast, slow, strict=True))
    if worst > 0.02:
        raise AssertionError(f"the plain views are not the views: mean difference {worst}")
    return worst


def _convolved(unit: Unit, x: Tensor) -> Tensor:
    conv = unit.conv3d
    return F.conv3d(
        _padded(x, conv.kernel_size, conv.stride), conv.weight.contiguous(), None, conv.stride
    )


def _padded(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    sides = [
        same_padding(size, k, s) for size, k, s in zip(x.shape[2:], kernel, stride, strict=True)
    ]
    return F.pad(x, [count for side in reversed(sides) for count in side])


def _norm(norm: nn.BatchNorm3d, x: Tensor) -> Tensor:
    """Native batch norm of each group: what each of the reference's GPUs did."""
    groups = x.split(norm.group or len(x))  # pyright: ignore[reportArgumentType]
    statistics = (norm.running_mean, norm.running_var)
    return torch.cat(
        [
            F.batch_norm(group, *statistics, norm.weight, norm.bias, True, 0.1, norm.eps)
            for group in groups
        ]
    )


def _resized(
    frames_NCHW: Tensor, box: list[float], mirrored: bool, size: int, frame: tuple[int, ...]
) -> Tensor:
    scale_y, scale_x = frames_NCHW.shape[2] / frame[0], frames_NCHW.shape[3] / frame[1]
    top, height = round(box[0] * scale_y), max(1, round(box[2] * scale_y))
    left, width = round(box[1] * scale_x), max(1, round(box[3] * scale_x))
    cut = frames_NCHW[:, :, top : top + height, left : left + width]
    resized = F.interpolate(cut, size=(size, size), mode="bilinear", align_corners=False)
    return resized.flip(-1) if mirrored else resized


def _merged(
    clips: list[Tensor],
    maps: list[Tensor],
    config: PretrainConfig,
    *,
    view: int,
    epoch: int,
    step: int,
) -> list[Tensor]:
    draw = derangement if config.sources == "derangement" else permutation
    draws = generator(config.seed, epoch, step, f"background/{view}")
    source = draw(config.batch, generator=draws, group=config.merge_group).tolist()
    masks = [top_fraction(score_NHW, config.beta).float() for score_NHW in maps]
    return [
        clip * mask + clips[lender] * (1 - mask)
        for clip, mask, lender in zip(clips, masks, source, strict=True)
    ]


def _coloured(clip_CTHW: Tensor, colour: object, row: int, order: tuple[int, ...]) -> Tensor:
    frames = clip_CTHW.transpose(0, 1)
    if colour.gray_B[row]:
        frames = rgb_to_grayscale(frames).expand_as(frames)
    if colour.jitter_B[row]:
        factors = [float(value) for value in colour.factor_B4[row]]
        operations = (
            adjust_brightness_accumulative,
            adjust_contrast_with_mean_subtraction,
            adjust_saturation_with_gray_subtraction,
            lambda image, turns: adjust_hue(image, turns * 2 * math.pi),
        )
        for number in order:
            frames = operations[number](frames, factors[number])
    if colour.blur_B[row]:
        kernel, sigma = blur_kernel(frames.shape[-1]), float(colour.sigma_B[row])
        frames = gaussian_blur2d(frames, (kernel, kernel), (sigma, sigma))
    mean, std = (frames.new_tensor(value).view(3, 1, 1) for value in (MEAN, STD))
    return ((frames - mean) / std).transpose(0, 1)
