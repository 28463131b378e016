"""How much an encoder leans on the background: it is shown clips whose parts are exchanged (``docs/guide/bias.md``).

Every figure is a mean over test videos of a part that each video has in it, so that one bootstrap over videos gives
all the intervals. A video is what its clips are on average. A report is a function of checkpoint, stores and seed.

Shapes: V test videos, G training videos, P variants, D feature dim, K classes, F figures.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from fame.bias import VARIANTS
from fame.clipstore import ClipStore
from fame.metrics import bootstrap_interval, knn_scores, nearest_neighbour
from fame.randomness import generator
from fame.weights import Encoder, load
from train.bias_clips import VariantClips, check_separable, read_backgrounds
from train.distributed import choose_device
from train.evaluate import EncodingConfig, check_comparable, named_encoders, store_features
from train.features import VideoFeatures, Watch, crop_for, mean_over_clips, unwatched
from train.linear import choose_weight_decay, fit_probe
from train.report import write_json
from train.testing import check_classifier, is_classifier

NEIGHBOURS = 20  # that vote, as in `fame evaluate knn`

# Of each figure: the part of every video in it, and its value under guessing (None where guessing means nothing).
Parts = dict[str, tuple[Float[Tensor, " v"], float | None]]


@dataclass(frozen=True, kw_only=True)
class BiasConfig(EncodingConfig):
    """What is shown.

    ``beta`` is the share of a crop within which the foreground lies; ``backgrounds`` a CSV file that tells the true
    background of each test video; ``weight_decay`` of the linear probe (None: chosen on held-out training videos).
    """

    test_store: Path
    train_store: Path | None = None
    backgrounds: Path | None = None
    beta: float = 0.5
    seed: int = 0
    weight_decay: float | None = None

    def __post_init__(self) -> None:
        """Refuse values that cannot be."""
        super().__post_init__()
        if not 0 < self.beta < 1:
            raise ValueError(f"beta, the share of a crop that is foreground, lies between 0 and 1, got {self.beta}")


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A mean over videos with its 95 % interval, in percent (cosines in 0..1), and what guessing would give."""

    value: float
    low: float
    high: float
    chance: float | None


@dataclass(frozen=True, kw_only=True)
class BiasReport:
    """The figures of one checkpoint, ``measure/variant`` each, and the measures left out, with what they lack."""

    checkpoint: str
    crop: int
    videos: int
    clips_without_foreground: int
    figures: dict[str, Figure]
    left_out: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The data of a report, checked."""

    test: ClipStore
    train: ClipStore | None
    background_by_video: Int[Tensor, " videos"] | None

    def variants(self, config: BiasConfig, *, crop: int) -> VariantClips:
        """The test clips as an encoder of this crop sees them."""
        return VariantClips(
            self.test, crop=crop, beta=config.beta, seed=config.seed, background_by_video=self.background_by_video
        )


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What an encoder makes of every variant of every test video; ``partner_V`` lent what is swapped."""

    feature_VPD: Float[Tensor, "v p d"]
    label_V: Int[Tensor, " v"]
    partner_V: Int[Tensor, " v"]
    classes: int

    def of(self, variant: str) -> Tensor:
        """The features of one variant."""
        return self.feature_VPD[:, VARIANTS.index(variant)]


def encoder_report(checkpoint: Path, config: BiasConfig) -> dict[str, Any]:
    """The :class:`BiasReport` of one checkpoint as plain values; raises as :func:`bias`."""
    (report,) = bias([checkpoint], dataclasses.replace(config, random_init=False))
    return dataclasses.asdict(report)


def bias(checkpoints: Sequence[Path], config: BiasConfig, *, watch: Watch = unwatched) -> list[BiasReport]:
    """Report on every checkpoint, shown the same clips; an untrained network first with ``config.random_init``.

    Raises ``ValueError`` before anything is shown for stores that cannot be used (no labels, no maps, one class, other
    classes than the training store or a classifier has) and for checkpoints without an encoder.
    """
    scene, device = open_scene(config), choose_device(config.device)
    for path in checkpoints:
        if is_classifier(encoder := load(path)):
            check_classifier(encoder, path, scene.test)
    encoders = named_encoders(checkpoints, device=device, random_init=config.random_init)
    return [report_on(encoder, name, scene, config, watch=watch) for name, encoder in encoders]


def open_scene(config: BiasConfig) -> Scene:
    """Open the stores and the list of backgrounds; ``ValueError`` where they cannot be used."""
    test = ClipStore.open(config.test_store)
    check_separable(test)
    train = None if config.train_store is None else ClipStore.open(config.train_store)
    if train is not None:
        check_comparable(train, test)
    backgrounds = None if config.backgrounds is None else read_backgrounds(config.backgrounds, test)
    return Scene(test=test, train=train, background_by_video=backgrounds)


def report_on(encoder: Encoder, name: str, scene: Scene, config: BiasConfig, *, watch: Watch = unwatched) -> BiasReport:
    """Everything that can be measured of one encoder."""
    crop = crop_for(encoder, scene.test, config.crop)
    clips = scene.variants(config, crop=crop)
    shown = f"variants in {Path(scene.test.path).name}"
    seen = Seen(
        feature_VPD=_show(encoder.features, encoder, clips, config, watch, f"{name} on {shown}"),
        label_V=clips.label_V,
        partner_V=clips.partner_V,
        classes=len(scene.test.header.class_names),
    )
    train = None if scene.train is None else store_features(encoder, name, scene.train, config, watch)
    parts, left_out = knn_parts(seen, train), dict[str, str]()
    if train is None:
        left_out["linear"] = "a training store (--train-store)"
    else:
        parts |= linear_parts(seen, train, weight_decay=config.weight_decay, seed=config.seed)
    if is_classifier(encoder):
        said_VPK = _show(encoder.output, encoder, clips, config, watch, f"classifier of {name} on {shown}")
        parts |= classifier_parts(said_VPK, seen.label_V)
    parts |= merged_parts(seen)
    if scene.background_by_video is None:
        left_out["neighbour"] = "the true backgrounds (--backgrounds)"
    else:
        parts |= neighbour_parts(seen, scene.background_by_video[clips.video_V])
    parts |= cosine_parts(seen)
    return BiasReport(
        checkpoint=name,
        crop=crop,
        videos=len(seen.label_V),
        clips_without_foreground=clips.without_foreground,
        figures=with_intervals(parts, seed=config.seed),
        left_out=left_out,
    )


def with_intervals(parts: Parts, *, seed: int) -> dict[str, Figure]:
    """The means, with bootstrap intervals from the same draws of videos for all."""
    part_VF = torch.stack([part_V.double() for part_V, _ in parts.values()], 1)
    interval_2F = bootstrap_interval(part_VF, generator=generator(seed, 0, 0, "bias/bootstrap"))
    rows = zip(parts.items(), part_VF.mean(0).tolist(), interval_2F.T.tolist(), strict=True)
    return {
        name: Figure(value=value, low=low, high=high, chance=chance) for (name, (_, chance)), value, (low, high) in rows
    }


# The measures --------------------------------------------------------------------------------------------------------


def knn_parts(seen: Seen, train: VideoFeatures | None) -> Parts:
    """Is the class of each variant told by its nearest neighbours among the original training videos?

    Without training videos they are the other original test videos, less the partner: a query never meets a video
    whose pixels it shows.
    """
    if train is None:
        gallery_GD, label_G = seen.of("original"), seen.label_V
        excluded_VE = torch.stack([torch.arange(len(label_G)), seen.partner_V], 1)
    else:
        gallery_GD, label_G, excluded_VE = train.feature_VD, train.label_V, None
    room = len(label_G) - (0 if excluded_VE is None else 2)

    def told(variant: str) -> Tensor:
        score_VK = knn_scores(
            seen.of(variant),
            gallery_GD,
            label_G,
            classes=seen.classes,
            k=min(NEIGHBOURS, room),
            excluded_QE=excluded_VE,
        )
        return score_VK.argmax(1) == seen.label_V

    return {f"knn/{variant}": (_percent(told(variant)), 100 / seen.classes) for variant in VARIANTS}


def linear_parts(seen: Seen, train: VideoFeatures, *, weight_decay: float | None, seed: int) -> Parts:
    """Is the class of each variant told by a linear probe of the original training videos?"""
    if weight_decay is None:
        weight_decay = choose_weight_decay(
            train.feature_VD, train.label_V, num_classes=seen.classes, seed=seed, names=train.class_names
        )
    probe = fit_probe(train.feature_VD, train.label_V, num_classes=seen.classes, weight_decay=weight_decay)
    return {
        f"linear/{variant}": (
            _percent(probe.scores(seen.of(variant)).argmax(1) == seen.label_V),
            100 / seen.classes,
        )
        for variant in VARIANTS
    }


def cosine_parts(seen: Seen) -> Parts:
    """How like itself a video remains with another background and with another foreground, and which changes it less.

    The background wins where a video is more like itself with another foreground than with another background.
    """
    original_VD = seen.of("original")
    like_own_V, like_place_V = (
        F.cosine_similarity(original_VD, seen.of(variant), dim=1)
        for variant in ("background swapped", "foreground swapped")
    )
    return {
        "cosine/background swapped": (like_own_V, None),
        "cosine/foreground swapped": (like_place_V, None),
        "cosine/background wins": (_percent(like_place_V > like_own_V), 50.0),
    }


def merged_parts(seen: Seen) -> Parts:
    """Whom is a foreground on a lent background taken for, among all original videos but its own?"""
    lender_V, others = seen.partner_V, len(seen.label_V) - 1
    own_V1 = torch.arange(len(lender_V))[:, None]
    near_V = nearest_neighbour(seen.of("background swapped"), seen.of("original"), excluded_QE=own_V1)
    near_label_V, size_V = seen.label_V[near_V], _count_same(seen.label_V).double()
    return {
        "merged/lender": (_percent(near_V == lender_V), 100 / others),
        "merged/lender class": (
            _percent(near_label_V == seen.label_V[lender_V]),
            100 * float(size_V[lender_V].mean()) / others,
        ),
        "merged/own class": (_percent(near_label_V == seen.label_V), 100 * float(size_V.mean() - 1) / others),
    }


def neighbour_parts(seen: Seen, background_V: Int[Tensor, " v"]) -> Parts:
    """What does a video share with its nearest neighbour: the background, the class?"""
    own_V = torch.arange(len(seen.label_V))
    original_VD = seen.of("original")
    near_V = nearest_neighbour(original_VD, original_VD, excluded_QE=own_V[:, None])
    place_V, class_V = background_V[near_V] == background_V, seen.label_V[near_V] == seen.label_V
    same_place_V, same_class_V = _count_same(background_V), _count_same(seen.label_V)
    same_both_V = _count_same(background_V * seen.classes + seen.label_V)

    def guess(count_V: Tensor) -> float:
        return 100 * float(count_V.double().mean()) / (len(own_V) - 1)

    return {
        "neighbour/background": (_percent(place_V), guess(same_place_V - 1)),
        "neighbour/background not class": (_percent(place_V & ~class_V), guess(same_place_V - same_both_V)),
        "neighbour/class not background": (_percent(class_V & ~place_V), guess(same_class_V - same_both_V)),
    }


def classifier_parts(log_VPK: Float[Tensor, "v p k"], label_V: Int[Tensor, " v"]) -> Parts:
    """Does the classifier know each variant, and does it need the motion?

    Contrasted: right with the background swapped and not right on the repeated frame.
    """
    right_VP = log_VPK.argmax(2) == label_V[:, None]
    guess = 1 / log_VPK.shape[2]
    by_variant = dict(zip(VARIANTS, right_VP.unbind(1), strict=True))
    contrasted_V = by_variant["background swapped"] & ~by_variant["frame repeated"]
    return {
        **{f"classifier/{variant}": (_percent(right_V), 100 * guess) for variant, right_V in by_variant.items()},
        "classifier/contrasted": (_percent(contrasted_V), 100 * guess * (1 - guess)),
    }


def _percent(holds_V: Tensor) -> Tensor:
    return 100 * holds_V.double()


def _count_same(value_V: Tensor) -> Tensor:
    """How many videos have the value of each, itself among them."""
    _, place_V, count = value_V.unique(return_inverse=True, return_counts=True)
    return count[place_V]


def _show(
    encode: Callable[[Tensor], Tensor],
    encoder: Encoder,
    clips: VariantClips,
    config: BiasConfig,
    watch: Watch,
    what: str,
) -> Float[Tensor, "v p d"]:
    """What ``encode``, a part of ``encoder``, says of every variant of every video."""
    batch = max(1, config.batch // len(VARIANTS))
    with watch(what, len(clips)) as on_clips:
        said_VPD, _ = mean_over_clips(
            encode, clips, batch=batch, workers=config.workers, device=encoder.device, on_clips=on_clips
        )
    return said_VPD


def write_reports(path: Path, reports: Sequence[BiasReport], config: BiasConfig) -> None:
    """Write the figures, and what they were measured with, as JSON."""
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(config).items()}
    stores = [store for store in (config.test_store, config.train_store) if store is not None]
    digests = {str(store): ClipStore.open(store).digest for store in stores}
    results = [dataclasses.asdict(report) for report in reports]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"settings": settings, "store_digests": digests, "results": results})
