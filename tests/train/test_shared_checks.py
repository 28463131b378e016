"""What evaluations and fine-tuning check alike, and the words in which metrics are kept."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fame.clipstore import ClipStore, Window
from fame.metrics import accuracies
from fame.models import build_backbone
from fame.weights import Card, Encoder
from tests.stores import CLASSES, SPEC, WINDOW, make_store
from tests.train.labelled import labelled_store
from train.bias.report import BiasReport, Metric
from train.evaluate.features import (
    check_clips,
    check_labelled,
    check_same_classes,
    crop_for,
    square_crops,
    window_for,
)
from train.evaluate.frozen import Evaluation, write_evaluations


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ClipStore:
    return ClipStore.open(make_store(tmp_path_factory.mktemp("s") / "tiny.zarr", videos=4))


def encoder(**config: object) -> Encoder:
    network = build_backbone("c3d_small")
    return Encoder(network, Card(name="c3d_small", config=dict(config)))


def test_a_crop_must_lie_in_the_frames(store: ClipStore) -> None:
    check_clips(store, WINDOW, 36)
    with pytest.raises(ValueError, match="crop 37 is larger than the 36x48 frames of"):
        check_clips(store, WINDOW, 37)


def test_a_window_must_fit_the_store(store: ClipStore) -> None:
    too_long = Window(frames=SPEC.stretch * 100)
    with pytest.raises(ValueError, match="frames"):
        check_clips(store, too_long, 8)


@pytest.mark.parametrize(
    ("trained", "asked", "expected"),
    [(None, None, 36), (16, None, 16), (224, None, 36), (16, 20, 20), (224, 36, 36)],
)
def test_the_crop_is_that_asked_for_or_that_of_the_training(
    store: ClipStore, trained: int | None, asked: int | None, expected: int
) -> None:
    config = {} if trained is None else {"crop": trained}
    assert crop_for(encoder(**config), store, asked) == expected


def test_the_window_is_that_asked_for_or_that_of_the_training() -> None:
    trained = encoder(frames=8, step=3, span=0.5)
    assert window_for(trained) == Window(frames=8, step=3, span=0.5)
    assert window_for(trained, frames=4) == Window(frames=4, step=3, span=0.5)
    assert window_for(trained, step=2) == Window(frames=8, step=2, span=None)  # no span beside it
    assert window_for(encoder()) == Window(frames=16, step=1, span=None)


@pytest.mark.parametrize("size", [(6, 10), (10, 6), (6, 6)])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_squares_lie_evenly_along_the_longer_side(size: tuple[int, int], count: int) -> None:
    height, width = size
    clip_THWC = np.arange(2 * height * width * 3, dtype=np.uint8).reshape(2, height, width, 3)
    squares = square_crops(clip_THWC, 4, count=count)
    spare = max(size) - 4
    places = [spare // 2] if count == 1 else [spare * i // (count - 1) for i in range(count)]
    for square, place in zip(squares, places, strict=True):
        top, left = (place, (width - 4) // 2) if height > width else ((height - 4) // 2, place)
        np.testing.assert_array_equal(square, clip_THWC[:, top : top + 4, left : left + 4])


def test_classes_must_be_the_same_in_the_same_order() -> None:
    check_same_classes("a", ["x", "y"], "b", ["x", "y"])
    with pytest.raises(ValueError, match="class 1 is 'y' in a but 'z' in b"):
        check_same_classes("a", ["x", "y"], "b", ["x", "z"])
    with pytest.raises(ValueError, match="a has 1 classes but b has 2"):
        check_same_classes("a", ["x"], "b", ["x", "y"])


def test_a_store_without_labels_is_refused(tmp_path: Path) -> None:
    unlabelled = ClipStore.open(labelled_store(tmp_path / "s.zarr", CLASSES, [0, -1, -1]))
    with pytest.raises(ValueError, match="2 of its videos have no label"):
        check_labelled(unlabelled)


@pytest.mark.parametrize("classes", [2, 5, 6, 9])
def test_accuracies_equal_a_count_by_hand(classes: int) -> None:
    draw = torch.Generator().manual_seed(classes)
    score_NK = torch.randn(40, classes, generator=draw)
    label_N = torch.randint(classes - 1, (40,), generator=draw)  # the last class has no sample
    ranks = [sorted(range(classes), key=lambda k, row=row: -row[k]) for row in score_NK.tolist()]
    hits = [rank.index(label) for rank, label in zip(ranks, label_N.tolist(), strict=True)]
    by_class: dict[int, list[bool]] = {}
    for place, label in zip(hits, label_N.tolist(), strict=True):
        by_class.setdefault(label, []).append(place == 0)
    shares = [sum(each) / len(each) for each in by_class.values()]
    expected = {"top-1": 100 * sum(place < 1 for place in hits) / 40}
    if classes > 5:
        expected["top-5"] = 100 * sum(place < 5 for place in hits) / 40
    expected["mean class"] = 100 * sum(shares) / len(shares)
    found = accuracies(score_NK, label_N)
    assert list(found) == list(expected)
    assert found == pytest.approx(expected)


def test_files_of_results_call_metrics_figures(tmp_path: Path) -> None:
    """As they did before the code said metrics: scripts read them."""
    write_evaluations(
        tmp_path / "e.json", [Evaluation(checkpoint="a.pt", metrics={"top-1": 50.0})], k=20
    )
    assert json.loads((tmp_path / "e.json").read_text()) == {
        "settings": {"k": 20},
        "results": [{"checkpoint": "a.pt", "figures": {"top-1": 50.0}}],
    }
    metric = Metric(value=1.0, low=0.0, high=2.0, chance=None)
    report = BiasReport(
        checkpoint="a.pt",
        crop=8,
        videos=3,
        clips_without_foreground=0,
        metrics={"knn/original": metric},
        left_out={},
    )
    assert list(report.to_dict()) == [
        "checkpoint",
        "crop",
        "videos",
        "clips_without_foreground",
        "figures",
        "left_out",
    ]
    assert report.to_dict()["figures"] == {"knn/original": dataclasses.asdict(metric)}
