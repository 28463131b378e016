"""``fame evaluate`` and ``fame activate``. Heavy imports live inside the commands."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from commands.app import App
from commands.options import Options, Values, option
from commands.output import output, say, starting, watch
from commands.paths import Checkpoints, Root, checkpoint_or_default, existing
from commands.stores import existing_store
from fame.lock import hold
from fame.settings import Settings
from fame.words import plain
from train.evaluate.config import (
    ActivationConfig,
    ClassifierConfig,
    EvaluationConfig,
    KnnConfig,
    LinearConfig,
    RetrievalConfig,
)

evaluate_app = App("Measure what an encoder or a classifier has learned.")

_TEST_STORE = "ROOT/stores/ucf101-test1.zarr"
_Given = Annotated[
    Values,
    Options(
        EvaluationConfig,
        defaults={"train_store": "ROOT/stores/ucf101-train1.zarr", "test_store": _TEST_STORE},
    ),
]
_Out = Annotated[
    Path | None,
    option("JSON file (default: ROOT/runs/results/evaluate-COMMAND.json).", metavar="FILE"),
]


@evaluate_app.command()
def knn(
    given: _Given,
    vote: KnnConfig,
    checkpoints: Checkpoints = None,
    root: Root = Path("data"),
    out: _Out = None,
) -> None:
    """Accuracy of frozen features: the training videos most like a test video vote."""
    _evaluate("knn", given, vote, checkpoints=checkpoints, root=root, out=out)


@evaluate_app.command()
def retrieval(
    given: _Given,
    search: RetrievalConfig,
    checkpoints: Checkpoints = None,
    root: Root = Path("data"),
    out: _Out = None,
) -> None:
    """Recall at 1, 5, 10, 20 and 50: test videos query the training videos."""
    _evaluate("retrieval", given, search, checkpoints=checkpoints, root=root, out=out)


@evaluate_app.command()
def linear(
    given: _Given,
    probe: LinearConfig,
    checkpoints: Checkpoints = None,
    root: Root = Path("data"),
    out: _Out = None,
) -> None:
    """Linear probe: logistic regression on frozen features, solved to convergence."""
    _evaluate("linear", given, probe, checkpoints=checkpoints, root=root, out=out)


def _evaluate(
    what: str,
    given: Values,
    settings: Settings,
    *,
    checkpoints: list[Path] | None,
    root: Path,
    out: Path | None,
) -> None:
    """Run one measure, print one table, write one JSON file."""
    with starting("loading PyTorch"):
        from train.evaluate import frozen

    stores = {
        f"{split}_store": existing_store(
            given.get(f"{split}_store", root / "stores" / f"ucf101-{split}1.zarr"),
            root=root,
            hint=f"name this one with --{split}-store",
        )
        for split in ("train", "test")
    }
    config = EvaluationConfig(**{**given, **stores}, cache=root / "runs" / "features")
    paths = checkpoints or [checkpoint_or_default(None, root)]
    measure = partial(getattr(frozen, what), **settings.to_dict())
    rows = frozen.evaluate(paths, config, measure, watch=watch)
    _print(f"{what} on {config.test_store}, %", {row.checkpoint: row.metrics for row in rows})
    path = out or root / "runs" / "results" / f"evaluate-{what}.json"
    frozen.write_evaluations(path, rows, what=what, **settings.to_dict(), **config.to_dict())
    say(path)


def _print(title: str, rows: dict[str, dict[str, float]]) -> None:
    """Print one table with a row for each checkpoint."""
    from rich.table import Table

    table = Table("checkpoint", *next(iter(rows.values())), title=plain(title))
    for checkpoint, metrics in rows.items():
        table.add_row(plain(checkpoint), *(f"{value:.4g}" for value in metrics.values()))
    output().print(table)


@evaluate_app.command()
def test(
    given: Annotated[
        Values,
        Options(ClassifierConfig, defaults={"store": _TEST_STORE, "out": "ROOT/runs/results/test"}),
    ],
    checkpoints: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="CHECKPOINT",
            help="Fine-tuned checkpoints (default: "
            "ROOT/runs/finetune-ucf101-1/checkpoints/last.pt).",
        ),
    ] = None,
    root: Root = Path("data"),
) -> None:
    """Test fine-tuned classifiers: mean log-probability over all clips of a video, top-1, top-5,
    confusion matrix.
    """
    with starting("loading PyTorch"):
        from train.evaluate.classifiers import evaluate_classifiers
    from train.evaluate.predictions import numbered

    default = root / "runs" / "finetune-ucf101-1" / "checkpoints" / "last.pt"
    paths = checkpoints or [existing(default, made_by="`fame finetune` makes classifiers")]
    config = ClassifierConfig(**_placed(given, root, folder="results/test"))
    with hold(config.out, what="report"):
        rows = evaluate_classifiers(paths, config, watch=watch)
    _print(f"test on {config.store}, %", {str(path): metrics for path, metrics in rows.items()})
    say(config.out / "report.json")
    for path in numbered(config.predictions, len(paths)) if config.predictions else []:
        say(path)


def activate(
    given: Annotated[
        Values,
        Options(ActivationConfig, defaults={"store": _TEST_STORE, "out": "ROOT/runs/activation"}),
    ],
    checkpoints: Checkpoints = None,
    root: Root = Path("data"),
) -> None:
    """Draw where encoders look, measure how much of it is foreground, and draw their temporal
    kernels.
    """
    config = ActivationConfig(**_placed(given, root, folder="activation"))
    with hold(config.out, what="report"), starting("loading PyTorch") as progress:
        from train.evaluate.activation import activate as draw

        progress.phase("encoding clips and drawing", on_terminal_only=True)
        found = draw(checkpoints or [checkpoint_or_default(None, root)], config)
    shares = {
        look.checkpoint: {
            "on the foreground": 100 * look.mean,
            "if it were uniform": 100 * config.beta,
        }
        for look in found
    }
    _print(f"share of the activation, {config.store}, %", shares)
    for name in (
        "activation.png",
        "activation.gif",
        "activation.mp4",
        "activation.json",
        "kernels.png",
    ):
        say(config.out / name)


def _placed(given: Values, root: Path, *, folder: str) -> dict[str, Any]:
    """Return the given values with the store and the folder of the results filled in."""
    store = existing_store(
        given.get("store", root / "stores" / "ucf101-test1.zarr"),
        root=root,
        hint="name this one with --store",
    )
    return {"out": root / "runs" / folder, **given, "store": store}
