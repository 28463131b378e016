"""The test of a classifier: every clip of a video is shown to it, and the mean of its
log-probabilities decides.

Ten clips of a video and their centre crops, with a store's default recipe: the reference's test.
Shapes: V videos, N views (crops of clips), B batch, P crops of a clip, T frames, S crop size, K
classes.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from fame.clipstore import ClipStore, Window
from fame.files import try_write
from fame.metrics import (
    Metrics,
    accuracies,
    average_views,
    confusion_matrix,
    per_class_accuracy,
)
from fame.models import Backbone
from fame.normalize import encoder_input
from fame.weights import Encoder, load
from train.evaluate.config import ClassifierConfig
from train.evaluate.features import (
    SquareClips,
    Watch,
    check_labelled,
    check_same_classes,
    crop_for,
    unwatched,
    window_for,
)
from train.evaluate.plots import plot_confusion
from train.evaluate.predictions import numbered, write_predictions
from train.run.log import write_json
from train.run.memory import memory_errors, smaller_batch
from train.run.peers import Alone, Peers, choose_device

_EXCHANGED = {"HammerThrow", "Hammering", "JumpRope", "JumpingJack"}


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The mean log-probabilities of every video that could be shown, its class and its place in the
    store.

    ``views`` is how many views of a video were averaged at most; ``dropped`` counts videos without
    a valid clip.
    """

    score_VK: Float[Tensor, "v k_classes"]
    label_V: Int[Tensor, " v"]
    video_V: Int[Tensor, " v"]
    class_names: tuple[str, ...]
    views: int
    dropped: int

    @property
    def confusion(self) -> Int[Tensor, "k_classes k_classes"]:
        """Return how often each class (row) was predicted as each class (column)."""
        return confusion_matrix(
            self.score_VK.argmax(1), self.label_V, classes=len(self.class_names)
        )

    @property
    def per_class(self) -> dict[str, float | None]:
        """Return the accuracy of each class in percent, ``None`` for a class without a video."""
        shares = per_class_accuracy(self.confusion).tolist()
        pairs = zip(self.class_names, shares, strict=True)
        return {name: None if math.isnan(share) else 100 * share for name, share in pairs}

    @property
    def metrics(self) -> Metrics:
        """Return top-1, top-5 and mean class accuracy, in percent."""
        return accuracies(self.score_VK, self.label_V)


def classify(
    network: Backbone,
    store: ClipStore,
    *,
    window: Window,
    clips: int,
    crop: int,
    crops: int = 1,
    videos: Sequence[int] | None = None,
    batch: int = 16,
    workers: int = 0,
    peers: Peers | None = None,
    on_clips: Callable[[int], None] = lambda count: None,
    on_views: Callable[[Tensor, Tensor], None] = lambda score_NK, video_N: None,
) -> Scores:
    """Return the scores of ``clips`` evenly spaced clips of each of the ``videos`` of ``store``,
    each as ``crops`` squares of ``crop`` pixels. Leave ``network`` in evaluation mode.

    Several processes share the videos, and all get the result. ``on_clips(count)`` is called after
    each batch, ``on_views(score_NK, video_N)`` once, with the scores of every view of this process.
    Raise ``ValueError`` if no video can be shown.
    """
    peers = peers or Alone()
    device = next(network.parameters()).device
    wanted = range(store.num_videos) if videos is None else videos
    shown = [video for video in wanted if store.valid_V[video]]
    if not shown:
        raise ValueError(f"{store.path}: no video could be decoded")
    shape = (store.num_videos, len(store.header.class_names))
    total_VK = torch.zeros(shape, dtype=torch.float64, device=device)
    # Process 1 of 3 takes the videos at 1, 4, 7, ...
    if mine := shown[peers.rank :: peers.world]:
        squares = SquareClips(
            store, window=window, clips=clips, crop=crop, crops=crops, videos=mine
        )
        score_NK, video_N = _show(network.eval(), squares, batch, workers, on_clips)
        on_views(score_NK, video_N)
        score_VK, video_V = average_views(score_NK, video_N)
        total_VK[video_V.to(device)] = score_VK.double().to(device)
    # Each process has filled the rows of its own videos and left 0 in the others: the average,
    # times the number of processes, is the sum.
    peers.average_([total_VK])
    return Scores(
        score_VK=total_VK.cpu()[shown] * peers.world,
        label_V=torch.from_numpy(store.labels_V[shown]),
        video_V=torch.tensor(shown),
        class_names=store.header.class_names,
        views=clips * crops,
        dropped=len(wanted) - len(shown),
    )


@torch.no_grad()
def _show(
    network: Backbone, clips: SquareClips, batch: int, workers: int, on_clips: Callable[[int], None]
) -> tuple[Tensor, Tensor]:
    """Return the scores of all views, on the CPU, and the video of each."""
    scores: list[Tensor] = []
    owners: list[Tensor] = []
    device = next(network.parameters()).device
    for clip_BPTSS3, video_B in clips.batches(batch, workers=workers, device=device):
        with memory_errors(device, ways=partial(smaller_batch, batch)):
            scores.append(network(encoder_input(clip_BPTSS3.flatten(0, 1))).float().cpu())
        # Videos 5 7 with 3 crops of each clip own the views 5 5 5 7 7 7.
        owners.append(video_B.repeat_interleave(clip_BPTSS3.shape[1]))
        on_clips(len(video_B))
    return torch.cat(scores), torch.cat(owners)


def evaluate_classifiers(
    checkpoints: Sequence[Path],
    config: ClassifierConfig,
    *,
    watch: Watch = unwatched,
) -> dict[Path, Metrics]:
    """Test fine-tuned checkpoints on one store, and write ``report.json`` and a picture of each
    confusion matrix into ``config.out``, and their predictions into ``config.predictions``.

    Raise ``ValueError`` as :func:`read_classifier` does, and where no predictions can be written,
    before the first test.
    """
    store, where = ClipStore.open(config.store), choose_device(config.device)
    encoders = [read_classifier(path, store, device=where) for path in checkpoints]
    count = len(checkpoints)
    pictures = numbered(config.out / "confusion.png", count)
    files = numbered(config.predictions, count) if config.predictions else [None] * count
    for file in filter(None, files):
        try_write(file)
    reports: list[dict[str, Any]] = []
    for path, encoder, picture, file in zip(checkpoints, encoders, pictures, files, strict=True):
        scores, about = _test(path, encoder, store, config, file=file, watch=watch)
        plot_confusion(scores.confusion, scores.class_names, picture, title=str(path))
        reports.append({**about, "confusion_picture": picture.name, **report(scores)})
    write_json(
        config.out / "report.json",
        {"store": str(config.store), "crops": config.crops, "results": reports},
    )
    return {path: entry["figures"] for path, entry in zip(checkpoints, reports, strict=True)}


def _test(
    path: Path,
    encoder: Encoder,
    store: ClipStore,
    config: ClassifierConfig,
    *,
    file: Path | None,
    watch: Watch,
) -> tuple[Scores, dict[str, Any]]:
    """Test one checkpoint, write its predictions into ``file``, and return how it was
    tested too.
    """
    window = window_for(encoder, config.frames, config.step)
    side = crop_for(encoder, store, config.crop)
    short = short_videos(store, window) if config.skip_short else set[int]()
    count = (int(store.valid_V.sum()) - len(short)) * config.clips
    views: list[Tensor] = []
    with watch(f"{path} on {config.store}", count) as on_clips:
        scores = classify(
            encoder.network,
            store,
            window=window,
            videos=sorted(set(range(store.num_videos)) - short),
            clips=config.clips,
            crop=side,
            crops=config.crops,
            batch=config.batch,
            workers=config.workers,
            on_clips=on_clips,
            on_views=lambda score_NK, video_N: views.extend((score_NK, video_N)),
        )
    if file and config.per_clip:
        log_NK = views[0].double().log_softmax(1)
        write_predictions(file, store, log_NK=log_NK, video_N=views[1], crops=config.crops)
    elif file:
        write_predictions(file, store, log_NK=scores.score_VK, video_N=scores.video_V)
    about = {"checkpoint": str(path), "crop": side, "videos_skipped_as_short": len(short)}
    return scores, about


def short_videos(store: ClipStore, window: Window) -> set[int]:
    """Return the videos of fewer frames than ``window`` has. Raise ``ValueError`` if all are."""
    valid = np.flatnonzero(store.valid_V).tolist()
    short = {video for video in valid if not store.fits(video, window)}
    if valid and len(short) == len(valid):
        raise ValueError(
            f"{store.path}: every video is shorter than {window}; test without --skip-short"
        )
    return short


def read_classifier(path: Path, store: ClipStore, *, device: torch.device) -> Encoder:
    """Load a fine-tuned checkpoint that can be tested on ``store``.

    Raise ``ValueError`` for a checkpoint without a classifier, for one that :func:`classifier_for`
    refuses, and for a store with unlabelled videos.
    """
    encoder = load(path, device=device)
    if not is_classifier(encoder):
        raise ValueError(f"{path}: has no classifier, only an encoder; `fame finetune` trains one")
    check_labelled(store)
    return classifier_for(store, encoder, path)


def is_classifier(encoder: Encoder) -> bool:
    """Return whether the encoder's head is a classifier."""
    return (encoder.card.head or {}).get("kind") == "classifier"


def classifier_for(store: ClipStore, classifier: Encoder, path: Path) -> Encoder:
    """Return the classifier loaded from ``path`` with its outputs in the order of the classes of
    ``store``.

    The reference numbers the classes of UCF101 by the sorted names of their folders, where
    HammerThrow comes before Hammering and JumpRope before JumpingJack; ``classInd.txt``, and so a
    store, has each of them the other way round. Raise ``ValueError`` for a classifier of other
    classes, or of another project and of classes in an unknown order.
    """
    card, names = classifier.card, store.header.class_names
    known = (card.head or {})["classes"]
    if known != len(names):
        raise ValueError(f"{path} distinguishes {known} classes, but {store.path} has {len(names)}")
    if card.class_names or not card.stranger:
        check_same_classes(str(path), card.class_names or names, str(store.path), names)
        return classifier
    if not set(names) >= _EXCHANGED:
        raise ValueError(
            f"{path} does not say in which order its {known} classes are; only that of the "
            "reference's classifiers of UCF101 is known, so fine-tune the encoder on this store"
        )
    theirs = sorted(names)
    order_K = torch.tensor([theirs.index(name) for name in names])
    head = classifier.network.get_submodule("fc")
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(parameter[order_K])
    return Encoder(classifier.network, dataclasses.replace(card, class_names=names))


def report(scores: Scores) -> dict[str, Any]:
    """Return metrics, accuracy of every class and the confusion matrix (rows: true class) as plain
    values.
    """
    return {
        "videos": len(scores.label_V),
        "videos_without_a_valid_clip": scores.dropped,
        "views_per_video": scores.views,
        "figures": scores.metrics,
        "per_class": scores.per_class,
        "confusion": scores.confusion.tolist(),
    }
