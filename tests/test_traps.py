"""No code of the current folder runs, and a person's own modules do not stand in for ours.

The traps are modules that write down that they ran. They are met on the way that a person takes:
a process of its own, begun in the folder where they lie.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fame.beside import OURS
from tests.preprocess.videos import write_video
from tests.stores import make_store

TRAPS = (
    *("train", "preprocess", "fame", "cli", "commands", "numpy", "torch", "cv2", "av", "json"),
    *("zarr", "ray", "sitecustomize"),
)
TRAP = """
import os, sys
with open(os.environ["PROOF"], "a") as proof:
    proof.write(f"{__name__} in {sys.argv}\\n")
"""
ENTER = "from fame.__main__ import main\nif __name__ == '__main__':\n    main()\n"
SMALL = ("--height", "32", "--width", "40", "--foreground", "none")
TINY = (
    *(
        "--recipe",
        "small-cpu",
        "--epochs",
        "1",
        "--batch",
        "4",
        "--workers",
        "1",
        "--width",
        "0.125",
    ),
    *("--set", "bn_group=4", "--set", "merge_group=4", "--set", "queue=24", "--set", "dim=8"),
)


def fame(folder: Path, *arguments: object, path: str = "") -> None:
    """Run ``fame`` in ``folder`` as the console script does, with traps lying there."""
    environment = os.environ | {"PROOF": str(folder / "proof"), "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONSAFEPATH", None)
    if path:
        environment["PYTHONPATH"] = path
    script = folder / "bin" / "fame"  # its folder, not the current one, is on the path
    script.parent.mkdir(exist_ok=True)
    script.write_text(ENTER)
    done = subprocess.run(
        [sys.executable, script, *map(str, arguments)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, (arguments, done.stdout, done.stderr)
    assert not (folder / "proof").exists(), (arguments, (folder / "proof").read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of traps, with a store and a video."""
    folder = tmp_path_factory.mktemp("traps")
    make_store(folder / "tiny.zarr", videos=8)
    (folder / "videos").mkdir()
    write_video(folder / "videos" / "one.avi", frames=12)
    for name in TRAPS:
        (folder / f"{name}.py").write_text(TRAP)
    return folder


def test_the_traps_work(folder: Path):
    command = [sys.executable, "-c", "import json"]
    subprocess.run(command, cwd=folder, env=os.environ | {"PROOF": "sprung"}, check=False)
    assert "json" in (folder / "sprung").read_text()


def test_preprocess_and_store_commands(folder: Path):
    made = folder / "made.zarr"
    where = ("--videos", "videos", "--store", made)
    fame(folder, "preprocess", "folder", *where, *SMALL, "--executor", "serial")
    fame(folder, "store", "info", made)
    fame(folder, "store", "verify", "tiny.zarr", "--workers", "1")


@pytest.mark.slow
def test_training_and_what_follows(folder: Path):
    fame(folder, "pretrain", "tiny.zarr", "--run-dir", "run", *TINY)
    last = "run/checkpoints/last.pt"
    stores = ("--train-store", "tiny.zarr", "--test-store", "tiny.zarr", "--root", "root")
    fame(folder, "evaluate", "knn", last, *stores, "--workers", "1", "--k", "1")
    fame(folder, "export", last, "--out", "export", "--frames", "8", "--crop", "32")


@pytest.mark.slow
def test_ray_workers(folder: Path):
    where = ("--videos", "videos", "--store", folder / "ray.zarr")
    fame(folder, "preprocess", "folder", *where, *SMALL, "--executor", "ray", "--workers", "1")


@pytest.mark.parametrize("arguments", [("--version",), ("store", "verify", "tiny.zarr")])
def test_modules_of_a_person_s_own_do_not_stand_in_for_ours(
    folder: Path, tmp_path: Path, arguments: tuple[str, ...]
):
    for name in sorted({*OURS} - {"fame"}):
        (tmp_path / f"{name}.py").write_text(TRAP)
    (tmp_path / "tiny.zarr").symlink_to(folder / "tiny.zarr")
    fame(tmp_path, *arguments, path=".")
