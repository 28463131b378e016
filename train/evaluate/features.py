"""Features of every video of a clip store under a frozen encoder, computed once and cached.

Shapes: V videos, N clips, B batch, P crops of a clip, T frames, H W height/width, S crop size, C
channels, D feature dim.
"""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from fame.checkpoint import checksum
from fame.clipstore import ClipStore, Window
from fame.files import whole
from fame.normalize import Normalisation
from fame.processes import server
from fame.weights import Encoder
from train.run.loading import batches
from train.run.memory import memory_errors, smaller_batch

# Opened with the name of the work and its number of clips; its value is called with how many more
# clips are done.
Watch = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


def unwatched(what: str, clips: int) -> AbstractContextManager[Callable[[int], None]]:
    """Return a watch that shows nothing."""

    def ignore(count: int) -> None: ...

    return nullcontext(ignore)


@dataclass(frozen=True, kw_only=True)
class VideoFeatures:
    """One feature per video (the mean over its clips), with its class and its place in the store.

    Videos that could not be decoded are left out; ``dropped`` counts them.
    """

    feature_VD: Float[Tensor, "v d"]
    label_V: Int[Tensor, " v"]
    video_V: Int[Tensor, " v"]
    class_names: tuple[str, ...]
    dropped: int


class SquareClips(Dataset[tuple[Tensor, int]]):
    """``clips`` evenly spaced clips of each video of a store in order, cut to squares of ``crop``
    pixels: (clip_PTSS3 uint8, video number).

    ``crops`` as of :func:`square_crops`; ``videos`` leaves out all others. Raise ``ValueError``
    where nothing is left, the frames are smaller than the crop or too few for the window.
    """

    def __init__(
        self,
        store: ClipStore,
        *,
        window: Window,
        clips: int,
        crop: int,
        crops: int = 1,
        videos: Sequence[int] | None = None,
    ) -> None:
        check_clips(store, window, crop)
        self.store, self._window, self.crop, self._crops = store, window, crop, crops
        shown = np.flatnonzero(store.valid_V).tolist()
        if videos is not None:
            shown = sorted(set(shown) & set(videos))
        if not shown:
            raise ValueError(f"{store.path}: no video could be decoded")
        starts = [(video, start) for video in shown for start in store.spread(video, window, clips)]
        self._clip_N2 = np.array(starts)

    def __len__(self) -> int:
        """Return the number of clips of all videos."""
        return len(self._clip_N2)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        """Decode one clip. Raise :class:`~fame.clipstore.CorruptChunk` if its bytes are damaged."""
        video, start = self._clip_N2[position].tolist()
        clip_THWC = self.store.clip(video, start, self._window)
        return torch.from_numpy(square_crops(clip_THWC, self.crop, count=self._crops)), video

    @property
    def identity(self) -> list[Any]:
        """Return plain values that identify the pixels shown."""
        window, place_N2 = dataclasses.asdict(self._window), self._clip_N2.tolist()
        return [self.store.digest, window, place_N2, self.crop, self._crops]

    def batches(
        self, size: int, *, workers: int, device: torch.device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all clips in batches on ``device``: (clip_BPTSS3, video_B on the CPU), decoded by
        ``workers`` processes.
        """
        loader = DataLoader(
            self,
            batch_size=size,
            num_workers=workers,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # else the loader draws from the global one
            multiprocessing_context=server(__name__) if workers else None,
        )
        for clip_BPTSS3, video_B in batches(loader):
            # The numbers of the videos stay on the CPU, where they are grouped.
            yield clip_BPTSS3.to(device, non_blocking=True), video_B


def check_clips(store: ClipStore, window: Window, crop: int) -> None:
    """Raise ``ValueError`` where the store has no clips of this window or no squares of ``crop``
    pixels in its frames.
    """
    store.check(window)
    height, width = store.spec.height, store.spec.width
    if crop > min(height, width):
        raise ValueError(
            f"crop {crop} is larger than the {height}x{width} frames of {store.path}; choose "
            f"--crop {min(height, width)} or less"
        )


def check_labelled(store: ClipStore) -> None:
    """Raise ``ValueError`` where a video has no class."""
    if missing := int((store.labels_V < 0).sum()):
        raise ValueError(f"{store.path}: {missing} of its videos have no label")


def check_same_classes(
    ours: str, our_names: Sequence[str], theirs: str, their_names: Sequence[str]
) -> None:
    """Raise ``ValueError`` naming the first difference, unless both have the same classes in the
    same order.
    """
    for number, (our, their) in enumerate(zip(our_names, their_names, strict=False)):
        if our != their:
            raise ValueError(
                f"class {number} is {our!r} in {ours} but {their!r} in {theirs}: make "
                "both from one class list"
            )
    if len(our_names) != len(their_names):
        raise ValueError(f"{ours} has {len(our_names)} classes but {theirs} has {len(their_names)}")


def crop_for(encoder: Encoder, store: ClipStore, asked: int | None) -> int:
    """Return the crop asked for, else that of the encoder's training, at most the frames' size."""
    smaller = min(store.spec.height, store.spec.width)
    return asked or min(encoder.card.config.get("crop", smaller), smaller)


def window_for(encoder: Encoder, frames: int | None = None, step: int | None = None) -> Window:
    """Return the clips asked for, else those of the encoder's training."""
    config = encoder.card.config
    return Window(
        frames=frames or config.get("frames", 16),
        step=step or config.get("step", 1),
        span=None if step else config.get("span"),
    )


def square_crops(
    clip_THWC: UInt8[np.ndarray, "t h w 3"], crop: int, *, count: int
) -> UInt8[np.ndarray, "p t s s 3"]:
    """Return ``count`` squares of ``crop`` pixels, evenly spaced along the longer side (1: the
    centre), as a contiguous copy.
    """
    # 3 squares of 100 pixels in 100 x 160 begin at columns 0, 30 and 60.
    spare_H, spare_W = clip_THWC.shape[1] - crop, clip_THWC.shape[2] - crop
    across = [place / (count - 1) if count > 1 else 0.5 for place in range(count)]
    places = [(spare_H // 2, int(spare_W * share)) for share in across]
    if spare_H > spare_W:
        places = [(int(spare_H * share), spare_W // 2) for share in across]
    return np.stack([clip_THWC[:, top : top + crop, left : left + crop] for top, left in places])


def centre_crop(clip_THWC: UInt8[np.ndarray, "t h w 3"], crop: int) -> UInt8[np.ndarray, "t s s 3"]:
    """Return the square of ``crop`` pixels in the middle of every frame, as a contiguous copy."""
    return square_crops(clip_THWC, crop, count=1)[0]


def extract_features(
    encoder: Encoder,
    clips: SquareClips,
    *,
    normalisation: Normalisation = "kinetics",
    per_clip_l2: bool = False,
    batch: int = 16,
    workers: int = 0,
    on_clips: Callable[[int], None] = lambda count: None,
) -> VideoFeatures:
    """Encode ``clips`` and average them per video (10-clip features of the paper's retrieval),
    with ``per_clip_l2`` after each clip's feature was scaled to length 1.

    ``on_clips(count)`` is called after each batch. The encoder runs where its weights are.
    """
    store = clips.store

    def encode(clip_BTSS3: Tensor) -> Tensor:
        feature_BD = encoder.features(clip_BTSS3, normalisation=normalisation)
        return F.normalize(feature_BD, dim=1) if per_clip_l2 else feature_BD

    mean_V1D, video_V = mean_over_clips(
        encode,
        clips,
        batch=batch,
        workers=workers,
        device=encoder.device,
        on_clips=on_clips,
    )
    return VideoFeatures(
        feature_VD=mean_V1D[:, 0],
        label_V=torch.tensor(store.labels_V)[video_V],
        video_V=video_V,
        class_names=store.header.class_names,
        dropped=store.num_videos - len(video_V),
    )


def mean_over_clips(
    encode: Callable[[Tensor], Tensor],
    clips: SquareClips,
    *,
    batch: int,
    workers: int,
    device: torch.device,
    on_clips: Callable[[int], None] = lambda count: None,
) -> tuple[Float[Tensor, "v p d"], Int[Tensor, " v"]]:
    """Return the output of ``encode`` for each square, averaged over the clips of a video, and the
    numbers of the videos in ascending order.
    """
    sums: dict[int, Tensor] = {}
    counts: Counter[int] = Counter()
    for clip_BPTSS3, video_B in clips.batches(batch, workers=workers, device=device):
        with memory_errors(device, ways=partial(smaller_batch, batch)):
            said_ND = encode(clip_BPTSS3.flatten(0, 1)).double().cpu()
        said_BPD = said_ND.unflatten(0, clip_BPTSS3.shape[:2])
        for video, said_PD in zip(video_B.tolist(), said_BPD, strict=True):
            sums[video] = sums[video] + said_PD if video in sums else said_PD
            counts[video] += 1
        on_clips(len(video_B))
    videos = sorted(sums)
    return torch.stack([sums[video] / counts[video] for video in videos]).float(), torch.tensor(
        videos
    )


def cached_features(
    encoder: Encoder,
    clips: SquareClips,
    *,
    cache: Path,
    normalisation: Normalisation = "kinetics",
    per_clip_l2: bool = False,
    extract: Callable[[], VideoFeatures],
) -> VideoFeatures:
    """Return features from ``cache`` if these weights encoded these clips before, else those of
    ``extract()``, which are then kept.

    The key covers the network's weights, the store's content, what is shown of it and how a clip
    becomes a feature; a damaged cache file is made again.
    """
    path = cache / f"{_key(encoder, [*clips.identity, normalisation, per_clip_l2])}.safetensors"
    try:
        return _read(path, clips.store.header.class_names)
    except (OSError, KeyError, TypeError, ValueError, safetensors.SafetensorError):
        features = extract()
    tensors = {"feature": features.feature_VD, "label": features.label_V, "video": features.video_V}
    with whole(path) as partial:
        about = {"dropped": f"{features.dropped} {checksum(tensors)}"}  # several have no order
        partial.write_bytes(safetensors.torch.save(tensors, about))
    return features


def _key(encoder: Encoder, identity: list[Any]) -> str:
    digest = hashlib.sha256(json.dumps([encoder.card.name, identity]).encode())
    for name, tensor in sorted(encoder.network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:24]


def _read(path: Path, class_names: tuple[str, ...]) -> VideoFeatures:
    """Return the features of a cache file. Raise ``ValueError`` if its checksum does not hold."""
    with safetensors.safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in ("feature", "label", "video")}
        dropped, _, written = file.metadata()["dropped"].partition(" ")
    if checksum(tensors) != written:
        raise ValueError(f"{path}: damaged")
    return VideoFeatures(
        feature_VD=tensors["feature"],
        label_V=tensors["label"],
        video_V=tensors["video"],
        class_names=class_names,
        dropped=int(dropped),
    )
