"""What TensorBoard and W&B get of a run is what the run's own files hold, in groups."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.train.tiny import TINY, figures
from train.pretrain import pretrain
from train.run.loggers import WandB, grouped

CONFIG = TINY.override(["encoder=c3d_small", "epochs=1"])


class Recorded:
    """The part of wandb that is used, kept in memory."""

    def __init__(self) -> None:
        self.began: list[dict[str, Any]] = []
        self.logged: list[tuple[int, dict[str, Any]]] = []
        self.ended = 0

    def init(self, **settings: Any) -> Any:
        self.began.append(settings)
        return SimpleNamespace(log=self._log, finish=self._finish)

    def Image(self, image: np.ndarray) -> np.ndarray:
        return image

    def _log(self, values: dict[str, Any], step: int) -> None:
        self.logged.append((step, values))

    def _finish(self) -> None:
        self.ended += 1


def test_metrics_stand_in_groups() -> None:
    found = grouped({"loss": 1.0, "spread": 2.0, "clips_per_second": 3.0, "new": 4.0})
    assert found == {
        "train/loss": 1.0, "collapse/spread": 2.0, "speed/clips_per_second": 3.0, "train/new": 4.0,
    }  # fmt: skip


def test_loggers_get_what_the_run_writes(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = Recorded()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    run: dict[str, Any] = {"stores": [store], "run_dir": tmp_path}
    pretrain(CONFIG.override(["logger=wandb"]), **run)
    losses = figures(tmp_path)
    steps = {step: values for step, values in wandb.logged if "train/loss" in values}
    assert [steps[step]["train/loss"] for step in range(4)] == losses
    assert {"speed/data_wait", "collapse/spread", "train/lr"} <= steps[0].keys()
    pictures = [values for _, values in wandb.logged if "pictures/merged" in values]
    assert pictures[0]["pictures/merged"].shape[2] == 3
    assert wandb.began[0]["config"]["batch"] == 4 and wandb.ended == 1

    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [event.value for event in board.Scalars("train/loss")] == pytest.approx(losses)
    tags: dict[str, Any] = board.Tags()
    assert "pictures/merged" in tags["images"]
    assert all("/" in tag for tag in tags["scalars"])

    pretrain(CONFIG.override(["logger=wandb", "epochs=2"]), **run)  # the same run goes on
    assert wandb.began[1]["id"] == wandb.began[0]["id"] and wandb.began[1]["resume"] == "allow"
    assert json.loads((tmp_path / "config.json").read_text())["logger"] == "wandb"


def test_wandb_that_is_not_installed_is_one_line(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match="logger=wandb needs wandb: pip install wandb"):
        pretrain(CONFIG.override(["logger=wandb"]), stores=[store], run_dir=tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_wandb_writes_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    logger = WandB(tmp_path, {"batch": 4})
    logger.scalars(0, {"train/loss": 1.0})
    logger.picture(0, "pictures/merged", np.zeros((4, 4, 3), np.uint8))
    logger.close()
    assert list((tmp_path / "wandb").glob("offline-run-*"))
