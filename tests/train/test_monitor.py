"""The kNN monitor: who decodes changes nothing, and its accuracy is that of the oracle."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fame.clipstore import ClipStore
from fame.models.registry import build_encoder
from fame.normalize import encoder_input
from tests.stores import WINDOW
from train.evaluate.features import centre_crop
from train.evaluate.monitor import knn_accuracy, labelled_videos


@pytest.mark.parametrize("workers", [0, 2])
def test_the_monitor_is_the_oracle_whoever_decodes(store: Path, workers: int):
    opened, device = ClipStore.open(store), torch.device("cpu")
    head = {"kind": "projection", "dim": 8}
    network = build_encoder("c3d_small", head=head, options={}, seed=0).train()
    accuracy = knn_accuracy(
        network, opened, window=WINDOW, crop=32, k=1, device=device, workers=workers
    )
    assert network.training
    videos, network = labelled_videos(opened), network.eval()
    clips = [opened.clip(v, opened.spread(v, WINDOW, 1)[0], WINDOW) for v in videos.tolist()]
    with torch.no_grad():
        feature_VD = torch.cat(
            [
                network.features(encoder_input(torch.from_numpy(centre_crop(clip, 32))[None]))
                for clip in clips
            ]
        )
    unit_VD = torch.nn.functional.normalize(feature_VD, dim=1)
    label_V = opened.labels_V[videos]
    likeness_VV = (unit_VD @ unit_VD.T).numpy()
    other_half = np.arange(len(videos))[:, None] % 2 != np.arange(len(videos)) % 2
    nearest_V = np.where(other_half, likeness_VV, -2).argmax(1)
    assert accuracy == pytest.approx((label_V[nearest_V] == label_V).mean())
