"""Runs: killed and resumed, stopped by signals, diverged, golden; and what is said about bad
checkpoints.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from fame.archive import RUN_CHECKPOINT
from fame.checkpoint import FORMAT, CheckpointError, Expected, open_checkpoint, save
from fame.clipstore import ClipStore, schema
from fame.files import WriteError
from fame.randomness import numpy_generator
from tests.stores import make_store
from tests.train.tiny import SMOOTH, TINY, figures, flat, same, state_of
from train.config import PretrainConfig
from train.pretrain import PretrainTask, build_moco, pretrain
from train.run.log import DivergedError
from train.run.loop import RunResult, train
from train.run.peers import Alone

GOLDEN = Path(__file__).parent / "golden_losses.json"
ROOT = Path(__file__).resolve().parents[2]
LONG = ("epochs=10", "save_seconds=0.2", "checkpoint_every=100")  # 4 steps an epoch: 40 steps


def run(store: Path, folder: Path, *settings: str, **options: object) -> RunResult:
    return pretrain(TINY.override(settings), stores=[store], run_dir=folder, **options)


def start(store: Path, folder: Path, *settings: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.train.tiny", str(store), str(folder), *settings]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)


def wait_for_step(folder: Path, step: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        path = folder / "metrics.jsonl"
        if path.exists() and path.read_text().count("\n") > step:
            return
        time.sleep(0.01)
    raise AssertionError(f"the run did not reach step {step}")


@pytest.mark.timeout(300)
@pytest.mark.slow
def test_forty_steps_killed_and_resumed_equal_forty_steps(store: Path, tmp_path: Path):
    step = int(numpy_generator(0, 0, time.time_ns(), "test/kill").integers(2, 36))
    process = start(store, tmp_path / "killed", *LONG)
    try:
        wait_for_step(tmp_path / "killed", step, process)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert len(figures(tmp_path / "killed")) < 40
    resumed = run(store, tmp_path / "killed", *LONG)
    run(store, tmp_path / "whole", *LONG)
    assert resumed.status == "finished"
    assert figures(tmp_path / "killed") == figures(tmp_path / "whole"), f"killed after step {step}"
    assert figures(tmp_path / "killed", "step") == list(range(40))
    assert same(state_of(tmp_path / "killed"), state_of(tmp_path / "whole")), (
        f"killed after step {step}"
    )


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_losses_do_not_depend_on_the_number_of_workers(store: Path, tmp_path: Path):
    for workers in (0, 1, 2, 4):
        run(store, tmp_path / str(workers), f"workers={workers}", "epochs=1")
    losses = {workers: figures(tmp_path / str(workers)) for workers in (0, 1, 2, 4)}
    assert all(losses[workers] == losses[0] for workers in losses), losses


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_saves_mid_epoch_and_the_run_goes_on(store: Path, tmp_path: Path, number: int):
    class Interrupted(PretrainTask):
        def backward(self, step: int, batch: object) -> object:
            if step == 1:
                os.kill(os.getpid(), number)
            return super().backward(step, batch)

    task = Interrupted(TINY, stores=[ClipStore.open(store)], device=torch.device("cpu"))
    result = train(task, tmp_path / "run", peers=Alone())
    assert (result.status, result.step, result.signal) == ("interrupted", 2, number)
    assert result.exit_code == 128 + number
    assert run(store, tmp_path / "run").status == "finished"
    run(store, tmp_path / "whole")
    assert figures(tmp_path / "run") == figures(tmp_path / "whole")
    assert same(state_of(tmp_path / "run"), state_of(tmp_path / "whole"))


def test_outside_the_main_thread_signals_are_left_alone(store: Path, tmp_path: Path):
    results: list[RunResult] = []
    worker = threading.Thread(
        target=lambda: results.append(run(store, tmp_path / "run", "epochs=1"))
    )
    worker.start()
    worker.join()
    assert results[0].status == "finished"


def test_divergence_stops_with_the_last_good_checkpoint(store: Path, tmp_path: Path):
    class Diverging(PretrainTask):
        def backward(self, step: int, batch: object) -> object:
            if step == 5:
                with torch.no_grad():
                    next(self.moco.encoder_q.parameters()).fill_(float("nan"))
            return super().backward(step, batch)

    task = Diverging(TINY, stores=[ClipStore.open(store)], device=torch.device("cpu"))
    with pytest.raises(
        DivergedError,
        match=r"^the loss is nan at step 5: stopped; the last good[^\n]*last\.pt[^\n]*$",
    ):
        train(task, tmp_path, peers=Alone())
    assert all(
        torch.isfinite(value).all()
        for value in state_of(tmp_path).values()
        if isinstance(value, torch.Tensor)
    )
    assert len(figures(tmp_path)) == 5


def test_gradients_that_are_not_finite_stop_before_their_weights_are_saved(
    store: Path, tmp_path: Path
):
    class Exploding(PretrainTask):
        def step(self, step: int, batch: object) -> object:
            return super().step(step, batch) | ({"grad_norm": float("inf")} if step == 7 else {})

    task = Exploding(TINY, stores=[ClipStore.open(store)], device=torch.device("cpu"))
    with pytest.raises(DivergedError, match="the norm of the gradients is inf at step 7: stopped"):
        train(task, tmp_path, peers=Alone())
    assert len(figures(tmp_path)) == 7
    assert all(value > 0 for value in figures(tmp_path, "grad_norm"))


@pytest.mark.parametrize(
    ("name", "config", "within"), [("c3d_small", SMOOTH, 1e-5), ("i3d", TINY, 1e-3)]
)
def test_golden_losses(
    name: str,
    config: PretrainConfig,
    within: float,
    store: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
):
    """A whole run of the network on which rounding does not grow, and the first step of I3D, on any
    kind of CPU.
    """
    pretrain(config, stores=[store], run_dir=tmp_path)
    losses = figures(tmp_path)[: 12 if name == "c3d_small" else 1]
    golden = json.loads(GOLDEN.read_text())
    if request.config.getoption("--update-golden"):
        golden[name] = losses
        GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")
    assert losses == pytest.approx(golden[name], abs=within)


@pytest.mark.parametrize(
    ("settings", "together"),
    [
        (["precision=fp32"], True),
        (["precision=bf16", "checkpoint_activations=true"], True),
        (["precision=fp32", "checkpoint_activations=true"], False),
    ],
)
def test_both_views_are_one_forward_unless_it_would_cost_memory(
    settings: list[str], together: bool
):
    assert build_moco(TINY.override(settings)).one_forward is together


def test_the_run_folder_tells_what_ran(store: Path, tmp_path: Path):
    run(store, tmp_path, "knn_every=2", "checkpoint_every=2", knn_store=store)
    assert json.loads((tmp_path / "config.json").read_text())["crop"] == 32
    assert {"git", "torch", "device", "data"} <= json.loads(
        (tmp_path / "environment.json").read_text()
    ).keys()
    wanted = {
        "loss",
        "accuracy",
        "lr",
        "queue_norm",
        "feature_norm",
        "spread",
        "clips_per_second",
        "data_wait",
    }
    assert wanted <= json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0]).keys()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "epoch-0002.pt",
        "last.pt",
    ]
    assert 0 <= json.loads((tmp_path / "epochs.jsonl").read_text())["knn_accuracy"] <= 1
    assert list((tmp_path / "tensorboard").iterdir())
    assert (tmp_path / "merged.png").stat().st_size > 100
    contents = torch.load(tmp_path / "checkpoints" / "last.pt", weights_only=True)
    assert contents["model"] == {
        "name": "i3d",
        "options": {"width": 0.125},
        "head": {"kind": "projection", "dim": 8},
    }


def test_measuring_does_not_change_training(store: Path, tmp_path: Path):
    run(store, tmp_path / "plain")
    run(store, tmp_path / "measured", "knn_every=1", knn_store=store)
    assert same(state_of(tmp_path / "plain"), state_of(tmp_path / "measured"))


@pytest.mark.parametrize(
    "setting",
    [
        "accumulate=2",
        "checkpoint_activations=true",
        "workers=1",
        "channels_last=true",
        "merge_group=none",
    ],
)
def test_settings_of_cost_change_nothing_but_cost(store: Path, tmp_path: Path, setting: str):
    common = ("batch=8", "merge_group=8", "epochs=1")
    run(store, tmp_path / "plain", *common)
    run(store, tmp_path / "other", *common, setting)
    assert figures(tmp_path / "other") == pytest.approx(figures(tmp_path / "plain"), abs=1e-3)


@pytest.mark.parametrize(
    "settings",
    [
        ("precision=bf16",),
        ("optimizer=adamw", "lr=0.001"),
        ("background=none",),
        ("background=intra",),
        ("mask=online", "hue=correct"),
        ("mask=gauss", "views=single"),
        ("mask=grid",),
        ("mask=median", "cut=adaptive"),
        ("mask=frames", "cut=clip"),
        ("mask=seed", "sources=permutation", "enqueue=between"),
        ("head=linear", "bn_group=none"),
        ("negatives=all",),
    ],
)
def test_every_option_trains_and_does_something(
    store: Path, tmp_path: Path, settings: tuple[str, ...]
):
    run(store, tmp_path / "plain", "epochs=1")
    run(store, tmp_path / "other", "epochs=1", *settings)
    losses = figures(tmp_path / "other")
    assert len(losses) == 4
    assert losses != figures(tmp_path / "plain")
    assert all(0 < loss < 20 for loss in losses)


def test_r2plus1d_trains(store: Path):
    """Two steps on one batch, in groups and by parts, move every weight; without a checkpoint of
    400 MB.
    """
    config = TINY.override(
        ["encoder=r2plus1d_18", "batch=4", "bn_group=2", "accumulate=2", "crop=16"]
    )
    task = PretrainTask(config, stores=[ClipStore.open(store)], device=torch.device("cpu"))
    before = {name: value.clone() for name, value in task.moco.encoder_q.named_parameters()}
    batch = next(task.batches(0, 1))
    losses = [float(task.step(step, batch)["loss"]) for step in range(2)]
    assert all(0 < loss < 20 for loss in losses)
    assert losses[0] != losses[1]
    assert all(
        not torch.equal(value, before[name])
        for name, value in task.moco.encoder_q.named_parameters()
    )
    assert all(torch.isfinite(value).all() for value in task.moco.state_dict().values())


def test_a_step_asks_nothing_of_the_device(store: Path, monkeypatch: pytest.MonkeyPatch):
    """Tensors without values stand in for a GPU's: a step that asked for one would wait, and fails
    here.
    """
    task = PretrainTask(TINY, stores=[ClipStore.open(store)], device=torch.device("meta"))
    monkeypatch.setattr(
        task, "device", torch.device("cpu")
    )  # of which autocast and loader have heard
    monkeypatch.setattr(task.optimizer, "step", lambda: None)  # fused ones only know real devices
    batch = next(task.batches(0, 1))
    there = batch._replace(
        clip_B2THWC=batch.clip_B2THWC.to("meta"), score_B2hw=batch.score_B2hw.to("meta")
    )
    assert task.step(0, there)["loss"].is_meta


def test_resume_never_refuses_a_folder_with_a_run(store: Path, tmp_path: Path):
    run(store, tmp_path, "epochs=1")
    with pytest.raises(ValueError, match="there is a run in this folder"):
        run(store, tmp_path, "epochs=1", resume="never")


def test_bad_input_is_one_clear_line(store: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r"^batch 20 is larger than the data: 18 videos[^\n]*$"):
        run(store, tmp_path / "a", "batch=20")
    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(ValueError, match=r"^[^\n]*of format 2[^\n]*format 9[^\n]*$"),
    ):
        patch.setattr(schema, "FORMAT_VERSION", 9)
        run(store, tmp_path / "b")
    with pytest.raises(ValueError, match="no video could be decoded"):
        run(make_store(tmp_path / "dead", videos=4, failed=range(4)), tmp_path / "c")
    with pytest.raises(ValueError, match="bn_group 3 does not divide the 4 clips"):
        run(store, tmp_path / "d", "bn_group=3")
    with pytest.raises(ValueError, match="kNN store and knn_every go together"):
        run(store, tmp_path / "e", "knn_every=1")


@pytest.fixture(scope="module")
def finished(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    run(store, folder, "epochs=1")
    return folder / RUN_CHECKPOINT


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("encoder=r2plus1d_18",), "another architecture: name is i3d"),
        (("width=0.25",), "another architecture: options"),
        (("dim=16",), "another architecture: head"),
        (("temperature=0.2",), "begun with temperature=0.1, not 0.2"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(
    store: Path, finished: Path, tmp_path: Path, settings, words: str
):
    with pytest.raises(CheckpointError, match=rf"^[^\n]*{words}[^\n]*$"):
        run(store, tmp_path, "epochs=1", *settings, resume=finished)


def test_damaged_and_foreign_checkpoints_are_refused(store: Path, finished: Path, tmp_path: Path):
    data = finished.read_bytes()
    (tmp_path / "cut.pt").write_bytes(data[: len(data) // 2])
    (tmp_path / "empty.pt").touch()
    torch.save({"state_dict": {}}, tmp_path / "foreign.pt")
    torch.save({"format": FORMAT, "model": PretrainConfig()}, tmp_path / "code.pt")
    for name, words in (
        ("cut", "truncated, damaged"),
        ("empty", "truncated, damaged"),
        ("foreign", "not a checkpoint of format"),
        ("code", "could run code"),
        ("missing", "no such file"),
    ):
        with pytest.raises(CheckpointError, match=rf"^[^\n]*{name}\.pt[^\n]*{words}[^\n]*$"):
            run(store, tmp_path / "run", resume=tmp_path / f"{name}.pt")


def test_other_stores_are_refused_on_resume(finished: Path, tmp_path: Path):
    with pytest.raises(
        CheckpointError, match=r"with 'tiny/train: 18 .*', not with 'tiny/train: 12 "
    ):
        run(
            make_store(tmp_path / "other", videos=12), tmp_path / "run", "epochs=1", resume=finished
        )


def test_a_save_that_dies_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    contents = {"model": {}, "config": {}, "state": {"x": torch.ones(3)}, "progress": {}}
    save(tmp_path / "last.pt", contents)

    def die(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", die)
    with pytest.raises(WriteError, match="no space"):
        save(tmp_path / "last.pt", contents | {"state": {"x": torch.zeros(3)}})
    with open_checkpoint(tmp_path / "last.pt") as saved:
        assert torch.equal(saved.read({"x": Expected(like=torch.ones(3))})["x"], torch.ones(3))


def test_flat_reaches_every_leaf():
    assert flat({"a": {"b": 1, "c": {"d": 2}}}) == {"/a/b": 1, "/a/c/d": 2}


def test_stores_are_mixed_by_their_shares(store: Path, tmp_path: Path):
    other = make_store(tmp_path / "other", videos=6, seed=1)
    config = TINY.override(["epochs=1", "queue=8"])
    run = {"stores": [store, other], "run_dir": tmp_path / "run"}
    assert pretrain(config, **run, proportion=(0.25, 0.75)).total == 6  # 24 videos, batches of 4
    state = state_of(tmp_path / "run")
    assert int(state["/queue_sample"].max()) < 24  # a video shown again is the same video
    longer = TINY.override(["epochs=2", "queue=8"])
    with pytest.raises(ValueError, match="begun on other stores"):
        pretrain(longer, **run, proportion=(0.5, 0.5))
    with pytest.raises(ValueError, match="begun on other stores"):
        pretrain(longer, **run)
    assert pretrain(longer, **run, proportion=(1.0, 3.0)).step == 12
