"""``fame pretrain`` and ``fame evaluate``. Heavy imports live inside the commands."""

import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cli_options import Commands, Root, checkpoint_or_default, existing, expand, watch

evaluate_app = typer.Typer(cls=Commands, help="Measure what a pretrained encoder knows.")


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What overrides the recipe; every other field of the config by ``--set``."""

    epochs: Annotated[int | None, typer.Option(help="Passes over the videos.")] = None
    batch: Annotated[int | None, typer.Option(help="Videos per step, over all processes.")] = None
    accumulate: Annotated[int | None, typer.Option(help="Parts of a step run one after the other.")] = None
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None
    seed: Annotated[int | None, typer.Option(help="Decides initial weights, order and every draw.")] = None
    encoder: Annotated[Literal["i3d", "r2plus1d_18"] | None, typer.Option(help="Network.")] = None
    width: Annotated[float | None, typer.Option(help="Multiplies the channels of I3D.")] = None
    crop: Annotated[int | None, typer.Option(help="Side of the training crop, pixels.")] = None
    beta: Annotated[float | None, typer.Option(help="Share of a crop that is foreground, 0..1.")] = None
    views: Annotated[Literal["single", "both"] | None, typer.Option(help="Views that are merged.")] = None
    background: Annotated[
        Literal["inter", "intra", "none"] | None,
        typer.Option(help="From another video, another clip of the video, or no merging."),
    ] = None
    mask: Annotated[
        Literal["stored", "online", "gauss", "grid", "seed"] | None,
        typer.Option(help="The store's map, the paper's score on the crop, or a variant of the paper's ablation."),
    ] = None
    precision: Annotated[Literal["fp32", "tf32", "bf16"] | None, typer.Option(help="Arithmetic of the network.")] = None
    compile: Annotated[bool | None, typer.Option(help="Compile the network.")] = None
    channels_last: Annotated[bool | None, typer.Option(help="Channels-last memory.")] = None
    checkpoint_activations: Annotated[bool | None, typer.Option(help="Recompute activations to save memory.")] = None
    workers: Annotated[int | None, typer.Option(min=0, help="Processes that decode clips.")] = None
    device: Annotated[Literal["auto", "cpu", "cuda"] | None, typer.Option(help="Where to train.")] = None
    on_corrupt: Annotated[
        Literal["stop", "skip"] | None, typer.Option(help="What a damaged chunk of a store does to the run.")
    ] = None

    def given(self) -> dict[str, Any]:
        """The options that were given."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}


@expand
def pretrain(
    options: TrainOptions,
    stores: Annotated[
        list[Path] | None, typer.Argument(help="Clip stores (default: ROOT/stores/k400-train.zarr).")
    ] = None,
    recipe: Annotated[str, typer.Option(help="Named config that the options start from.")] = "fame-k400",
    settings: Annotated[
        list[str], typer.Option("--set", metavar="FIELD=VALUE", help="Any other field of the config; may be repeated.")
    ] = [],
    root: Root = Path("data"),
    name: Annotated[str, typer.Option(help="Name of the run.")] = "pretrain",
    run: Annotated[Path | None, typer.Option(help="Run folder (default: ROOT/runs/NAME).")] = None,
    resume: Annotated[str, typer.Option(help="auto (go on where the run stopped), never, or a checkpoint.")] = "auto",
    knn_store: Annotated[
        Path | None, typer.Option(help="Labelled store to score features on every knn_every epochs.")
    ] = None,
    launcher: Annotated[
        Literal["here", "ray"],
        typer.Option(help="Train in this process (one of many under torchrun), or in processes that Ray starts."),
    ] = "here",
    num_workers: Annotated[int, typer.Option(min=1, help="Processes that Ray starts, one GPU each.")] = 1,
    cpus_per_worker: Annotated[int, typer.Option(min=1, help="Cores that Ray sets aside for each of them.")] = 1,
) -> None:
    """Pretrain an encoder by momentum contrast on clips whose foregrounds and backgrounds were merged."""
    from train.pretrain import pretrain as train_here
    from train.recipes import recipe as named

    paths = stores or [root / "stores" / "k400-train.zarr"]
    for path in paths:
        existing(path, made_by="`fame preprocess` makes clip stores (`fame preprocess k400` the default one)")
    config = dataclasses.replace(named(recipe), **options.given()).override(settings)
    where: dict[str, Any] = {"stores": paths, "run_dir": run or root / "runs" / name, "knn_store": knn_store}
    if launcher == "ray":
        if resume != "auto":
            raise ValueError(
                f"--launcher ray always resumes from the run folder; --resume {resume} is for training here"
            )
        from train.launch_ray import RayOptions, pretrain_on_ray

        processes = RayOptions(num_workers=num_workers, cpus_per_worker=cpus_per_worker)
        result = pretrain_on_ray(config, **where, options=processes)
    else:
        source = resume if resume in ("auto", "never") else Path(resume)
        result = train_here(config, **where, resume=source)  # pyright: ignore[reportArgumentType]
    print(f"{result.status} at step {result.step} of {result.total}: {result.checkpoint}")
    raise typer.Exit(result.exit_code)


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """What is evaluated on what."""

    checkpoints: Annotated[
        list[Path] | None,
        typer.Argument(help="Checkpoints to compare (default: ROOT/runs/pretrain/checkpoints/last.pt)."),
    ] = None
    root: Root = Path("data")
    train_store: Annotated[
        Path | None, typer.Option(help="Labelled training store (default: ROOT/stores/ucf101-train1.zarr).")
    ] = None
    test_store: Annotated[
        Path | None, typer.Option(help="Labelled test store (default: ROOT/stores/ucf101-test1.zarr).")
    ] = None
    crop: Annotated[int | None, typer.Option(help="Centre crop, pixels (default: what was trained on).")] = None
    batch: Annotated[int, typer.Option(help="Clips encoded at a time.")] = 16
    workers: Annotated[int, typer.Option(help="Processes that decode clips; 0 decodes in the main process.")] = 0
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to encode.")] = "auto"
    random_init: Annotated[
        bool, typer.Option("--random-init", help="Add the network before any training: the floor to beat.")
    ] = False
    out: Annotated[Path | None, typer.Option(help="JSON file (default: ROOT/runs/results/evaluate-WHAT.json).")] = None


def _evaluate(options: EvaluateOptions, what: str, measure: Any, **settings: Any) -> None:
    """Run one measure, print one table, write one JSON."""
    from rich.console import Console
    from rich.table import Table

    from train.evaluate import EvaluationConfig, evaluate, write_evaluations

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
    table = Table("checkpoint", *rows[0].figures, title=f"{what} on {config.test_store}, %")
    for row in rows:
        table.add_row(row.checkpoint, *(f"{value:.4g}" for value in row.figures.values()))
    Console().print(table)
    out = options.out or options.root / "runs" / "results" / f"evaluate-{what}.json"
    write_evaluations(out, rows, what=what, **settings, **dataclasses.asdict(config))
    print(out)


@evaluate_app.command()
@expand
def knn(
    options: EvaluateOptions,
    k: Annotated[int, typer.Option(min=1, help="Training videos that vote.")] = 20,
    temperature: Annotated[float, typer.Option(help="A vote weighs exp(cosine / temperature).")] = 0.07,
) -> None:
    """Nearest-neighbour accuracy of frozen features: the training videos most like a test video vote."""
    from train import evaluate

    _evaluate(options, "knn", partial(evaluate.knn, k=k, temperature=temperature), k=k, temperature=temperature)


@evaluate_app.command()
@expand
def retrieval(
    options: EvaluateOptions,
    centre: Annotated[
        bool, typer.Option("--centre", help="Subtract each store's mean feature first, as the reference does.")
    ] = False,
) -> None:
    """Recall at 1, 5, 10, 20 and 50: test videos query the training videos."""
    from train import evaluate

    _evaluate(options, "retrieval", partial(evaluate.retrieval, centre=centre), centre=centre)


@evaluate_app.command()
@expand
def linear(
    options: EvaluateOptions,
    weight_decay: Annotated[
        float | None, typer.Option(help="Of the classifier (default: chosen on held-out training videos).")
    ] = None,
    seed: Annotated[int, typer.Option(help="Draws the held-out videos.")] = 0,
) -> None:
    """Linear probe: logistic regression on frozen features, solved to convergence."""
    from train import evaluate

    measure = partial(evaluate.linear, weight_decay=weight_decay, seed=seed)
    _evaluate(options, "linear", measure, weight_decay=weight_decay, seed=seed)
