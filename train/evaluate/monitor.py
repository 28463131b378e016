"""Measure the features during training: nearest neighbours on a labelled store.

Shapes: V videos, D feature dim, T frames, H W height/width, C channels.
"""

import numpy as np
import torch

from fame.clipstore import ClipStore, Window
from fame.metrics import knn_scores, topk_accuracy
from fame.models import Backbone
from fame.normalize import encoder_input
from train.evaluate.features import SquareClips

_BATCH = 16


def knn_accuracy(
    network: Backbone,
    store: ClipStore,
    *,
    window: Window,
    crop: int,
    k: int,
    device: torch.device,
    workers: int = 0,
) -> float:
    """Return the top-1 accuracy of videos by their ``k`` nearest neighbours in the other half of
    the store, both ways round.

    One clip of each video, its middle one, centre crop; the halves are the even and the odd
    videos. A monitor of training: cheaper and noisier than ``fame evaluate knn``. ``workers``
    processes decode.
    """
    videos = labelled_videos(store)
    label_V = torch.from_numpy(store.labels_V[videos])
    clips = SquareClips(store, window=window, clips=1, crop=crop, videos=videos.tolist())
    feature_VD = _features(network, clips, workers=workers, device=device)
    even, odd = slice(0, None, 2), slice(1, None, 2)
    right = 0.0
    for query, gallery in ((even, odd), (odd, even)):
        score = knn_scores(
            feature_VD[query],
            feature_VD[gallery],
            label_V[gallery],
            classes=len(store.header.class_names),
            k=min(k, len(label_V[gallery])),
        )
        # Counts, not shares: one half may have a video more than the other.
        right += topk_accuracy(score, label_V[query], k=1) * len(label_V[query])
    return right / len(label_V)


def labelled_videos(store: ClipStore) -> np.ndarray:
    """Return the videos with a class that can be shown. Raise ``ValueError`` where there are not
    two.
    """
    videos = np.flatnonzero(store.valid_V & (store.labels_V >= 0))
    if len(videos) < 2:
        raise ValueError(
            f"{store.path}: kNN needs at least 2 videos with a class that could be decoded, "
            f"got {len(videos)}"
        )
    return videos


@torch.no_grad()
def _features(
    network: Backbone, clips: SquareClips, *, workers: int, device: torch.device
) -> torch.Tensor:
    was_training = network.training
    network.eval()
    features = [
        network.features(encoder_input(clip_BPTSS3.flatten(0, 1))).float().cpu()
        for clip_BPTSS3, _ in clips.batches(_BATCH, workers=workers, device=device)
    ]
    network.train(was_training)
    return torch.cat(features)
