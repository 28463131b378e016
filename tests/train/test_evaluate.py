"""Evaluation of frozen encoders on tiny stores, against slow oracles."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from fame.clipstore import ClipStore
from fame.models import build_backbone
from fame.weights import Card, Encoder
from tests.stores import CLASSES, SPEC, WINDOW, make_store
from train.evaluate import frozen as evaluation
from train.evaluate.config import EvaluationConfig
from train.evaluate.features import SquareClips, VideoFeatures, cached_features, extract_features
from train.evaluate.frozen import evaluate

CARD = Card(name="i3d", options={"width": 0.125}, config={"crop": 32, "frames": 8})


def features(seed: int, videos: int, classes: int = 4) -> VideoFeatures:
    rng = np.random.default_rng(seed)
    label_V = rng.integers(0, classes, videos)
    feature_VD = np.eye(classes, 6)[label_V] + 0.8 * rng.normal(size=(videos, 6))
    return VideoFeatures(
        feature_VD=torch.tensor(feature_VD, dtype=torch.float32),
        label_V=torch.tensor(label_V),
        video_V=torch.arange(videos),
        class_names=tuple("abcdefgh"[:classes]),
        dropped=0,
    )


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("stores")
    return make_store(folder / "train.zarr", videos=8), make_store(
        folder / "test.zarr", videos=6, seed=1, failed=[2]
    )


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(build_backbone("i3d", width=0.125), CARD)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, encoder: Encoder) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "last.pt"
    state = {"encoder_q": encoder.network.state_dict()}
    model = {"name": CARD.name, "options": CARD.options, "head": None}
    torch.save(
        {"format": "fame-checkpoint/1", "model": model, "config": CARD.config, "state": state}, path
    )
    return path


def config(stores: tuple[Path, Path], cache: Path, **changes: object) -> EvaluationConfig:
    return EvaluationConfig(
        **({"clips": 3} | changes),
        train_store=stores[0],
        test_store=stores[1],
        cache=cache,
        device="cpu",
    )


def test_features_are_the_mean_over_the_valid_clips_of_a_video(
    stores: tuple[Path, Path], encoder: Encoder
) -> None:
    store = ClipStore.open(stores[1])
    counted: list[int] = []
    clips = SquareClips(store, window=WINDOW, clips=3, crop=32)
    found = extract_features(encoder, clips, batch=4, on_clips=counted.append)
    assert sum(counted) == 15
    assert found.dropped == 1
    assert found.video_V.tolist() == [0, 1, 3, 4, 5]
    assert found.label_V.tolist() == [0, 1, 1, 0, 1]
    for row, video in enumerate(found.video_V.tolist()):
        clips = [store.clip(video, start, WINDOW)[:, 2:34, 8:40] for start in (0, 2, 4)]
        expected_D = torch.stack(
            [encoder.features(torch.tensor(clip)[None])[0] for clip in clips]
        ).mean(0)
        assert torch.allclose(found.feature_VD[row], expected_D, atol=1e-5)


def test_a_batch_that_does_not_fit_names_a_smaller_one(
    stores: tuple[Path, Path], encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(Encoder, "features", full)
    clips = SquareClips(ClipStore.open(stores[1]), window=WINDOW, clips=3, crop=32)
    with pytest.raises(ValueError, match=r"^cpu is out of memory; try --batch 2 \(now 4\)$"):
        extract_features(encoder, clips, batch=4)
    with pytest.raises(ValueError, match=r"try fewer --frames or a smaller --crop$"):
        extract_features(encoder, clips, batch=1)


@pytest.mark.parametrize("per_clip_l2", [False, True])
def test_the_references_retrieval_features_equal_a_slow_oracle(
    stores: tuple[Path, Path], encoder: Encoder, per_clip_l2: bool
) -> None:
    store = ClipStore.open(stores[0])
    found = extract_features(
        encoder,
        SquareClips(store, window=WINDOW, clips=2, crop=32, videos=[0, 3]),
        normalisation="imagenet",
        per_clip_l2=per_clip_l2,
    )
    for row, video in enumerate([0, 3]):
        feature_ND = []
        for start in (0, 4):
            clip_THWC = store.clip(video, start, WINDOW)[:, 2:34, 8:40] / 255.0
            clip_THWC = (clip_THWC - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
            clip_BCTHW = torch.tensor(clip_THWC, dtype=torch.float32).permute(3, 0, 1, 2)[None]
            with torch.no_grad():
                feature_D = encoder.network.features(clip_BCTHW)[0].double().numpy()
            feature_ND.append(feature_D / (np.linalg.norm(feature_D) if per_clip_l2 else 1))
        np.testing.assert_allclose(found.feature_VD[row], np.mean(feature_ND, 0), atol=1e-5)


def test_a_network_of_another_project_keeps_its_normalisation(
    stores: tuple[Path, Path], encoder: Encoder, tmp_path: Path
) -> None:
    foreign = Encoder(encoder.network, Card(name="torchvision:r3d_18", trusted=True))
    with pytest.raises(ValueError, match="normalises clips its own way; leave out --normalisation"):
        evaluation.store_features(
            foreign,
            "theirs",
            ClipStore.open(stores[0]),
            config(stores, tmp_path),
            evaluation.unwatched,
            normalisation="imagenet",
        )


def test_a_flipped_bit_in_the_cache_is_no_feature(
    stores: tuple[Path, Path], encoder: Encoder, tmp_path: Path
) -> None:
    clips = SquareClips(ClipStore.open(stores[0]), window=WINDOW, clips=1, crop=32)

    def features() -> torch.Tensor:
        found = cached_features(
            encoder, clips, cache=tmp_path, extract=lambda: extract_features(encoder, clips)
        )
        return found.feature_VD

    expected = features()
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for place in (9, len(whole) // 2, len(whole) - 1):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        assert torch.equal(features(), expected)
        assert path.read_bytes() == whole


def test_loader_workers_change_nothing(stores: tuple[Path, Path], encoder: Encoder) -> None:
    clips = SquareClips(ClipStore.open(stores[0]), window=WINDOW, clips=2, crop=32)
    alone = extract_features(encoder, clips, batch=4)
    helped = extract_features(encoder, clips, batch=4, workers=1)
    assert torch.equal(alone.feature_VD, helped.feature_VD)


def test_a_crop_larger_than_the_frames_is_named(stores: tuple[Path, Path]) -> None:
    with pytest.raises(ValueError, match="crop 40 is larger than the 36x48"):
        SquareClips(ClipStore.open(stores[0]), window=WINDOW, clips=2, crop=40)


def test_knn_equals_a_slow_oracle() -> None:
    train, test = features(0, 50), features(1, 31)
    hits, of_class = {1: 0, 5: 0}, [[], [], [], []]
    for query, label in zip(test.feature_VD.double().numpy(), test.label_V.tolist(), strict=True):
        cosine = [
            float(query @ other / np.linalg.norm(query) / np.linalg.norm(other))
            for other in train.feature_VD.double().numpy()
        ]
        near = sorted(range(50), key=lambda i: -cosine[i])[:7]
        votes = [0.0] * 4
        for i in near:
            votes[int(train.label_V[i])] += math.exp(cosine[i] / 0.07)
        hits[1] += int(np.argmax(votes) == label)
        of_class[label].append(np.argmax(votes) == label)
    assert evaluation.knn(train, test, k=7)["top-1"] == pytest.approx(100 * hits[1] / 31)
    assert evaluation.knn(train, test, k=7)["mean class"] == pytest.approx(
        100 * np.mean([*map(np.mean, of_class)])
    )
    assert "top-5" not in evaluation.knn(train, test, k=7)  # of four classes it would say nothing


def test_fewer_videos_than_k_all_vote() -> None:
    train, test = features(0, 9), features(1, 5)
    assert evaluation.knn(train, test, k=20) == evaluation.knn(train, test, k=9)


@pytest.mark.parametrize("centre", [False, True])
def test_retrieval_equals_a_slow_oracle(centre: bool) -> None:
    train, test = features(2, 60), features(3, 25)
    gallery, queries = train.feature_VD.double().numpy(), test.feature_VD.double().numpy()
    if centre:
        gallery, queries = gallery - gallery.mean(0), queries - queries.mean(0)
    found = evaluation.retrieval(train, test, centre=centre)
    for rank in (1, 5, 10, 20, 50):
        hits = 0
        for query, label in zip(queries, test.label_V.tolist(), strict=True):
            cosine = gallery @ query / np.linalg.norm(gallery, axis=1)
            hits += any(int(train.label_V[i]) == label for i in np.argsort(-cosine)[:rank])
        assert found[f"R@{rank}"] == pytest.approx(100 * hits / 25)


def test_linear_separates_what_is_separable() -> None:
    train, test = features(4, 120), features(5, 200)
    found = evaluation.linear(train, test)
    assert found["top-1"] > 2 * 25
    assert found["weight decay"] in [10.0**power for power in range(-6, 2)]
    assert evaluation.linear(train, test, weight_decay=0.5)["weight decay"] == 0.5


def test_a_class_with_one_training_video_is_named() -> None:
    train = features(4, 30)
    single = dataclasses.replace(
        train, label_V=torch.where(torch.arange(30) == 7, 3, train.label_V.clamp(max=2))
    )
    with pytest.raises(
        ValueError,
        match=r"class d has one training video, .*; give the weight decay with --weight-decay",
    ):
        evaluation.linear(single, features(5, 10))


def test_checkpoints_stand_in_one_table_with_their_floor(
    stores: tuple[Path, Path], checkpoint: Path, tmp_path: Path
) -> None:
    rows = evaluate(
        [checkpoint, checkpoint], config(stores, tmp_path, random_init=True), evaluation.retrieval
    )
    assert [row.checkpoint for row in rows] == [
        "untrained i3d {'width': 0.125}",
        str(checkpoint),
        str(checkpoint),
    ]
    assert rows[1].metrics == rows[2].metrics
    assert rows[0].metrics == rows[1].metrics  # this checkpoint was never trained either


def test_features_are_computed_once_per_checkpoint_store_and_crop(
    stores: tuple[Path, Path], checkpoint: Path, tmp_path: Path
) -> None:
    seen: list[str] = []

    def run(**changes: object) -> dict[str, float]:
        def watch(what: str, clips: int):
            from contextlib import nullcontext

            seen.append(what)
            return nullcontext(lambda count: None)

        return evaluate(
            [checkpoint], config(stores, tmp_path, **changes), evaluation.retrieval, watch=watch
        )[0].metrics

    first, again = run(), run()
    assert first == again
    assert len(seen) == 2
    run(crop=36)
    assert len(seen) == 4
    run(crop=36, per_clip_l2=True)
    run(crop=36, normalisation="imagenet")
    run(crop=36, normalisation="imagenet", per_clip_l2=True)
    assert len(seen) == 10
    for file in tmp_path.glob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:50])
    assert run() == first
    assert len(seen) == 12


def test_stores_of_other_classes_are_refused_by_name(
    stores: tuple[Path, Path], checkpoint: Path, tmp_path: Path
) -> None:
    from fame.clipstore import StoreHeader, create, finalise, write_shard
    from tests.stores import tiny_video

    def store(name: str, classes: tuple[str, ...], labels: list[int]) -> Path:
        spec = dataclasses.replace(SPEC, videos_per_shard=2)
        path = tmp_path / name
        header = StoreHeader(dataset="tiny", split="test", class_names=classes, spec=spec)
        create(path, header, names=["a", "b"], labels=labels)
        write_shard(path, 0, [tiny_video(spec, video) for video in range(2)])
        finalise(path)
        return path

    other = store("other.zarr", ("left", "up"), [0, 1])
    with pytest.raises(ValueError, match=r"class 1 is 'right' in .* but 'up' in"):
        evaluate([checkpoint], config((stores[0], other), tmp_path), evaluation.knn)
    unlabelled = store("unlabelled.zarr", CLASSES, [0, -1])
    with pytest.raises(ValueError, match=r"unlabelled.zarr: 1 of its videos have no label"):
        evaluate([checkpoint], config((stores[0], unlabelled), tmp_path), evaluation.knn)


def test_the_report_holds_settings_and_figures(tmp_path: Path) -> None:
    rows = [evaluation.Evaluation(checkpoint="a.pt", metrics={"top-1": 50.0})]
    evaluation.write_evaluations(
        tmp_path / "new" / "knn.json", rows, what="knn", k=20, train_store=Path("a")
    )
    content = json.loads((tmp_path / "new" / "knn.json").read_text())
    assert content["settings"] == {"what": "knn", "k": 20, "train_store": "a"}
    assert content["results"] == [{"checkpoint": "a.pt", "figures": {"top-1": 50.0}}]
