"""A run goes on from its own checkpoints, and from nothing crafted."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fame.archive import CheckpointError
from fame.checkpoint import checksum
from fame.clipstore import ClipStore
from fame.weights import read_weights
from tests import crafted
from tests.train.tiny import TINY, figures
from train.pretrain import PretrainTask, pretrain
from train.run.loop import resume_from
from train.start import network_of

SMALL = ("encoder=c3d_small", "epochs=2", "checkpoint_every=1")


@pytest.fixture(scope="module", params=["sgd", "adamw"])
def begun(
    request: pytest.FixtureRequest, store: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[PretrainTask, Path]:
    """A run of two epochs, and its checkpoint after the first."""
    folder = tmp_path_factory.mktemp(request.param)
    config = TINY.override([*SMALL, f"optimizer={request.param}"])
    pretrain(config, stores=[store], run_dir=folder)
    task = PretrainTask(config, stores=[ClipStore.open(store)], device=torch.device("cpu"))
    return task, folder / "checkpoints" / "epoch-0001.pt"


def saved(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def test_a_run_takes_up_its_own(begun: tuple[PretrainTask, Path]) -> None:
    task, path = begun
    assert resume_from(task, path) == (4, "")
    assert checksum(task.state()) == checksum(saved(path)["state"])
    assert "param_groups" not in saved(path)["state"]["optimizer"]


def test_a_checkpoint_of_format_1_is_taken_up(
    begun: tuple[PretrainTask, Path], tmp_path: Path
) -> None:
    """It has no checksums, and its hyper-parameters are not those that count."""
    task, path = begun
    groups = [{**task.optimizer.state_dict()["param_groups"][0], "lr": 1e9, "momentum": 7.0}]
    change = crafted.put(("state", "optimizer", "param_groups"), groups)
    old = tmp_path / "old.pt"
    old.write_bytes(crafted.changed(saved(path), change, checksums=False))
    assert resume_from(task, old) == (4, "")
    assert task.optimizer.param_groups[0]["lr"] == task.config.lr
    assert checksum(task.state()) == checksum(saved(path)["state"])


def test_a_run_of_an_earlier_version_that_cannot_go_on_says_what_can(
    begun: tuple[PretrainTask, Path], tmp_path: Path
) -> None:
    task, path = begun
    old = tmp_path / "old.pt"
    change = crafted.drop(("state", "queue_sample"))
    old.write_bytes(crafted.changed(saved(path), change, checksums=False))
    with pytest.raises(CheckpointError, match=r"has no queue_sample .*another folder, with --init"):
        resume_from(task, old)


def test_crafted_checkpoints_are_refused(begun: tuple[PretrainTask, Path], tmp_path: Path) -> None:
    task, path = begun
    content = saved(path)
    good = checksum(content["state"])
    changes = list(crafted.changes_of_runs(content))
    if task.config.optimizer == "sgd":
        changes += crafted.changes_of_weights(content, "encoder_q")
    else:
        changes = [(name, change) for name, change in changes if name.startswith("optimiser, ")]
    changes = changes[:: 3 if len(changes) > 100 else 1]
    assert len(changes) > 50
    crafted_path, wrong = tmp_path / "crafted.pt", dict[str, str]()
    for name, change in changes:
        crafted_path.write_bytes(crafted.changed(content, change, checksums=False))
        try:
            step, _ = resume_from(task, crafted_path)
        except CheckpointError as error:
            text = str(error)
            if not (text.startswith(f"{crafted_path}: ") and text.isprintable()):
                wrong[name] = text
            continue
        if step != 4 or checksum(task.state()) != good:
            wrong[name] = f"taken up at step {step}"
    assert not wrong


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        (["other"], "with 'other', not with 'OURS'; give those"),
        (["OURS", "other"], "with 'other', not given now; give those"),
        ([], "without 'OURS'; give those"),
        (["OURS", "OURS"], "with 'OURS' and 'OURS', not with 'OURS'; give those"),
        (None, "without 'OURS'; give those"),
        ([{"a": 1}, "\x1b[2J\n" * 200], r"with '\x1b[2J\n"),
    ],
    ids=["another", "one more", "none", "twice", "no list", "no words"],
)
def test_a_run_names_the_stores_that_it_was_begun_with_and_those_given(
    begun: tuple[PretrainTask, Path], tmp_path: Path, theirs: list[Any] | None, said: str
) -> None:
    task, path = begun
    (ours,) = task.data
    data = theirs and [ours if entry == "OURS" else entry for entry in theirs]
    crafted_path = tmp_path / "last.pt"
    change = crafted.put(("progress", "data"), data)
    crafted_path.write_bytes(crafted.changed(saved(path), change, checksums=False))
    with pytest.raises(CheckpointError) as refused:
        resume_from(task, crafted_path)
    line = str(refused.value)
    assert f"begun on other stores or weights, {said.replace('OURS', ours)}" in line
    assert "or begin another run: --run-dir NEW" in line
    assert line.isprintable() and len(line) < 1000


def test_a_finished_run_is_made_longer_and_keeps_its_newest(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*settings: str, **options: Any) -> None:
        pretrain(TINY.override([*SMALL, *settings]), stores=[store], run_dir=tmp_path, **options)

    run("epochs=2")
    before = figures(tmp_path)
    run("epochs=4", "keep=2")
    assert "resumed at step 8 of 16 with epochs from 2 to 4; the cosine schedule" in (
        capsys.readouterr().err.replace("\n", " ")
    )
    assert figures(tmp_path)[:8] == before
    assert len(figures(tmp_path)) == 16
    names = sorted(path.name for path in (tmp_path / "checkpoints").glob("*.pt"))
    assert names == ["epoch-0003.pt", "epoch-0004.pt", "last.pt"]
    with pytest.raises(CheckpointError, match="at step 16, past the 12 steps of epochs=3"):
        run("epochs=3")
    run("epochs=4", resume=tmp_path)  # a run folder is its last checkpoint


def test_a_run_goes_on_with_another_batch_in_another_folder(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*settings: str, folder: str = "second", **options: Any) -> int:
        config = TINY.override([*SMALL, *settings])
        return pretrain(config, stores=[store], run_dir=tmp_path / folder, **options).step

    assert run(folder="first") == 8  # 18 videos, 4 in a step
    first = tmp_path / "first" / "checkpoints"
    with pytest.raises(CheckpointError, match=r"begun with batch=4, not 8; go on in another fold"):
        run("batch=8", "epochs=4", folder="first")
    assert run("batch=8", "lr=2e-4", "epochs=4", resume=first / "epoch-0001.pt") == 8
    said = "resumed at step 2 of 8 with epochs from 2 to 4, batch from 4 to 8, lr from 0.0001 to"
    assert said in capsys.readouterr().err.replace("\n", " ")
    assert len(figures(tmp_path / "second")) == 6  # from epoch 2 on, 2 steps each
    with pytest.raises(CheckpointError, match="begun with ema="):
        run("ema=0.5", "epochs=4", folder="third", resume=first / "last.pt")
    content = saved(first / "last.pt")
    within = tmp_path / "within.pt"
    within.write_bytes(
        crafted.changed(content, crafted.put(("progress", "step"), 7), checksums=False)
    )
    with pytest.raises(CheckpointError, match="stands within an epoch, where batch 4 cannot"):
        run("batch=8", "epochs=4", folder="third", resume=within)


def test_a_run_starts_from_the_weights_of_another(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, device = TINY.override([*SMALL, "epochs=1"]), torch.device("cpu")
    pretrain(config, stores=[store], run_dir=tmp_path / "first")
    weights = read_weights(tmp_path / "first")
    begin = {"stores": [ClipStore.open(store)], "device": device, "init": weights}
    same = PretrainTask(config.override(["seed=5"]), **begin)
    for name in ("encoder_q", "encoder_k"):
        assert checksum(same.state()[name]) == checksum(weights.state)
    assert same.opening()[-1] == f"starts from {tmp_path}/first, head included"
    other = PretrainTask(config.override(["seed=5", "dim=16"]), **begin)
    state = other.state()["encoder_q"]
    held = [name for name in state if not name.startswith(("fc.", "id_head."))]
    assert held and all(torch.equal(state[name], weights.state[name]) for name in held)
    assert checksum(other.state()["encoder_k"]) == checksum(state)
    assert "with a new head" in other.opening()[-1]

    run = {"stores": [store], "run_dir": tmp_path / "second"}
    pretrain(config, **run, init=weights)
    with pytest.raises(CheckpointError, match="begun on other stores or weights"):
        pretrain(config, **run)  # it would not be the run that was begun
    with pytest.raises(ValueError, match=r"encoder i3d is for training from scratch \(without"):
        network_of(weights, {"encoder": "i3d"}, instead="without --init")
