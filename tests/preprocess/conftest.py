"""A small corpus, a Ray session shared by all tests, and runs of the stage on either executor."""

import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fame.clipstore import StoreSpec
from preprocess.config import PreprocessConfig
from preprocess.run import preprocess
from tests.preprocess.videos import write_video

SPEC = StoreSpec(seconds=0.4, stretch=2, height=24, width=32, foreground="none")  # 6 slots
# Before the processes are forked that join the session: Ray reads these once.
os.environ |= {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AUTH_MODE": "token",
}
Configure = Callable[..., PreprocessConfig]


def tree(store: Path) -> dict[str, bytes]:
    """Every file of a store."""
    return {
        str(p.relative_to(store)): p.read_bytes() for p in sorted(store.rglob("*")) if p.is_file()
    }


def wait_until(condition: Callable[[], object], *, seconds: float = 240) -> None:
    """Poll a condition that another process brings about."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 videos of two classes, among them three that are cut and two that fail."""
    root = tmp_path_factory.mktemp("corpus")
    for number in range(10):
        write_video(
            root / "abc"[number % 2] / f"slow_{number}.mkv", 3 if number == 4 else 8 + number
        )
    (root / "a" / "slow_text.mp4").write_text("not a video")
    (root / "b" / "slow_empty.avi").touch()
    return root


@pytest.fixture(scope="session")
def ray_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Ray session of two CPUs, and where other processes can join it."""
    import ray

    state = random.getstate()  # Ray names things with the global generator that the suite guards
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    random.setstate(state)
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


@pytest.fixture(params=["serial", pytest.param("ray", marks=pytest.mark.slow)])
def executor(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Fields of the config that choose an executor; the test runs on both, on Ray where slow tests do."""
    if request.param == "serial":
        return {"executor": "serial"}
    return {"executor": "ray", "workers": 2, "address": request.getfixturevalue("ray_address")}


@pytest.fixture
def configure(corpus: Path, tmp_path: Path) -> Configure:
    """Make a config for the corpus; any field can be given."""

    def make(**fields: Any) -> PreprocessConfig:
        defaults = {
            "dataset": "folder",
            "split": "train",
            "videos": corpus,
            "store": tmp_path / "store",
        }
        return PreprocessConfig(
            **{**defaults, "spec": SPEC, "videos_per_shard": 2, "max_failed": 1.0, **fields}
        )

    return make


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    disk, mount = tmp_path / "disk", shutil.which("mount")
    disk.mkdir()
    if (
        not mount
        or subprocess.run(
            [mount, "-t", "tmpfs", "-o", "size=64k", "none", disk], check=False
        ).returncode
    ):
        pytest.skip("cannot mount a small file system here")
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.fixture(scope="session")
def reference(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The store of the corpus, made by one serial run."""
    store = tmp_path_factory.mktemp("reference") / "store"
    preprocess(
        PreprocessConfig(
            dataset="folder",
            split="train",
            videos=corpus,
            store=store,
            executor="serial",
            spec=SPEC,
            videos_per_shard=2,
            max_failed=1.0,
        )
    )
    return tree(store)
