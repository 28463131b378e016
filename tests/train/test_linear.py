"""The linear probe against scikit-learn, and the choice of its weight decay."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from train.evaluate.linear import choose_weight_decay, fit_probe, hold_out


def blobs(seed: int, *, samples: int = 300, dim: int = 20, classes: int = 4, noise: float = 2.0):
    rng = np.random.default_rng(seed)
    centre_CD = np.random.default_rng(99).normal(size=(classes, dim))
    label_N = rng.integers(0, classes, samples)
    feature_ND = centre_CD[label_N] + noise * rng.normal(size=(samples, dim))
    return torch.tensor(feature_ND, dtype=torch.float32), torch.tensor(label_N)


@pytest.mark.parametrize("weight_decay", [1e-3, 1e-1])
def test_the_probe_is_scikit_learns_logistic_regression(weight_decay: float) -> None:
    feature_ND, label_N = blobs(0)
    test_ND, test_label_N = blobs(1, samples=2000)
    probe = fit_probe(feature_ND, label_N, num_classes=4, weight_decay=weight_decay)
    oracle = LogisticRegression(C=1 / (len(label_N) * weight_decay), tol=1e-8, max_iter=5000)
    standard = lambda x: ((x.double() - probe.mean_D) / probe.scale_D).numpy()  # noqa: E731
    oracle.fit(standard(feature_ND), label_N.numpy())
    expected_NC = oracle.predict_log_proba(standard(test_ND))
    actual_NC = probe.scores(test_ND).log_softmax(1).numpy()
    assert np.abs(actual_NC - expected_NC).max() < 1e-3
    ours = (probe.scores(test_ND).argmax(1) == test_label_N).double().mean().item()
    assert abs(ours - oracle.score(standard(test_ND), test_label_N.numpy())) <= 0.001


def test_standardising_makes_the_probe_blind_to_feature_scale() -> None:
    feature_ND, label_N = blobs(2)
    scale_D = torch.logspace(-3, 3, 20)
    plain = fit_probe(feature_ND, label_N, num_classes=4, weight_decay=0.01).scores(feature_ND)
    scaled = fit_probe(feature_ND * scale_D, label_N, num_classes=4, weight_decay=0.01).scores(
        feature_ND * scale_D
    )
    assert torch.allclose(plain, scaled, atol=1e-3)


def test_a_constant_feature_does_no_harm() -> None:
    feature_ND, label_N = blobs(3)
    feature_ND[:, 0] = 7.0
    assert (
        fit_probe(feature_ND, label_N, num_classes=4, weight_decay=0.01)
        .scores(feature_ND)
        .isfinite()
        .all()
    )


def test_held_out_samples_come_from_every_class() -> None:
    label_N = torch.tensor([0] * 10 + [1] * 2 + [2] * 5)
    held_N = hold_out(label_N, seed=0, share=0.2, instead="")
    assert label_N[held_N].tolist() == [0, 0, 1, 2]
    assert torch.equal(held_N, hold_out(label_N, seed=0, share=0.2, instead=""))
    assert not torch.equal(held_N, hold_out(label_N, seed=1, share=0.2, instead=""))


def test_a_class_with_one_video_is_named() -> None:
    with pytest.raises(ValueError, match=r"class 7 has one .* held out; do this"):
        hold_out(torch.tensor([0, 0, 7]), seed=0, share=0.2, instead="do this")


def test_noisy_features_want_more_weight_decay_than_clean_ones() -> None:
    noisy = choose_weight_decay(*blobs(4, samples=80, dim=60, noise=6.0), num_classes=4)
    assert noisy > 1e-3
