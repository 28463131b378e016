"""``fame pretrain`` and ``fame finetune``. Heavy imports live inside the commands."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from commands.app import App
from commands.config_file import chosen
from commands.options import Options, Values, in_words, option
from commands.output import first_process, say, starting, watch
from commands.paths import Root, checkpoint_or_default
from commands.stores import existing_store, shares
from fame.settings import Settings
from preprocess.config import PreprocessConfig
from train.config import FinetuneConfig, LaunchConfig, PretrainConfig
from train.evaluate.config import ClassifierConfig
from train.recipes import RECIPES, recipe

if TYPE_CHECKING:
    from fame.weights import Weights
    from train.finetune import FinetuneResult
    from train.run.loop import RunResult

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


def _complete_field(ctx: typer.Context, incomplete: str) -> list[str]:
    kind = PretrainConfig if ctx.command.name == "pretrain" else FinetuneConfig
    return [f"{name}=" for name in kind.fields() if name.startswith(incomplete)]


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The options of every command that trains, beside the settings of the training."""

    root: Root = Path("data")
    config_file: Annotated[
        Path | None,
        option(
            "JSON or YAML file of fields, for instance the config.json of a run; options and "
            "--set come after it.",
            "--config",
            panel="Run",
            metavar="FILE",
        ),
    ] = None
    settings: Annotated[
        list[str] | None,
        option(
            "Set a field of the config; may be repeated.",
            "--set",
            panel="Run",
            metavar="FIELD=VALUE",
            autocompletion=_complete_field,
        ),
    ] = None
    show_config: Annotated[
        bool,
        option(
            "Print the config with all its fields as JSON, and train nothing.",
            "--show-config",
            panel="Run",
        ),
    ] = False
    resume: Annotated[
        str,
        option(
            "Continue where the run stopped, refuse to, or continue from a checkpoint.",
            panel="Run",
            metavar="auto|never|FILE",
        ),
    ] = "auto"

    def chosen(self, kind: type[Settings], given: Values) -> Values:
        """Return the fields that a person chose, of the file, the options and ``--set``."""
        return chosen(kind, given, settings=self.settings or [], file=self.config_file)

    def show(self, config: Settings) -> None:
        """Print the config and end the command, if that is what was asked for."""
        if self.show_config:
            print(json.dumps(config.to_dict(), indent=2))
            raise typer.Exit

    @property
    def source(self) -> Any:
        """Return what to resume from, as the training takes it."""
        return self.resume if self.resume in ("auto", "never") else Path(self.resume)

    def on_ray(self) -> Any:
        """Return the module that trains on Ray. Raise ``ValueError`` if it cannot be used."""
        if self.resume != "auto":
            raise ValueError(
                f"--launcher ray always resumes from the run folder; --resume {self.resume} is "
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
class PretrainOptions(RunOptions):
    """The options of ``fame pretrain`` that are no settings of the training."""

    recipe_name: Annotated[
        str,
        option(
            "Named config that the other options change; the recipes are listed below.",
            "--recipe",
            panel="Run",
            metavar="RECIPE",
            autocompletion=_complete_recipe,
        ),
    ] = _RECIPE
    name: Annotated[str, option("Name of the run.", panel="Run")] = "pretrain"
    run_dir: Annotated[
        Path | None, option("Run folder (default: ROOT/runs/NAME).", panel="Run", metavar="FOLDER")
    ] = None
    init: Annotated[
        str | None,
        option(
            "Weights to start from: of a run, of another project, or hf:FOLDER.",
            metavar="CHECKPOINT",
        ),
    ] = None
    knn_store: Annotated[
        str | None,
        option(
            "Labelled store on which features are tested every knn_every epochs.", metavar="STORE"
        ),
    ] = None


def pretrain(
    given: Annotated[Values, Options(PretrainConfig, defaults=_set_by_recipe())],
    launch: LaunchConfig,
    run: PretrainOptions,
    stores: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="STORE[=SHARE]",
            help="Clip stores (default: ROOT/stores/k400-train.zarr). With shares, such as "
            "A=0.7 B=0.3, an epoch mixes them so.",
        ),
    ] = None,
) -> None:
    """Pretrain an encoder by momentum contrast on clips whose foregrounds and backgrounds were
    merged.
    """
    fields, weights = run.chosen(PretrainConfig, given), _weights(run.init)
    if weights:
        from train.start import network_of

        fields |= network_of(weights, fields, instead="without --init")
    config = replace(recipe(run.recipe_name), **fields)
    run.show(config)
    given_paths, proportion = shares(stores or [])
    paths: list[Path | str] = [*given_paths] or [run.root / "stores" / "k400-train.zarr"]
    for path in paths:
        existing_store(path, root=run.root)
    if run.knn_store is not None:
        existing_store(run.knn_store, root=run.root)
    where: Values = {
        "stores": paths,
        "run_dir": run.run_dir or run.root / "runs" / run.name,
        "knn_store": run.knn_store,
        "proportion": proportion,
    }
    if launch.launcher == "ray":
        origin, ray = weights.path if weights else None, run.on_ray()
        result = ray.pretrain_on_ray(config, **where, launch=launch, init=origin)
    else:
        with starting("loading PyTorch and the stores") as progress:
            # Here, because it imports torch, which takes seconds.
            from train.pretrain import pretrain as train_here

            where |= {"resume": run.source, "init": weights, "progress": progress}
            result = train_here(config, **where)
    _end(result)


def _weights(path: Path | str | None) -> "Weights | None":
    """Read the weights to start from, if there are any."""
    if path is None:
        return None
    from fame.weights import read_weights

    return read_weights(Path(path))


def _end(result: "RunResult", *lines: object) -> None:
    """Print how a run ended, and leave with its exit code."""
    if first_process():
        say(f"{result.status} at step {result.step} of {result.total}: {result.checkpoint}")
        for line in lines:
            say(line)
    raise typer.Exit(result.exit_code)


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions(RunOptions):
    """The options of every ``fame finetune`` command that are no settings of the training."""

    pretrained: Annotated[
        str | None,
        option(
            "What to start from (default: ROOT/runs/pretrain/checkpoints/last.pt); none trains "
            "from scratch.",
            metavar="CHECKPOINT|none",
        ),
    ] = None
    train_store: Annotated[
        str | None,
        option(
            "Store of labelled training videos (default: ROOT/stores/DATASET-trainFOLD.zarr).",
            metavar="STORE",
        ),
    ] = None
    test_store: Annotated[
        str | None,
        option(
            "Store of labelled test videos (default: ROOT/stores/DATASET-testFOLD.zarr).",
            metavar="STORE",
        ),
    ] = None
    run_dir: Annotated[
        Path | None,
        option(
            "Run folder (default: ROOT/runs/finetune-DATASET-FOLD).", panel="Run", metavar="FOLDER"
        ),
    ] = None
    test: Annotated[Values, Options(ClassifierConfig, only=("crops",))]

    def weights(self) -> "Weights | None":
        """Read the weights to start from; ``None`` for training from scratch."""
        named = Path(self.pretrained) if self.pretrained else None
        scratch = self.pretrained == "none"
        return _weights(None if scratch else checkpoint_or_default(named, self.root))

    def stores(self, dataset: str, *, fold: int | str, test: str) -> Values:
        """Return the stores to train and to test on, by role."""
        asked = (("train", "train", self.train_store), ("test", test, self.test_store))
        return {
            f"{role}_store": existing_store(
                path or self.root / "stores" / f"{dataset}-{split}{fold}.zarr",
                root=self.root,
                hint=f"name this one with --{role}-store",
            )
            for role, split, path in asked
        }


def _finetune(
    given: Values,
    launch: LaunchConfig,
    run: FinetuneOptions,
    *,
    dataset: str,
    fold: int | str = "",
    test: str = "test",
) -> None:
    """Fine-tune on one dataset and print the metrics of the test."""
    from train.finetune import configured, finetune

    weights = run.weights()
    config = configured(weights, run.chosen(FinetuneConfig, given))
    run.show(config)
    name = f"finetune-{dataset}-{fold}" if fold else f"finetune-{dataset}"
    folder = run.run_dir or run.root / "runs" / name
    where: Values = {**run.stores(dataset, fold=fold, test=test), "run_dir": folder, **run.test}
    if launch.launcher == "ray":
        origin = weights.path if weights else None
        ray = run.on_ray()
        result = ray.finetune_on_ray(config, **where, pretrained=origin, launch=launch)
    else:
        with starting("loading the stores") as progress:
            where |= {"weights": weights, "resume": run.source, "watch": watch}
            result = finetune(config, **where, progress=progress)
    _end(result.run, *_lines(result, folder))


def _lines(result: "FinetuneResult", folder: Path) -> list[object]:
    """Return the lines to print about the test; none where the run was interrupted."""
    if not result.metrics:
        return []
    metrics = ", ".join(f"{name} {value:.2f} %" for name, value in result.metrics.items())
    files = (folder / "report.json", folder / "confusion.png")
    return [f"tested: {result.selection}", metrics, *files]


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
_Fold = Annotated[Values, Options(PreprocessConfig, only=("fold",))]


@finetune_app.command()
def ucf101(given: _Given, launch: LaunchConfig, run: FinetuneOptions, fold: _Fold) -> None:
    """UCF101, one of its three folds."""
    _finetune(given, launch, run, dataset="ucf101", fold=fold.get("fold", 1))


@finetune_app.command()
def hmdb51(given: _Given, launch: LaunchConfig, run: FinetuneOptions, fold: _Fold) -> None:
    """HMDB51, one of its three folds."""
    _finetune(given, launch, run, dataset="hmdb51", fold=fold.get("fold", 1))


@finetune_app.command()
def diving48(given: _Given, launch: LaunchConfig, run: FinetuneOptions) -> None:
    """Diving48 V2."""
    _finetune(given, launch, run, dataset="diving48")


@finetune_app.command()
def k400(given: _Given, launch: LaunchConfig, run: FinetuneOptions) -> None:
    """Kinetics-400, tested on its validation videos."""
    _finetune(given, launch, run, dataset="k400", test="val")


@finetune_app.command()
def folder(
    given: _Given,
    launch: LaunchConfig,
    run: FinetuneOptions,
    name: Annotated[str, option("Name of the dataset in default paths.")] = "folder",
) -> None:
    """Any labelled videos: the stores NAME-train and NAME-test."""
    _finetune(given, launch, run, dataset=name)
