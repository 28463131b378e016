"""Training on a Ray cluster: Ray Train starts the processes and joins them; what they run is
``pretrain``/``finetune``.

Run folder and stores must be on storage that all nodes see. A worker group that fails is started
again and resumes from the run folder's last checkpoint; nothing is reported to Ray.
"""

import contextlib
import json
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from fame.archive import RUN_CHECKPOINT
from fame.checkpoint import open_checkpoint
from fame.clipstore import StorePath, absolute
from fame.files import is_there, real
from fame.sessions import secured
from fame.weights import Weights, read_weights
from train.config import FinetuneConfig, LaunchConfig, PretrainConfig, TrainingConfig
from train.finetune import FinetuneResult, finetune
from train.pretrain import pretrain
from train.run.loop import RunResult
from train.run.peers import choose_device


def pretrain_on_ray(
    config: PretrainConfig,
    *,
    stores: Sequence[StorePath],
    run_dir: Path,
    launch: LaunchConfig,
    knn_store: StorePath | None = None,
    proportion: Sequence[float] | None = None,
    init: Path | None = None,
) -> RunResult:
    """Run :func:`train.pretrain.pretrain` in ``launch.processes`` processes of the cluster that Ray
    is connected to.

    Connects to the cluster of ``RAY_ADDRESS``, or starts a local one, unless Ray is connected
    already. GPUs are used unless ``config.device`` is cpu or the cluster has none. Raise what a
    worker raised.
    """
    run_dir = real(run_dir)
    arguments = {
        "config": config.to_dict(),
        "folder": str(Path.cwd()),
        "stores": [str(absolute(store)) for store in stores],
        "run_dir": str(run_dir),
        "knn_store": str(absolute(knn_store)) if knn_store else None,
        "proportion": proportion,
        "init": _whole(init),
    }
    _fit(_pretrain, arguments, config=config, run_dir=run_dir, launch=launch)
    return _outcome(config, run_dir)


def finetune_on_ray(
    config: FinetuneConfig,
    *,
    train_store: StorePath,
    test_store: StorePath,
    pretrained: Path | None,
    run_dir: Path,
    launch: LaunchConfig,
    crops: int = 1,
) -> FinetuneResult:
    """Run :func:`train.finetune.finetune` as :func:`pretrain_on_ray` does; every process reads the
    weights of ``pretrained``.
    """
    run_dir = real(run_dir)
    arguments = {
        "config": config.to_dict(),
        "folder": str(Path.cwd()),
        "train_store": str(absolute(train_store)),
        "test_store": str(absolute(test_store)),
        "pretrained": _whole(pretrained),
        "run_dir": str(run_dir),
        "crops": crops,
    }
    _fit(_finetune, arguments, config=config, run_dir=run_dir, launch=launch)
    run = _outcome(config, run_dir)
    if run.status != "finished":
        return FinetuneResult(run=run, selection="", metrics=None)
    report = json.loads((run_dir / "report.json").read_text())
    return FinetuneResult(run=run, selection=report["selection"], metrics=report["figures"])


def _fit(
    work: Callable[[dict[str, Any]], None],
    arguments: dict[str, Any],
    *,
    config: TrainingConfig,
    run_dir: Path,
    launch: LaunchConfig,
) -> None:
    """Run ``work(arguments)`` in every process. Raise what one of them raised."""
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    if not ray.is_initialized():
        with secured(local=not os.environ.get("RAY_ADDRESS")):
            ray.init(log_to_driver=True)
    # The GPUs of the cluster count, not those of this node, which may be only the head.
    gpu = config.device != "cpu" and ray.cluster_resources().get("GPU", 0) > 0
    trainer = TorchTrainer(
        work,
        train_loop_config=arguments,
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=launch.processes,
            use_gpu=gpu,
            resources_per_worker={"CPU": launch.cpus_per_process, **({"GPU": 1} if gpu else {})},
        ),
        run_config=RunConfig(
            name="ray",
            storage_path=str(run_dir),
            failure_config=FailureConfig(max_failures=launch.max_failures),
        ),
    )
    trainer.fit()


def _pretrain(arguments: dict[str, Any]) -> None:
    """Run one process of pretraining. Ray has given it its GPU and joined it to the group."""
    config = PretrainConfig.from_dict(arguments["config"])
    _begin(config, folder=arguments["folder"])
    pretrain(
        config,
        stores=arguments["stores"],
        run_dir=Path(arguments["run_dir"]),
        knn_store=arguments["knn_store"],
        proportion=arguments["proportion"],
        init=_read(arguments["init"]),
    )


def _finetune(arguments: dict[str, Any]) -> None:
    """Run one process of fine-tuning."""
    config = FinetuneConfig.from_dict(arguments["config"])
    _begin(config, folder=arguments["folder"])
    finetune(
        config,
        train_store=arguments["train_store"],
        test_store=arguments["test_store"],
        weights=_read(arguments["pretrained"]),
        run_dir=Path(arguments["run_dir"]),
        crops=arguments["crops"],
    )


def _whole(weights: Path | None) -> str | None:
    """Return the path of weights as it is understood on another node."""
    return str(real(weights)) if weights and is_there(weights) else weights and str(weights)


def _read(weights: str | None) -> Weights | None:
    return read_weights(Path(weights)) if weights else None


def _begin(config: TrainingConfig, *, folder: str) -> None:
    """Go to the folder that the command ran in, wait for a worker of the last group to be gone, and
    take the GPU that Ray chose.
    """
    # ``hf:FOLDER``, ``mine.py:function`` and a cache may be relative; a worker starts elsewhere.
    with contextlib.suppress(OSError):  # another node may not have it, nor need it
        os.chdir(folder)
    os.environ.setdefault("FAME_LOCK_SECONDS", "60")
    if choose_device(config.device).type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))


def _outcome(config: TrainingConfig, run_dir: Path) -> RunResult:
    """Return how far the run came, from its last checkpoint; workers stop early only when the
    cluster takes them away.
    """
    last = run_dir / RUN_CHECKPOINT
    with open_checkpoint(last) as saved:
        progress = saved.progress
    step, total = progress["step"], progress["steps_per_epoch"] * config.epochs
    if step == total:
        return RunResult(status="finished", step=step, total=total, checkpoint=last)
    return RunResult(
        status="interrupted", step=step, total=total, checkpoint=last, signal=signal.SIGTERM
    )
