"""Fine-tuning: a pretrained encoder (or an untrained one) and a classifier, trained together on
labelled videos.
"""

import dataclasses
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fame.checkpoint import save
from fame.clipstore import StorePath
from fame.metrics import Metrics
from fame.progress import Progress
from fame.weights import Weights
from train.config import FinetuneConfig
from train.evaluate.classifiers import Scores, report
from train.evaluate.features import Watch, unwatched
from train.evaluate.plots import plot_confusion
from train.finetune_task import FinetuneTask
from train.run.log import one_writer, write_json
from train.run.loop import Resume, RunResult, train
from train.run.peers import choose_device, process_group
from train.start import network_of

SELECTED = "selected.pt"


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneResult:
    """The end of the run and, where it finished and this is the first process, the test's metrics
    in percent.
    """

    run: RunResult
    selection: str
    metrics: Metrics | None


def finetune(
    config: FinetuneConfig,
    *,
    train_store: StorePath,
    test_store: StorePath,
    weights: Weights | None,
    run_dir: Path,
    resume: Resume = "auto",
    crops: int = 1,
    watch: Watch = unwatched,
    progress: Progress | None = None,
) -> FinetuneResult:
    """Train into ``run_dir`` (see :func:`train.run.loop.train` for how it stops and resumes), then
    test.

    The test shows every clip of a test video, ``crops`` squares of each; ``report.json`` and
    ``confusion.png`` in the run folder hold what came out. With ``config.select`` other than
    ``"last"`` the selected weights are in ``checkpoints/selected.pt``. Without ``weights``
    everything is trained from scratch; with them ``config`` names their network (:func:`configured`
    sees to it). Raise ``ValueError`` (one clear line) for stores, configs and checkpoints that do
    not fit.
    """
    device = choose_device(config.device)
    with process_group(device) as peers, one_writer(run_dir, peers):
        task = FinetuneTask(
            config,
            train_store=config.opened(train_store),
            test_store=config.opened(test_store),
            weights=weights,
            peers=peers,
            device=device,
        )
        if task.unseen_classes and peers.rank == 0:
            warnings.warn(_unseen_warning(task), stacklevel=2)
        run = train(task, run_dir, peers=peers, resume=resume, progress=progress)
        if run.status != "finished":
            return FinetuneResult(run=run, selection="", metrics=None)
        selection = task.select_()
        shown = watch if peers.rank == 0 else unwatched
        with shown(f"test on {test_store}", task.clips_to_test) as on_clips:
            scores = task.test(crops=crops, on_clips=on_clips)
        if peers.rank == 0:
            origin = str(weights.path) if weights else "none"
            _report(task, run_dir, scores, selection=selection, pretrained=origin, crops=crops)
        return FinetuneResult(
            run=run, selection=selection, metrics=scores.metrics if peers.rank == 0 else None
        )


def configured(weights: Weights | None, chosen: Mapping[str, Any]) -> FinetuneConfig:
    """Return the reference recipe with the ``chosen`` fields, for the network of ``weights``.

    Crop and clips are those of the weights and the milestones move with the epochs, unless chosen.
    Raise ``ValueError`` for another network than that of the weights.
    """
    start: dict[str, Any] = {}
    if weights:
        card = weights.card
        start = network_of(weights, chosen, instead="--pretrained none")
        kept = ("crop", "frames", "step", "span")
        start |= {key: card.config[key] for key in kept if key in card.config}
    recipe = FinetuneConfig()
    if "milestones" not in chosen:
        # Milestones keep their share of the run: one at 60 of 150 epochs is at 20 of 50.
        epochs = chosen.get("epochs", recipe.epochs)
        moved = {max(1, round(epoch * epochs / recipe.epochs)) for epoch in recipe.milestones}
        start["milestones"] = tuple(sorted(moved))
    return dataclasses.replace(recipe, **{**start, **chosen})


def _unseen_warning(task: FinetuneTask) -> str:
    """Return a warning that names the classes without training videos."""
    unseen, classes = task.unseen_classes, len(task.model["class_names"])
    more = f" and {len(unseen) - 10} more" if len(unseen) > 10 else ""
    return (
        f"{task.train_store.path} has no usable video of {len(unseen)} of {classes} classes, "
        f"so they are not learned: {', '.join(unseen[:10])}{more}"
    )


def _report(
    task: FinetuneTask, folder: Path, scores: Scores, *, selection: str, **about: Any
) -> None:
    """Write what came out, and the selected weights where they are not those of the last
    checkpoint.
    """
    if task.best is not None:
        contents = {
            "model": task.model,
            "config": task.config.to_dict(),
            "state": {"classifier": task.best["classifier"]},
            "progress": {"epoch": task.best["epoch"], "data": task.data},
        }
        save(folder / "checkpoints" / SELECTED, contents)
    about |= {
        "unseen_classes": list(task.unseen_classes),
        "selection": selection,
        "select": task.config.select,
        "data": task.data,
    }
    write_json(folder / "report.json", {**about, **report(scores)})
    plot_confusion(scores.confusion, scores.class_names, folder / "confusion.png")
