"""Where encoders look: activation maps over frames, the share of them on the foreground, the
weights over time.

Figures 1 and 3 of the paper, for several checkpoints side by side. Shapes: N clips, T frames, H W
of stored frames, S crop size, D feature dim, h w size of a stored map.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor, nn

from fame.activation import activation_energy, foreground_share, unit_range
from fame.augment import Crop, crop_map, sampling_grid
from fame.clipstore import ClipStore, Window
from fame.files import whole
from fame.foreground import motion_score, top_fraction
from fame.models import Backbone, is_foreign
from fame.normalize import to_colours
from fame.preview import animate, heat, tile
from fame.weights import Encoder, load
from train.evaluate.config import ActivationConfig
from train.evaluate.features import centre_crop, check_clips, crop_for, window_for
from train.evaluate.plots import plot_kernels, write_video
from train.run.log import write_json
from train.run.peers import choose_device

_MOST_WEIGHTS = 20_000  # of a stage: more do not change the shape of a violin
_COLUMNS = 8  # frames in the sheet
_KEY = ("weakest", "strongest of the clip")  # activation


@dataclass(frozen=True, kw_only=True)
class ForegroundShare:
    """The share of a checkpoint's activation that falls on the foreground; ``None`` where a clip
    activates nothing.
    """

    checkpoint: str
    share_N: tuple[float | None, ...]

    @property
    def mean(self) -> float:
        """Return the mean share over the clips that activate something; NaN where none does."""
        shares = [share for share in self.share_N if share is not None]
        return sum(shares) / len(shares) if shares else math.nan


@dataclass(frozen=True, kw_only=True)
class Shown:
    """The clips that are looked at, as centre crops, and the foreground of each."""

    video_N: tuple[int, ...]
    clip_NTSS3: UInt8[Tensor, "n t s s 3"]
    mask_NSS: Bool[Tensor, "n s s"]


def activate(checkpoints: Sequence[Path], config: ActivationConfig) -> list[ForegroundShare]:
    """Write ``activation.png``, ``.gif``, ``.mp4`` and ``.json`` and ``kernels.png`` into
    ``config.out``.

    Raise ``ValueError`` for a store without a valid clip, a crop larger than its frames,
    checkpoints without an encoder or of different networks.
    """
    store, device = ClipStore.open(config.store), choose_device(config.device)
    encoders = [load(path, device=device) for path in checkpoints]
    if len(kinds := sorted({encoder.card.name for encoder in encoders})) > 1:
        raise ValueError(
            f"the checkpoints are of different networks, {' and '.join(kinds)}: look "
            "at one at a time"
        )
    shown = choose_clips(
        store,
        config,
        window=window_for(encoders[0]),
        crop=min(crop_for(encoder, store, config.crop) for encoder in encoders),
    )
    rows = min(config.rows, len(shown.video_N))
    pictured = np.linspace(0, len(shown.video_N) - 1, rows).round().astype(int).tolist()
    found: list[ForegroundShare] = []
    maps: dict[str, np.ndarray] = {}
    for name, path, encoder in zip(short_names(checkpoints), checkpoints, encoders, strict=True):
        share_N, energy_RTSS = _look(encoder, shown, pictured, batch=config.batch)
        found.append(ForegroundShare(checkpoint=str(path), share_N=share_N))
        maps[name] = energy_RTSS.numpy()
    config.out.mkdir(parents=True, exist_ok=True)
    _write_shares(store, config, shown, found)
    named = [Path(store.names[shown.video_N[row]]).stem for row in pictured]
    _draw(config.out, shown.clip_NTSS3[pictured].numpy(), maps, named)
    kernels = {
        name: temporal_kernels(encoder.network)
        for name, encoder in zip(maps, encoders, strict=True)
    }
    plot_kernels(kernels, config.out / "kernels.png")
    return found


def choose_clips(store: ClipStore, config: ActivationConfig, *, window: Window, crop: int) -> Shown:
    """Return the middle clips of ``config.clips`` videos, evenly spread over the store."""
    check_clips(store, window, crop)
    videos = np.flatnonzero(store.valid_V)
    if not len(videos):
        raise ValueError(f"{store.path}: no video could be decoded")
    places = np.linspace(0, len(videos) - 1, min(config.clips, len(videos))).round().astype(int)
    video_N = tuple(videos[places].tolist())
    clips = [(video, store.spread(video, window, 1)[0], window) for video in video_N]
    clip_NTSS3 = torch.from_numpy(
        np.stack([centre_crop(store.clip(*clip), crop) for clip in clips])
    )
    if store.spec.foreground == "none":
        score_NSS = torch.cat([motion_score(to_colours(clip)) for clip in clip_NTSS3.split(1)])
    else:
        map_Nhw = torch.from_numpy(np.stack([store.foreground(*clip) for clip in clips]))
        score_NSS = centre_map(map_Nhw, crop=crop, frame=(store.spec.height, store.spec.width))
    return Shown(
        video_N=video_N, clip_NTSS3=clip_NTSS3, mask_NSS=top_fraction(score_NSS, config.beta)
    )


def centre_map(
    map_Nhw: UInt8[Tensor, "n mh mw"], *, crop: int, frame: tuple[int, int]
) -> Float[Tensor, "n s s"]:
    """Cut stored maps to the centre crop of their frames."""
    top, left = (frame[0] - crop) // 2, (frame[1] - crop) // 2
    box_N4 = torch.tensor([[top, left, crop, crop]], dtype=torch.float32).expand(len(map_Nhw), 4)
    centre = Crop(box_B4=box_N4, flip_B=torch.zeros(len(map_Nhw), dtype=torch.bool))
    return crop_map(map_Nhw, sampling_grid(centre, size=crop, frame=frame))


def temporal_kernels(network: Backbone) -> dict[str, Float[np.ndarray, " weights"]]:
    """Return the weights of the convolutions over more than one frame, by stage, at most 20,000
    evenly spaced ones of each.
    """
    found: dict[str, np.ndarray] = {}
    for stage, module in network.named_children():
        layers = [
            layer
            for layer in module.modules()
            if isinstance(layer, nn.Conv3d) and layer.kernel_size[0] > 1
        ]
        if layers:
            weights = torch.cat([layer.weight.detach().flatten() for layer in layers]).cpu().numpy()
            # 50,000 weights are thinned by 2, and the first 20,000 of those 25,000 stay.
            found[stage] = weights[:: max(1, len(weights) // _MOST_WEIGHTS)][:_MOST_WEIGHTS]
    return found


def short_names(paths: Sequence[Path]) -> list[str]:
    """Return the parts in which the paths differ: without the first and last folders that all have
    in common, numbered where equal. A run means its last checkpoint:
    ``runs/moco/checkpoints/last.pt`` is ``moco``.
    """
    parts = [_named_parts(path) for path in paths]
    if len(paths) == 1:
        return [parts[0][-1]]
    for end in (-1, 0):
        while min(map(len, parts)) > 1 and len({part[end] for part in parts}) == 1:
            for part in parts:
                part.pop(end)
    names = ["/".join(part) for part in parts]
    return [
        name if names.count(name) == 1 else f"{number + 1}: {name}"
        for number, name in enumerate(names)
    ]


def _named_parts(path: Path) -> list[str]:
    """Return a path in parts, less the words that all last checkpoints have in common."""
    if path.stem != "last":
        return list(path.with_suffix("").parts)
    folder = path.absolute().parent if len(path.parts) < 3 else path.parent
    return list(folder.parent.parts if folder.name == "checkpoints" else folder.parts)


def _look(
    encoder: Encoder, shown: Shown, pictured: Sequence[int], *, batch: int
) -> tuple[tuple[float | None, ...], Float[Tensor, "r t s s"]]:
    """Return the share of each clip's activation on its foreground, and the activation of the
    pictured clips, 0..1.
    """
    shares: list[float] = []
    pictures: dict[int, Tensor] = {}
    for first in range(0, len(shown.video_N), batch):
        rows = slice(first, first + batch)
        clip = shown.clip_NTSS3[rows]
        energy = activation_energy(
            encoder.feature_map(clip),
            size=(clip.shape[1], clip.shape[2], clip.shape[3]),
            signed=is_foreign(encoder.card.name),
        ).cpu()
        shares += foreground_share(energy, shown.mask_NSS[rows]).tolist()
        for row in set(pictured) & set(range(first, first + len(clip))):
            pictures[row] = unit_range(energy[row - first : row - first + 1])[0]
    share_N = tuple(None if math.isnan(share) else share for share in shares)
    return share_N, torch.stack([pictures[row] for row in pictured])


def _write_shares(
    store: ClipStore, config: ActivationConfig, shown: Shown, found: Sequence[ForegroundShare]
) -> None:
    videos = [store.names[video] for video in shown.video_N]
    maps = (
        "frame differences"
        if store.spec.foreground == "none"
        else f"stored maps ({store.spec.foreground})"
    )
    results: list[dict[str, Any]] = [
        {
            "checkpoint": share.checkpoint,
            "mean": None if math.isnan(share.mean) else share.mean,
            "share": dict(zip(videos, share.share_N, strict=True)),
        }
        for share in found
    ]
    content = {
        "settings": config.to_dict(),
        "foreground": (
            f"top {config.beta:g} of {maps}: the share that a uniform activation would have"
        ),
        "results": results,
    }
    write_json(config.out / "activation.json", content)


def _draw(
    out: Path, clip_RTSS3: np.ndarray, maps: dict[str, np.ndarray], named: Sequence[str]
) -> None:
    """Draw frames over checkpoints in one picture, and the same in motion, checkpoints side by
    side.
    """
    frames = clip_RTSS3.shape[1]
    times = np.linspace(0, frames - 1, min(_COLUMNS, frames)).round().astype(int).tolist()
    rows: list[list[np.ndarray]] = []
    for number, clip_TSS3 in enumerate(clip_RTSS3):
        rows.append([clip_TSS3[t] for t in times])
        rows += [[heat(clip_TSS3[t], map_[number, t]) for t in times] for map_ in maps.values()]
    labels = [label for name in named for label in (name, *maps)]
    picture = tile(rows, [f"frame {t + 1}" for t in times], labels=labels, key=_KEY)
    with whole(out / "activation.png") as partial:
        Image.fromarray(picture).save(partial, "PNG")
    moments = list(_moments(clip_RTSS3, maps, named))
    animate(out / "activation.gif", moments)
    write_video(out / "activation.mp4", moments)


def _moments(
    clip_RTSS3: np.ndarray, maps: dict[str, np.ndarray], named: Sequence[str]
) -> Iterator[np.ndarray]:
    for t in range(clip_RTSS3.shape[1]):
        rows = [
            [
                clip_TSS3[t],
                *(heat(clip_TSS3[t], energy_RTSS[number, t]) for energy_RTSS in maps.values()),
            ]
            for number, clip_TSS3 in enumerate(clip_RTSS3)
        ]
        yield tile(rows, ["frames", *maps], labels=named, key=_KEY)
