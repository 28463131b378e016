"""A run on a local Ray cluster of two CPU workers, in a process of its own: one process holds one
Ray session.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fame
from fame.weights import read_weights
from tests.stores import make_store
from tests.train.tiny import TINY, figures
from train import launch_ray
from train.config import FinetuneConfig, LaunchConfig
from train.finetune import finetune
from train.pretrain import pretrain

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = ["batch=8", "epochs=1"]
TUNED = FinetuneConfig(
    device="cpu",
    encoder="c3d_small",
    frames=8,
    crop=28,
    batch=4,
    bn_group=2,
    epochs=1,
    dropout=0.0,
    lr=1e-3,
    workers=0,
)
SCRIPT = """
import sys
from pathlib import Path
import ray
from tests.train.tiny import TINY
from train.config import LaunchConfig
from train.launch_ray import pretrain_on_ray

ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
store, folder, init, *settings = sys.argv[1:]
result = pretrain_on_ray(
    TINY.override(settings),
    stores=[Path(store)],
    run_dir=Path(folder),
    launch=LaunchConfig(launcher="ray", processes=2),
    init=Path(init) if init != "none" else None,
)
assert result.status == "finished", result
assert result.step == result.total == 2, result
"""


def in_two_workers(script: str, *arguments: str | Path) -> None:
    environment = os.environ | {
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_ray_workers_equal_one_process(store: Path, tmp_path: Path):
    in_two_workers(SCRIPT, store, tmp_path / "ray", "none", *SETTINGS)
    pretrain(TINY.override(SETTINGS), stores=[store], run_dir=tmp_path / "plain")
    assert figures(tmp_path / "ray") == pytest.approx(figures(tmp_path / "plain"), abs=1e-3)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_ray_workers_start_from_weights_as_one_process_does(store: Path, tmp_path: Path):
    first = pretrain(
        TINY.override([*SETTINGS, "seed=3"]), stores=[store], run_dir=tmp_path / "first"
    ).checkpoint
    in_two_workers(SCRIPT, store, tmp_path / "ray", first, *SETTINGS)
    weights = read_weights(first)
    pretrain(TINY.override(SETTINGS), stores=[store], run_dir=tmp_path / "plain", init=weights)
    losses = figures(tmp_path / "plain")
    assert figures(tmp_path / "ray") == pytest.approx(losses, abs=1e-3)
    pretrain(TINY.override(SETTINGS), stores=[store], run_dir=tmp_path / "scratch")
    assert figures(tmp_path / "scratch") != pytest.approx(losses, abs=1e-3)


FINETUNING = """
import sys
from pathlib import Path
import ray
from tests.train.test_launch_ray import TUNED
from train.config import LaunchConfig
from train.launch_ray import finetune_on_ray

ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
train_store, test_store, folder = map(Path, sys.argv[1:])
result = finetune_on_ray(
    TUNED,
    train_store=train_store,
    test_store=test_store,
    pretrained=None,
    run_dir=folder,
    launch=LaunchConfig(launcher="ray", processes=2),
)
assert result.run.status == "finished" and result.metrics, result
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_ray_workers_fine_tune_as_one_process(tmp_path: Path):
    stores = [
        make_store(tmp_path / name, videos=12, seed=seed)
        for seed, name in enumerate(("train", "test"))
    ]
    in_two_workers(FINETUNING, *stores, tmp_path / "ray")
    alone = finetune(
        TUNED, train_store=stores[0], test_store=stores[1], weights=None, run_dir=tmp_path / "alone"
    )
    reports = [json.loads((tmp_path / run / "report.json").read_text()) for run in ("ray", "alone")]
    assert alone.metrics == reports[1]["figures"]
    assert reports[0]["figures"] == pytest.approx(reports[1]["figures"], abs=1e-3)
    assert figures(tmp_path / "ray") == pytest.approx(figures(tmp_path / "alone"), abs=1e-4)


NETWORK = """
import torch

def network():
    return torch.nn.Sequential(torch.nn.Conv3d(3, 8, 3, stride=2), torch.nn.BatchNorm3d(8))
"""


def test_a_worker_finds_a_network_named_from_the_folder_of_the_command(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fit(work: Callable[[dict[str, Any]], None], arguments: dict[str, Any], **_: object) -> None:
        monkeypatch.chdir("/")  # where a worker may start
        work(arguments)
        assert Path.cwd() == tmp_path

    monkeypatch.setattr(launch_ray, "_fit", fit)
    # What a worker sets would stay in this process: later tests of locks would wait for a minute.
    monkeypatch.setenv("FAME_LOCK_SECONDS", "0")
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(NETWORK)
    result = launch_ray.pretrain_on_ray(
        TINY.override([*SETTINGS, "encoder=mine.py:network", "width=1"]),
        stores=[store],
        run_dir=Path("run"),
        launch=LaunchConfig(launcher="ray", processes=1),
    )
    assert result.step == result.total
    assert fame.load("mine.py:network@run/checkpoints/last.pt").feature_dim == 8


def test_numbers_that_start_nothing_are_refused():
    with pytest.raises(ValueError, match="processes must be a whole number of at least 1, got 0"):
        LaunchConfig(launcher="ray", processes=0)
    with pytest.raises(ValueError, match="processes needs launcher=ray"):
        LaunchConfig(processes=2)
