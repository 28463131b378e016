"""``fame demo``. Heavy imports live inside the command."""

import shlex
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from commands.options import Options, Values
from commands.output import say
from fame.beside import command as beside
from preprocess.config import WorldSpec

# 48 videos test. As many more to train on as the machine draws in seconds: with 144 of them the
# probe varied by 30 points from seed to seed (docs/log.md).
_WORLD = WorldSpec(
    videos=720,
    rho=0.0,
    test_rho=0.0,
    smallest=0.45,  # large enough to be seen at 36x48
    largest=0.6,
    objects=12,
)
_TESTED = 48  # videos, or a quarter of few
_FEWEST = 22  # videos: 16 of them train, one batch of the recipe, and 6 test


def demo(
    given: Annotated[
        Values,
        Options(
            WorldSpec,
            only=("videos", "rho", "camera_motion", "seed"),
            defaults={"videos": str(_WORLD.videos), "rho": str(_WORLD.rho)},
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for everything that the demo makes.")] = Path(
        "demo"
    ),
    epochs: Annotated[int, typer.Option(min=1, help="Passes of pretraining over the videos.")] = 40,
    dataset_only: Annotated[
        bool, typer.Option("--dataset-only", help="Stop when the videos are written.")
    ] = False,
) -> None:
    """Draw a small video set, then preprocess, pretrain and evaluate it; every command is shown."""
    from preprocess.world import write_world
    from train.evaluate.plots import plot_curves

    _check_folder(out)
    spec = replace(_WORLD, **given)
    if spec.videos < _FEWEST and not dataset_only:
        raise ValueError(
            f"{spec.videos} videos are too few to train on: give --videos {_FEWEST} or more, or "
            "--dataset-only"
        )
    spec = replace(spec, test_share=min(0.25, _TESTED / spec.videos))
    say(f"Drawing {spec.videos} videos of 6 motions into {out / 'world'} ...")
    write_world(spec, out / "world")
    if dataset_only:
        return
    commands = demo_commands(out, epochs=epochs, seed=spec.seed)
    for number, arguments in enumerate(commands, 1):
        say(f"\n[{number}/{len(commands)}] $ fame {shlex.join(arguments)}")
        done = subprocess.run([*beside("fame"), *arguments], check=False)  # noqa: S603 (ourselves)
        if done.returncode:
            raise typer.Exit(done.returncode)
    plot_curves(out / "run", out / "report" / "curves.png")
    say(f"\nOpen {out / 'report' / 'report.html'}: curves, merged clips, neighbours and tables.")
    print("Beside it lie curves.png, preview.png and the JSON files of each measure.")


def _check_folder(out: Path) -> None:
    """Raise ``ValueError`` where a file is in the place of ``out`` or of a folder above it."""
    lowest = next(place for place in (out / "world", out, *out.parents) if place.exists())
    if not lowest.is_dir():
        raise ValueError(f"{lowest} is a file, but --out needs a folder there; give another --out")


def demo_commands(out: Path, *, epochs: int, seed: int) -> list[list[str]]:
    """Return the pipeline as a person would type it, less the word ``fame``."""
    world, run, report = out / "world", out / "run", out / "report"
    train_store, test_store = (
        out / "stores" / f"world-{split}.zarr" for split in ("train", "test")
    )
    recipe = ["--keep", "3", "--height", "36", "--width", "48"]
    commands: list[list[object]] = []
    for split, store in (("train", train_store), ("test", test_store)):
        source = ["--videos", world / "videos", "--list", world / f"{split}.txt", "--split", split]
        commands.append(["preprocess", "folder", *source, "--store", store, *recipe])
    shown = ["--frames", 8, "--beta", "0.25", "--out", report / "preview.png"]
    commands.append(["store", "preview", train_store, *shown])
    settings = ["--recipe", "small-cpu", "--epochs", epochs, "--seed", seed]
    commands.append(["pretrain", train_store, "--run-dir", run, *settings])
    checkpoint, common = (
        run / "checkpoints" / "last.pt",
        ["--train-store", train_store, "--root", out, "--random-init"],
    )
    for what in ("retrieval", "knn", "linear"):
        result = ["--clips", 4, "--test-store", test_store, "--out", report / f"{what}.json"]
        commands.append(["evaluate", what, checkpoint, *common, *result])
    truth = ["--clips", 4, "--store", test_store, "--backgrounds", world / "videos.csv"]
    commands.append(["bias", checkpoint, *common, *truth, "--out", report / "bias"])
    results = [report / f"{name}.json" for name in ("retrieval", "knn", "linear")]
    results += [report / "bias" / "bias.json", report / "bias" / "bias.png"]
    named = [word for path in results for word in ("--results", path)]
    page = ["--store", test_store, *named, "--out", report / "report.html"]
    commands.append(["report", run, *page])
    return [[str(word) for word in command] for command in commands]
