"""How much an encoder relies on the background: it is shown clips with exchanged parts
(``docs/guide/bias.md``).

Every metric is the mean of one number per test video, so that one bootstrap over videos gives all
the intervals. The number of a video is the mean over its clips. A report is a
function of checkpoint, stores and seed.

Shapes: V test videos, P variants, D size of an output, K classes, M metrics.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fame.bias import VARIANTS
from fame.clipstore import ClipStore
from fame.metrics import bootstrap_interval
from fame.randomness import generator
from fame.weights import Encoder, load
from train.bias.clips import VariantClips, check_separable, read_backgrounds
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
from train.evaluate.classifiers import classifier_for, is_classifier
from train.evaluate.config import BiasConfig
from train.evaluate.features import Watch, crop_for, mean_over_clips, unwatched, window_for
from train.evaluate.frozen import check_comparable, named_encoders, store_features
from train.run.log import write_json
from train.run.peers import choose_device


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A mean over videos with its 95 % interval, in percent (cosines as they are), and what
    guessing would give.
    """

    value: float
    low: float
    high: float
    chance: float | None


@dataclass(frozen=True, kw_only=True)
class BiasReport:
    """The metrics of one checkpoint, ``measure/variant`` each, and the measures left out, with what
    they lack.
    """

    checkpoint: str
    crop: int
    videos: int
    clips_without_foreground: int
    metrics: dict[str, Metric]
    left_out: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as ``bias.json`` holds them: there metrics are called figures."""
        values = dataclasses.asdict(self)
        return {("figures" if key == "metrics" else key): value for key, value in values.items()}


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The data of a report, checked."""

    test: ClipStore
    train: ClipStore | None
    background_by_video: Int[Tensor, " videos"] | None

    def variants(self, config: BiasConfig, encoder: Encoder) -> VariantClips:
        """Return the test clips at the size and length that an encoder takes."""
        return VariantClips(
            self.test,
            window=window_for(encoder, config.frames, config.step),
            clips=config.clips,
            crop=crop_for(encoder, self.test, config.crop),
            beta=config.beta,
            seed=config.seed,
            background_by_video=self.background_by_video,
        )


def encoder_report(checkpoint: Path, config: BiasConfig) -> dict[str, Any]:
    """Return the :class:`BiasReport` of one checkpoint as plain values. Raise as :func:`bias`."""
    (report,) = bias([checkpoint], dataclasses.replace(config, random_init=False))
    return report.to_dict()


def bias(
    checkpoints: Sequence[Path], config: BiasConfig, *, watch: Watch = unwatched
) -> list[BiasReport]:
    """Return a report on every checkpoint, on the same clips; with ``config.random_init`` one on an
    untrained network comes first.

    Raise ``ValueError`` before any clip is encoded, for stores that cannot be used (no labels, no
    maps, one class, other classes than the training store or a classifier has) and for checkpoints
    without an encoder.
    """
    scene = open_scene(config)
    return report_on_all(read_encoders(checkpoints, scene), scene, config, watch=watch)


def read_encoders(checkpoints: Sequence[Path], scene: Scene) -> list[tuple[Path, Encoder]]:
    """Read every checkpoint once, and put the outputs of classifiers in the order of the classes of
    the test store. A classifier of another project that cannot be, since its classes are others
    or in an unknown order, is returned as it is: its features can be measured.
    """
    return [(path, _in_order(scene.test, load(path), path)) for path in checkpoints]


def _in_order(store: ClipStore, encoder: Encoder, path: Path) -> Encoder:
    if not is_classifier(encoder):
        return encoder
    try:
        return classifier_for(store, encoder, path)
    except ValueError:
        if _classes_known(encoder):
            raise
        return encoder


def _classes_known(classifier: Encoder) -> bool:
    """Return whether the classes of the outputs are known; another project's file has no names."""
    return bool(classifier.card.class_names) or not classifier.card.stranger


def report_on_all(
    encoders: Sequence[tuple[Path, Encoder]],
    scene: Scene,
    config: BiasConfig,
    *,
    watch: Watch = unwatched,
) -> list[BiasReport]:
    """Return a report on each of these encoders; with ``config.random_init`` one on an untrained
    network comes first.
    """
    device = choose_device(config.device)
    named = named_encoders(encoders, device=device, random_init=config.random_init)
    return [report_on(encoder, name, scene, config, watch=watch) for name, encoder in named]


def open_scene(config: BiasConfig) -> Scene:
    """Open the stores and the list of backgrounds. Raise ``ValueError`` where they do not fit."""
    test = ClipStore.open(config.test_store)
    check_separable(test)
    train = None if config.train_store is None else ClipStore.open(config.train_store)
    if train is not None:
        check_comparable(train, test)
    backgrounds = None if config.backgrounds is None else read_backgrounds(config.backgrounds, test)
    return Scene(test=test, train=train, background_by_video=backgrounds)


def report_on(
    encoder: Encoder, name: str, scene: Scene, config: BiasConfig, *, watch: Watch = unwatched
) -> BiasReport:
    """Measure all that can be measured of one encoder."""
    clips = scene.variants(config, encoder)
    shown = f"variants in {Path(scene.test.path).name}"
    features = VariantFeatures(
        feature_VPD=_show(encoder.features, encoder, clips, config, watch, f"{name} on {shown}"),
        label_V=clips.label_V,
        partner_V=clips.partner_V,
        classes=len(scene.test.header.class_names),
    )
    train = (
        None if scene.train is None else store_features(encoder, name, scene.train, config, watch)
    )
    parts, left_out = knn_parts(features, train), dict[str, str]()
    if train is None:
        left_out["linear"] = "a training store (--train-store)"
    else:
        parts |= linear_parts(features, train, weight_decay=config.weight_decay, seed=config.seed)
    if is_classifier(encoder) and not _classes_known(encoder):
        left_out["classifier"] = f"the order of the classes of {name}"
    elif is_classifier(encoder):
        output_VPK = _show(
            encoder.output, encoder, clips, config, watch, f"classifier of {name} on {shown}"
        )
        parts |= classifier_parts(output_VPK, features.label_V)
    parts |= merged_parts(features)
    if scene.background_by_video is None:
        left_out["neighbour"] = "the true backgrounds (--backgrounds)"
    else:
        parts |= neighbour_parts(features, scene.background_by_video[clips.video_V])
    parts |= cosine_parts(features)
    return BiasReport(
        checkpoint=name,
        crop=clips.crop,
        videos=len(features.label_V),
        clips_without_foreground=clips.without_foreground,
        metrics=with_intervals(parts, seed=config.seed),
        left_out=left_out,
    )


def with_intervals(parts: Parts, *, seed: int) -> dict[str, Metric]:
    """Return the means with bootstrap intervals, all from the same draws of videos."""
    part_VM = torch.stack([part_V.double() for part_V, _ in parts.values()], 1)
    interval_2M = bootstrap_interval(part_VM, generator=generator(seed, 0, 0, "bias/bootstrap"))
    rows = zip(parts.items(), part_VM.mean(0).tolist(), interval_2M.T.tolist(), strict=True)
    return {
        name: Metric(value=value, low=low, high=high, chance=chance)
        for (name, (_, chance)), value, (low, high) in rows
    }


def _show(
    encode: Callable[[Tensor], Tensor],
    encoder: Encoder,
    clips: VariantClips,
    config: BiasConfig,
    watch: Watch,
    what: str,
) -> Float[Tensor, "v p d"]:
    """Return the mean output of ``encode``, a part of ``encoder``, for every variant of every
    video.
    """
    # A clip has 8 variants, so that a batch of 16 holds 2 clips.
    batch = max(1, config.batch // len(VARIANTS))
    with watch(what, len(clips)) as on_clips:
        output_VPD, _ = mean_over_clips(
            encode,
            clips,
            batch=batch,
            workers=config.workers,
            device=encoder.device,
            on_clips=on_clips,
        )
    return output_VPD


def write_reports(
    path: Path, reports: Sequence[BiasReport], scene: Scene, config: BiasConfig
) -> None:
    """Write the metrics, and what they were measured with, as JSON."""
    stores = {config.test_store: scene.test, config.train_store: scene.train}
    digests = {str(named): store.digest for named, store in stores.items() if store}
    results = [report.to_dict() for report in reports]
    write_json(path, {"settings": config.to_dict(), "store_digests": digests, "results": results})
