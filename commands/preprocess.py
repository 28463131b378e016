"""``fame preprocess``: one command per dataset. Heavy imports live inside the commands."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from commands.options import Commands, Root, existing, expand

if TYPE_CHECKING:
    from preprocess.config import Dataset

app = typer.Typer(cls=Commands, help="Decode videos once into clip stores with foreground maps.")


@dataclass(frozen=True, kw_only=True)
class RecipeOptions:
    """What decides the bytes of a store."""

    frames: Annotated[int, typer.Option(min=2, help="Frames per clip.")] = 16
    stride: Annotated[
        int, typer.Option(min=1, help="Source frames from one frame of a clip to the next.")
    ] = 2
    clips: Annotated[int, typer.Option(min=1, help="Clips per video, evenly spaced.")] = 10
    height: Annotated[int, typer.Option(min=16, help="Height of stored frames, pixels.")] = 256
    width: Annotated[int, typer.Option(min=16, help="Width of stored frames, pixels.")] = 340
    geometry: Annotated[
        Literal["cover", "squash"],
        typer.Option(help="Keep the aspect and cut the overflow, or not."),
    ] = "cover"
    codec: Annotated[Literal["jpeg", "lz4", "zstd"], typer.Option(help="Small, or lossless.")] = (
        "jpeg"
    )
    quality: Annotated[int, typer.Option(min=1, max=100, help="JPEG quality.")] = 90
    foreground: Annotated[
        Literal["flow", "paper", "seed", "none"],
        typer.Option(help="Foreground maps kept beside the clips."),
    ] = "flow"


@dataclass(frozen=True, kw_only=True)
class StageOptions:
    """Where the offline stage reads and writes, and with what."""

    root: Root = Path("data")
    videos: Annotated[
        Path | None, typer.Option(help="Folder of the videos (default: ROOT/videos/DATASET).")
    ] = None
    store: Annotated[
        str | None,
        typer.Option(
            metavar="STORE",
            help="Store to make: a folder, or s3://bucket/path (default: "
            "ROOT/stores/DATASET-SPLIT.zarr).",
        ),
    ] = None
    executor: Annotated[
        Literal["ray", "serial"], typer.Option(help="In parallel, or one by one.")
    ] = "ray"
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Shards in flight, one core each (default: all cores)."),
    ] = None
    address: Annotated[str, typer.Option(help="Ray cluster: local, auto or its address.")] = "local"
    memory_per_worker: Annotated[
        float, typer.Option(min=0, help="GiB per worker; 0 is no limit.")
    ] = 0.0
    time_limit: Annotated[
        float, typer.Option(help="Seconds one video may take before it counts as failed.")
    ] = 300.0
    max_missing: Annotated[
        float, typer.Option(help="Share of listed videos that may be missing, 0..1.")
    ] = 0.2
    max_failed: Annotated[
        float, typer.Option(help="Share of videos that may fail to decode, 0..1.")
    ] = 0.05
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan, measured on a sample; write nothing.")
    ] = False


def _preprocess(
    dataset: "Dataset",
    recipe: RecipeOptions,
    stage: StageOptions,
    *,
    splits: list[str],
    name: str = "",
    **fields: Any,
) -> None:
    """Make one store per split; exit code 1 when one of them did not reach what was asked for."""
    from rich.console import Console

    from fame.clipstore import StoreSpec
    from preprocess.config import PreprocessConfig
    from preprocess.isolation import DecoderStartError
    from preprocess.report import show_progress
    from preprocess.run import preprocess

    if stage.store is not None and len(splits) > 1:
        raise ValueError(
            f"--store names one store, but there are {len(splits)} splits; choose one with --split"
        )
    videos = stage.videos or stage.root / "videos" / (name or dataset)
    existing(videos, made_by="put the videos there or name their folder with --videos")
    decided = dataclasses.asdict(recipe)
    spec = StoreSpec(
        clips_per_video=decided.pop("clips"),
        **decided,
        foreground_height=max(recipe.height // 4, min(recipe.height, 32)),
        foreground_width=max(recipe.width // 4, min(recipe.width, 32)),
    )
    console, problems = Console(stderr=True), False
    for split in splits:
        config = PreprocessConfig(
            dataset=dataset,
            split=split,
            videos=videos,
            store=stage.store
            or stage.root / "stores" / f"{name or dataset}-{split}{fields.get('fold', '')}.zarr",
            spec=spec,
            executor=stage.executor,
            workers=stage.workers,
            address=stage.address,
            memory_per_worker=round(stage.memory_per_worker * 2**30),
            time_limit=stage.time_limit,
            max_missing=stage.max_missing,
            max_failed=stage.max_failed,
            dry_run=stage.dry_run,
            **fields,
        )
        try:
            with show_progress(console) as progress:
                report = preprocess(config, progress=progress)
        except DecoderStartError as error:
            raise ValueError(str(error)) from error
        print(report)
        problems |= bool(report.problems)
    if problems:
        raise typer.Exit(1)


@app.command()
@expand
def k400(
    recipe: RecipeOptions,
    stage: StageOptions,
    split: Annotated[list[str], typer.Option(help="train, val or test; may be repeated.")] = [
        "train",
        "val",
    ],
    annotations: Annotated[
        Path | None, typer.Option(help="Folder of the official CSV files.")
    ] = None,
) -> None:
    """Kinetics-400: VIDEOS/SPLIT/CLASS/*, or the official CSV files."""
    _preprocess("k400", recipe, stage, splits=split, annotations=annotations)


_Split = Annotated[list[str], typer.Option(help="train or test; may be repeated.")]
_Fold = Annotated[int, typer.Option(min=1, max=3, help="Which of the three official splits.")]
_Annotations = Annotated[
    Path | None,
    typer.Option(help="Folder of the official split files (default: VIDEOS/annotations)."),
]


def _annotations(stage: StageOptions, dataset: str, given: Path | None) -> Path:
    default = (stage.videos or stage.root / "videos" / dataset) / "annotations"
    return existing(
        given or default,
        made_by="put the official split files there or name theirs with --annotations",
    )


@app.command()
@expand
def ucf101(
    recipe: RecipeOptions,
    stage: StageOptions,
    split: _Split = ["train", "test"],
    fold: _Fold = 1,
    annotations: _Annotations = None,
) -> None:
    """UCF101: VIDEOS/CLASS/*.avi with classInd.txt, trainlist0N.txt, testlist0N.txt."""
    found = _annotations(stage, "ucf101", annotations)
    _preprocess("ucf101", recipe, stage, splits=split, fold=fold, annotations=found)


@app.command()
@expand
def hmdb51(
    recipe: RecipeOptions,
    stage: StageOptions,
    split: _Split = ["train", "test"],
    fold: _Fold = 1,
    annotations: _Annotations = None,
) -> None:
    """HMDB51: VIDEOS/CLASS/*.avi with CLASS_test_splitN.txt."""
    found = _annotations(stage, "hmdb51", annotations)
    _preprocess("hmdb51", recipe, stage, splits=split, fold=fold, annotations=found)


@app.command()
@expand
def diving48(
    recipe: RecipeOptions,
    stage: StageOptions,
    split: _Split = ["train", "test"],
    annotations: _Annotations = None,
) -> None:
    """Diving48: VIDEOS/*.mp4 with the V2 annotation files."""
    found = _annotations(stage, "diving48", annotations)
    _preprocess("diving48", recipe, stage, splits=split, annotations=found)


@app.command()
@expand
def folder(
    recipe: RecipeOptions,
    stage: StageOptions,
    name: Annotated[
        str, typer.Option(help="What to call the dataset in default paths.")
    ] = "folder",
    split: Annotated[str, typer.Option(help="What to call the split.")] = "train",
    list_file: Annotated[
        Path | None,
        typer.Option("--list", help="Only these videos: one 'name' or 'name,class' a line."),
    ] = None,
    class_file: Annotated[
        Path | None,
        typer.Option(
            "--classes", help="Class names in order, one a line (default: the subfolders, sorted)."
        ),
    ] = None,
) -> None:
    """Any folder: VIDEOS/CLASS/* with labels, or VIDEOS/* without."""
    _preprocess(
        "folder",
        recipe,
        stage,
        splits=[split],
        name=name,
        list_file=list_file,
        class_file=class_file,
    )
