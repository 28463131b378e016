"""Metrics against slow NumPy counterparts, ties included."""

import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fame import metrics
from fame.metrics import (
    average_views,
    bootstrap_interval,
    confusion_matrix,
    first_match,
    knn_scores,
    nearest,
    nearest_neighbour,
    per_class_accuracy,
    retrieval_recall,
    topk_accuracy,
)

sizes = st.integers(1, 12)
seeds = st.integers(0, 2**31)


def order(score: np.ndarray) -> np.ndarray:
    """Indices by falling score, the lower index first among equals."""
    return np.argsort(-score, kind="stable")


def tied(rows: int, columns: int, *, seed: int) -> np.ndarray:
    """Scores of three values only, so that ties abound."""
    return np.random.default_rng(seed).integers(0, 3, (rows, columns)).astype(np.float32)


def unit(feature_ND: np.ndarray) -> np.ndarray:
    return feature_ND / np.linalg.norm(feature_ND, axis=1, keepdims=True)


def features(count: int, *, seed: int) -> np.ndarray:
    return np.random.default_rng([seed, count]).standard_normal((count, 6)).astype(np.float32)


def labels(count: int, classes: int, *, seed: int) -> np.ndarray:
    return np.random.default_rng([seed, count, classes]).integers(0, classes, count)


def tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array)


@given(count=sizes, classes=sizes, k=sizes, seed=seeds)
def test_topk_accuracy_counts_by_sorting(count: int, classes: int, k: int, seed: int) -> None:
    k = min(k, classes)
    score_NK, label_N = tied(count, classes, seed=seed), labels(count, classes, seed=seed)
    hits = [label in order(score)[:k] for score, label in zip(score_NK, label_N, strict=True)]
    assert topk_accuracy(tensor(score_NK), tensor(label_N), k=k) == np.mean(hits)


@given(count=sizes, classes=sizes, seed=seeds)
def test_views_are_averaged_in_log_probability(count: int, classes: int, seed: int) -> None:
    score_NK, video_N = (
        features(count, seed=seed)[:, : min(classes, 6)],
        labels(count, 4, seed=seed) * 10,
    )
    averaged_VK, video_V = average_views(tensor(score_NK), tensor(video_N))
    assert video_V.tolist() == sorted(set(video_N.tolist()))
    log_NK = score_NK - np.log(np.exp(score_NK.astype(np.float64)).sum(1, keepdims=True))
    for video, averaged_K in zip(video_V.tolist(), averaged_VK, strict=True):
        np.testing.assert_allclose(averaged_K, log_NK[video_N == video].mean(0), atol=1e-5)


@given(count=sizes, seed=seeds)
def test_the_mean_of_logits_ranks_the_classes_alike(count: int, seed: int) -> None:
    """The reference averages the logits of R(2+1)D: one number a video less, for every class."""
    score_NK = features(count, seed=seed)
    averaged_VK, _ = average_views(tensor(score_NK).double(), torch.zeros(count, dtype=torch.long))
    less_K = score_NK.astype(np.float64).mean(0) - averaged_VK[0].numpy()
    np.testing.assert_allclose(less_K, less_K[0], atol=1e-6)


@given(count=st.integers(0, 12), classes=sizes, seed=seeds)
def test_confusion_and_per_class_accuracy_count_by_hand(
    count: int, classes: int, seed: int
) -> None:
    label_N, prediction_N = labels(count, classes, seed=seed), labels(count, classes, seed=seed + 1)
    matrix_KK = confusion_matrix(tensor(prediction_N), tensor(label_N), classes=classes)
    for true in range(classes):
        for taken in range(classes):
            assert matrix_KK[true, taken] == np.sum((label_N == true) & (prediction_N == taken))
    for accuracy, true in zip(per_class_accuracy(matrix_KK).tolist(), range(classes), strict=True):
        mine = prediction_N[label_N == true] == true
        assert np.isnan(accuracy) if not len(mine) else accuracy == mine.mean()


@given(queries=sizes, gallery=sizes, k=sizes, seed=seeds)
def test_nearest_are_the_first_of_a_stable_sort(
    queries: int, gallery: int, k: int, seed: int
) -> None:
    k = min(k, gallery)
    similarity_QG = tied(queries, gallery, seed=seed)
    expected = [sorted(order(row)[:k]) for row in similarity_QG]
    assert nearest(tensor(similarity_QG), k=k).tolist() == expected


@given(queries=sizes, gallery=sizes, seed=seeds)
def test_first_match_is_found_by_a_stable_sort(queries: int, gallery: int, seed: int) -> None:
    similarity_QG = tied(queries, gallery, seed=seed)
    match_QG = np.random.default_rng(seed).random((queries, gallery)) < 0.3
    ranks = [
        next((rank for rank, index in enumerate(order(row)) if match[index]), sys.maxsize)
        for row, match in zip(similarity_QG, match_QG, strict=True)
    ]
    assert first_match(tensor(similarity_QG), tensor(match_QG)).tolist() == ranks


@settings(deadline=None)
@given(
    queries=st.integers(0, 9),
    gallery=sizes,
    k=sizes,
    classes=st.integers(1, 4),
    seed=seeds,
    chunk=st.integers(1, 60),
)
def test_knn_votes_one_by_one(
    queries: int, gallery: int, k: int, classes: int, seed: int, chunk: int
) -> None:
    k = min(k, gallery)
    query_QD, gallery_GD = features(queries, seed=seed), features(gallery, seed=seed + 1)
    label_G = labels(gallery, classes, seed=seed)
    votes_QK = np.zeros((queries, classes))
    for votes_K, query_D in zip(votes_QK, query_QD, strict=True):
        cosine_G = unit(gallery_GD) @ (query_D / np.linalg.norm(query_D))
        for index in order(cosine_G)[:k]:
            votes_K[label_G[index]] += np.exp(cosine_G[index] / 0.1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "_CHUNK_ELEMENTS", chunk)
        score_QK = knn_scores(
            tensor(query_QD),
            tensor(gallery_GD),
            tensor(label_G),
            classes=classes,
            k=k,
            temperature=0.1,
        )
    np.testing.assert_allclose(score_QK, votes_QK / votes_QK.sum(1, keepdims=True), atol=1e-5)


@settings(deadline=None)
@given(queries=sizes, gallery=sizes, seed=seeds, centre=st.booleans(), chunk=st.integers(1, 60))
def test_retrieval_counts_by_sorting(
    queries: int, gallery: int, seed: int, centre: bool, chunk: int
) -> None:
    query_QD, gallery_GD = (
        1 + features(queries + 1, seed=seed),
        1 + features(gallery + 1, seed=seed + 1),
    )
    query_label_Q, gallery_label_G = (
        labels(queries + 1, 3, seed=seed),
        labels(gallery + 1, 3, seed=seed + 1),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "_CHUNK_ELEMENTS", chunk)
        recall = retrieval_recall(
            tensor(query_QD),
            tensor(query_label_Q),
            tensor(gallery_GD),
            tensor(gallery_label_G),
            ks=(1, 3),
            centre=centre,
        )
    if centre:
        query_QD, gallery_GD = query_QD - query_QD.mean(0), gallery_GD - gallery_GD.mean(0)
    ranked_QG = [order(row) for row in unit(query_QD) @ unit(gallery_GD).T]
    for k in (1, 3):
        hits = [
            label in gallery_label_G[row[:k]]
            for row, label in zip(ranked_QG, query_label_Q, strict=True)
        ]
        assert recall[k] == np.mean(hits)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: topk_accuracy(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), k=1),
            "no samples",
        ),
        (
            lambda: topk_accuracy(torch.zeros(2, 3), torch.zeros(2, dtype=torch.long), k=4),
            "3 classes, got 4",
        ),
        (
            lambda: confusion_matrix(torch.tensor([3]), torch.tensor([0]), classes=3),
            r"0\.\.2, got 0\.\.3",
        ),
        (
            lambda: knn_scores(
                torch.ones(1, 2), torch.ones(3, 2), torch.zeros(3).long(), classes=2
            ),
            "3 samples .* 20",
        ),
        (
            lambda: knn_scores(
                torch.ones(1, 2), torch.ones(1, 2), torch.tensor([2]), classes=2, k=1
            ),
            r"labels of the gallery are not all in 0\.\.1",
        ),
        (
            lambda: knn_scores(
                torch.ones(1, 2),
                torch.ones(1, 2),
                torch.tensor([0]),
                classes=1,
                k=1,
                temperature=0.0,
            ),
            "temperature is positive, got 0.0",
        ),
        (
            lambda: retrieval_recall(
                torch.ones(1, 2), torch.tensor([0]), torch.ones(0, 2), torch.zeros(0).long()
            ),
            "at least one query and one gallery",
        ),
        (
            lambda: retrieval_recall(
                torch.ones(1, 2), torch.tensor([0]), torch.ones(1, 2), torch.tensor([0]), ks=(0,)
            ),
            r"got \[0\]",
        ),
    ],
)
def test_what_is_undefined_is_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def excluded(count: int, gallery: int, *, seed: int) -> np.ndarray:
    """Two places for each query, sometimes the same one twice."""
    return np.random.default_rng([seed, 7]).integers(0, gallery, (count, 2))


@given(count=sizes, gallery=st.integers(4, 12), classes=sizes, seed=seeds)
def test_what_is_excluded_does_not_vote(count: int, gallery: int, classes: int, seed: int) -> None:
    query_QD, gallery_GD = features(count, seed=seed), features(gallery, seed=seed + 1)
    label_G, excluded_QE = labels(gallery, classes, seed=seed), excluded(count, gallery, seed=seed)
    found = knn_scores(
        tensor(query_QD),
        tensor(gallery_GD),
        tensor(label_G),
        classes=classes,
        k=2,
        excluded_QE=tensor(excluded_QE),
    )
    for query, row in enumerate(excluded_QE):
        kept = np.setdiff1d(np.arange(gallery), row)
        alone = knn_scores(
            tensor(query_QD[query : query + 1]),
            tensor(gallery_GD[kept]),
            tensor(label_G[kept]),
            classes=classes,
            k=2,
        )
        assert torch.allclose(found[query], alone[0], atol=1e-6)


@given(count=sizes, gallery=st.integers(3, 12), seed=seeds)
def test_the_nearest_neighbour_is_the_most_similar_of_the_rest(
    count: int, gallery: int, seed: int
) -> None:
    query_QD, gallery_GD = features(count, seed=seed), features(gallery, seed=seed + 1)
    excluded_QE = excluded(count, gallery, seed=seed)
    found = nearest_neighbour(tensor(query_QD), tensor(gallery_GD), excluded_QE=tensor(excluded_QE))
    similarity_QG = unit(query_QD).astype(np.float64) @ unit(gallery_GD).astype(np.float64).T
    for query, row in enumerate(excluded_QE):
        similarity_QG[query, row] = -np.inf
    chosen = similarity_QG[np.arange(count), found.numpy()]
    assert np.allclose(chosen, similarity_QG.max(1), atol=1e-6)


def test_a_gallery_of_excluded_only_is_refused() -> None:
    feature_ND = tensor(features(2, seed=0))
    with pytest.raises(ValueError, match="nothing left when 2 are excluded"):
        nearest_neighbour(feature_ND, feature_ND, excluded_QE=torch.tensor([[0, 1], [0, 1]]))
    with pytest.raises(ValueError, match="k is between 1 and the 0 samples"):
        knn_scores(
            feature_ND,
            feature_ND,
            torch.zeros(2, dtype=torch.int64),
            classes=1,
            k=1,
            excluded_QE=torch.ones(2, 2).long(),
        )


@given(videos=st.integers(1, 20), seed=seeds)
def test_the_bootstrap_equals_a_loop_over_its_draws(videos: int, seed: int) -> None:
    value_VF = np.random.default_rng(seed).random((videos, 3))
    found = bootstrap_interval(
        tensor(value_VF), generator=torch.Generator().manual_seed(seed), draws=50, level=0.8
    )
    index_RV = torch.randint(
        videos, (50, videos), generator=torch.Generator().manual_seed(seed)
    ).numpy()
    means = [value_VF[drawn].mean(0) for drawn in index_RV]
    assert np.allclose(found.numpy(), np.quantile(means, [0.1, 0.9], axis=0))


def test_the_bootstrap_of_many_is_as_wide_as_the_normal_interval() -> None:
    value_V1 = np.random.default_rng(3).normal(size=(400, 1))
    (low,), (high,) = bootstrap_interval(
        tensor(value_V1), generator=torch.Generator().manual_seed(1)
    ).tolist()
    assert low < value_V1.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * value_V1.std() / 20, rel=0.1)


def test_chunks_of_the_bootstrap_are_whole_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    value_VF = tensor(np.random.default_rng(0).random((10, 2)))
    monkeypatch.setattr(metrics, "_CHUNK_ELEMENTS", 30)
    found = bootstrap_interval(value_VF, generator=torch.Generator().manual_seed(0), draws=7)
    assert (found[0] < found[1]).all()
    with pytest.raises(ValueError, match="level lies between 0 and 1, got 95"):
        bootstrap_interval(value_VF, generator=torch.Generator(), level=95.0)
    with pytest.raises(ValueError, match="no videos"):
        bootstrap_interval(value_VF[:0], generator=torch.Generator())
