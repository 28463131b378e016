"""``fame evaluate`` and ``fame activate``. Heavy imports live inside the commands."""

import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from commands.options import Commands, Root, checkpoint_or_default, existing, expand, output, watch

evaluate_app = typer.Typer(cls=Commands, help="Measure what an encoder or a classifier knows.")


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """What is evaluated on what."""

    checkpoints: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Checkpoints to compare (default: ROOT/runs/pretrain/checkpoints/last.pt)."
        ),
    ] = None
    root: Root = Path("data")
    train_store: Annotated[
        str | None,
        typer.Option(
            metavar="STORE",
            help="Labelled training store (default: ROOT/stores/ucf101-train1.zarr).",
        ),
    ] = None
    test_store: Annotated[
        str | None,
        typer.Option(
            metavar="STORE", help="Labelled test store (default: ROOT/stores/ucf101-test1.zarr)."
        ),
    ] = None
    crop: Annotated[
        int | None, typer.Option(help="Centre crop, pixels (default: what was trained on).")
    ] = None
    batch: Annotated[int, typer.Option(help="Clips encoded at a time.")] = 16
    workers: Annotated[
        int, typer.Option(help="Processes that decode clips; 0 decodes in the main process.")
    ] = 0
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to encode.")] = (
        "auto"
    )
    random_init: Annotated[
        bool,
        typer.Option(
            "--random-init", help="Add the network before any training: the floor to beat."
        ),
    ] = False
    out: Annotated[
        Path | None, typer.Option(help="JSON file (default: ROOT/runs/results/evaluate-WHAT.json).")
    ] = None


def _evaluate(options: EvaluateOptions, what: str, measure: Any, **settings: Any) -> None:
    """Run one measure, print one table, write one JSON."""
    from train.evaluate.frozen import EvaluationConfig, evaluate, write_evaluations

    stores = {
        split: existing(
            given or options.root / "stores" / f"ucf101-{split}1.zarr",
            made_by=f"`fame preprocess` makes clip stores; name this one with --{split}-store",
        )
        for split, given in (("train", options.train_store), ("test", options.test_store))
    }
    config = EvaluationConfig(
        train_store=stores["train"],
        test_store=stores["test"],
        cache=options.root / "runs" / "features",
        crop=options.crop,
        batch=options.batch,
        workers=options.workers,
        device=options.device,
        random_init=options.random_init,
    )
    checkpoints = options.checkpoints or [checkpoint_or_default(None, options.root)]
    rows = evaluate(checkpoints, config, measure, watch=watch)
    _print(f"{what} on {config.test_store}, %", {row.checkpoint: row.figures for row in rows})
    out = options.out or options.root / "runs" / "results" / f"evaluate-{what}.json"
    write_evaluations(out, rows, what=what, **settings, **dataclasses.asdict(config))
    print(out)


def _print(title: str, rows: dict[str, dict[str, float]]) -> None:
    """One table: a row for each checkpoint."""
    from rich.table import Table

    table = Table("checkpoint", *next(iter(rows.values())), title=title)
    for checkpoint, figures in rows.items():
        table.add_row(checkpoint, *(f"{value:.4g}" for value in figures.values()))
    output().print(table)


@evaluate_app.command()
@expand
def knn(
    options: EvaluateOptions,
    k: Annotated[int, typer.Option(min=1, help="Training videos that vote.")] = 20,
    temperature: Annotated[
        float, typer.Option(help="A vote weighs exp(cosine / temperature).")
    ] = 0.07,
) -> None:
    """Nearest-neighbour accuracy of frozen features: the training videos most like a test video
    vote.
    """
    from train.evaluate import frozen as evaluate

    _evaluate(
        options,
        "knn",
        partial(evaluate.knn, k=k, temperature=temperature),
        k=k,
        temperature=temperature,
    )


@evaluate_app.command()
@expand
def retrieval(
    options: EvaluateOptions,
    centre: Annotated[
        bool,
        typer.Option(
            "--centre", help="Subtract each store's mean feature first, as the reference does."
        ),
    ] = False,
) -> None:
    """Recall at 1, 5, 10, 20 and 50: test videos query the training videos."""
    from train.evaluate import frozen as evaluate

    _evaluate(options, "retrieval", partial(evaluate.retrieval, centre=centre), centre=centre)


@evaluate_app.command()
@expand
def linear(
    options: EvaluateOptions,
    weight_decay: Annotated[
        float | None,
        typer.Option(help="Of the classifier (default: chosen on held-out training videos)."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Draws the held-out videos.")] = 0,
) -> None:
    """Linear probe: logistic regression on frozen features, solved to convergence."""
    from train.evaluate import frozen as evaluate

    measure = partial(evaluate.linear, weight_decay=weight_decay, seed=seed)
    _evaluate(options, "linear", measure, weight_decay=weight_decay, seed=seed)


_Crop = Annotated[
    int | None, typer.Option(help="Centre crop, pixels (default: what was trained on).")
]
_Batch = Annotated[int, typer.Option(min=1, help="Clips shown at a time.")]
_Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where the network runs.")]
_MAKES_STORES = "`fame preprocess` makes clip stores; name this one with --store"


@evaluate_app.command()
def test(
    checkpoints: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Fine-tuned checkpoints (default: "
            "ROOT/runs/finetune-ucf101-1/checkpoints/last.pt)."
        ),
    ] = None,
    root: Root = Path("data"),
    store: Annotated[
        str | None,
        typer.Option(
            metavar="STORE", help="Labelled store (default: ROOT/stores/ucf101-test1.zarr)."
        ),
    ] = None,
    crops: Annotated[
        int, typer.Option(min=1, help="Squares shown of each clip, along its longer side.")
    ] = 1,
    crop: _Crop = None,
    batch: _Batch = 16,
    workers: Annotated[
        int, typer.Option(min=0, help="Processes that decode clips; 0 is the main process.")
    ] = 0,
    device: _Device = "auto",
    out: Annotated[
        Path | None, typer.Option(help="Folder of the results (default: ROOT/runs/results/test).")
    ] = None,
) -> None:
    """Test fine-tuned classifiers: mean log-probability over all clips of a video, top-1, top-5,
    confusion matrix.
    """
    from train.evaluate.classifiers import evaluate_classifiers

    default = root / "runs" / "finetune-ucf101-1" / "checkpoints" / "last.pt"
    paths = checkpoints or [existing(default, made_by="`fame finetune` makes classifiers")]
    data = existing(store or root / "stores" / "ucf101-test1.zarr", made_by=_MAKES_STORES)
    folder = out or root / "runs" / "results" / "test"
    rows = evaluate_classifiers(
        paths,
        data,
        out=folder,
        crops=crops,
        crop=crop,
        batch=batch,
        workers=workers,
        device=device,
        watch=watch,
    )
    _print(f"test on {data}, %", {str(path): figures for path, figures in rows.items()})
    print(folder / "report.json")


def activate(
    checkpoints: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Checkpoints to compare (default: ROOT/runs/pretrain/checkpoints/last.pt)."
        ),
    ] = None,
    root: Root = Path("data"),
    store: Annotated[
        str | None,
        typer.Option(
            metavar="STORE", help="Store of the clips (default: ROOT/stores/ucf101-test1.zarr)."
        ),
    ] = None,
    clips: Annotated[
        int, typer.Option(min=1, help="Videos that are measured, one clip of each.")
    ] = 64,
    rows: Annotated[int, typer.Option(min=1, help="Of them, how many are drawn.")] = 4,
    beta: Annotated[float, typer.Option(help="Share of a clip that is foreground, 0..1.")] = 0.5,
    crop: _Crop = None,
    batch: _Batch = 8,
    device: _Device = "auto",
    out: Annotated[
        Path | None, typer.Option(help="Folder of the pictures (default: ROOT/runs/activation).")
    ] = None,
) -> None:
    """Draw where encoders look, measure how much of it is foreground, and draw their temporal
    kernels.
    """
    from train.evaluate.activation import ActivationConfig
    from train.evaluate.activation import activate as draw

    config = ActivationConfig(
        store=existing(store or root / "stores" / "ucf101-test1.zarr", made_by=_MAKES_STORES),
        out=out or root / "runs" / "activation",
        clips=clips,
        rows=rows,
        beta=beta,
        crop=crop,
        batch=batch,
        device=device,
    )
    found = draw(checkpoints or [checkpoint_or_default(None, root)], config)
    shares = {
        look.checkpoint: {"on the foreground": 100 * look.mean, "if it were uniform": 100 * beta}
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
        print(config.out / name)
