"""Loggers of metrics and pictures beside a run's own files: TensorBoard always, W&B or MLflow on
request.
"""

import os
import time
import uuid
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch.utils.tensorboard import SummaryWriter

_GROUPS = {
    "speed": ("clips_per_second", "data_wait", "gpu_memory_gib", "skipped"),
    "collapse": ("spread", "queue_norm"),
}


class Logger(Protocol):
    """The methods of a logger; the first process alone has loggers."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Keep metrics of a step, by tag."""
        ...

    def picture(self, step: int, tag: str, image_HWC: np.ndarray) -> None:
        """Keep a picture, uint8 RGB."""
        ...

    def close(self) -> None:
        """Write what is left and end."""
        ...


class TensorBoard:
    """Events in ``tensorboard/`` of the run folder; those from step ``first`` on are replaced."""

    def __init__(self, folder: Path, *, first: int) -> None:
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=first)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to each curve."""
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def picture(self, step: int, tag: str, image_HWC: np.ndarray) -> None:
        """Add a picture."""
        self._board.add_image(tag, image_HWC, step, dataformats="HWC")

    def close(self) -> None:
        """Write what is left."""
        self._board.close()


class WandB:
    """A run of Weights & Biases, named as the run folder; one that is resumed goes on.

    Project and mode are those of its own environment variables, ``WANDB_PROJECT`` and
    ``WANDB_MODE=offline``. It accepts no step twice: one repeated after a kill keeps its first
    values.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        self._wandb = _package("wandb", needs="wandb")
        note = folder / "wandb.id"
        if not note.exists():
            note.write_text(uuid.uuid4().hex[:8])
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", "fame"),
            name=folder.resolve().name,
            id=note.read_text().strip(),
            resume="allow",
            dir=str(folder),
            config=dict(config),
        )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log the metrics of a step."""
        self._run.log(dict(values), step=step)

    def picture(self, step: int, tag: str, image_HWC: np.ndarray) -> None:
        """Log a picture."""
        self._run.log({tag: self._wandb.Image(image_HWC)}, step=step)

    def close(self) -> None:
        """End the run."""
        self._run.finish()


class MLflow:
    """A run of MLflow, named as the run folder; one that is resumed goes on.

    Server and experiment are those of its own environment variables, ``MLFLOW_TRACKING_URI`` and
    ``MLFLOW_EXPERIMENT_NAME``; without the first, everything is in ``mlflow/`` of the run folder. A
    step that is repeated after a kill has two values there.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        # It would otherwise report its use to its makers, and log lines between ours.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
        mlflow = _package("mlflow", needs="mlflow-skinny sqlalchemy alembic")
        self._metric, self._failed = mlflow.entities.Metric, ""
        address = os.environ.get("MLFLOW_TRACKING_URI")
        try:
            self._client, self._run = _mlflow_run(mlflow, address, folder, config)
        except Exception as error:  # of its client, its transport or its database
            where, reason = address or folder / "mlflow", " ".join(str(error).split())[:200]
            raise ValueError(f"logger=mlflow: {where} cannot be used: {reason}") from error

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log the metrics of a step."""
        now = int(time.time() * 1000)
        metrics = [self._metric(name, value, now, step) for name, value in values.items()]
        self._send(lambda: self._client.log_batch(self._run, metrics=metrics))

    def picture(self, step: int, tag: str, image_HWC: np.ndarray) -> None:
        """Log a picture."""
        self._send(lambda: self._client.log_image(self._run, image_HWC, key=tag, step=step))

    def close(self) -> None:
        """End the run."""
        self._send(lambda: self._client.set_terminated(self._run))

    def _send(self, send: Callable[[], object]) -> None:
        """Send something, unless sending failed before. A server that has gone away ends the
        logging and not the training.
        """
        if self._failed:
            return
        try:
            send()
        except Exception as error:
            self._failed = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            warnings.warn(
                f"MLflow gets nothing more of this run; its own files have all ({self._failed})",
                stacklevel=3,
            )


def _mlflow_run(
    mlflow: Any, address: str | None, folder: Path, config: Mapping[str, Any]
) -> tuple[Any, str]:
    """Return a client and the identity of the run, which is made unless the run folder notes one.
    ``address`` is that of a server; ``None`` is a database in the run folder.
    """
    own, note = folder.resolve() / "mlflow", folder / "mlflow.id"
    if address is None:
        own.mkdir(exist_ok=True)
    client = mlflow.MlflowClient(tracking_uri=address or f"sqlite:///{own / 'mlflow.db'}")
    if note.exists():
        run = note.read_text().strip()
        client.update_run(run, status="RUNNING")
        return client, run
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "fame")
    # A server has a place of its own for pictures.
    place = None if address else (own / "files").as_uri()
    found = client.get_experiment_by_name(name)
    experiment = found.experiment_id if found else client.create_experiment(name, place)
    run = client.create_run(experiment, run_name=folder.resolve().name).info.run_id
    settings = [mlflow.entities.Param(key, str(value)) for key, value in config.items()]
    client.log_batch(run, params=settings)
    note.write_text(run)
    return client, run


# The loggers that a setting names; each is made of the run folder and its settings.
BESIDE: dict[str, Callable[[Path, Mapping[str, Any]], Logger]] = {"wandb": WandB, "mlflow": MLflow}


def _package(name: str, *, needs: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise ValueError(f"logger={name} needs {name}: pip install {needs} ({error})") from error


def grouped(values: Mapping[str, float]) -> dict[str, float]:
    """Return metrics by tag: ``loss`` is ``train/loss``, ``spread`` is ``collapse/spread``."""
    group_of = {name: group for group, names in _GROUPS.items() for name in names}
    return {f"{group_of.get(name, 'train')}/{name}": value for name, value in values.items()}
