"""``fame pretrain`` and ``fame finetune``. Heavy imports live inside the commands."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from commands.options import Commands, Root, checkpoint_or_default, existing, expand, watch

finetune_app = typer.Typer(
    cls=Commands, help="Train a pretrained encoder and a classifier on labelled videos, then test."
)


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What overrides any recipe; every other field of the config by ``--set``."""

    epochs: Annotated[int | None, typer.Option(help="Passes over the videos.")] = None
    batch: Annotated[int | None, typer.Option(help="Videos per step, over all processes.")] = None
    accumulate: Annotated[
        int | None, typer.Option(help="Parts of a step run one after the other.")
    ] = None
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None
    seed: Annotated[
        int | None, typer.Option(help="Decides initial weights, order and every draw.")
    ] = None
    encoder: Annotated[
        Literal["i3d", "r2plus1d_18", "c3d_small"] | None, typer.Option(help="Network.")
    ] = None
    width: Annotated[float | None, typer.Option(help="Multiplies the channels of I3D.")] = None
    crop: Annotated[int | None, typer.Option(help="Side of the training crop, pixels.")] = None
    precision: Annotated[
        Literal["fp32", "tf32", "bf16"] | None, typer.Option(help="Arithmetic of the network.")
    ] = None
    compile: Annotated[bool | None, typer.Option(help="Compile the network.")] = None
    channels_last: Annotated[bool | None, typer.Option(help="Channels-last memory.")] = None
    checkpoint_activations: Annotated[
        bool | None, typer.Option(help="Recompute activations to save memory.")
    ] = None
    workers: Annotated[int | None, typer.Option(min=0, help="Processes that decode clips.")] = None
    device: Annotated[
        Literal["auto", "cpu", "cuda"] | None, typer.Option(help="Where to train.")
    ] = None
    on_corrupt: Annotated[
        Literal["stop", "skip"] | None,
        typer.Option(help="What a damaged chunk of a store does to the run."),
    ] = None

    def given(self) -> dict[str, Any]:
        """The options that were given."""
        return {
            name: value for name, value in dataclasses.asdict(self).items() if value is not None
        }


@dataclass(frozen=True, kw_only=True)
class PretrainOptions(TrainOptions):
    """What overrides the recipe of pretraining."""

    beta: Annotated[
        float | None, typer.Option(help="Share of a crop that is foreground, 0..1.")
    ] = None
    views: Annotated[
        Literal["single", "both"] | None, typer.Option(help="Views that are merged.")
    ] = None
    background: Annotated[
        Literal["inter", "intra", "none"] | None,
        typer.Option(help="From another video, another clip of the video, or no merging."),
    ] = None
    mask: Annotated[
        Literal["stored", "online", "median", "gauss", "grid", "seed"] | None,
        typer.Option(
            help="The store's map, the paper's score on the crop, a map per frame (median), or a "
            "variant of the paper's ablation."
        ),
    ] = None


_Settings = Annotated[
    list[str],
    typer.Option(
        "--set", metavar="FIELD=VALUE", help="Any other field of the config; may be repeated."
    ),
]
_Launcher = Annotated[
    Literal["here", "ray"],
    typer.Option(
        help="Train in this process (one of many under torchrun), or in processes that Ray starts."
    ),
]
_NumWorkers = Annotated[int, typer.Option(min=1, help="Processes that Ray starts, one GPU each.")]
_CpusPerWorker = Annotated[
    int, typer.Option(min=1, help="Cores that Ray sets aside for each of them.")
]
_Resume = Annotated[
    str, typer.Option(help="auto (go on where the run stopped), never, or a checkpoint.")
]


@expand
def pretrain(
    options: PretrainOptions,
    stores: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[STORES]...", help="Clip stores (default: ROOT/stores/k400-train.zarr)."
        ),
    ] = None,
    recipe: Annotated[
        str, typer.Option(help="Named config that the options start from.")
    ] = "fame-k400",
    settings: _Settings = [],
    root: Root = Path("data"),
    name: Annotated[str, typer.Option(help="Name of the run.")] = "pretrain",
    run: Annotated[Path | None, typer.Option(help="Run folder (default: ROOT/runs/NAME).")] = None,
    resume: _Resume = "auto",
    knn_store: Annotated[
        str | None,
        typer.Option(
            metavar="STORE", help="Labelled store to score features on every knn_every epochs."
        ),
    ] = None,
    launcher: _Launcher = "here",
    num_workers: _NumWorkers = 1,
    cpus_per_worker: _CpusPerWorker = 1,
) -> None:
    """Pretrain an encoder by momentum contrast on clips whose foregrounds and backgrounds were
    merged.
    """
    from train.pretrain import pretrain as train_here
    from train.recipes import recipe as named

    paths: list[Path | str] = [*(stores or ())] or [root / "stores" / "k400-train.zarr"]
    for path in paths:
        existing(
            path,
            made_by="`fame preprocess` makes clip stores (`fame preprocess k400` the default one)",
        )
    config = dataclasses.replace(named(recipe), **options.given()).override(settings)
    where: dict[str, Any] = {
        "stores": paths,
        "run_dir": run or root / "runs" / name,
        "knn_store": knn_store,
    }
    if launcher == "ray":
        launch = _ray_launcher(resume)
        processes = launch.RayOptions(num_workers=num_workers, cpus_per_worker=cpus_per_worker)
        result = launch.pretrain_on_ray(config, **where, options=processes)
    else:
        source = resume if resume in ("auto", "never") else Path(resume)
        result = train_here(config, **where, resume=source)  # pyright: ignore[reportArgumentType]
    print(f"{result.status} at step {result.step} of {result.total}: {result.checkpoint}")
    raise typer.Exit(result.exit_code)


def _ray_launcher(resume: str) -> Any:
    """The module that trains on Ray; one clear line where it cannot."""
    if resume != "auto":
        raise ValueError(
            f"--launcher ray always resumes from the run folder; --resume {resume} is "
            "for training here"
        )
    try:
        from train import launch_ray
    except ImportError as error:
        raise ValueError(
            f"--launcher ray needs Ray Train: pip install 'fame-video[cluster]' ({error})"
        ) from error
    return launch_ray


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions(TrainOptions):
    """What overrides the recipe of fine-tuning."""

    dropout: Annotated[
        float | None, typer.Option(help="Share of features dropped before the classifier.")
    ] = None
    select: Annotated[
        Literal["last", "validation", "test"] | None,
        typer.Option(
            help="Weights that are tested: the last, the best on held-out training videos, "
            "or the best on the test videos themselves (the reference's way; the report says so)."
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class FinetunePlaces:
    """Where fine-tuning reads and writes."""

    root: Root = Path("data")
    pretrained: Annotated[
        str | None,
        typer.Option(
            metavar="CHECKPOINT|none",
            help="What to start from (default: "
            "ROOT/runs/pretrain/checkpoints/last.pt); none trains from scratch.",
        ),
    ] = None
    train_store: Annotated[
        str | None,
        typer.Option(
            metavar="STORE",
            help="Labelled training store (default: ROOT/stores/DATASET-trainFOLD.zarr).",
        ),
    ] = None
    test_store: Annotated[
        str | None,
        typer.Option(
            metavar="STORE",
            help="Labelled test store (default: ROOT/stores/DATASET-testFOLD.zarr).",
        ),
    ] = None
    run: Annotated[
        Path | None, typer.Option(help="Run folder (default: ROOT/runs/finetune-DATASET-FOLD).")
    ] = None
    resume: _Resume = "auto"
    crops: Annotated[
        int, typer.Option(min=1, help="Squares shown of each test clip, along its longer side.")
    ] = 1
    launcher: _Launcher = "here"
    num_workers: _NumWorkers = 1
    cpus_per_worker: _CpusPerWorker = 1


def _finetune(
    options: FinetuneOptions,
    places: FinetunePlaces,
    settings: list[str],
    *,
    dataset: str,
    fold: int | str = "",
    test: str = "test",
) -> None:
    """Fine-tune on one dataset, print the figures of the test."""
    from fame.weights import read_weights
    from train.finetune import configured, finetune

    stores = {
        split: existing(
            given or places.root / "stores" / f"{dataset}-{split}{fold}.zarr",
            made_by=f"`fame preprocess` makes clip stores; name this one with --{role}-store",
        )
        for role, split, given in (
            ("train", "train", places.train_store),
            ("test", test, places.test_store),
        )
    }
    weights = None
    if places.pretrained != "none":
        path = checkpoint_or_default(
            Path(places.pretrained) if places.pretrained else None, places.root
        )
        weights = read_weights(path)
    name = f"finetune-{dataset}-{fold}" if fold else f"finetune-{dataset}"
    folder = places.run or places.root / "runs" / name
    config = configured(weights, options.given(), settings)
    where: dict[str, Any] = {
        "train_store": stores["train"],
        "test_store": stores[test],
        "run_dir": folder,
        "crops": places.crops,
    }
    if places.launcher == "ray":
        launch = _ray_launcher(places.resume)
        processes = launch.RayOptions(
            num_workers=places.num_workers, cpus_per_worker=places.cpus_per_worker
        )
        origin = weights.path if weights else None
        result = launch.finetune_on_ray(config, **where, pretrained=origin, options=processes)
    else:
        source = places.resume if places.resume in ("auto", "never") else Path(places.resume)
        result = finetune(config, **where, weights=weights, resume=source, watch=watch)  # pyright: ignore[reportArgumentType]
    print(
        f"{result.run.status} at step {result.run.step} of {result.run.total}: "
        f"{result.run.checkpoint}"
    )
    if result.figures:
        print("tested:", result.selection)
        print(", ".join(f"{name} {value:.2f} %" for name, value in result.figures.items()))
        print(folder / "report.json")
        print(folder / "confusion.png")
    raise typer.Exit(result.run.exit_code)


_Fold = Annotated[int, typer.Option(min=1, max=3, help="Which of the three official splits.")]


@finetune_app.command()
@expand
def ucf101(
    options: FinetuneOptions, places: FinetunePlaces, settings: _Settings = [], fold: _Fold = 1
) -> None:
    """UCF101, one of its three folds."""
    _finetune(options, places, settings, dataset="ucf101", fold=fold)


@finetune_app.command()
@expand
def hmdb51(
    options: FinetuneOptions, places: FinetunePlaces, settings: _Settings = [], fold: _Fold = 1
) -> None:
    """HMDB51, one of its three folds."""
    _finetune(options, places, settings, dataset="hmdb51", fold=fold)


@finetune_app.command()
@expand
def diving48(options: FinetuneOptions, places: FinetunePlaces, settings: _Settings = []) -> None:
    """Diving48 V2."""
    _finetune(options, places, settings, dataset="diving48")


@finetune_app.command()
@expand
def k400(options: FinetuneOptions, places: FinetunePlaces, settings: _Settings = []) -> None:
    """Kinetics-400, tested on its validation videos."""
    _finetune(options, places, settings, dataset="k400", test="val")


@finetune_app.command()
@expand
def folder(
    options: FinetuneOptions,
    places: FinetunePlaces,
    settings: _Settings = [],
    name: Annotated[
        str, typer.Option(help="What the dataset is called in default paths.")
    ] = "folder",
) -> None:
    """Any labelled videos: the stores NAME-train and NAME-test."""
    _finetune(options, places, settings, dataset=name)
