"""Metrics of features and classifiers: accuracy, nearest neighbours, retrieval, intervals.

Ties are decided the same way everywhere and on every device: the lower index wins. Where all pairs
of two sets are compared, queries go in chunks so that memory stays bounded whatever the sizes.
Shapes: N samples, V videos, K classes, Q queries, G gallery, E excluded, D feature dim, M metrics,
R draws.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

Metrics = dict[str, float]  # by name, in percent

# Elements of the largest intermediate matrix: 64 MiB of float32.
_CHUNK_ELEMENTS = 2**24


def accuracies(score_NK: Float[Tensor, "n k_classes"], label_N: Int[Tensor, " n"]) -> Metrics:
    """Return top-1, top-5 (where there are more than 5 classes) and the mean over the classes that
    have samples, in percent.
    """
    classes = score_NK.shape[1]
    tops = {f"top-{k}": 100 * topk_accuracy(score_NK, label_N, k=k) for k in (1, 5) if k < classes}
    matrix_KK = confusion_matrix(score_NK.argmax(1), label_N, classes=classes)
    return {**tops, "mean class": 100 * float(per_class_accuracy(matrix_KK).nanmean())}


def topk_accuracy(
    score_NK: Float[Tensor, "n k_classes"], label_N: Int[Tensor, " n"], *, k: int
) -> float:
    """Return the share of samples whose class is among the ``k`` with the highest scores."""
    _check(len(score_NK) > 0, "accuracy of no samples is undefined")
    _check(
        1 <= k <= score_NK.shape[1], f"k is between 1 and the {score_NK.shape[1]} classes, got {k}"
    )
    return float((classes_ahead(score_NK, label_N) < k).double().mean())


def classes_ahead(
    score_NK: Float[Tensor, "n k_classes"], label_N: Int[Tensor, " n"]
) -> Int[Tensor, " n"]:
    """Return how many classes score higher than a sample's own: 0 where it is recognised."""
    own_N1 = score_NK.gather(1, label_N.long()[:, None])
    index_K = torch.arange(score_NK.shape[1], device=score_NK.device)
    # Of equal scores the lower index is ahead: with 0.4 0.4 and the label 1, class 0 is ahead.
    ahead_NK = (score_NK > own_N1) | ((score_NK == own_N1) & (index_K < label_N[:, None]))
    return ahead_NK.sum(1)


def average_views(
    score_NK: Float[Tensor, "n k_classes"], video_N: Int[Tensor, " n"]
) -> tuple[Float[Tensor, "v k_classes"], Int[Tensor, " v"]]:
    """Return the mean log-softmax over the views (clips, crops) of each video, and the video
    numbers in ascending order.

    Logits and log-probabilities are both welcome: log-softmax leaves the latter as they are. This
    is the reference's 10-clip test.
    """
    video_V, position_N, count_V = torch.unique(video_N, return_inverse=True, return_counts=True)
    log_NK = F.log_softmax(score_NK.double(), dim=1)
    sum_VK = log_NK.new_zeros(len(video_V), score_NK.shape[1]).index_add_(0, position_N, log_NK)
    return (sum_VK / count_V[:, None]).to(score_NK.dtype), video_V


def confusion_matrix(
    prediction_N: Int[Tensor, " n"], label_N: Int[Tensor, " n"], *, classes: int
) -> Int[Tensor, "classes classes"]:
    """Return how often each class (row) was predicted as each class (column)."""
    both = torch.cat([prediction_N, label_N]).long()
    if len(both):
        low, high = int(both.min()), int(both.max())
        _check(low >= 0 and high < classes, f"classes are 0..{classes - 1}, got {low}..{high}")
    # Of 3 classes, class 1 predicted as 2 is cell 1 * 3 + 2 = 5 of the matrix, row by row.
    cell_N = label_N.long() * classes + prediction_N.long()
    return torch.bincount(cell_N, minlength=classes**2).view(classes, classes)


def per_class_accuracy(
    matrix_KK: Int[Tensor, "k_classes k_classes"],
) -> Float[Tensor, " k_classes"]:
    """Return the share of each class that was recognised, from a confusion matrix; NaN for a class
    without samples.
    """
    return matrix_KK.diagonal().double() / matrix_KK.sum(1)


def knn_scores(
    query_QD: Float[Tensor, "q d"],
    gallery_GD: Float[Tensor, "g d"],
    label_G: Int[Tensor, " g"],
    *,
    classes: int,
    k: int = 20,
    temperature: float = 0.07,
    excluded_QE: Int[Tensor, "q e"] | None = None,
) -> Float[Tensor, "q classes"]:
    """Return the class probabilities by the votes of the ``k`` most similar of the gallery, with
    weight exp(cosine / temperature).

    The weighted nearest-neighbour test of instance discrimination (Wu et al., CVPR 2018).
    ``excluded_QE`` are the places in the gallery that a query does not look at, its own for
    instance.
    """
    # What is excluded cannot vote: with the query itself among 10 videos at most 9 are left.
    room = len(gallery_GD) - (0 if excluded_QE is None else excluded_QE.shape[1])
    _check(1 <= k <= room, f"k is between 1 and the {room} samples of the gallery, got {k}")
    _check(temperature > 0, f"temperature is positive, got {temperature}")
    _check(
        bool((label_G >= 0).all() & (label_G < classes).all()),
        f"labels of the gallery are not all in 0..{classes - 1}",
    )
    votes: list[Tensor] = [query_QD.new_zeros(0, classes, dtype=torch.float32)]
    width = max(len(gallery_GD), k * classes)
    for _, similarity_QG in _cosine_chunks(
        query_QD, gallery_GD, width=width, excluded_QE=excluded_QE
    ):
        index_Qk = nearest(similarity_QG, k=k)
        near_Qk = similarity_QG.gather(1, index_Qk)
        weight_Qk = torch.softmax(near_Qk / temperature, dim=1)
        ballot_QkK = F.one_hot(label_G.long()[index_Qk], classes).to(weight_Qk.dtype)
        votes.append(torch.einsum("qk,qkc->qc", weight_Qk, ballot_QkK))
    return torch.cat(votes)


def nearest_neighbour(
    query_QD: Float[Tensor, "q d"],
    gallery_GD: Float[Tensor, "g d"],
    *,
    excluded_QE: Int[Tensor, "q e"],
) -> Int[Tensor, " q"]:
    """Return the index in the gallery of the vector most similar to each query (cosine), of those
    not excluded for that query.
    """
    room = len(gallery_GD) - excluded_QE.shape[1]
    _check(
        room >= 1,
        f"a gallery of {len(gallery_GD)} has nothing left when {excluded_QE.shape[1]} are excluded",
    )
    found = [excluded_QE.new_zeros(0, dtype=torch.int64)]
    for _, similarity_QG in _cosine_chunks(
        query_QD, gallery_GD, width=len(gallery_GD), excluded_QE=excluded_QE
    ):
        found.append(nearest(similarity_QG, k=1)[:, 0])
    return torch.cat(found)


def retrieval_recall(
    query_QD: Float[Tensor, "q d"],
    query_label_Q: Int[Tensor, " q"],
    gallery_GD: Float[Tensor, "g d"],
    gallery_label_G: Int[Tensor, " g"],
    *,
    ks: Sequence[int] = (1, 5, 10, 20, 50),
    centre: bool = False,
) -> dict[int, float]:
    """Return R@k, the share of queries with at least one of their class among the ``k`` most
    similar (cosine) of the gallery.

    ``centre`` first subtracts from each set its own mean feature, as the reference does.
    """
    _check(
        len(query_QD) > 0 and len(gallery_GD) > 0,
        "retrieval needs at least one query and one gallery video",
    )
    _check(all(k >= 1 for k in ks), f"recall is at k of 1 or more, got {list(ks)}")
    if centre:
        query_QD, gallery_GD = query_QD - query_QD.mean(0), gallery_GD - gallery_GD.mean(0)
    ranks: list[Tensor] = []
    for rows, similarity_QG in _cosine_chunks(query_QD, gallery_GD, width=len(gallery_GD)):
        ranks.append(first_match(similarity_QG, query_label_Q[rows, None] == gallery_label_G))
    rank_Q = torch.cat(ranks)
    return {k: float((rank_Q < k).double().mean()) for k in ks}


def nearest(similarity_QG: Float[Tensor, "q g"], *, k: int) -> Int[Tensor, "q k"]:
    """Return the gallery indices of the ``k`` most similar, in ascending order of index; among
    equals the lower index is taken.

    ``torch.topk`` breaks ties arbitrarily, so only its k-th value is used.
    """
    # Of 0.9 0.5 0.5 0.5 and k = 2 the least is 0.5: one is above it, so there is room for one of
    # the three equals, the first.
    least_Q1 = similarity_QG.topk(k, dim=1).values[:, -1:]
    above_QG, level_QG = similarity_QG > least_Q1, similarity_QG == least_Q1
    room_Q1 = k - above_QG.sum(1, keepdim=True)
    chosen_QG = above_QG | (level_QG & (level_QG.cumsum(1) <= room_Q1))
    return chosen_QG.nonzero()[:, 1].view(len(similarity_QG), k)


def first_match(
    similarity_QG: Float[Tensor, "q g"], match_QG: Bool[Tensor, "q g"]
) -> Int[Tensor, " q"]:
    """Return the rank (from 0) of the first match when the gallery is sorted by falling similarity;
    beyond any k if there is none.

    Counted, not sorted: those more similar than the best match, and those as similar with a lower
    index.
    """
    gallery = similarity_QG.shape[1]
    # Similarities 0.9 0.7 0.7 0.4, of which the third and fourth match: the best match has 0.7 and
    # index 2; before it come 0.9 and the 0.7 of index 1, so its rank is 2.
    best_Q1 = similarity_QG.masked_fill(~match_QG, -torch.inf).amax(1, keepdim=True)
    level_QG = similarity_QG == best_Q1
    index_G = torch.arange(gallery, device=similarity_QG.device)
    first_Q1 = index_G.where(level_QG & match_QG, gallery).amin(1, keepdim=True)
    rank_Q = ((similarity_QG > best_Q1) | (level_QG & (index_G < first_Q1))).sum(1)
    return rank_Q.where(match_QG.any(1), torch.iinfo(torch.int64).max)


def bootstrap_interval(
    value_VF: Float[Tensor, "v f"],
    *,
    generator: torch.Generator,
    draws: int = 2000,
    level: float = 0.95,
) -> Float[Tensor, "2 f"]:
    """Return the low and the high end of each metric's percentile bootstrap: where its mean would
    lie on another sample of videos.

    ``value_VF`` holds each video's part in each metric. Every draw takes V videos with replacement,
    the same ones for all metrics; ``level`` of the means lie between the ends.
    """
    videos = len(value_VF)
    _check(videos > 0, "an interval from no videos is undefined")
    _check(0 < level < 1, f"level lies between 0 and 1, got {level}")
    means: list[Tensor] = []
    step = max(1, _CHUNK_ELEMENTS // videos)
    for start in range(0, draws, step):
        # A draw of videos 0 2 2 of 3 is the weights 1 0 2: a product of matrices gives all means.
        index_RV = torch.randint(videos, (min(step, draws - start), videos), generator=generator)
        weight_RV = torch.zeros(index_RV.shape, dtype=torch.float64).scatter_add_(
            1, index_RV, torch.ones(index_RV.shape, dtype=torch.float64)
        )
        means.append(weight_RV @ value_VF.double().cpu() / videos)
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    return torch.cat(means).quantile(ends, dim=0).to(value_VF.dtype)


def _cosine_chunks(
    query_QD: Tensor, gallery_GD: Tensor, *, width: int, excluded_QE: Tensor | None = None
) -> Iterator[tuple[slice, Tensor]]:
    """Yield which queries, and their cosine similarity with all of the gallery, -inf with what is
    excluded.

    ``width`` elements are needed per query.
    """
    gallery_DG = F.normalize(gallery_GD.float(), dim=1).T
    # A gallery of 240,000 vectors takes 69 queries at a time.
    step = max(1, _CHUNK_ELEMENTS // width)
    for start in range(0, len(query_QD), step):
        rows = slice(start, start + step)
        similarity_QG = F.normalize(query_QD[rows].float(), dim=1) @ gallery_DG
        yield (
            rows,
            similarity_QG
            if excluded_QE is None
            else similarity_QG.scatter(1, excluded_QE[rows], -torch.inf),
        )


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)
