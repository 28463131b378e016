"""Features of every video of a clip store under a frozen encoder, computed once and cached.

Shapes: V videos, N clips, B batch, T frames, H W height/width, C channels, D feature dim.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fame.clipstore import ClipStore
from fame.weights import Encoder


@dataclass(frozen=True, kw_only=True)
class VideoFeatures:
    """One feature per video (the mean over its clips), with its class and its place in the store.

    Videos without a valid clip are left out; ``dropped`` counts them.
    """

    feature_VD: Float[Tensor, "v d"]
    label_V: Int[Tensor, " v"]
    video_V: Int[Tensor, " v"]
    class_names: tuple[str, ...]
    dropped: int


class CentreClips(Dataset[tuple[Tensor, int]]):
    """The valid clips of a store in order, centre-cropped to ``crop`` pixels: (clip_THWC uint8, video number)."""

    def __init__(self, store: ClipStore, *, crop: int) -> None:
        if crop > min(store.spec.height, store.spec.width):
            raise ValueError(
                f"crop {crop} is larger than the {store.spec.height}x{store.spec.width} frames of {store.path}"
            )
        self._store, self._crop = store, crop
        self._clips = np.flatnonzero(store.valid_N)
        if not len(self._clips):
            raise ValueError(f"{store.path}: no clip of any video is valid")

    def __len__(self) -> int:
        """Valid clips."""
        return len(self._clips)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        """Decode one clip; raises :class:`~fame.clipstore.CorruptChunk` where its bytes are damaged."""
        index = int(self._clips[position])
        return torch.from_numpy(centre_crop(self._store.clip(index), self._crop)), int(self._store.video_N[index])


def centre_crop(clip_THWC: UInt8[np.ndarray, "t h w 3"], crop: int) -> UInt8[np.ndarray, "t crop crop 3"]:
    """The square of ``crop`` pixels in the middle of every frame, as a contiguous copy."""
    top, left = (clip_THWC.shape[1] - crop) // 2, (clip_THWC.shape[2] - crop) // 2
    return np.ascontiguousarray(clip_THWC[:, top : top + crop, left : left + crop])


def extract_features(
    encoder: Encoder,
    store: ClipStore,
    *,
    crop: int,
    batch: int = 16,
    workers: int = 0,
    on_clips: Callable[[int], None] = lambda count: None,
) -> VideoFeatures:
    """Encode all valid clips of ``store`` and average them per video (10-clip features of the paper's retrieval).

    ``on_clips(count)`` is called after each batch. The encoder runs where its weights are.
    """
    clips = CentreClips(store, crop=crop)
    loader = DataLoader(
        clips,
        batch_size=batch,
        num_workers=workers,
        pin_memory=encoder.device.type == "cuda",
        generator=torch.Generator(),  # else the loader draws from the global one
        multiprocessing_context="forkserver" if workers else None,  # a process with threads must not fork
    )
    sum_VD = torch.zeros(store.num_videos, encoder.feature_dim, dtype=torch.float64)
    count_V = torch.zeros(store.num_videos, dtype=torch.float64)
    for clip_BTHWC, video_B in loader:
        feature_BD = encoder.features(clip_BTHWC.to(encoder.device, non_blocking=True)).double().cpu()
        sum_VD.index_add_(0, video_B, feature_BD)
        count_V.index_add_(0, video_B, torch.ones(len(video_B), dtype=torch.float64))
        on_clips(len(video_B))
    video_V = torch.nonzero(count_V).flatten()
    return VideoFeatures(
        feature_VD=(sum_VD[video_V] / count_V[video_V, None]).float(),
        label_V=torch.tensor(store.labels_V)[video_V],
        video_V=video_V,
        class_names=store.header.class_names,
        dropped=store.num_videos - len(video_V),
    )


def cached_features(
    checkpoint: Path, store: ClipStore, *, crop: int, cache: Path, extract: Callable[[], VideoFeatures]
) -> VideoFeatures:
    """Features from ``cache`` if this checkpoint met this store before, else ``extract()``, kept for the next time.

    The key covers the checkpoint's bytes, the store's content and the crop; a damaged cache file is made again.
    """
    path = cache / f"{_key(checkpoint, store, crop)}.safetensors"
    try:
        return _read(path, store.header.class_names)
    except (OSError, KeyError, ValueError, safetensors.SafetensorError):
        features = extract()
    cache.mkdir(parents=True, exist_ok=True)
    tensors = {"feature": features.feature_VD, "label": features.label_V, "video": features.video_V}
    partial = path.with_suffix(".partial")
    safetensors.torch.save_file(tensors, partial, metadata={"dropped": str(features.dropped)})
    partial.replace(path)
    return features


def _key(checkpoint: Path, store: ClipStore, crop: int) -> str:
    with checkpoint.open("rb") as file:
        weights = hashlib.file_digest(file, "sha256").hexdigest()
    content = json.dumps([weights, store.digest, crop])
    return hashlib.sha256(content.encode()).hexdigest()[:24]


def _read(path: Path, class_names: tuple[str, ...]) -> VideoFeatures:
    with safetensors.safe_open(path, framework="pt") as file:
        return VideoFeatures(
            feature_VD=file.get_tensor("feature"),
            label_V=file.get_tensor("label"),
            video_V=file.get_tensor("video"),
            class_names=class_names,
            dropped=int(file.metadata()["dropped"]),
        )
