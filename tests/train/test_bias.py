"""The bias report: slow counterparts of its figures, encoders whose bias is known, and what it
refuses.
"""

import dataclasses
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner

from cli import app
from fame.bias import VARIANTS
from fame.clipstore import ClipStore, Window
from fame.models import Backbone, build_encoder
from fame.weights import Card, Encoder
from tests.stores import SPEC, WINDOW, flip_bit, make_store
from tests.train.labelled import labelled_store
from train.bias.clips import VariantClips, read_backgrounds
from train.bias.measures import (
    Parts,
    VariantFeatures,
    classifier_parts,
    cosine_parts,
    knn_parts,
    linear_parts,
    merged_parts,
    neighbour_parts,
)
from train.bias.picture import draw_bars
from train.bias.report import (
    Metric,
    bias,
    encoder_report,
    open_scene,
    report_on,
    with_intervals,
)
from train.evaluate.config import BiasConfig
from train.evaluate.features import VideoFeatures

SHOWN = {"window": WINDOW, "clips": 2}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Squares that move left or right, each video on a background of its own; the map is the way of
    the square.
    """
    folder = tmp_path_factory.mktemp("stores")
    spec = dataclasses.replace(SPEC, quality=95)
    return {
        "train_store": make_store(folder / "train.zarr", videos=24, spec=spec),
        "test_store": make_store(folder / "test.zarr", videos=12, spec=spec, seed=1, failed=[2]),
    }


def config(stores: dict[str, Path], cache: Path, **changes: Any) -> BiasConfig:
    given = {"device": "cpu", "crop": 36, "weight_decay": 0.1, "frames": 10, "clips": 2}
    return BiasConfig(**{**stores, **given, "cache": cache, **changes})


class Eye(Backbone):
    """An encoder that looks at one thing only."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))


class SeesBackground(Eye):
    """The colours of places that most frames agree on."""

    def features(self, clip_BCTHW: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(clip_BCTHW.median(2).values, 6).flatten(1)


class SeesMotion(Eye):
    """Whether what differs from most frames goes left or right."""

    def features(self, clip_BCTHW: Tensor) -> Tensor:
        differs_BTW = (
            (clip_BCTHW - clip_BCTHW.median(2, keepdim=True).values)
            .abs()
            .gt(0.4)
            .any(1)
            .sum(2)
            .float()
        )
        place_W = torch.arange(clip_BCTHW.shape[-1])
        centre_BT = (differs_BTW * place_W).sum(2) / differs_BTW.sum(2).clamp_min(1)
        half = clip_BCTHW.shape[2] // 2
        shift_B = centre_BT[:, half:].mean(1) - centre_BT[:, :half].mean(1)
        return torch.stack(
            [shift_B.clamp_min(0), (-shift_B).clamp_min(0), torch.full_like(shift_B, 1e-3)], 1
        )


def values(eye: Eye, stores: dict[str, Path], cache: Path, **changes: Any) -> dict[str, float]:
    settings = config(stores, cache, **changes)
    encoder = Encoder(eye, Card(name=type(eye).__name__))
    found = report_on(encoder, "eye", open_scene(settings), settings)
    return {name: figure.value for name, figure in found.metrics.items()}


def test_an_encoder_of_backgrounds_is_found_out(stores: dict[str, Path], tmp_path: Path) -> None:
    found = values(SeesBackground(), stores, tmp_path)
    assert (
        found["merged/lender"]
        == found["merged/lender class"]
        == found["cosine/background wins"]
        == 100
    )
    assert found["merged/own class"] == 0
    assert found["cosine/foreground swapped"] > 0.8 > 0.5 > found["cosine/background swapped"]


def test_an_encoder_of_motion_is_cleared(stores: dict[str, Path], tmp_path: Path) -> None:
    found = values(SeesMotion(), stores, tmp_path)
    for measure in ("knn", "linear"):
        for variant in ("original", "foreground only", "background swapped"):
            assert found[f"{measure}/{variant}"] > 90, (measure, variant)
        for variant in (
            "foreground swapped",
            "frames reversed",
        ):  # both show the motion of the other class
            assert found[f"{measure}/{variant}"] < 10, (measure, variant)
    assert found["merged/own class"] > 90
    assert found["cosine/background wins"] < 10
    assert found["cosine/background swapped"] > 0.9 > found["cosine/foreground swapped"]


def test_a_report_does_not_depend_on_batches(stores: dict[str, Path], tmp_path: Path) -> None:
    whole, single = (
        values(SeesBackground(), stores, tmp_path / str(batch), batch=batch) for batch in (64, 1)
    )
    assert single == pytest.approx(whole)


def test_another_process_makes_the_same_clips(stores: dict[str, Path]) -> None:
    clips = VariantClips(ClipStore.open(stores["test_store"]), **SHOWN, crop=36, beta=0.5, seed=3)
    sent = pickle.loads(pickle.dumps(clips))
    assert all(torch.equal(clips[position][0], sent[position][0]) for position in (0, 13, 21))
    other = VariantClips(ClipStore.open(stores["test_store"]), **SHOWN, crop=36, beta=0.5, seed=4)
    assert not torch.equal(clips.partner_V, other.partner_V)


def test_without_a_training_store_the_other_test_videos_vote(
    stores: dict[str, Path], tmp_path: Path
) -> None:
    settings = config(stores, tmp_path, train_store=None)
    encoder = Encoder(SeesMotion(), Card(name="motion"))
    found = report_on(encoder, "eye", open_scene(settings), settings)
    assert found.metrics["knn/background swapped"].value > 90
    assert set(found.left_out) == {"linear", "neighbour"}
    assert not any(name.startswith(("linear", "neighbour", "classifier")) for name in found.metrics)


# Figures against slow counterparts ----------------------------------------------------------------


def random_features(seed: int, videos: int = 15, classes: int = 3) -> VariantFeatures:
    rng = np.random.default_rng(seed)
    label_V = np.arange(videos) % classes
    partner_V = np.array([rng.choice(np.flatnonzero(label_V != label)) for label in label_V])
    return VariantFeatures(
        feature_VPD=torch.tensor(rng.normal(size=(videos, len(VARIANTS), 5)), dtype=torch.float32),
        label_V=torch.tensor(label_V),
        partner_V=torch.tensor(partner_V),
        classes=classes,
    )


def cosine(left: np.ndarray, right: np.ndarray) -> float:
    return float(left @ right / np.linalg.norm(left) / np.linalg.norm(right))


def means(parts: Parts) -> dict[str, float]:
    return {name: float(part_V.mean()) for name, (part_V, _) in parts.items()}


def chances(parts: Parts) -> dict[str, float | None]:
    return {name: chance for name, (_, chance) in parts.items()}


@pytest.mark.parametrize("seed", range(4))
def test_merged_and_cosine_equal_slow_counterparts(seed: int) -> None:
    given = random_features(seed)
    labels, partners = given.label_V.tolist(), given.partner_V.tolist()
    original, merged, other = (
        given.of(name).double().numpy()
        for name in ("original", "background swapped", "foreground swapped")
    )
    hits: dict[str, list[float]] = {name: [] for name in ("lender", "lender class", "own class")}
    guesses: dict[str, list[float]] = {name: [] for name in ("lender", "lender class", "own class")}
    for video, (label, lender) in enumerate(zip(labels, partners, strict=True)):
        others = [other for other in range(len(labels)) if other != video]
        near = max(others, key=lambda place: cosine(merged[video], original[place]))
        truths = {
            "lender": [place == lender for place in range(len(labels))],
            "lender class": [place_label == labels[lender] for place_label in labels],
            "own class": [place_label == label for place_label in labels],
        }
        for name, truth in truths.items():
            hits[name].append(truth[near])
            guesses[name].append(np.mean([truth[place] for place in others]))
    parts = merged_parts(given)
    expected = {
        "merged/nearer to lender" if k == "nearer" else f"merged/{k}": 100 * np.mean(v)
        for k, v in hits.items()
    }
    assert means(parts) == pytest.approx(expected)
    guessed = {f"merged/{name}": 100 * np.mean(guess) for name, guess in guesses.items()}
    assert chances(parts) == pytest.approx(guessed)
    like_own, like_place = ([*map(cosine, original, changed)] for changed in (merged, other))
    assert means(cosine_parts(given)) == pytest.approx(
        {
            "cosine/background swapped": np.mean(like_own),
            "cosine/foreground swapped": np.mean(like_place),
            "cosine/background wins": 100 * np.mean(np.greater(like_place, like_own)),
        },
        abs=1e-6,
    )


@pytest.mark.parametrize("seed", range(4))
def test_neighbours_equal_a_slow_counterpart(seed: int) -> None:
    given = random_features(seed)
    background = np.random.default_rng(seed).integers(0, 4, len(given.label_V))
    original, label = given.of("original").double().numpy(), given.label_V.numpy()
    names = ("background", "background not class", "class not background")
    hits: dict[str, list[bool]] = {name: [] for name in names}
    guesses: dict[str, list[float]] = {name: [] for name in names}
    for video in range(len(label)):
        others = [other for other in range(len(label)) if other != video]
        near = max(others, key=lambda place: cosine(original[video], original[place]))
        place, kind = background == background[video], label == label[video]
        for name, truth in zip(names, (place, place & ~kind, kind & ~place), strict=True):
            hits[name].append(truth[near])
            guesses[name].append(truth[others].mean())
    parts = neighbour_parts(given, torch.tensor(background))
    assert means(parts) == pytest.approx(
        {f"neighbour/{name}": 100 * np.mean(hits[name]) for name in names}
    )
    assert chances(parts) == pytest.approx(
        {f"neighbour/{name}": 100 * np.mean(guesses[name]) for name in names}
    )


def test_knn_and_probe_read_every_variant() -> None:
    """Features that spell the class in some variants, and the partner's class in the one with its
    foreground.
    """
    given = random_features(0, videos=30)
    spelled = torch.eye(3)[given.label_V]
    feature_VPD = spelled[:, None].repeat(1, len(VARIANTS), 1)
    feature_VPD[:, VARIANTS.index("foreground swapped")] = spelled[given.partner_V]
    told = dataclasses.replace(given, feature_VPD=feature_VPD + 0.01 * given.feature_VPD[..., :3])
    train = VideoFeatures(
        feature_VD=told.of("original"),
        label_V=given.label_V,
        video_V=torch.arange(30),
        class_names=("a", "b", "c"),
        dropped=0,
    )
    for parts in (
        knn_parts(told, train),
        knn_parts(told, None),
        linear_parts(told, train, weight_decay=1e-3, seed=0),
    ):
        assert list(means(parts).values()) == [100, 100, 100, 100, 0, 100, 100, 100]
        assert set(chances(parts).values()) == {100 / 3}


def test_a_query_never_meets_the_videos_that_it_shows() -> None:
    """Were the partner in the gallery, it would give every merged clip its class."""
    given = random_features(1, videos=9)
    feature_VPD = given.feature_VPD.clone()
    feature_VPD[:, VARIANTS.index("background swapped")] = given.of("original")[given.partner_V]
    alone = dataclasses.replace(given, feature_VPD=feature_VPD)
    slow: list[bool] = []
    original, merged = alone.of("original").numpy(), alone.of("background swapped").numpy()
    for video, partner in enumerate(given.partner_V.tolist()):
        votes = np.zeros(3)
        for other in set(range(9)) - {video, partner}:
            votes[given.label_V[other]] += np.exp(cosine(merged[video], original[other]) / 0.07)
        slow.append(bool(votes.argmax() == given.label_V[video]))
    assert means(knn_parts(alone, None))["knn/background swapped"] == pytest.approx(
        100 * np.mean(slow)
    )


def test_contrasted_is_right_on_the_swap_and_wrong_on_the_still() -> None:
    right = {"background swapped": [1, 1, 0, 0], "frame repeated": [1, 0, 1, 0]}
    score_VPK = torch.zeros(4, len(VARIANTS), 2)
    for variant, holds in right.items():
        score_VPK[:, VARIANTS.index(variant), 1] = torch.tensor(holds) - 0.5
    found = classifier_parts(score_VPK, torch.ones(4, dtype=torch.int64))
    assert means(found)["classifier/contrasted"] == 25
    assert (
        means(found)["classifier/background swapped"]
        == means(found)["classifier/frame repeated"]
        == 50
    )
    assert chances(found)["classifier/contrasted"] == 25


def test_intervals_hold_the_mean_and_are_of_the_seed() -> None:
    parts = {"a": (100 * (torch.arange(50) % 5 == 0).double(), 20.0), "b": (torch.ones(50), None)}
    found = with_intervals(parts, seed=0)
    assert found == with_intervals(parts, seed=0)
    assert found["a"].low < found["a"].value == 20 < found["a"].high
    assert found["b"] == Metric(value=1, low=1, high=1, chance=None)
    assert with_intervals(parts, seed=1)["a"] != found["a"]


# Clips and backgrounds ----------------------------------------------------------------------------


def test_partners_lend_clip_for_clip_and_flat_maps_are_left_out(tmp_path: Path) -> None:
    store = ClipStore.open(labelled_store(tmp_path / "s.zarr", ("a", "b"), [0, 1, 0, 1]))
    read = store.foreground

    def hide(video: int, start: int, window: Window) -> np.ndarray:
        return read(video, start, window) * ((video, start) != (2, 0))

    store.foreground = hide
    clips = VariantClips(store, **SHOWN, crop=32, beta=0.4, seed=0)
    assert clips.without_foreground == 1
    assert len(clips) == 7
    for position in range(len(clips)):
        clip_PTSS3, video = clips[position]
        assert clip_PTSS3.shape == (len(VARIANTS), 8, 32, 32, 3)
        start = int(clips._clip_N2[position, 1])
        own = torch.from_numpy(store.clip(video, start, WINDOW)[:, 2:34, 8:40])
        assert torch.equal(clip_PTSS3[0], own)
        assert clips.label_V[clips.partner_V[video]] != clips.label_V[video]


def test_backgrounds_are_numbered_by_their_text(stores: dict[str, Path], tmp_path: Path) -> None:
    store = ClipStore.open(stores["test_store"])
    lines = [f"{name},{number % 5}" for number, name in enumerate(reversed(store.names))]
    path = tmp_path / "videos.csv"
    path.write_text("\n".join(["video,background", "elsewhere.mp4,9", *lines]) + "\n")
    found = read_backgrounds(path, store)
    expected = [(len(store.names) - 1 - video) % 5 for video in range(len(store.names))]
    assert found.tolist() == expected
    clips = VariantClips(store, **SHOWN, crop=32, beta=0.5, seed=0, background_by_video=found)
    assert (found[clips.video_V] != found[clips.video_V[clips.partner_V]]).all()


# The command --------------------------------------------------------------------------------------


def save(path: Path, *, head: dict[str, object], part: str) -> Path:
    """A checkpoint of an untrained small network."""
    state = {part: build_encoder("c3d_small", head=head).state_dict()}
    model = {"name": "c3d_small", "options": {}, "head": head, "class_names": ["left", "right"]}
    torch.save(
        {
            "format": "fame-checkpoint/1",
            "model": model,
            "config": {"crop": 32, "frames": 8},
            "state": state,
            "progress": {},
        },
        path,
    )
    return path


@pytest.fixture(scope="module")
def encoder_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("encoders") / "encoder.pt"
    return save(path, head={"kind": "projection", "dim": 8}, part="encoder_q")


@pytest.fixture(scope="module")
def classifier_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("classifiers") / "classifier.pt"
    return save(path, head={"kind": "classifier", "classes": 2, "dropout": 0.5}, part="classifier")


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["bias", *map(str, arguments)])


def test_the_command_writes_table_json_and_pictures(
    stores: dict[str, Path], encoder_file: Path, classifier_file: Path, tmp_path: Path
) -> None:
    listed = tmp_path / "videos.csv"
    names = ClipStore.open(stores["test_store"]).names
    listed.write_text(
        "video,background\n" + "\n".join(f"{name},{n // 3}" for n, name in enumerate(names))
    )
    result = run(
        *(encoder_file, classifier_file, "--random-init", "--store", stores["test_store"]),
        *("--train-store", stores["train_store"], "--backgrounds", listed, "--weight-decay", "0.1"),
        *("--root", tmp_path, "--device", "cpu", "--clips", "2"),
    )
    assert result.exit_code == 0, result.output
    for told in (
        "untrained c3d_small",
        "contrasted ↑",
        "same background, other class ↓",
        "background swapped ↑",
        "50.0",
    ):
        assert told in result.stdout
    content = json.loads((tmp_path / "runs" / "bias" / "bias.json").read_text())
    assert content["settings"]["beta"] == 0.5
    assert (
        content["store_digests"][str(stores["test_store"])]
        == ClipStore.open(stores["test_store"]).digest
    )
    untrained, encoder, fine_tuned = content["results"]
    assert untrained["checkpoint"] == "untrained c3d_small"
    assert set(fine_tuned["figures"]) - set(encoder["figures"]) == {
        f"classifier/{name}" for name in (*VARIANTS, "contrasted")
    }
    assert (
        encoder["figures"]["knn/original"]["value"] == untrained["figures"]["knn/original"]["value"]
    )  # nor trained
    same = config(stores, tmp_path, backgrounds=listed, crop=None, frames=None, random_init=True)
    assert encoder == json.loads(json.dumps(encoder_report(encoder_file, same)))
    for name, width in (("bias.png", 1000), ("variants.png", 8 * 112)):
        with Image.open(tmp_path / "runs" / "bias" / name) as picture:
            assert picture.size[0] > width


def test_the_command_says_what_it_could_not_make(
    stores: dict[str, Path], encoder_file: Path, tmp_path: Path
) -> None:
    result = run(
        encoder_file, "--store", stores["test_store"], "--out", tmp_path, "--root", tmp_path
    )
    assert result.exit_code == 0, result.output
    assert (
        "not measured for want of a training store (--train-store): linear probe accuracy"
        in result.stdout
    )
    assert (
        "not measured for want of the true backgrounds (--backgrounds): nearest neighbour"
        in result.stdout
    )


@pytest.mark.parametrize("classes", [2, 7])
def test_another_projects_classifier_is_measured_by_its_features(
    stores: dict[str, Path], tmp_path: Path, classes: int
) -> None:
    """Whether it has as many classes as the store, in an unknown order, or others."""
    network = build_encoder("c3d_small", head={"kind": "classifier", "classes": classes})
    torch.save({"state_dict": network.state_dict()}, tmp_path / "theirs.pt")
    result = run(
        *(tmp_path / "theirs.pt", "--store", stores["test_store"], "--crop", 32, "--frames", 8),
        *("--out", tmp_path, "--root", tmp_path, "--device", "cpu"),
    )
    assert result.exit_code == 0, result.output
    assert "not measured for want of the order of the classes of" in result.stdout
    (found,) = json.loads((tmp_path / "bias.json").read_text())["results"]
    assert "knn/original" in found["figures"]
    assert not [name for name in found["figures"] if name.startswith("classifier/")]


def test_bars_of_many_checkpoints_find_room(
    stores: dict[str, Path], encoder_file: Path, tmp_path: Path
) -> None:
    reports = bias([encoder_file], config(stores, tmp_path, train_store=None, crop=None))
    draw_bars(tmp_path / "new" / "many.png", reports * 9, list("abcdefghi"), title="nine")
    with Image.open(tmp_path / "new" / "many.png") as picture:
        assert picture.format == "PNG"


@pytest.fixture(scope="module")
def odd_stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("odd")
    sides = ("left", "right")
    return {
        "unlabelled": labelled_store(folder / "unlabelled.zarr", sides, [0, 1, -1]),
        "mapless": labelled_store(folder / "mapless.zarr", sides, [0, 1, 0], foreground="none"),
        "one-sided": labelled_store(folder / "one-sided.zarr", sides, [1, 1, 1]),
        "small": labelled_store(folder / "small.zarr", sides, [0, 1]),
        "updown": labelled_store(folder / "updown.zarr", ("up", "down"), [0, 1, 0]),
        "three": labelled_store(folder / "three.zarr", ("left", "right", "up"), [0, 1, 2]),
        "good": labelled_store(folder / "good.zarr", sides, [0, 1, 0]),
    }


@pytest.mark.parametrize(
    ("store", "options", "told"),
    [
        ("unlabelled", [], "unlabelled.zarr: 1 of its videos have no label"),
        ("mapless", [], "mapless.zarr: was made without foreground maps"),
        ("one-sided", [], "one-sided.zarr: every video is of class 'right'"),
        ("small", [], "small.zarr: only 2 of its videos show a foreground"),
        ("nowhere", [], "nowhere.zarr"),
        ("good", ["--train-store", "{updown}"], "class 0 is 'up' in"),
        (
            "good",
            ["--train-store", "{unlabelled}"],
            "unlabelled.zarr: 1 of its videos have no label",
        ),
        ("good", ["--beta", "1"], "got 1.0"),
        ("good", ["--crop", "40"], "crop 40 is larger than the 36x48"),
        ("good", ["--batch", "0"], "batch must be a whole number of at least 1"),
        (
            "good",
            ["--backgrounds", "nowhere.csv"],
            "nowhere.csv: cannot be read (No such file or directory)",
        ),
        ("good", ["--backgrounds", "{columns}"], "columns.csv, line 1: has no column background"),
        ("good", ["--backgrounds", "{rows}"], "rows.csv: gives no background for 001"),
        (
            "good",
            ["--backgrounds", "{same}"],
            "in video 000: no video is of another class on another background",
        ),
        ("updown", ["{classifier}"], "class 0 is 'left' in"),
        ("three", ["{classifier}"], "distinguishes 2 classes"),
        ("good", ["{text}"], "text.pt"),
    ],
)
def test_bad_input_is_one_clear_line(
    odd_stores: dict[str, Path],
    encoder_file: Path,
    classifier_file: Path,
    tmp_path: Path,
    store: str,
    options: list[str],
    told: str,
) -> None:
    files = {
        "columns.csv": "video,place\n000,1\n",
        "rows.csv": "video,background\n000,1\n",
        "text.pt": "no weights",
    }
    files["same.csv"] = "video,background\n" + "".join(f"{video:03d},1\n" for video in range(3))
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    paths = {
        **odd_stores,
        **{Path(name).stem: tmp_path / name for name in files},
        "classifier": classifier_file,
    }
    given = [option.format(**paths) for option in options]
    first = encoder_file if not options or options[0].startswith("--") else given.pop(0)
    result = run(
        first, "--store", paths.get(store, tmp_path / "nowhere.zarr"), "--root", tmp_path, *given
    )
    assert result.exit_code == 2, result.output
    (line,) = [line for line in result.stderr.splitlines() if not line.startswith("encoding")]
    assert line.startswith("fame: ")
    assert told in line


def test_a_damaged_store_is_named(
    stores: dict[str, Path], encoder_file: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.zarr"
    shutil.copytree(stores["test_store"], copy)
    flip_bit(copy)
    result = run(encoder_file, "--store", copy, "--root", tmp_path)
    assert result.exit_code == 2
    assert "copy.zarr" in result.stderr
