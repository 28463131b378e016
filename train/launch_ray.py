"""Pretraining on a Ray cluster: Ray Train starts the processes and joins them; what they run is ``train.pretrain``.

Run folder and stores must be on storage that all nodes see. A worker group that fails is started again and resumes from
the run folder's last checkpoint; nothing is reported to Ray.
"""

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from fame.clipstore import StorePath, absolute
from train import checkpoint
from train.config import PretrainConfig, from_dict
from train.distributed import choose_device
from train.loop import RunResult
from train.pretrain import pretrain


@dataclass(frozen=True, kw_only=True)
class RayOptions:
    """``num_workers`` processes, each with ``cpus_per_worker`` cores, restarted up to ``max_failures`` times."""

    num_workers: int = 1
    cpus_per_worker: int = 1
    max_failures: int = 3

    def __post_init__(self) -> None:
        """Refuse numbers that start nothing."""
        for name, low in (("num_workers", 1), ("cpus_per_worker", 1), ("max_failures", 0)):
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, got {getattr(self, name)}")


def pretrain_on_ray(
    config: PretrainConfig,
    *,
    stores: Sequence[StorePath],
    run_dir: Path,
    options: RayOptions,
    knn_store: StorePath | None = None,
) -> RunResult:
    """:func:`train.pretrain.pretrain` in ``options.num_workers`` processes of the cluster that Ray is connected to.

    Connects to the cluster of ``RAY_ADDRESS``, or starts a local one, unless Ray is connected already. GPUs are used
    unless ``config.device`` is cpu or the cluster has none. Raises what a worker raised.
    """
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    if not ray.is_initialized():
        ray.init(log_to_driver=True)
    gpu = config.device != "cpu" and ray.cluster_resources().get("GPU", 0) > 0
    run_dir = run_dir.resolve()
    arguments = {
        "config": config.to_dict(),
        "stores": [str(absolute(store)) for store in stores],
        "run_dir": str(run_dir),
        "knn_store": str(absolute(knn_store)) if knn_store else None,
    }
    trainer = TorchTrainer(
        _worker,
        train_loop_config=arguments,
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=options.num_workers,
            use_gpu=gpu,
            resources_per_worker={"CPU": options.cpus_per_worker, **({"GPU": 1} if gpu else {})},
        ),
        run_config=RunConfig(
            name="ray", storage_path=str(run_dir), failure_config=FailureConfig(max_failures=options.max_failures)
        ),
    )
    trainer.fit()
    return _outcome(config, run_dir / "checkpoints" / checkpoint.LAST)


def _worker(arguments: dict[str, Any]) -> None:
    """One process: Ray has joined it to the process group and shown it its own GPU."""
    config = from_dict(PretrainConfig, arguments["config"])
    run_dir = Path(arguments["run_dir"])
    if choose_device(config.device).type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    pretrain(
        config,
        stores=arguments["stores"],
        run_dir=run_dir,
        knn_store=arguments["knn_store"],
    )


def _outcome(config: PretrainConfig, last: Path) -> RunResult:
    """How far the run came, from its last checkpoint; workers stop early only when the cluster takes them away."""
    progress = checkpoint.load(last)["progress"]
    step, total = progress["step"], progress["steps_per_epoch"] * config.epochs
    if step == total:
        return RunResult(status="finished", step=step, total=total, checkpoint=last)
    return RunResult(status="interrupted", step=step, total=total, checkpoint=last, signal=signal.SIGTERM)
