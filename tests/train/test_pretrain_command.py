"""``fame pretrain`` from the command line: what does not fit is one clear line and exit code 2, and
writes nothing.
"""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from cli import app
from fame.clipstore import StoreHeader, create
from fame.clipstore.layout import ROOT_KEY, SEAL_KEY
from tests import crafted
from tests.stores import CLASSES, SPEC, make_store
from train.run.loop import RunResult

SMALL = [
    "--encoder",
    "c3d_small",
    "--batch",
    "8",
    "--crop",
    "32",
    "--epochs",
    "1",
    "--workers",
    "0",
    "--device",
    "cpu",
]
RECIPE = [
    "--recipe",
    "small-cpu",
    "--set",
    "bn_group=none",
    "--set",
    "merge_group=8",
    "--queue",
    "32",
    *SMALL,
]


def empty(path: Path) -> Path:
    path.mkdir()
    return path


def unfinished(path: Path) -> Path:
    header = StoreHeader(dataset="tiny", split="train", class_names=CLASSES, spec=SPEC)
    create(path, header, names=["left/0", "left/1"], labels=[0, 0])
    return path


def of_another_format(store: Path, path: Path) -> Path:
    """Whole and sealed, but of a later version."""
    shutil.copytree(store, path)
    root, seal = (json.loads((path / key).read_text()) for key in (ROOT_KEY, SEAL_KEY))
    root["attributes"]["fame_clip_store"]["version"] = 9
    (path / ROOT_KEY).write_text(json.dumps(root))
    seal["files"][ROOT_KEY] = hashlib.sha256((path / ROOT_KEY).read_bytes()).hexdigest()
    (path / SEAL_KEY).write_text(json.dumps(seal))
    return path


@pytest.fixture(scope="module")
def finished(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a run, which the command has made."""
    folder = tmp_path_factory.mktemp("run")
    done = CliRunner().invoke(app, ["pretrain", str(store), "--run-dir", str(folder), *RECIPE])
    assert done.exit_code == 0, done.output
    assert "finished at step 2 of 2" in done.stdout
    return folder / "checkpoints" / "last.pt"


def test_bad_input_is_one_clear_line(store: Path, finished: Path, tmp_path: Path) -> None:
    dead = make_store(tmp_path / "dead", videos=4, failed=range(4))
    (tmp_path / "cut.pt").write_bytes(finished.read_bytes()[:5000])
    torch.save({"state_dict": {}}, tmp_path / "foreign.pt")
    # One number where an optimiser's buffer belongs: a fused kernel would read past its end.
    optimiser = ("state", "optimizer", "state", 0, "exp_avg")
    change, content = crafted.put(optimiser, torch.ones(1)), torch.load(finished, weights_only=True)
    (tmp_path / "evil.pt").write_bytes(crafted.changed(content, change, checksums=False))
    for given, options, words in (
        (empty(tmp_path / "empty"), [], "empty is a folder without a clip store; "),
        (unfinished(tmp_path / "half"), [], "half: "),
        (of_another_format(store, tmp_path / "ninth"), [], "format 9"),
        (dead, [], "dead: no video could be decoded, nothing to train on"),
        (
            store,
            ["--batch", "24"],
            "batch 24 is larger than the data: 18 videos; give --batch 16",
        ),
        (
            store,
            ["--encoder", "i3d", "--resume", str(finished)],
            "of another architecture: name is c3d_small",
        ),
        (store, ["--resume", str(tmp_path / "cut.pt")], "cut.pt: truncated, damaged"),
        (
            store,
            ["--resume", str(tmp_path / "foreign.pt")],
            "foreign.pt: not a checkpoint of format",
        ),
        (store, ["--resume", str(tmp_path / "gone.pt")], "gone.pt: no such file"),
        (
            store,
            ["--resume", str(tmp_path / "evil.pt")],
            "optimizer.state.0.exp_avg is [1], not ",
        ),
        (store, ["--set", "betta=0.3"], "betta"),
        (store, ["--dim", str(1 << 62)], "out of memory; what was asked for needs more than"),
        (tmp_path / "gone", [], "gone is not there; `fame preprocess` makes clip stores"),
    ):
        run = tmp_path / "run"
        done = CliRunner().invoke(
            app, ["pretrain", str(given), "--run-dir", str(run), *RECIPE, *options]
        )
        assert done.exit_code == 2, (words, done.output)
        (line,) = done.stderr.splitlines()
        assert line.startswith("fame: ")
        assert words in line
        assert not list(run.rglob("*")), words


def test_an_interrupted_run_ends_with_the_command_that_goes_on(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = RunResult(
        status="interrupted", step=1, total=2, checkpoint=tmp_path / "last.pt", signal=15
    )
    monkeypatch.setattr("train.pretrain.pretrain", lambda *_, **__: stopped)
    command = ["pretrain", str(store), "--run-dir", str(tmp_path / "my run")]
    done = CliRunner().invoke(app, command, prog_name="fame")
    assert done.exit_code == 143
    again = f"fame pretrain {store} --run-dir '{tmp_path}/my run'"
    assert done.stderr.splitlines()[-1] == f"fame: to go on: {again}"
    done = CliRunner().invoke(app, [*command, "--resume", "never"], prog_name="fame")
    assert done.stderr.splitlines()[-1].endswith(" --resume never --resume auto")
    monkeypatch.setenv("RANK", "1")
    done = CliRunner().invoke(app, command, prog_name="fame")
    assert (done.exit_code, done.output) == (143, "")
