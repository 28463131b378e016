"""Linear probe: multinomial logistic regression on frozen features, solved to convergence.

The problem is convex, so it is solved rather than trained: full-batch L-BFGS in float64, no
learning rate to tune. The one free number, the weight decay, is chosen on a part of the training
videos held out class by class.

Shapes: N samples, D feature dim, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fame.randomness import generator

WEIGHT_DECAYS = tuple(10.0**power for power in range(-6, 2))
_HELD_OUT_SHARE = 0.2


@dataclass(frozen=True, kw_only=True)
class LinearProbe:
    """A fitted probe; features are standardised with the training set's statistics first."""

    mean_D: Tensor
    scale_D: Tensor
    weight_CD: Tensor
    bias_C: Tensor
    weight_decay: float

    def scores(self, feature_ND: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        """Return the logits of each class."""
        standard_ND = (feature_ND.double() - self.mean_D) / self.scale_D
        return standard_ND @ self.weight_CD.T + self.bias_C


def fit_probe(
    feature_ND: Float[Tensor, "n d"],
    label_N: Int[Tensor, " n"],
    *,
    num_classes: int,
    weight_decay: float,
) -> LinearProbe:
    """Minimise mean cross-entropy + weight_decay / 2 * |W|^2 over standardised features (the bias
    is free).

    The same minimum as scikit-learn's ``LogisticRegression(C=1 / (N * weight_decay))``.
    """
    mean_D = feature_ND.double().mean(0)
    scale_D = feature_ND.double().std(0, correction=0).clamp_min(1e-8)
    standard_ND = (feature_ND.double() - mean_D) / scale_D
    weight_CD = torch.zeros(
        num_classes, feature_ND.shape[1], dtype=torch.float64, requires_grad=True
    )
    bias_C = torch.zeros(num_classes, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS(
        (weight_CD, bias_C),
        max_iter=500,
        tolerance_grad=1e-7,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        solver.zero_grad()
        loss = torch.nn.functional.cross_entropy(standard_ND @ weight_CD.T + bias_C, label_N.long())
        # The bias is not decayed, as in scikit-learn's logistic regression.
        loss = loss + weight_decay / 2 * weight_CD.square().sum()
        loss.backward()
        return loss

    solver.step(objective)
    return LinearProbe(
        mean_D=mean_D,
        scale_D=scale_D,
        weight_CD=weight_CD.detach(),
        bias_C=bias_C.detach(),
        weight_decay=weight_decay,
    )


def hold_out(
    label_N: Int[Tensor, " n"], *, seed: int, share: float, names: Sequence[str] = (), instead: str
) -> Tensor:
    """Return which samples are held out, bool [N]: a ``share`` of each class (at least one sample),
    drawn with the seed.

    Raise ``ValueError`` when a class has a single sample, which cannot be both learned and held
    out: the line names the class (by number without ``names``) and what to do ``instead``.
    """
    held_N = torch.zeros(len(label_N), dtype=torch.bool)
    for label in label_N.unique().tolist():
        members = torch.nonzero(label_N == label).flatten()
        if len(members) == 1:
            raise ValueError(
                f"class {names[label] if names else label} has one training video, "
                f"which cannot be held out; {instead}"
            )
        # A fifth of 2 samples is none, rounded: at least one is held out all the same.
        count = max(1, round(share * len(members)))
        order = torch.randperm(len(members), generator=generator(seed, 0, int(label), "hold-out"))
        held_N[members[order[:count]]] = True
    return held_N


def choose_weight_decay(
    feature_ND: Float[Tensor, "n d"],
    label_N: Int[Tensor, " n"],
    *,
    num_classes: int,
    candidates: Sequence[float] = WEIGHT_DECAYS,
    seed: int = 0,
    names: Sequence[str] = (),
) -> float:
    """Return the candidate with the best accuracy on the held-out fifth; the strongest of equals.
    ``names`` as in hold_out.
    """
    instead = "give the weight decay with --weight-decay"
    held_N = hold_out(label_N, seed=seed, share=_HELD_OUT_SHARE, names=names, instead=instead)

    def accuracy(weight_decay: float) -> float:
        probe = fit_probe(
            feature_ND[~held_N],
            label_N[~held_N],
            num_classes=num_classes,
            weight_decay=weight_decay,
        )
        return (
            (probe.scores(feature_ND[held_N]).argmax(1) == label_N[held_N]).double().mean().item()
        )

    # A tuple, so that the stronger of two equally accurate candidates wins.
    return max(candidates, key=lambda weight_decay: (accuracy(weight_decay), weight_decay))
