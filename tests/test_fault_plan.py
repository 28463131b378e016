"""Faults by plan: call number n of a command that changes a file fails, for n = 1, 2, 3 ... until
none is hit. What was whole before loads; the same command with space ends as if nothing had been.
"""

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import cli
from fame.checkpoint import open_checkpoint
from tests.faults import Plan
from tests.preprocess.videos import write_video
from tests.stores import make_store

# A disk that is full stays so; another error comes once. They take turns from call to call; where
# the environment sets FAME_EVERY_FAULT, both hit every call.
FAULTS = ((errno.ENOSPC, True), (errno.EIO, False))
EVERY = bool(os.environ.get("FAME_EVERY_FAULT"))
TINY = (
    *("--encoder", "c3d_small", "--frames", "8", "--crop", "32", "--batch", "4", "--workers", "0"),
    *("--device", "cpu", "--set", "log_every=1"),
)
MOCO = ("--recipe", "small-cpu", "--set", "bn_group=4", "--set", "merge_group=4", "--set", "dim=8")
# Of how long a run took, and of what was left for it to make.
OF_THE_RUN = (
    "clips_per_second",
    "data_wait",
    "seconds",
    "shards_made",
    "frames_read",
    "already_finished",
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A command: the words before the first run and before the one that faults hit, both in a
    folder ``out``; what of the folder must be the same; whether what stands there loads.
    """

    before: tuple[object, ...]
    command: tuple[object, ...]
    same: tuple[str, ...]
    loads: Callable[[Path], object] = lambda out: None


def run(out: Path, words: tuple[object, ...]) -> Any:
    """Run a command in this process; its folder is ``out``."""
    return CliRunner().invoke(cli.app, [str(word).replace("OUT", str(out)) for word in words])


def checkpoint_loads(out: Path) -> None:
    """The last checkpoint is whole, to its checksums, and at least that of the first run."""
    with open_checkpoint(out / "run" / "checkpoints" / "last.pt") as saved:
        assert saved.progress["step"] >= 1
    for path in (out / "run").glob("checkpoints/epoch-*.pt"):
        with open_checkpoint(path):
            pass


def content(path: Path) -> object:
    """What must be the same in two runs: bytes, or JSON lines without how long they took."""
    if path.suffix not in (".jsonl", ".json"):
        return path.read_bytes()
    text = path.read_text()
    lines = text.splitlines() if path.suffix == ".jsonl" else [text]
    found = [json.loads(line) for line in lines]
    return [
        {name: value for name, value in line.items() if name not in OF_THE_RUN}
        if isinstance(line, dict)
        else line
        for line in found
    ]


def tree(out: Path, patterns: tuple[str, ...]) -> dict[str, object]:
    """What a command left, by path."""
    paths = sorted({path for pattern in patterns for path in out.glob(pattern) if path.is_file()})
    return {
        str(path.relative_to(out)): json.loads(json.dumps(content(path)).replace(str(out), "OUT"))
        if path.suffix in (".json", ".jsonl")
        else content(path)
        for path in paths
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store, a folder of videos and a checkpoint."""
    place = tmp_path_factory.mktemp("place")
    make_store(place / "tiny.zarr", videos=8)
    write_video(place / "videos" / "a" / "one.mkv", 8)
    (place / "videos" / "a" / "text.mp4").write_text("not a video")
    done = run(
        place,
        (
            "pretrain",
            place / "tiny.zarr",
            "--run-dir",
            "OUT/first",
            *MOCO,
            *TINY,
            "--epochs",
            1,
            "--queue",
            16,
        ),
    )
    assert done.exit_code == 0, done.output
    return place


def cases(place: Path) -> dict[str, Case]:
    """The commands that write."""
    store, last = place / "tiny.zarr", place / "first" / "checkpoints" / "last.pt"
    both = ("--train-store", store, "--test-store", store)
    trained = ("run/checkpoints/*", "run/*.jsonl", "run/[cr]*.json", "run/*.png")
    pretrain = ("pretrain", store, "--run-dir", "OUT/run", *MOCO, *TINY, "--queue", 16)
    finetune = (
        *("finetune", "folder", *both, "--pretrained", "none", "--run-dir", "OUT/run", *TINY),
        *("--set", "bn_group=4", "--clips", 1, "--select", "validation"),
    )
    preprocess = (
        *("preprocess", "folder", "--videos", place / "videos", "--store", "OUT/s.zarr"),
        *("--executor", "serial", "--height", 24, "--width", 32, "--foreground", "none"),
        *("--max-failed", 1),
    )
    frozen = (
        "--train-store",
        store,
        "--root",
        "OUT",
        "--clips",
        1,
        "--workers",
        0,
        "--device",
        "cpu",
    )
    return {
        "pretrain": Case(before=(*pretrain, "--epochs", 1), command=(*pretrain, "--epochs", 2), same=trained, loads=checkpoint_loads),
        "finetune": Case(before=(*finetune, "--epochs", 1), command=(*finetune, "--epochs", 2), same=trained, loads=checkpoint_loads),
        "preprocess": Case(before=(), command=preprocess, same=("s.zarr*/**/*", "s.zarr*")),
        "bias": Case(before=(), command=("bias", last, *frozen, "--store", store, "--out", "OUT/bias"), same=("bias/*", "runs/features/*")),
        "evaluate": Case(before=(), command=("evaluate", "knn", last, *frozen, "--test-store", store, "--k", 1), same=("runs/**/*",)),
    }  # fmt: skip


def wound(out: Path, case: Case, *, fails: int, fault: tuple[int, bool]) -> bool:
    """Run the command while call number ``fails`` fails; return whether there was such a call."""
    code, lasting = fault
    plan = Plan(out, fails=fails, code=code, lasting=lasting)
    with plan.at_work():
        done = run(out, case.command)
    where = (fails, fault, done.output, done.exception)
    assert isinstance(done.exception, SystemExit | None), where
    assert done.exit_code in (0, 1, 2), where
    if done.exit_code == 2:
        *_, line = done.output.splitlines()
        assert line.startswith("fame: ") and os.strerror(code) in line, where
    return plan.hit


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["pretrain", "finetune", "preprocess", "bias", "evaluate"])
def test_wherever_the_disk_fails_the_same_command_ends_as_if_it_had_not(
    place: Path, tmp_path: Path, name: str
):
    case, first, whole = cases(place)[name], tmp_path / "first", tmp_path / "whole"
    first.mkdir()
    if case.before:
        assert run(first, case.before).exit_code == 0
    shutil.copytree(first, whole)
    assert run(whole, case.command).exit_code == 0
    expected, turn, out, hit = tree(whole, case.same), 0, tmp_path / "out", True
    while hit:
        fails = 1 + (turn // len(FAULTS) if EVERY else turn)
        shutil.copytree(first, out)
        hit = wound(out, case, fails=fails, fault=FAULTS[turn % len(FAULTS)])
        case.loads(out)
        again = run(out, case.command)
        assert again.exit_code == 0, (fails, again.output)
        assert tree(out, case.same) == expected, fails
        assert not [*out.rglob("*.partial*"), *out.rglob(".lock")], fails
        shutil.rmtree(out)
        turn += 1
    assert fails > 5
