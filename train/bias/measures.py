"""The measures of the bias report: from the features of each variant to the part of each video in
a metric.

Shapes: V test videos, G training videos, E excluded, P variants, D feature dim, K classes.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from fame.bias import VARIANTS
from fame.metrics import knn_scores, nearest_neighbour
from train.evaluate.features import VideoFeatures
from train.evaluate.linear import choose_weight_decay, fit_probe

NEIGHBOURS = 20  # that vote, as in `fame evaluate knn`

# For each metric: the part of every video in it, and its value by guessing (None where guessing
# means nothing).
Parts = dict[str, tuple[Float[Tensor, " v"], float | None]]


@dataclass(frozen=True, kw_only=True)
class VariantFeatures:
    """An encoder's features of every variant of every test video; ``partner_V`` lent what is
    swapped.
    """

    feature_VPD: Float[Tensor, "v p d"]
    label_V: Int[Tensor, " v"]
    partner_V: Int[Tensor, " v"]
    classes: int

    def of(self, variant: str) -> Tensor:
        """Return the features of one variant."""
        return self.feature_VPD[:, VARIANTS.index(variant)]


def knn_parts(features: VariantFeatures, train: VideoFeatures | None) -> Parts:
    """Return for each variant whether the nearest neighbours among the original training videos
    vote for the video's class.

    Without training videos they are the other original test videos, less the partner: a query never
    meets a video whose pixels it shows.
    """
    if train is None:
        gallery_GD, label_G = features.of("original"), features.label_V
        excluded_VE = torch.stack([torch.arange(len(label_G)), features.partner_V], 1)
    else:
        gallery_GD, label_G, excluded_VE = train.feature_VD, train.label_V, None
    # Without training videos two are excluded: the video itself and its partner.
    room = len(label_G) - (0 if excluded_VE is None else 2)

    def right(variant: str) -> Tensor:
        score_VK = knn_scores(
            features.of(variant),
            gallery_GD,
            label_G,
            classes=features.classes,
            k=min(NEIGHBOURS, room),
            excluded_QE=excluded_VE,
        )
        return score_VK.argmax(1) == features.label_V

    return {
        f"knn/{variant}": (_percent(right(variant)), 100 / features.classes) for variant in VARIANTS
    }


def linear_parts(
    features: VariantFeatures, train: VideoFeatures, *, weight_decay: float | None, seed: int
) -> Parts:
    """Return for each variant whether a linear probe of the original training videos finds the
    class.
    """
    if weight_decay is None:
        weight_decay = choose_weight_decay(
            train.feature_VD,
            train.label_V,
            num_classes=features.classes,
            seed=seed,
            names=train.class_names,
        )
    probe = fit_probe(
        train.feature_VD, train.label_V, num_classes=features.classes, weight_decay=weight_decay
    )
    return {
        f"linear/{variant}": (
            _percent(probe.scores(features.of(variant)).argmax(1) == features.label_V),
            100 / features.classes,
        )
        for variant in VARIANTS
    }


def cosine_parts(features: VariantFeatures) -> Parts:
    """Return how similar a video stays to itself with another background and with another
    foreground, and which of the two changes it less.

    The background wins where a video is more like itself with another foreground than with another
    background.
    """
    original_VD = features.of("original")
    like_own_V, like_place_V = (
        F.cosine_similarity(original_VD, features.of(variant), dim=1)
        for variant in ("background swapped", "foreground swapped")
    )
    return {
        "cosine/background swapped": (like_own_V, None),
        "cosine/foreground swapped": (like_place_V, None),
        "cosine/background wins": (_percent(like_place_V > like_own_V), 50.0),
    }


def merged_parts(features: VariantFeatures) -> Parts:
    """Return which original video is nearest to a foreground on a lent background: the lender, one
    of the lender's class, or one of its own class.
    """
    lender_V, others = features.partner_V, len(features.label_V) - 1
    own_V1 = torch.arange(len(lender_V))[:, None]
    near_V = nearest_neighbour(
        features.of("background swapped"), features.of("original"), excluded_QE=own_V1
    )
    # By guessing, each of the other videos is equally likely to be the nearest.
    near_label_V, size_V = features.label_V[near_V], _count_same(features.label_V).double()
    return {
        "merged/lender": (_percent(near_V == lender_V), 100 / others),
        "merged/lender class": (
            _percent(near_label_V == features.label_V[lender_V]),
            100 * float(size_V[lender_V].mean()) / others,
        ),
        "merged/own class": (
            _percent(near_label_V == features.label_V),
            100 * float(size_V.mean() - 1) / others,
        ),
    }


def neighbour_parts(features: VariantFeatures, background_V: Int[Tensor, " v"]) -> Parts:
    """Return whether a video shares background or class with its nearest neighbour."""
    own_V = torch.arange(len(features.label_V))
    original_VD = features.of("original")
    near_V = nearest_neighbour(original_VD, original_VD, excluded_QE=own_V[:, None])
    place_V, class_V = (
        background_V[near_V] == background_V,
        features.label_V[near_V] == features.label_V,
    )
    # How many videos are like each one, itself among them. A pair of background and class gets a
    # number of its own: background * classes + class.
    same_place_V, same_class_V = _count_same(background_V), _count_same(features.label_V)
    same_both_V = _count_same(background_V * features.classes + features.label_V)

    def guess(count_V: Tensor) -> float:
        return 100 * float(count_V.double().mean()) / (len(own_V) - 1)

    return {
        "neighbour/background": (_percent(place_V), guess(same_place_V - 1)),
        "neighbour/background not class": (
            _percent(place_V & ~class_V),
            guess(same_place_V - same_both_V),
        ),
        "neighbour/class not background": (
            _percent(class_V & ~place_V),
            guess(same_class_V - same_both_V),
        ),
    }


def classifier_parts(log_VPK: Float[Tensor, "v p k"], label_V: Int[Tensor, " v"]) -> Parts:
    """Return for each variant whether the classifier is right, and whether it needs the motion.

    Contrasted: right with the background swapped and not right on the repeated frame.
    """
    right_VP = log_VPK.argmax(2) == label_V[:, None]
    guess = 1 / log_VPK.shape[2]
    by_variant = dict(zip(VARIANTS, right_VP.unbind(1), strict=True))
    contrasted_V = by_variant["background swapped"] & ~by_variant["frame repeated"]
    return {
        **{
            f"classifier/{variant}": (_percent(right_V), 100 * guess)
            for variant, right_V in by_variant.items()
        },
        # By guessing, right on the one with probability p and wrong on the other with 1 - p.
        "classifier/contrasted": (_percent(contrasted_V), 100 * guess * (1 - guess)),
    }


def _percent(holds_V: Tensor) -> Tensor:
    return 100 * holds_V.double()


def _count_same(value_V: Tensor) -> Tensor:
    """Return how many videos have the value of each, itself among them."""
    # Values 5 7 5 give 2 1 2.
    _, place_V, count = value_V.unique(return_inverse=True, return_counts=True)
    return count[place_V]
