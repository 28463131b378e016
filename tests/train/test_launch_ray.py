"""A run on a local Ray cluster of two CPU workers, in a process of its own: one process holds one Ray session."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.train.tiny import TINY, figures
from train.pretrain import pretrain

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = ["batch=8", "epochs=1"]
SCRIPT = """
import sys
from pathlib import Path
import ray
from tests.train.tiny import TINY
from train.launch_ray import RayOptions, pretrain_on_ray

ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
store, folder, *settings = sys.argv[1:]
result = pretrain_on_ray(
    TINY.override(settings), stores=[Path(store)], run_dir=Path(folder), options=RayOptions(num_workers=2)
)
assert result.status == "finished", result
assert result.step == result.total == 2, result
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_ray_workers_equal_one_process(store: Path, tmp_path: Path):
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, str(store), str(tmp_path / "ray"), *SETTINGS]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    pretrain(TINY.override(SETTINGS), stores=[store], run_dir=tmp_path / "plain")
    assert figures(tmp_path / "ray") == pytest.approx(figures(tmp_path / "plain"), abs=1e-3)


def test_numbers_that_start_nothing_are_refused():
    from train.launch_ray import RayOptions

    with pytest.raises(ValueError, match="num_workers must be at least 1, got 0"):
        RayOptions(num_workers=0)
