"""No code of the current folder runs, and a person's own modules do not stand in for ours.

The traps are modules that write down that they ran. They are met on the way that a person takes:
a process of its own, begun in the folder where they lie.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import cli
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
ENTER = "from fame_video import main\nif __name__ == '__main__':\n    main()\n"
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


def fame(folder: Path, *arguments: object, path: str = "") -> str:
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
    )
    said = f"{arguments}\n{done.stdout}\n{done.stderr}"
    assert done.returncode == 0, said
    assert "matplotlibrc" not in said, said
    assert not (folder / "proof").exists(), (arguments, (folder / "proof").read_text())
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of traps, with a store and a video."""
    folder = tmp_path_factory.mktemp("traps")
    make_store(folder / "tiny.zarr", videos=8)
    (folder / "videos").mkdir()
    write_video(folder / "videos" / "one.avi", frames=12)
    for name in TRAPS:
        (folder / f"{name}.py").write_text(TRAP)
    # Matplotlib reads it when it is imported; here it would say that it knows no such setting.
    (folder / "matplotlibrc").write_text("figure.figsize: trapped\n")
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
@pytest.mark.timeout(1800)
def test_every_other_command(folder: Path):
    """Each with loader workers, where it has them."""
    fame(folder, "pretrain", "tiny.zarr", "--run-dir", "run", *TINY)
    last = "run/checkpoints/last.pt"
    shown = ("--train-store", "tiny.zarr", "--root", "root", "--workers", "1", "--clips", "1")
    for measure in ("knn", "retrieval", "linear"):
        fame(folder, "evaluate", measure, last, *shown, "--test-store", "tiny.zarr")
    fame(folder, "bias", last, *shown, "--store", "tiny.zarr")
    fame(folder, "activate", last, "--store", "tiny.zarr", "--root", "root")
    stores = ("--train-store", "tiny.zarr", "--test-store", "tiny.zarr")
    small = ("--epochs", "1", "--batch", "4", "--bn-group", "4", "--workers", "1", "--clips", "1")
    tuned = ("--pretrained", last, "--run-dir", "tuned", *small)
    fame(folder, "finetune", "folder", *stores, *tuned)
    fame(folder, "evaluate", "test", "tuned/checkpoints/last.pt", "--store", "tiny.zarr")
    fame(folder, "report", "run", "--store", "tiny.zarr", "--out", "report.html")
    fame(folder, "export", last, "--out", "export", "--frames", "8", "--crop", "32")
    fame(folder, "push", "lab/tiny", "run", "--dry-run", "--out", "pushed")
    fame(folder, "store", "preview", "tiny.zarr", "--clips", "2")
    fame(folder, "store", "browse", "tiny.zarr", "--clips", "2")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_step_of_the_demo(folder: Path):
    fame(folder, "demo", "--videos", "36", "--epochs", "1")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_processes_of_ray(folder: Path):
    where = ("--videos", "videos", "--store", folder / "ray.zarr")
    fame(folder, "preprocess", "folder", *where, *SMALL, "--executor", "ray", "--workers", "1")
    ray = ("--launcher", "ray", "--processes", "1", "--run-dir", "ray")
    fame(folder, "pretrain", "tiny.zarr", *ray, *TINY)


def test_every_command_meets_the_traps():
    """A command that is new has to be run above."""
    text = Path(__file__).read_text()
    words = {name: f'"{name}"' for name in cli.ORDER}
    assert not [name for name, word in words.items() if word not in text]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--version",),
        ("store", "verify", "tiny.zarr"),
        pytest.param(("pretrain", "tiny.zarr", *TINY), marks=pytest.mark.slow),
    ],
    ids=lambda arguments: arguments[0],
)
def test_modules_of_a_person_s_own_do_not_stand_in_for_ours(
    folder: Path, tmp_path: Path, arguments: tuple[str, ...]
):
    for name in OURS:
        (tmp_path / f"{name}.py").write_text(TRAP)
    (tmp_path / "tiny.zarr").symlink_to(folder / "tiny.zarr")
    fame(tmp_path, *arguments, path=".")
