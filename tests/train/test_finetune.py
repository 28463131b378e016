"""Fine-tuning: a step against a slow oracle, resume to the bit, whose weights are the result, bad
input.
"""

import itertools
import json
import os
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from typer.testing import CliRunner

from cli import app
from fame.augment import crop_clip, crop_map, draw_crop, sampling_grid, uniforms
from fame.checkpoint import CheckpointError
from fame.clipstore import ClipStore
from fame.foreground import foreground_mask, motion_score, paper_score
from fame.merging import derangement
from fame.models import GroupedBatchNorm3d, build_encoder
from fame.randomness import generator
from fame.weights import load, read_weights
from tests.stores import CLASSES, WINDOW, make_store
from tests.train.labelled import checkpoint, classifier, labelled_store
from tests.train.tiny import TUNED, figures, same, state_of
from train.config import FinetuneConfig
from train.finetune import FinetuneResult, configured, finetune
from train.finetune_data import LabelledClips, held_out_videos, make_view
from train.finetune_task import FinetuneTask, build_classifier
from train.run.loop import train
from train.run.peers import Alone, share_of

TINY = replace(
    TUNED,
    encoder="i3d",
    width=0.125,
    clips=3,
    epochs=2,
    lr=0.02,
    log_every=1,
    select_every=1,
)
HEAD = {"kind": "projection", "dim": 8}


@pytest.fixture(scope="module")
def test_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("stores") / "test.zarr", videos=6, seed=1, failed=[2])


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(
        tmp_path_factory.mktemp("checkpoints") / "moco.pt", head=HEAD, part="encoder_q", seed=7
    )


def run(
    store: Path, test_store: Path, folder: Path, *settings: str, **options: object
) -> FinetuneResult:
    options = {"weights": None, **options}
    return finetune(
        TINY.override(settings), train_store=store, test_store=test_store, run_dir=folder, **options
    )


def task_of(
    store: Path, test_store: Path, *settings: str, weights: Path | None = None
) -> FinetuneTask:
    return FinetuneTask(
        TINY.override(settings),
        train_store=ClipStore.open(store),
        test_store=ClipStore.open(test_store),
        weights=read_weights(weights) if weights else None,
        device=torch.device("cpu"),
    )


def test_the_defaults_are_the_references_recipe() -> None:
    recipe = FinetuneConfig()
    assert (recipe.lr, recipe.milestones, recipe.epochs, recipe.batch) == (
        0.025,
        (60, 120),
        150,
        128,
    )
    assert (recipe.schedule, recipe.optimizer, recipe.momentum, recipe.weight_decay) == (
        "steps",
        "sgd",
        0.9,
        1e-4,
    )
    assert (recipe.dropout, recipe.crop, recipe.min_area, recipe.select) == (0.7, 224, 0.2, "last")
    assert (recipe.flip, recipe.gray, recipe.jitter, recipe.blur) == (0.5, 0.2, 0.8, 0.0)


def test_milestones_follow_the_epochs_and_the_network_its_weights(pretrained: Path) -> None:
    assert configured(None, {"epochs": 10}).milestones == (4, 8)
    assert configured(None, {"epochs": 10, "milestones": (3,)}).milestones == (3,)
    fitted = configured(read_weights(pretrained), {"dropout": 0.1, "batch": 4})
    assert (fitted.encoder, fitted.width, fitted.crop, fitted.dropout, fitted.batch) == (
        "i3d",
        0.125,
        32,
        0.1,
        4,
    )
    assert configured(read_weights(pretrained), {"crop": 16}).crop == 16
    with pytest.raises(
        ValueError,
        match=r"^width 1.0 is for training from scratch \(--pretrained none\): .*moco.pt has 0.125",
    ):
        configured(read_weights(pretrained), {"width": 1.0})


def test_one_clip_of_every_video_an_epoch(store: Path) -> None:
    opened = ClipStore.open(store)
    clips = LabelledClips(opened, seed=0, window=WINDOW)
    assert len(clips) == 18  # of 20, two have failed
    assert clips.label_S.tolist() == [opened.labels_V[video] for video in clips.video_S2[:, 1]]
    shown = [[clips.starts_of(epoch, sample) for sample in range(18)] for epoch in range(3)]
    assert shown[0] != shown[1] != shown[2]
    pair = clips.__getitems__([(1, 4)])
    sample = int(pair.sample_B[0])
    video, (start,) = int(clips.video_S2[sample, 1]), shown[1][sample]
    assert np.array_equal(pair.clip_B2THWC[0, 0].numpy(), opened.clip(video, start, WINDOW))
    assert pair.clip_B2THWC.shape[1] == 1


def test_a_step_equals_a_slow_one(store: Path, test_store: Path) -> None:
    """Cross-entropy of the addressed view under addressed dropout, SGD with momentum and weight
    decay by hand.
    """
    task = task_of(store, test_store, "weight_decay=0.01", "momentum=0.5")
    config, batches = task.config, list(task.batches(0, 2))
    head = task.model["head"]
    network = build_encoder("i3d", head=head, options={"width": 0.125}, seed=0).train()
    velocity = {name: torch.zeros_like(value) for name, value in network.named_parameters()}
    for step, batch in enumerate(batches):
        view = make_view(batch, config, epoch=0, step=step)
        samples = batch.sample_B.tolist()
        draws = uniforms(network.feature_dim, seed=0, epoch=0, indices=samples, purpose="dropout")
        features = torch.where(draws >= 0.7, network.features(view) / 0.3, 0.0)
        loss = F.cross_entropy(
            features @ network.fc.weight.T + network.fc.bias, task.dataset.label_S[samples]
        )
        network.zero_grad()
        loss.backward()
        with torch.no_grad():
            for name, value in network.named_parameters():
                velocity[name] = 0.5 * velocity[name] + value.grad + 0.01 * value
                value -= config.lr * velocity[name]
        assert float(task.step(step, batch)["loss"]) == pytest.approx(
            float(loss.detach()), rel=1e-4
        )
    for name, value in task.network.named_parameters():
        assert torch.allclose(value, dict(network.named_parameters())[name], atol=1e-4), name


def test_batch_norm_of_32_clips_is_that_of_each_gpu_of_the_reference() -> None:
    """Two GPUs with 32 clips each and plain batch norm, in one process with 64."""
    config = replace(TUNED, bn_group=32, batch=64)
    head = {"kind": "classifier", "classes": 2, "dropout": 0.0}
    ours = build_classifier(config, head, None).train()
    first, second = (build_classifier(replace(config, bn_group=None), head, None) for _ in "12")
    for network in (first, second):
        norms = [one for one in network.modules() if isinstance(one, GroupedBatchNorm3d)]
        assert len(norms) > 2
        for norm in norms:
            norm.__class__ = torch.nn.BatchNorm3d
        network.train()
    clip_BCTHW = torch.randn(64, 3, 4, 16, 16, generator=generator(0, 0, 0, "tests/norm"))
    outputs = torch.cat([first(clip_BCTHW[:32]), second(clip_BCTHW[32:])])
    torch.testing.assert_close(ours(clip_BCTHW), outputs, atol=1e-5, rtol=1e-5)
    # The weights of the first GPU are those that are saved.
    torch.testing.assert_close(ours.state_dict(), first.state_dict())
    assert share_of(128, world=4, groups={"bn_group": 32}) == 32
    with pytest.raises(ValueError, match="bn_group 32 does not divide the 16 clips"):
        share_of(128, world=8, groups={"bn_group": 32})


def in_double(task: FinetuneTask) -> FinetuneTask:
    """In float32 a convolution of half as many clips rounds otherwise, and batch norms of three
    numbers make 7e-5 of the loss out of that.
    """
    features = task.network.double().features
    task._features = lambda view: features(view.double())
    return task


def test_accumulation_changes_nothing_but_cost(store: Path, test_store: Path) -> None:
    whole, parts = (
        in_double(task_of(store, test_store, "bn_group=3", "merge=0.7", f"accumulate={parts}"))
        for parts in (1, 2)
    )
    (batch,) = whole.batches(0, 1)
    assert float(whole.step(0, batch)["loss"]) == pytest.approx(
        float(parts.step(0, batch)["loss"]), abs=1e-5
    )
    assert torch.allclose(whole.network.fc.weight, parts.network.fc.weight, atol=1e-5)


@pytest.mark.parametrize("mask", ["difference", "online", "stored"])
def test_merged_clips_keep_their_foreground(store: Path, mask: str) -> None:
    """Against a slow oracle: clip by clip and pixel by pixel, and a share ``merge`` of all clips."""
    bare = TINY.override(["jitter=0", "gray=0"])
    config = bare.override(["merge=0.5", "beta=0.3", f"mask={mask}"])
    clips = LabelledClips(ClipStore.open(store), seed=0, window=WINDOW, maps=mask == "stored")
    batch = clips.__getitems__([(0, row) for row in range(6)])
    samples, frame = batch.sample_B.tolist(), tuple(batch.clip_B2THWC.shape[3:5])
    crop = draw_crop(
        seed=0, epoch=0, indices=samples, view=0, size=frame, min_area=0.2, flip=config.flip
    )
    grid = sampling_grid(crop, size=16, frame=frame)
    crop_BCTHW = crop_clip(batch.clip_B2THWC[:, 0], grid)
    if mask == "stored":
        score_BHW = crop_map(batch.score_B2hw[:, 0], grid)
    else:
        score_BHW = {"difference": motion_score, "online": paper_score}[mask](crop_BCTHW)
    source_B = derangement(6, generator=generator(0, 0, 4, "background/0")).tolist()
    plain, found = (make_view(batch, each, epoch=0, step=4) for each in (bare, config))
    merged = 0
    for row, sample in enumerate(samples):
        kept = torch.rand(1, generator=generator(0, 0, sample, "merge")) >= 0.5
        mask_HW = foreground_mask(score_BHW[row : row + 1], 0.3)[0]
        for y, x in itertools.product(range(16), range(16)):
            shown = row if kept or mask_HW[y, x] else source_B[row]
            assert torch.equal(found[row, :, :, y, x], plain[shown, :, :, y, x])
        merged += not kept
    assert 0 < merged < 6


def test_merging_does_not_depend_on_processes(store: Path) -> None:
    config = TINY.override(["merge=0.7", "merge_group=3"])
    clips = LabelledClips(ClipStore.open(store), seed=0, window=WINDOW)
    rows = [(0, row) for row in range(6)]
    whole = make_view(clips.__getitems__(rows), config, epoch=0, step=2)
    halves = [
        make_view(clips.__getitems__(rows[3 * r : 3 * r + 3]), config, epoch=0, step=2, rank=r)
        for r in (0, 1)
    ]
    assert torch.equal(torch.cat(halves), whole)


def test_a_merging_run_trains_and_keeps_the_labels(
    store: Path, test_store: Path, tmp_path: Path
) -> None:
    settings = ("merge=1", "mask=stored", "merge_group=2", "epochs=1", "clips=1")
    result = run(store, test_store, tmp_path / "run", *settings)
    assert result.run.status == "finished"
    assert figures(tmp_path / "run") != []
    with pytest.raises(ValueError, match=r"^merge_group 4 does not divide the 6 clips"):
        task_of(store, test_store, "merge=1", "merge_group=4")
    with pytest.raises(ValueError, match=r"^beta needs merging: set merge above 0"):
        TINY.override(["beta=0.3"])


class Neighbour(Alone):
    """One of two processes that are threads here."""

    def __init__(
        self, rank: int, meeting: threading.Barrier, shared: dict[int, list[torch.Tensor]]
    ) -> None:
        self.rank, self.world, self.meeting, self.shared = rank, 2, meeting, shared

    def average_(self, tensors: Sequence[torch.Tensor]) -> None:
        self.shared[self.rank] = [tensor.clone() for tensor in tensors]
        self.meeting.wait(240)
        for mine, first, second in zip(tensors, self.shared[0], self.shared[1], strict=True):
            mine.copy_((first + second) / 2)
        self.meeting.wait(240)


def test_two_processes_compute_what_one_does(store: Path, test_store: Path) -> None:
    meeting, shared = threading.Barrier(2), {}
    whole, *parts = (
        in_double(
            FinetuneTask(
                TINY.override(["bn_group=3", "lr=1e-4", "merge=0.7", "merge_group=3"]),
                train_store=ClipStore.open(store),
                test_store=ClipStore.open(test_store),
                weights=None,
                peers=peers,
                device=torch.device("cpu"),
            )
        )
        for peers in (Alone(), Neighbour(0, meeting, shared), Neighbour(1, meeting, shared))
    )

    def step(task: FinetuneTask) -> float:
        (batch,) = task.batches(0, 1)
        return float(task.step(0, batch)["loss"])

    with ThreadPoolExecutor(2) as pool:
        losses = list(pool.map(step, parts))
        assert sum(losses) / 2 == pytest.approx(step(whole), abs=1e-5)
        for name, value in whole.network.named_parameters():
            for part in parts:
                assert torch.allclose(part.network.get_parameter(name), value, atol=1e-4), name
        for task in (whole, *parts):
            task.network.float().load_state_dict(whole.network.state_dict())
        parts[1].network.conv3d_1a_7x7.batch3d.running_mean.fill_(
            9.0
        )  # each has seen clips of its own
        found = list(pool.map(lambda part: part.test(crops=1), parts))
    assert all(torch.allclose(scores.score_VK, whole.test(crops=1).score_VK) for scores in found)


def test_pretrained_weights_are_where_it_starts(
    store: Path, test_store: Path, pretrained: Path
) -> None:
    task = task_of(store, test_store, weights=pretrained)
    theirs = load(pretrained).network.state_dict()
    ours = task.network.state_dict()
    assert {name for name in ours if name not in theirs} == {"fc.weight", "fc.bias"}
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items() if name in theirs)
    with pytest.raises(ValueError, match=r"the encoder\.conv3d_1a_7x7\.conv3d\.weight is"):
        task_of(store, test_store, "width=0.25", weights=pretrained)


@pytest.fixture(scope="module")
def finished(store: Path, test_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    run(store, test_store, folder, "select=validation")
    return folder


def test_an_interrupted_run_equals_a_whole_one(
    store: Path, test_store: Path, finished: Path, tmp_path: Path
) -> None:
    class Interrupted(FinetuneTask):
        def backward(self, step: int, batch: object) -> object:
            if step == 2:  # the first of the second epoch: there is a best already
                os.kill(os.getpid(), signal.SIGTERM)
            return super().backward(step, batch)

    task = Interrupted(
        TINY.override(["select=validation"]),
        train_store=ClipStore.open(store),
        test_store=ClipStore.open(test_store),
        weights=None,
        device=torch.device("cpu"),
    )
    assert train(task, tmp_path, peers=Alone()).step == 3
    assert run(store, test_store, tmp_path, "select=validation").run.status == "finished"
    assert figures(tmp_path) == figures(finished)
    assert same(state_of(tmp_path), state_of(finished))
    assert (tmp_path / "report.json").read_text() == (finished / "report.json").read_text()


def test_selection_on_held_out_videos_never_trains_on_them(
    store: Path, test_store: Path, finished: Path
) -> None:
    task = task_of(store, test_store, "select=validation", "val_share=0.3")
    opened = ClipStore.open(store)
    held_V = held_out_videos(opened, task.config)
    assert not held_V[[3, 11]].any()  # the failed ones
    assert [int(held_V[opened.labels_V == label].sum()) for label in (0, 1)] == [3, 2]
    assert not held_V[task.dataset.video_S2[:, 1]].any()
    assert len(task.dataset) == 18 - 5
    report = json.loads((finished / "report.json").read_text())
    assert "the best on 2 training videos held out" in report["selection"]
    assert "no test video had a part" in report["selection"]
    lines = [json.loads(line) for line in (finished / "epochs.jsonl").read_text().splitlines()]
    best = max(lines, key=lambda line: (line["validation_accuracy"], -line["step"]))
    assert f"after epoch {best['step'] // 2} of 2" in report["selection"]


def test_the_selected_weights_are_what_was_tested(finished: Path, test_store: Path) -> None:
    from train.evaluate.classifiers import classify

    report = json.loads((finished / "report.json").read_text())
    selected = load(finished / "checkpoints" / "selected.pt")
    assert (
        classify(
            selected.network, ClipStore.open(test_store), window=WINDOW, clips=3, crop=16
        ).metrics
        == report["figures"]
    )
    assert np.sum(report["confusion"]) == report["videos"] == 5
    assert (finished / "confusion.png").stat().st_size > 1000


def test_selection_on_the_test_videos_says_so(
    store: Path, test_store: Path, tmp_path: Path
) -> None:
    result = run(store, test_store, tmp_path, "select=test", "select_every=5", "epochs=1")
    assert "THE BEST ON THE TEST VIDEOS THEMSELVES" in result.selection
    assert json.loads((tmp_path / "report.json").read_text())["selection"] == result.selection
    assert len((tmp_path / "epochs.jsonl").read_text().splitlines()) == 1  # after the last epoch


def test_other_weights_are_refused_on_resume(
    store: Path, test_store: Path, finished: Path, pretrained: Path
) -> None:
    weights = read_weights(pretrained)
    instead = f"with 'untrained', not with 'weights {weights.digest}'"
    with pytest.raises(CheckpointError, match=f"begun on other stores or weights, {instead}; give"):
        run(store, test_store, finished, "select=validation", weights=weights)


def test_the_command_trains_tests_and_tells(
    store: Path, test_store: Path, pretrained: Path, tmp_path: Path
) -> None:
    words = [
        "finetune",
        "folder",
        "--name",
        "tiny",
        "--root",
        str(tmp_path),
        "--pretrained",
        str(pretrained),
    ]
    stores = ["--train-store", str(store), "--test-store", str(test_store)]
    cost = ["--epochs", "1", "--batch", "9", "--crop", "16", "--workers", "0", "--device", "cpu"]
    done = CliRunner().invoke(app, [*words, *stores, *cost, "--crops", "3"])
    assert done.exit_code == 0, done.output
    folder = tmp_path / "runs" / "finetune-tiny"
    report = json.loads((folder / "report.json").read_text())
    assert f"top-1 {report['figures']['top-1']:.2f} %" in done.stdout
    assert "tested: the weights after the last epoch, 1: no test video" in done.stdout
    assert (report["crops"], report["views_per_video"], report["pretrained"]) == (
        3,
        30,
        str(pretrained),
    )
    assert load(folder / "checkpoints" / "last.pt").card.head == {
        "kind": "classifier",
        "classes": 2,
        "dropout": 0.7,
    }


def test_bad_input_is_one_clear_line(
    store: Path, test_store: Path, pretrained: Path, tmp_path: Path
) -> None:
    unlabelled = labelled_store(tmp_path / "unlabelled.zarr", CLASSES, [0, -1])
    renamed = labelled_store(tmp_path / "renamed.zarr", ("left", "up"), [0, 1])
    more = labelled_store(tmp_path / "more.zarr", (*CLASSES, "up"), [0, 1, 2])
    single = labelled_store(tmp_path / "single.zarr", CLASSES, [0, 0, 0, 1])
    empty = checkpoint(tmp_path / "empty.pt", head=HEAD, part="optimizer")
    scratch = ["--pretrained", "none", "--width", "0.125", "--crop", "16", "--batch", "1"]
    scratch += ["--set", "frames=8"]
    for data, other, options, words in (
        (unlabelled, test_store, scratch, "unlabelled.zarr: 1 of its videos have no label"),
        (store, renamed, scratch, "class 1 is 'right' in"),
        (store, more, scratch, "more.zarr has 3"),
        (
            single,
            test_store,
            [*scratch, "--select", "validation"],
            "class right has one training video, which cannot",
        ),
        (
            store,
            test_store,
            [*scratch, "--batch", "99"],
            "batch 99 is larger than the data: 18 videos",
        ),
        (
            store,
            test_store,
            [*scratch, "--crop", "40"],
            "crop 40 is larger than the 36x48 frames of",
        ),
        (store, test_store, ["--pretrained", str(empty)], "empty.pt: has no encoder"),
        (store, test_store, ["--pretrained", "nowhere.pt"], "nowhere.pt is not there"),
        (
            store,
            test_store,
            ["--pretrained", str(pretrained), "--encoder", "c3d_small"],
            "encoder c3d_small is for training from",
        ),
        (
            store,
            tmp_path / "gone",
            scratch,
            "gone is not there; `fame preprocess` makes clip stores",
        ),
    ):
        stores = [
            "--train-store",
            str(data),
            "--test-store",
            str(other),
            "--run-dir",
            str(tmp_path / "run"),
        ]
        done = CliRunner().invoke(app, ["finetune", "folder", *stores, *options, "--device", "cpu"])
        assert done.exit_code == 2, done.output
        (line,) = done.stderr.splitlines()
        assert line.startswith("fame: ")
        assert words in line
    assert not (tmp_path / "run").exists()


def test_a_classifier_can_be_where_it_starts(store: Path, test_store: Path, tmp_path: Path) -> None:
    """Its own classes do not matter: the head is new."""
    task = task_of(store, test_store, weights=classifier(tmp_path / "seven.pt", tuple("abcdefg")))
    assert task.network.fc.out_features == 2


def test_a_class_without_a_training_video_is_named(tmp_path: Path, test_store: Path) -> None:
    store = make_store(tmp_path / "store", videos=6, failed=[1, 3, 5])
    with pytest.warns(UserWarning, match="no usable video of 1 of 2 classes, .*: right$"):
        finetune(
            TINY.override(["epochs=1", "batch=3"]),
            train_store=store,
            test_store=test_store,
            weights=None,
            run_dir=tmp_path / "run",
        )
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["unseen_classes"] == ["right"]
