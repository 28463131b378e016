"""The test of classifiers against a slow oracle, and what is said about checkpoints and stores that
do not fit.
"""

import csv
import dataclasses
import itertools
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from cli import app
from fame.clipstore import (
    ClipStore,
    StoreHeader,
    VideoFailure,
    Window,
    create,
    finalise,
    write_shard,
)
from fame.files import WriteError
from fame.normalize import encoder_input
from fame.weights import Card, Encoder, load
from tests.stores import CLASSES, SPEC, WINDOW, make_store, tiny_video
from tests.train.labelled import SEVEN, checkpoint, classifier, labelled_store
from train.evaluate.classifiers import (
    classifier_for,
    classify,
    evaluate_classifiers,
    read_classifier,
    short_videos,
    unwatched,
)
from train.evaluate.config import ClassifierConfig
from train.evaluate.features import square_crops
from train.evaluate.predictions import video_id, write_predictions
from train.run.peers import Alone

LABELS = [0, 1, 2, 3, 4, 5, 6, 0, 2]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return labelled_store(tmp_path_factory.mktemp("stores") / "seven.zarr", SEVEN, LABELS)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classifier(tmp_path_factory.mktemp("checkpoints") / "seven.pt", SEVEN)


@torch.no_grad()
def slow_scores(path: Path, store: ClipStore, boxes: Sequence[tuple[int, int]]) -> np.ndarray:
    """Mean log-softmax of each video, view by view: the crops of 32 pixels at these corners of its
    first and last clip.
    """
    network = load(path).network
    scores = []
    for video in range(store.num_videos):
        views = []
        for start in (0, 4):
            for top, left in boxes:
                clip_THWC = store.clip(video, start, WINDOW)
                square = clip_THWC[:, top : top + 32, left : left + 32].copy()
                logit_K = network(encoder_input(torch.from_numpy(square)[None]))[0].double().numpy()
                views.append(logit_K - np.log(np.exp(logit_K).sum()))
        scores.append(np.mean(views, axis=0))
    return np.stack(scores)


@pytest.mark.parametrize(("crops", "boxes"), [(1, [(2, 8)]), (3, [(2, 0), (2, 8), (2, 16)])])
def test_the_figures_equal_a_slow_oracle(
    store: Path, trained: Path, crops: int, boxes: list[tuple[int, int]]
) -> None:
    opened = ClipStore.open(store)
    counted: list[int] = []
    found = classify(
        load(trained).network,
        opened,
        window=WINDOW,
        clips=2,
        crop=32,
        crops=crops,
        batch=5,
        on_clips=counted.append,
    )
    expected_VK = slow_scores(trained, opened, boxes)
    np.testing.assert_allclose(found.score_VK.numpy(), expected_VK, atol=1e-5)
    assert sum(counted) == 2 * len(LABELS)
    assert found.views == 2 * crops
    hits = {1: 0, 5: 0}
    confusion = np.zeros((7, 7), int)
    for score_K, label in zip(expected_VK, LABELS, strict=True):
        order = sorted(range(7), key=lambda k: -score_K[k])
        confusion[label, order[0]] += 1
        for k in hits:
            hits[k] += label in order[:k]
    shares = [100 * confusion[label, label] / LABELS.count(label) for label in range(7)]
    assert found.confusion.tolist() == confusion.tolist()
    assert list(found.per_class.values()) == pytest.approx(shares)
    assert found.metrics["top-1"] == pytest.approx(100 * hits[1] / len(LABELS))
    assert found.metrics["top-5"] == pytest.approx(100 * hits[5] / len(LABELS))
    assert found.metrics["mean class"] == pytest.approx(sum(shares) / 7)


def test_videos_without_a_valid_clip_are_counted_and_left_out(tmp_path: Path) -> None:
    broken = ClipStore.open(make_store(tmp_path / "broken.zarr", videos=4, failed=[1]))
    network = load(classifier(tmp_path / "two.pt", CLASSES)).network
    options = {"window": WINDOW, "clips": 1, "crop": 16}
    found = classify(network, broken, **options)
    assert (found.dropped, found.label_V.tolist()) == (1, [0, 0, 1])
    assert classify(network, broken, **options, videos=[3, 0]).label_V.tolist() == [1, 0]
    with pytest.raises(ValueError, match="no video could be decoded"):
        classify(network, broken, **options, videos=[1])


def test_a_class_without_a_video_has_no_accuracy(tmp_path: Path, trained: Path) -> None:
    partly = labelled_store(tmp_path / "partly.zarr", SEVEN, [0, 3])
    found = classify(load(trained).network, ClipStore.open(partly), window=WINDOW, clips=1, crop=32)
    assert [name for name, share in found.per_class.items() if share is None] == [
        "dive",
        "fall",
        "run",
        "sit",
        "walk",
    ]
    assert found.metrics["mean class"] == pytest.approx(found.metrics["top-1"])


def test_processes_share_the_videos(store: Path, trained: Path) -> None:
    class Part(Alone):
        """One process of five, which keeps to itself what it would send."""

        def __init__(self, rank: int) -> None:
            self.rank, self.world = rank, 5

        def average_(self, tensors: Sequence[torch.Tensor]) -> None:
            for tensor in tensors:
                tensor /= self.world

    network, opened = load(trained).network, ClipStore.open(store)
    show = partial(classify, network, opened, window=WINDOW, clips=2, crop=32)
    parts = [show(peers=Part(rank)).score_VK for rank in range(5)]
    alone = show().score_VK
    assert all((part != 0).any(1).sum() <= 2 for part in parts)
    assert torch.allclose(sum(parts), alone, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(10, 14), (14, 10), (10, 10)])
def test_squares_are_spread_along_the_longer_side(height: int, width: int) -> None:
    clip = (
        np.arange(2 * height * width * 3, dtype=np.uint32)
        .astype(np.uint8)
        .reshape(2, height, width, 3)
    )
    squares = square_crops(clip, 8, count=3)
    corners = {
        (10, 14): [(1, 0), (1, 3), (1, 6)],
        (14, 10): [(0, 1), (3, 1), (6, 1)],
        (10, 10): [(1, 0), (1, 1), (1, 2)],
    }
    for square, (top, left) in zip(squares, corners[height, width], strict=True):
        assert np.array_equal(square, clip[:, top : top + 8, left : left + 8])
    assert np.array_equal(square_crops(clip, 8, count=1)[0], squares[1])


def test_several_checkpoints_stand_in_one_report(
    store: Path, trained: Path, tmp_path: Path
) -> None:
    other = classifier(tmp_path / "other.pt", SEVEN, seed=1)
    figures = evaluate_classifiers(
        [trained, other],
        ClassifierConfig(store=store, out=tmp_path / "out", crops=3, device="cpu"),
    )
    content = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [entry["figures"] for entry in content["results"]] == list(figures.values())
    assert content["results"][0]["per_class"].keys() == set(SEVEN)
    assert np.sum(content["results"][1]["confusion"]) == len(LABELS)
    for number in (1, 2):
        with Image.open(tmp_path / "out" / f"confusion-{number}.png") as picture:
            assert min(picture.size) > 300


def test_short_videos_are_left_out_of_the_test(trained: Path, tmp_path: Path) -> None:
    header = StoreHeader(dataset="tiny", split="test", class_names=SEVEN, spec=SPEC)
    create(tmp_path / "short.zarr", header, names=list("abcd"), labels=[0, 1, 2, 3])
    whole = tiny_video(SPEC, 0)
    videos = [
        dataclasses.replace(
            whole,
            frames=whole.frames[:length],
            foreground=whole.foreground[:length],
            source=whole.source[:length],
        )
        for length in (12, 7, 8)  # a clip has 8 frames
    ]
    write_shard(tmp_path / "short.zarr", 0, [*videos, VideoFailure("broken")])
    finalise(tmp_path / "short.zarr")
    config = ClassifierConfig(store=tmp_path / "short.zarr", out=tmp_path / "out", device="cpu")
    evaluate_classifiers([trained], config)
    looped = json.loads((config.out / "report.json").read_text())["results"][0]
    assert (looped["videos"], looped["videos_skipped_as_short"]) == (3, 0)
    evaluate_classifiers([trained], dataclasses.replace(config, skip_short=True))
    found = json.loads((config.out / "report.json").read_text())["results"][0]
    assert (found["videos"], found["videos_skipped_as_short"]) == (2, 1)
    assert found["videos_without_a_valid_clip"] == 1
    assert [sum(row) for row in found["confusion"]] == [1, 0, 1, 0, 0, 0, 0]
    with pytest.raises(ValueError, match="every video is shorter than 16 frames at step 1; test"):
        short_videos(ClipStore.open(config.store), Window(frames=16))


def test_the_command_prints_a_table(store: Path, trained: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app,
        [
            "evaluate",
            "test",
            str(trained),
            "--store",
            str(store),
            "--out",
            str(tmp_path),
            "--device",
            "cpu",
            "--predictions",
            str(tmp_path / "said.csv"),
        ],
    )
    assert done.exit_code == 0, done.output
    figures = json.loads((tmp_path / "report.json").read_text())["results"][0]["figures"]
    assert f"{figures['top-5']:.4g}" in done.stdout
    assert (tmp_path / "confusion.png").exists()
    assert "said.csv" in "".join(done.stdout.split())
    assert (tmp_path / "said.csv").read_text().startswith("video_id,name,target,")


@pytest.mark.parametrize("per_clip", [False, True])
def test_predictions_are_a_table_of_what_was_said(
    store: Path, trained: Path, tmp_path: Path, *, per_clip: bool
) -> None:
    file = tmp_path / "new" / "said.csv"
    config = ClassifierConfig(
        store=store,
        out=tmp_path / "out",
        clips=2,
        crops=3,
        device="cpu",
        predictions=file,
        per_clip=per_clip,
    )
    (figures,) = evaluate_classifiers([trained], config).values()
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    opened = ClipStore.open(store)
    expected_VK = slow_scores(trained, opened, [(2, 0), (2, 8), (2, 16)])
    said_NK = np.array([[float(row[f"log_prob {name}"]) for name in SEVEN] for row in rows])
    assert [row["video_id"] for row in rows[:: 6 if per_clip else 1]] == list(opened.names)
    if per_clip:
        places = [(int(row["clip"]), int(row["crop"])) for row in rows]
        assert places == list(itertools.product((0, 1), (0, 1, 2))) * len(LABELS)
        np.testing.assert_allclose(np.exp(said_NK).sum(1), 1, atol=1e-5)
        first = slow_scores(trained, opened, [(2, 8)])  # crop 1 of both clips
        np.testing.assert_allclose((said_NK[1::6] + said_NK[4::6]) / 2, first, atol=1e-5)
        said_NK = said_NK.reshape(len(LABELS), 6, -1).mean(1)
    else:
        assert list(rows[0])[:2] == ["video_id", "name"]
        hits = {k: np.mean([int(row[f"acc_top{k}"]) for row in rows]) for k in (1, 5)}
        assert {f"top-{k}": 100 * hit for k, hit in hits.items()} == pytest.approx(
            {k: figures[k] for k in ("top-1", "top-5")}
        )
        assert [int(row["target"]) for row in rows] == LABELS
        assert [row["target_class"] for row in rows] == [SEVEN[label] for label in LABELS]
        assert [int(row["pred_top1"]) for row in rows] == expected_VK.argmax(1).tolist()
        assert all(row["pred_class"] == SEVEN[int(row["pred_top1"])] for row in rows)
    np.testing.assert_allclose(said_NK, expected_VK, atol=1e-5)


def test_each_checkpoint_has_predictions_of_its_own_and_lost_videos_none(tmp_path: Path) -> None:
    broken = make_store(tmp_path / "broken.zarr", videos=4, failed=[1])
    trained = [classifier(tmp_path / f"{seed}.pt", CLASSES, seed=seed) for seed in (0, 1)]
    evaluate_classifiers(
        trained,
        ClassifierConfig(
            store=broken,
            out=tmp_path,
            clips=1,
            crop=16,
            device="cpu",
            predictions=tmp_path / "said.csv",
        ),
    )
    for number in (1, 2):
        with (tmp_path / f"said-{number}.csv").open(newline="") as lines:
            rows = list(csv.DictReader(lines))
        assert [row["video_id"] for row in rows] == ["000", "002", "003"]
        assert "acc_top5" not in rows[0]  # of 2 classes
    with pytest.raises(ValueError, match=r"^per_clip needs a file to write to"):
        ClassifierConfig(store=broken, out=tmp_path, per_clip=True)


def test_predictions_that_cannot_be_written_are_refused_before_the_test(
    store: Path, trained: Path, tmp_path: Path
) -> None:
    (tmp_path / "said-2.csv").mkdir()  # that of the second checkpoint
    config = ClassifierConfig(
        store=store, out=tmp_path / "out", device="cpu", predictions=tmp_path / "said.csv"
    )
    tests: list[str] = []
    with pytest.raises(WriteError, match=r"said-2.csv: is a folder or a device; name a file"):
        evaluate_classifiers(
            [trained, trained],
            config,
            watch=lambda what, clips: tests.append(what) or unwatched(what, clips),
        )
    assert tests == []


def test_odd_names_are_read_back_from_predictions(tmp_path: Path) -> None:
    videos = ["a,b", 'say "so"', "two\nlines", "back\rward", " a\r\nb ", "=1+1", "\u2028ä", "'"]
    for odd in (videos, [name for name in videos if "\r" not in name]):
        path = tmp_path / f"{len(odd)}.zarr"
        spec = dataclasses.replace(SPEC, videos_per_shard=len(odd))
        classes = ('cla"ss, one', "class\ntwo")
        header = StoreHeader(dataset="odd", split="test", class_names=classes, spec=spec)
        create(path, header, names=odd, labels=[0] * len(odd))
        write_shard(path, 0, [tiny_video(spec, video) for video in range(len(odd))])
        finalise(path)
        log_NK = torch.tensor([[-0.5, -1.0]]).expand(len(odd), 2)
        file = path.with_suffix(".csv")
        video_N = torch.arange(len(odd))
        write_predictions(file, ClipStore.open(path), log_NK=log_NK, video_N=video_N)
        with file.open(newline="", encoding="utf-8") as lines:
            rows = list(csv.DictReader(lines))
        assert [row["name"] for row in rows] == odd
        assert {row["pred_class"] for row in rows} == {classes[0]}
        assert {row[f"log_prob {classes[1]}"] for row in rows} == {"-1"}


def test_the_id_of_a_video_is_that_of_utd() -> None:
    assert video_id("val/yoga/-3B32lodo2M_000059_000069.mp4") == "-3B32lodo2M_000059_000069"
    assert video_id("a.b/c.tar.mp4") == "c"


def test_bad_input_is_one_clear_line(store: Path, trained: Path, tmp_path: Path) -> None:
    encoder = checkpoint(
        tmp_path / "encoder.pt", head={"kind": "projection", "dim": 8}, part="encoder_q"
    )
    renamed = labelled_store(tmp_path / "renamed.zarr", (*SEVEN[:6], "crawl"), LABELS)
    fewer = labelled_store(tmp_path / "fewer.zarr", SEVEN[:5], [0, 1])
    unlabelled = labelled_store(tmp_path / "unlabelled.zarr", SEVEN, [0, -1, -1])
    empty = checkpoint(
        tmp_path / "empty.pt", head={"kind": "projection", "dim": 8}, part="optimizer"
    )
    for path, data, words in (
        (trained, fewer, "distinguishes 7 classes, but .*fewer.zarr has 5"),
        (trained, renamed, "class 6 is 'walk' in .*seven.pt but 'crawl' in .*renamed.zarr"),
        (trained, unlabelled, "unlabelled.zarr: 2 of its videos have no label"),
        (
            encoder,
            store,
            "encoder.pt: has no classifier, only an encoder; `fame finetune` trains one",
        ),
        (empty, store, "empty.pt: has no encoder"),
    ):
        with pytest.raises(ValueError, match=rf"^[^\n]*{words}[^\n]*$"):
            read_classifier(path, ClipStore.open(data), device=torch.device("cpu"))
    done = CliRunner().invoke(
        app, ["evaluate", "test", str(trained), "--store", str(fewer), "--device", "cpu"]
    )
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("fame: ")


EXCHANGED = ("Hammering", "HammerThrow", "JumpingJack", "JumpRope")  # as classInd.txt has them


def foreign(classes: int, class_names: tuple[str, ...] = ()) -> Encoder:
    """A classifier of another project whose k-th output has the bias k."""
    head = {"kind": "classifier", "classes": classes}
    card = Card(name="c3d_small", head=head, class_names=class_names, stranger=True)
    network = card.build()
    with torch.no_grad():
        network.get_submodule("fc").bias.copy_(torch.arange(float(classes)))
    return Encoder(network, card)


def test_the_reference_numbers_classes_by_sorted_folders(tmp_path: Path) -> None:
    """Sorted, HammerThrow (0) comes before Hammering (1), JumpRope (2) before JumpingJack (3)."""
    store = ClipStore.open(labelled_store(tmp_path / "s.zarr", EXCHANGED, [0, 1, 2, 3]))
    ordered = classifier_for(store, foreign(4), Path("theirs.pt"))
    assert ordered.network.get_submodule("fc").bias.tolist() == [1, 0, 3, 2]
    assert ordered.card.class_names == EXCHANGED


def test_a_foreign_classifier_of_unknown_order_is_refused(tmp_path: Path) -> None:
    store = ClipStore.open(labelled_store(tmp_path / "s.zarr", ("left", "right"), [0, 1]))
    with pytest.raises(ValueError, match="does not say in which order"):
        classifier_for(store, foreign(2), Path("theirs.pt"))
    with pytest.raises(ValueError, match="distinguishes 3 classes"):
        classifier_for(store, foreign(3), Path("theirs.pt"))
