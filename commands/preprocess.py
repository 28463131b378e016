"""``fame preprocess``: one command per dataset. Heavy imports live inside the commands."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from commands.app import App
from commands.options import Options, Values, option
from commands.output import say, starting
from commands.paths import Root, existing
from fame.store_spec import StoreSpec
from preprocess.config import Dataset, PreprocessConfig

if TYPE_CHECKING:
    from fame.progress import Progress

app = App("Decode videos once into clip stores with foreground maps.")

_DEFAULTS = {"videos": "ROOT/videos/DATASET", "store": "ROOT/stores/DATASET-SPLIT.zarr"}
_ANNOTATED = {**_DEFAULTS, "annotations": "VIDEOS/annotations"}
_LISTS = ("list_file", "list_numbers", "class_file")
_ONE_FOLD = ("fold", *_LISTS)
_Spec = Annotated[Values, Options(StoreSpec)]
_Tree = Annotated[Values, Options(PreprocessConfig, without=_ONE_FOLD, defaults=_DEFAULTS)]
_Annotated = Annotated[Values, Options(PreprocessConfig, without=_ONE_FOLD, defaults=_ANNOTATED)]
_Folds = Annotated[Values, Options(PreprocessConfig, without=_LISTS, defaults=_ANNOTATED)]


_TrainTest = Annotated[list[str], option("train or test; may be repeated.", metavar="SPLIT")]
_TrainVal = Annotated[list[str], option("train, val or test; may be repeated.", metavar="SPLIT")]
_DATA = Path("data")


@app.command()
def k400(
    spec: _Spec, given: _Tree, split: _TrainVal = ["train", "val"], root: Root = _DATA
) -> None:
    """Kinetics-400: VIDEOS/SPLIT/CLASS/*, or the official CSV files."""
    _preprocess("k400", spec, given, splits=split, root=root)


@app.command()
def k600(
    spec: _Spec, given: _Tree, split: _TrainVal = ["train", "val"], root: Root = _DATA
) -> None:
    """Kinetics-600: VIDEOS/SPLIT/CLASS/*, or the official CSV files."""
    _preprocess("k600", spec, given, splits=split, root=root)


@app.command()
def k700(
    spec: _Spec, given: _Tree, split: _TrainVal = ["train", "val"], root: Root = _DATA
) -> None:
    """Kinetics-700 and 700-2020: VIDEOS/SPLIT/CLASS/*, or the official CSV files."""
    _preprocess("k700", spec, given, splits=split, root=root)


@app.command()
def ssv2(
    spec: _Spec, given: _Annotated, split: _TrainVal = ["train", "val"], root: Root = _DATA
) -> None:
    """Something-Something v2: VIDEOS/**/ID.webm with labels.json, train.json, validation.json."""
    _preprocess("ssv2", spec, _annotated(given, "ssv2", root), splits=split, root=root)


@app.command()
def jester(
    spec: _Spec, given: _Annotated, split: _TrainVal = ["train", "val"], root: Root = _DATA
) -> None:
    """Jester: VIDEOS/**/ID/*.jpg (--frames-folders) with jester-v1-train.csv and the like."""
    _preprocess("jester", spec, _annotated(given, "jester", root), splits=split, root=root)


@app.command()
def ucf101(
    spec: _Spec, given: _Folds, split: _TrainTest = ["train", "test"], root: Root = _DATA
) -> None:
    """UCF101: VIDEOS/CLASS/*.avi with classInd.txt, trainlist0N.txt, testlist0N.txt."""
    given = {"fold": 1} | _annotated(given, "ucf101", root)
    _preprocess("ucf101", spec, given, splits=split, root=root)


@app.command()
def hmdb51(
    spec: _Spec, given: _Folds, split: _TrainTest = ["train", "test"], root: Root = _DATA
) -> None:
    """HMDB51: VIDEOS/CLASS/*.avi with CLASS_test_splitN.txt."""
    given = {"fold": 1} | _annotated(given, "hmdb51", root)
    _preprocess("hmdb51", spec, given, splits=split, root=root)


@app.command()
def diving48(
    spec: _Spec, given: _Annotated, split: _TrainTest = ["train", "test"], root: Root = _DATA
) -> None:
    """Diving48: VIDEOS/*.mp4 with the V2 annotation files."""
    _preprocess("diving48", spec, _annotated(given, "diving48", root), splits=split, root=root)


@app.command()
def folder(
    spec: _Spec,
    given: Annotated[
        Values, Options(PreprocessConfig, without=("fold", "annotations"), defaults=_DEFAULTS)
    ],
    name: Annotated[str, option("Name of the dataset in default paths.")] = "folder",
    split: Annotated[str, option("Name of the split.")] = "train",
    root: Root = _DATA,
) -> None:
    """Any folder: VIDEOS/CLASS/* with labels, or VIDEOS/* without."""
    _preprocess("folder", spec, given, splits=[split], root=root, name=name)


def _annotated(given: Values, dataset: str, root: Path) -> Values:
    """Return the given values with the folder of the official split files."""
    default = given.get("videos", root / "videos" / dataset) / "annotations"
    found = existing(
        given.get("annotations", default),
        made_by="put the official split files there or name theirs with --annotations",
    )
    return {**given, "annotations": found}


def _preprocess(
    dataset: Dataset,
    spec: Values,
    given: Values,
    *,
    splits: list[str],
    root: Path,
    name: str = "",
) -> None:
    """Make one store per split; exit with 1 if one of them is not as asked for."""
    if "store" in given and len(splits) > 1:
        raise ValueError(
            f"--store names one store, but there are {len(splits)} splits; choose one with --split"
        )
    videos = existing(
        given.get("videos", root / "videos" / (name or dataset)),
        made_by="put the videos there or name their folder with --videos",
    )
    recipe, stores = _with_maps(StoreSpec(**spec)), root / "stores"
    asked: list[PreprocessConfig] = []
    for split in splits:
        store = stores / f"{name or dataset}-{split}{given.get('fold', '')}.zarr"
        places: Values = {"store": store, **given, "videos": videos}
        asked.append(PreprocessConfig(dataset=dataset, split=split, spec=recipe, **places))
    with starting("listing the videos") as progress:
        problems = _make(asked, progress)
    if problems:
        raise typer.Exit(1)


def _make(asked: list[PreprocessConfig], progress: "Progress") -> bool:
    """Make the stores and print the report of each. Return whether one of them has problems."""
    from preprocess.isolation import DecoderStartError, SourceError
    from preprocess.plan import list_videos
    from preprocess.report import shown_on
    from preprocess.run import preprocess

    problems = False
    # All are listed before the first is made, which may take days.
    for config, listing in [(config, list_videos(config)) for config in asked]:
        try:
            report = preprocess(config, listing=listing, progress=shown_on(progress))
        except DecoderStartError as error:
            raise ValueError(str(error)) from error
        except SourceError as error:
            raise ValueError(
                f"{error}; nothing is recorded about it: see to the files and give the same "
                "command again"
            ) from error
        say(report)
        problems |= bool(report.problems)
    progress.say(progress.took())
    return problems


def _with_maps(spec: StoreSpec) -> StoreSpec:
    """Return the recipe with maps of a quarter of the frame's size, but at least 32 pixels."""
    height, width = (max(side // 4, min(side, 32)) for side in (spec.height, spec.width))
    return replace(spec, foreground_height=height, foreground_width=width)
