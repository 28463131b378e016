"""Measures of a frozen encoder on a labelled dataset: nearest neighbours, retrieval and a linear
probe.

A measure takes the features of a training and of a test store and returns metrics in percent.
:func:`evaluate` runs one measure for several checkpoints, so that they fill one table.

Shapes: V videos, D feature dim.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fame.clipstore import ClipStore
from fame.files import whole
from fame.metrics import Metrics, accuracies, knn_scores, retrieval_recall
from fame.models import is_foreign
from fame.normalize import Normalisation
from fame.weights import Encoder, load
from train.evaluate.config import EncodingConfig, EvaluationConfig
from train.evaluate.features import (
    SquareClips,
    VideoFeatures,
    Watch,
    cached_features,
    check_labelled,
    check_same_classes,
    crop_for,
    extract_features,
    unwatched,
    window_for,
)
from train.evaluate.linear import choose_weight_decay, fit_probe
from train.run.peers import choose_device

RANKS = (1, 5, 10, 20, 50)

Measure = Callable[[VideoFeatures, VideoFeatures], Metrics]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The metrics of one encoder, in percent. ``checkpoint`` is its path, or "untrained" and its
    name.
    """

    checkpoint: str
    metrics: Metrics


def evaluate(
    checkpoints: Sequence[Path],
    config: EvaluationConfig,
    measure: Measure,
    *,
    watch: Watch = unwatched,
) -> list[Evaluation]:
    """Run one measure for every checkpoint on the same two stores.

    ``watch(what, clips)`` opens a context whose value is called with the number of clips encoded
    since. Raise ``ValueError`` for stores that do not compare (no labels, other classes, no valid
    clip) and for checkpoints without an encoder.
    """
    train, test = ClipStore.open(config.train_store), ClipStore.open(config.test_store)
    check_comparable(train, test)
    device = choose_device(config.device)
    rows: list[Evaluation] = []
    encoders = ((path, load(path)) for path in checkpoints)
    for name, encoder in named_encoders(encoders, device=device, random_init=config.random_init):
        features = [
            store_features(
                encoder,
                name,
                store,
                config,
                watch,
                normalisation=config.normalisation,
                per_clip_l2=config.per_clip_l2,
            )
            for store in (train, test)
        ]
        rows.append(Evaluation(checkpoint=name, metrics=measure(*features)))
    return rows


def named_encoders(
    encoders: Iterable[tuple[Path, Encoder]], *, device: torch.device, random_init: bool
) -> Iterator[tuple[str, Encoder]]:
    """Yield each encoder, on ``device``, under its path; with ``random_init`` every new network
    before any training first.

    The untrained network has no head.
    """
    # Encoders of one network share one untrained network.
    floors: set[str] = set()
    for path, encoder in encoders:
        card = dataclasses.replace(encoder.card, head=None, class_names=())
        floor = f"untrained {card.name} {card.options or ''}".rstrip()
        if random_init and floor not in floors:
            floors.add(floor)
            yield floor, Encoder(card.build().to(device), card)
        encoder.network.to(device)
        yield str(path), encoder


def knn(
    train: VideoFeatures, test: VideoFeatures, *, k: int = 20, temperature: float = 0.07
) -> Metrics:
    """Return the accuracy of the votes of the ``k`` nearest training videos, or of all where there
    are fewer.
    """
    classes = len(train.class_names)
    score_VC = knn_scores(
        test.feature_VD,
        train.feature_VD,
        train.label_V,
        classes=classes,
        k=min(k, len(train.feature_VD)),
        temperature=temperature,
    )
    return accuracies(score_VC, test.label_V)


def linear(
    train: VideoFeatures, test: VideoFeatures, *, weight_decay: float | None = None, seed: int = 0
) -> Metrics:
    """Return the accuracy of a logistic regression; its weight decay is chosen on held-out training
    videos unless given.
    """
    classes = len(train.class_names)
    if weight_decay is None:
        weight_decay = choose_weight_decay(
            train.feature_VD, train.label_V, num_classes=classes, seed=seed, names=train.class_names
        )
    probe = fit_probe(
        train.feature_VD, train.label_V, num_classes=classes, weight_decay=weight_decay
    )
    return {**accuracies(probe.scores(test.feature_VD), test.label_V), "weight decay": weight_decay}


def retrieval(train: VideoFeatures, test: VideoFeatures, *, centre: bool = False) -> Metrics:
    """Return R@k, the share of test videos with one of their class among the k most similar
    training videos.

    ``centre`` first subtracts from each set its own mean, as the reference does.
    """
    recalls = retrieval_recall(
        test.feature_VD, test.label_V, train.feature_VD, train.label_V, ks=RANKS, centre=centre
    )
    return {f"R@{rank}": 100 * recall for rank, recall in recalls.items()}


def check_comparable(train: ClipStore, test: ClipStore) -> None:
    """Raise ``ValueError`` unless both stores are labelled with the same classes in the same
    order.
    """
    for store in (train, test):
        check_labelled(store)
    check_same_classes(
        str(train.path), train.header.class_names, str(test.path), test.header.class_names
    )


def store_features(
    encoder: Encoder,
    name: str,
    store: ClipStore,
    config: EncodingConfig,
    watch: Watch,
    *,
    normalisation: Normalisation = "kinetics",
    per_clip_l2: bool = False,
) -> VideoFeatures:
    """Return the features of a store, from the cache where they are there. ``name`` is how the
    progress calls the encoder. Raise ``ValueError`` for a normalisation that the encoder chooses
    itself.
    """
    if normalisation != "kinetics" and is_foreign(encoder.card.name):
        raise ValueError(
            f"{name} is another project's network, which normalises clips its own way; leave out "
            f"--normalisation {normalisation}"
        )
    how: Any = {"normalisation": normalisation, "per_clip_l2": per_clip_l2}
    clips = SquareClips(
        store,
        window=window_for(encoder, config.frames, config.step),
        clips=config.clips,
        crop=crop_for(encoder, store, config.crop),
    )

    def encode() -> VideoFeatures:
        with watch(f"{name} on {Path(store.path).name}", len(clips)) as on_clips:
            size: Any = {"batch": config.batch, "workers": config.workers}
            return extract_features(encoder, clips, **how, **size, on_clips=on_clips)

    return cached_features(encoder, clips, cache=config.cache, extract=encode, **how)


def write_evaluations(path: Path, rows: Sequence[Evaluation], **settings: Any) -> None:
    """Write the metrics and what they were measured with as JSON."""
    results = [{"checkpoint": row.checkpoint, "figures": row.metrics} for row in rows]
    content = {"settings": settings, "results": results}
    with whole(path) as partial:
        partial.write_text(json.dumps(content, indent=2, default=str) + "\n")
