"""``fame pretrain`` and ``fame finetune``. Heavy imports live inside the commands."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from commands.options import (
    App,
    Options,
    Root,
    Values,
    checkpoint_or_default,
    chosen,
    first_process,
    in_words,
    say,
    starting,
    watch,
)
from commands.stores import existing_store, shares
from fame.settings import Settings
from train.config import FinetuneConfig, LaunchConfig, PretrainConfig
from train.recipes import RECIPES, recipe

if TYPE_CHECKING:
    from fame.weights import Weights
    from train.finetune import FinetuneResult

finetune_app = App(
    "Train a pretrained encoder and a classifier on labelled videos, then test them."
)
_RECIPE = "fame-k400"


def _set_by_recipe() -> dict[str, str]:
    """Return the default in words of each field of which recipes have different values."""
    recipes = [make().to_dict() for make in RECIPES.values()]
    default = recipe(_RECIPE)
    return {
        name: f"set by the recipe; {_RECIPE}: {in_words(getattr(default, name))}"
        for name in default.fields()
        if any(values[name] != recipes[0][name] for values in recipes)
    }


def recipe_lines() -> str:
    """Return one line for each recipe, for the end of the help."""
    summaries = {name: (make.__doc__ or "").splitlines()[0] for name, make in RECIPES.items()}
    return "\n".join(["\b", "Recipes:", *(f"  {n:16}  {line}" for n, line in summaries.items())])


def _complete_recipe(incomplete: str) -> list[str]:
    return [name for name in RECIPES if name.startswith(incomplete)]


def _set_option(kind: type[Settings]) -> Any:
    def complete(incomplete: str) -> list[str]:
        return [f"{name}=" for name in kind.fields() if name.startswith(incomplete)]

    return typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="Set a field of the config; may be repeated.",
        rich_help_panel="Run",
        autocompletion=complete,
    )


_Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="JSON or YAML file of fields, for instance the config.json of a run; options and "
        "--set come after it.",
        rich_help_panel="Run",
    ),
]
_ShowConfig = Annotated[
    bool,
    typer.Option(
        "--show-config",
        help="Print the config with all its fields as JSON, and train nothing.",
        rich_help_panel="Run",
    ),
]
_Resume = Annotated[
    str,
    typer.Option(
        metavar="auto|never|FILE",
        help="Continue where the run stopped, refuse to, or continue from a checkpoint.",
        rich_help_panel="Run",
    ),
]


def pretrain(
    given: Annotated[Values, Options(PretrainConfig, defaults=_set_by_recipe())],
    launch: LaunchConfig,
    stores: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[STORE[=SHARE]]...",
            help="Clip stores (default: ROOT/stores/k400-train.zarr). With shares, such as "
            "A=0.7 B=0.3, an epoch mixes them so.",
        ),
    ] = None,
    recipe_name: Annotated[
        str,
        typer.Option(
            "--recipe",
            metavar="RECIPE",
            help="Named config that the other options change; the recipes are listed below.",
            rich_help_panel="Run",
            autocompletion=_complete_recipe,
        ),
    ] = _RECIPE,
    config_file: _Config = None,
    settings: Annotated[list[str], _set_option(PretrainConfig)] = [],
    show_config: _ShowConfig = False,
    root: Root = Path("data"),
    name: Annotated[str, typer.Option(help="Name of the run.", rich_help_panel="Run")] = "pretrain",
    run_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Run folder (default: ROOT/runs/NAME).",
            rich_help_panel="Run",
        ),
    ] = None,
    resume: _Resume = "auto",
    init: Annotated[
        str | None,
        typer.Option(
            metavar="CHECKPOINT",
            help="Weights to start from: of a run, of another project, or hf:FOLDER.",
            rich_help_panel="Data",
        ),
    ] = None,
    knn_store: Annotated[
        str | None,
        typer.Option(
            metavar="STORE",
            help="Labelled store on which features are tested every knn_every epochs.",
            rich_help_panel="Data",
        ),
    ] = None,
) -> None:
    """Pretrain an encoder by momentum contrast on clips whose foregrounds and backgrounds were
    merged.
    """
    fields = chosen(PretrainConfig, given, settings=settings, file=config_file)
    weights = _weights(init)
    if weights:
        from train.start import network_of

        fields |= network_of(weights, fields, instead="without --init")
    config = replace(recipe(recipe_name), **fields)
    if show_config:
        return _show(config)
    given_paths, proportion = shares(stores or [])
    paths: list[Path | str] = [*given_paths] or [root / "stores" / "k400-train.zarr"]
    for path in paths:
        existing_store(path, root=root, hint="`fame preprocess k400` makes the default one")
    if knn_store is not None:
        existing_store(knn_store, root=root)
    where: Values = {
        "stores": paths,
        "run_dir": run_dir or root / "runs" / name,
        "knn_store": knn_store,
        "proportion": proportion,
    }
    if launch.launcher == "ray":
        origin = weights.path if weights else None
        ray = _ray_launcher(resume)
        result = ray.pretrain_on_ray(config, **where, launch=launch, init=origin)
    else:
        with starting("loading PyTorch and the stores") as progress:
            from train.pretrain import pretrain as train_here

            result = train_here(
                config, **where, resume=_source(resume), init=weights, progress=progress
            )
    if first_process():
        say(f"{result.status} at step {result.step} of {result.total}: {result.checkpoint}")
    raise typer.Exit(result.exit_code)


def _weights(path: str | None) -> "Weights | None":
    """Read weights to start from."""
    if path is None:
        return None
    from fame.weights import read_weights

    return read_weights(Path(path))


def _show(config: Settings) -> None:
    print(json.dumps(config.to_dict(), indent=2))


def _source(resume: str) -> Any:
    return resume if resume in ("auto", "never") else Path(resume)


def _ray_launcher(resume: str) -> Any:
    """Return the module that trains on Ray. Raise ``ValueError`` if it cannot be used."""
    if resume != "auto":
        raise ValueError(
            f"--launcher ray always resumes from the run folder; --resume {resume} is "
            "for training here"
        )
    try:
        from train import launch_ray
    except ImportError as error:
        raise ValueError(
            f"--launcher ray needs Ray Train: pip install 'ray[train]' ({error})"
        ) from error
    return launch_ray


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions:
    """The options of every ``fame finetune`` command that are no settings of the training."""

    root: Root = Path("data")
    pretrained: Annotated[
        str | None,
        typer.Option(
            metavar="CHECKPOINT|none",
            help="What to start from (default: "
            "ROOT/runs/pretrain/checkpoints/last.pt); none trains from scratch.",
            rich_help_panel="Data",
        ),
    ] = None
    train_store: Annotated[
        str | None,
        typer.Option(
            metavar="STORE",
            help="Store of labelled training videos (default: ROOT/stores/DATASET-trainFOLD.zarr).",
            rich_help_panel="Data",
        ),
    ] = None
    test_store: Annotated[
        str | None,
        typer.Option(
            metavar="STORE",
            help="Store of labelled test videos (default: ROOT/stores/DATASET-testFOLD.zarr).",
            rich_help_panel="Data",
        ),
    ] = None
    run_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Run folder (default: ROOT/runs/finetune-DATASET-FOLD).",
            rich_help_panel="Run",
        ),
    ] = None
    resume: _Resume = "auto"
    crops: Annotated[
        int,
        typer.Option(
            min=1,
            help="Squares of each test clip, along its longer side.",
            rich_help_panel="Run",
        ),
    ] = 1
    config_file: _Config = None
    settings: Annotated[list[str] | None, _set_option(FinetuneConfig)] = None
    show_config: _ShowConfig = False


def _finetune(
    given: Values,
    launch: LaunchConfig,
    options: FinetuneOptions,
    *,
    dataset: str,
    fold: int | str = "",
    test: str = "test",
) -> None:
    """Fine-tune on one dataset and print the metrics of the test."""
    from train.finetune import configured, finetune

    weights = None
    if options.pretrained != "none":
        named = Path(options.pretrained) if options.pretrained else None
        weights = _weights(str(checkpoint_or_default(named, options.root)))
    fields = chosen(
        FinetuneConfig, given, settings=options.settings or [], file=options.config_file
    )
    config = configured(weights, fields)
    if options.show_config:
        return _show(config)
    stores = {
        f"{role}_store": existing_store(
            path or options.root / "stores" / f"{dataset}-{split}{fold}.zarr",
            root=options.root,
            hint=f"name this one with --{role}-store",
        )
        for role, split, path in (
            ("train", "train", options.train_store),
            ("test", test, options.test_store),
        )
    }
    name = f"finetune-{dataset}-{fold}" if fold else f"finetune-{dataset}"
    folder = options.run_dir or options.root / "runs" / name
    where: Values = {**stores, "run_dir": folder, "crops": options.crops}
    if launch.launcher == "ray":
        origin = weights.path if weights else None
        ray = _ray_launcher(options.resume)
        result = ray.finetune_on_ray(config, **where, pretrained=origin, launch=launch)
    else:
        with starting("loading the stores") as progress:
            where |= {"weights": weights, "resume": _source(options.resume), "watch": watch}
            result = finetune(config, **where, progress=progress)
    if first_process():
        _print(result, folder)
    raise typer.Exit(result.run.exit_code)


def _print(result: "FinetuneResult", folder: Path) -> None:
    run = result.run
    say(f"{run.status} at step {run.step} of {run.total}: {run.checkpoint}")
    if result.figures:
        say(f"tested: {result.selection}")
        say(", ".join(f"{name} {value:.2f} %" for name, value in result.figures.items()))
        say(folder / "report.json")
        say(folder / "confusion.png")


_Given = Annotated[
    Values,
    Options(
        FinetuneConfig,
        defaults={
            "encoder": "that of the checkpoint",
            "width": "that of the checkpoint",
            "crop": "that of the checkpoint, else 224",
            "milestones": "60,120, moved in proportion to the epochs",
        },
    ),
]
_Fold = Annotated[
    int, typer.Option(min=1, max=3, help="Which of the three splits.", rich_help_panel="Data")
]


@finetune_app.command()
def ucf101(given: _Given, launch: LaunchConfig, options: FinetuneOptions, fold: _Fold = 1) -> None:
    """UCF101, one of its three folds."""
    _finetune(given, launch, options, dataset="ucf101", fold=fold)


@finetune_app.command()
def hmdb51(given: _Given, launch: LaunchConfig, options: FinetuneOptions, fold: _Fold = 1) -> None:
    """HMDB51, one of its three folds."""
    _finetune(given, launch, options, dataset="hmdb51", fold=fold)


@finetune_app.command()
def diving48(given: _Given, launch: LaunchConfig, options: FinetuneOptions) -> None:
    """Diving48 V2."""
    _finetune(given, launch, options, dataset="diving48")


@finetune_app.command()
def k400(given: _Given, launch: LaunchConfig, options: FinetuneOptions) -> None:
    """Kinetics-400, tested on its validation videos."""
    _finetune(given, launch, options, dataset="k400", test="val")


@finetune_app.command()
def folder(
    given: _Given,
    launch: LaunchConfig,
    options: FinetuneOptions,
    name: Annotated[
        str,
        typer.Option(help="Name of the dataset in default paths.", rich_help_panel="Data"),
    ] = "folder",
) -> None:
    """Any labelled videos: the stores NAME-train and NAME-test."""
    _finetune(given, launch, options, dataset=name)
