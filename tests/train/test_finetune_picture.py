"""The picture that a fine-tuning run writes of its merged clips."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fame.clipstore import ClipStore
from fame.normalize import MEAN, STD
from tests.stores import WINDOW
from tests.train.tiny import TUNED
from train.config import FinetuneConfig
from train.finetune import finetune
from train.finetune_data import LabelledClips, make_view, picture
from train.views import middle_frames

PLAIN = replace(TUNED, log_every=1, jitter=0.0, gray=0.0, blur=0.0)
MERGED = replace(PLAIN, merge=0.5, beta=0.3, mask="stored")


def test_crops_stand_beside_the_merged_clips_that_train(store: Path) -> None:
    clips = LabelledClips(ClipStore.open(store), seed=0, window=WINDOW, maps=True)
    batch = clips.__getitems__([(0, row) for row in range(6)])
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (MEAN, STD))
    crops, merged = (
        (make_view(batch, config, epoch=0, step=4) * std + mean).clamp(0, 1)
        for config in (PLAIN, MERGED)
    )
    changed_B = (crops[:4] != merged[:4]).flatten(1).any(1)
    assert changed_B.any() and not changed_B.all()
    expected = middle_frames({"clip": crops, "clip, merged": merged}).astype(int)
    shown = picture(batch, MERGED, epoch=0, step=4).astype(int)
    assert shown.shape == expected.shape
    assert abs(shown - expected).max() <= 1  # colours that were normalised and turned back


@pytest.mark.parametrize("config", [PLAIN, MERGED], ids=["plain", "merged"])
def test_a_run_that_merges_writes_it(store: Path, tmp_path: Path, config: FinetuneConfig) -> None:
    finetune(config, train_store=store, test_store=store, weights=None, run_dir=tmp_path)
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    merges = config.merge > 0
    assert board.Tags()["images"] == (["pictures/merged"] if merges else [])
    assert (tmp_path / "merged.png").exists() == merges
    if merges:
        with Image.open(tmp_path / "merged.png") as shown:
            assert shown.width > 2 * 112
