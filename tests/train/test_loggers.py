"""What TensorBoard, W&B and MLflow get of a run is what the run's own files hold, in groups."""

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
from train.run.loggers import MLflow, WandB, grouped

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


class Tracked:
    """The part of mlflow that is used, kept in memory: experiments, runs, and what runs hold."""

    def __init__(self) -> None:
        self.entities = SimpleNamespace(
            Metric=lambda *values: values, Param=lambda key, value: (key, value)
        )
        self.addresses: list[str] = []
        self.experiments: dict[str, str | None] = {}
        self.points: list[tuple[str, float, int, int]] = []
        self.params: dict[str, str] = {}
        self.pictures: list[tuple[str, int]] = []
        self.states: list[str] = []
        self.gone = False

    def MlflowClient(self, *, tracking_uri: str) -> "Tracked":
        self.addresses.append(tracking_uri)
        return self

    def get_experiment_by_name(self, name: str) -> Any:
        return SimpleNamespace(experiment_id="1") if name in self.experiments else None

    def create_experiment(self, name: str, place: str | None) -> str:
        self.experiments[name] = place
        return "1"

    def create_run(self, experiment: str, run_name: str) -> Any:
        self.states.append(f"new {run_name}")
        return SimpleNamespace(info=SimpleNamespace(run_id=f"run of {experiment}"))

    def update_run(self, run: str, status: str) -> None:
        self.states.append(status)

    def log_batch(self, run: str, *, metrics: Any = (), params: Any = ()) -> None:
        assert run == "run of 1"
        if self.gone:
            raise ConnectionError("no\nserver")
        self.points += metrics
        self.params |= dict(params)

    def log_image(self, run: str, image: np.ndarray, *, key: str, step: int) -> None:
        self.pictures.append((key, step))

    def set_terminated(self, run: str) -> None:
        self.states.append("ended")


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


@pytest.fixture
def tracked(monkeypatch: pytest.MonkeyPatch) -> Tracked:
    module = Tracked()
    monkeypatch.setitem(sys.modules, "mlflow", module)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    for name in ("MLFLOW_DISABLE_TELEMETRY", "MLFLOW_LOGGING_LEVEL"):
        monkeypatch.setenv(name, "true")
    return module


def test_mlflow_gets_what_the_run_writes(store: Path, tmp_path: Path, tracked: Tracked) -> None:
    run: dict[str, Any] = {"stores": [store], "run_dir": tmp_path / "mine"}
    pretrain(CONFIG.override(["logger=mlflow"]), **run)
    losses = [value for name, value, _, _ in tracked.points if name == "train/loss"]
    assert losses == figures(tmp_path / "mine")
    assert [step for name, *_, step in tracked.points if name == "train/loss"] == [0, 1, 2, 3]
    assert tracked.params["batch"] == "4" and tracked.params["keep"] == "None"
    assert ("pictures/merged", 4) in tracked.pictures
    assert tracked.addresses == [f"sqlite:///{tmp_path}/mine/mlflow/mlflow.db"]
    assert tracked.experiments == {"fame": f"file://{tmp_path}/mine/mlflow/files"}
    pretrain(CONFIG.override(["logger=mlflow", "epochs=2"]), **run)  # the same run goes on
    assert tracked.states == ["new mine", "ended", "RUNNING", "ended"]
    assert tracked.params["epochs"] == "1"  # a param of MLflow never changes


def test_a_server_of_mlflow_and_its_experiment_come_from_the_environment(
    tmp_path: Path, tracked: Tracked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    MLflow(tmp_path, {"batch": 4})
    assert tracked.addresses == ["http://127.0.0.1:1"] and tracked.experiments == {"mine": None}
    assert not (tmp_path / "mlflow").exists()


def test_a_server_of_mlflow_that_goes_away_ends_the_logging_and_not_the_run(
    tmp_path: Path, tracked: Tracked
) -> None:
    logger = MLflow(tmp_path, {"batch": 4})
    tracked.gone = True
    with pytest.warns(
        UserWarning, match=r"nothing more of this run.*\(ConnectionError: no server\)"
    ):
        logger.scalars(0, {"train/loss": 1.0})
    tracked.gone = False
    logger.scalars(1, {"train/loss": 1.0})
    logger.close()
    assert not tracked.points and tracked.states[-1].startswith("new")
    (tmp_path / "mlflow.id").unlink()
    tracked.gone = True
    with pytest.raises(ValueError, match=r"^logger=mlflow: .*mlflow cannot be used: no server$"):
        MLflow(tmp_path, {"batch": 4})


@pytest.mark.parametrize(
    ("name", "packages"), [("wandb", "wandb"), ("mlflow", "mlflow-skinny sqlalchemy alembic")]
)
def test_a_logger_that_is_not_installed_is_one_line(
    name: str, packages: str, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=f"logger={name} needs {name}: pip install {packages} "):
        pretrain(CONFIG.override([f"logger={name}"]), stores=[store], run_dir=tmp_path)


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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of its own packages
def test_mlflow_writes_to_a_database_of_the_run_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for step in (0, 1):  # the second time the run goes on
        logger = MLflow(tmp_path, {"batch": 4, "keep": None})
        logger.scalars(step, {"train/loss": 1.0 + step, "test/top-1": float("nan")})
        logger.picture(step, "pictures/merged", np.zeros((4, 4, 3), np.uint8))
        logger.close()
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow/mlflow.db")
    run = client.get_run((tmp_path / "mlflow.id").read_text())
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(point.step, point.value) for point in history] == [(0, 1.0), (1, 2.0)]
    assert run.data.params == {"batch": "4", "keep": "None"} and run.info.status == "FINISHED"
    assert len(list((tmp_path / "mlflow" / "files").rglob("*merged*.png"))) == 2
