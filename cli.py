"""The ``fame`` command line: parse, make a config, call. Heavy imports live inside the commands.

Every path has a default under one data root (``--root``, ``FAME_ROOT``, else ``./data``): videos in
``videos/<dataset>``, stores in ``stores/<dataset>-<split>.zarr``, runs in ``runs/<name>``.
"""

import json
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import commands.bias
import commands.evaluate
import commands.preprocess
import commands.report
import commands.training
from commands.options import (
    App,
    Commands,
    Options,
    Root,
    Values,
    checkpoint_or_default,
    say,
    table,
)
from fame.beside import command as beside
from fame.lock import hold
from fame.words import plain
from preprocess.config import WorldSpec

if TYPE_CHECKING:
    from fame.clipstore import StoreSpec

ORDER = (
    "demo",
    "preprocess",
    "store",
    "pretrain",
    "finetune",
    "evaluate",
    "activate",
    "bias",
    "report",
    "export",
)


class InOrder(Commands):
    """Lists its commands in the order in which they are used; Typer would list all groups after all
    commands.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        """The names, in order; ``ValueError`` for one that has no place in it."""
        return sorted(super().list_commands(ctx), key=ORDER.index)


app = App(
    "Pretrain video encoders that look at motion and not at the background (FAME, CVPR 2022).",
    cls=InOrder,
)
store_app = App("Look at a clip store and check it.")
app.add_typer(commands.preprocess.app, name="preprocess")
app.add_typer(store_app, name="store")
app.command(epilog=commands.training.recipe_lines())(commands.training.pretrain)
app.add_typer(commands.training.finetune_app, name="finetune")
app.add_typer(commands.evaluate.evaluate_app, name="evaluate")
app.command()(commands.evaluate.activate)
app.command()(commands.bias.bias)
app.command()(commands.report.report)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print("fame", version("fame-video"))
        raise typer.Exit


@app.callback()
def main(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Take the options that stand before the name of a command."""


_Store = Annotated[
    str,
    typer.Argument(
        metavar="STORE", help="A clip store: a folder, or s3://bucket/path.", show_default=False
    ),
]


@store_app.command()
def info(
    store: _Store,
    failures: Annotated[
        bool, typer.Option("--failures", help="List the failed videos too.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print everything as one JSON object.")
    ] = False,
) -> None:
    """What a store holds: videos, clips, recipe, bytes, classes, failures."""
    from fame.clipstore import store_info

    found = store_info(store)
    if as_json:
        print(json.dumps(found.to_dict(), indent=1))
        return
    spec, header = found.header.spec, found.header
    size = sum(found.array_bytes.values())
    state = (
        "finished"
        if found.finished
        else f"unfinished: {found.shards_done} of {found.num_shards} shards are there"
    )
    table(
        {
            "store": f"{store}, {state}",
            "dataset": f"{header.dataset} {header.split}, {header.software}",
            "videos": f"{found.num_videos}: "
            + ", ".join(f"{n} {status}" for status, n in found.statuses.items()),
            "frames": (
                f"{found.num_frames}, {spec.kept}, at most {spec.slots} of a video, "
                f"{spec.height}x{spec.width}"
            ),
            "codec": spec.codec + (f" quality {spec.quality}" if spec.codec == "jpeg" else ""),
            "foreground": _maps_of(spec, found.array_bytes),
            "size": (
                f"{size / 1e6:,.1f} MB, {size / max(1, found.num_frames) / 1e3:,.1f} kB a frame"
            ),
            "recipe": spec.digest,
            **{f"class {name}": f"{count} videos" for name, count in found.classes.items()},
        },
    )
    if failures:
        for name, reason in found.failures:
            say(f"{plain(name)}: {plain(reason)}")


def _maps_of(spec: "StoreSpec", array_bytes: dict[str, int]) -> str:
    """The foreground maps in words, with their share of the store."""
    if spec.foreground == "none":
        return "none"
    share = array_bytes["foreground"] / max(1, sum(array_bytes.values()))
    which = "every frame" if spec.foreground_every == 1 else f"1 of {spec.foreground_every} frames"
    size = f"{spec.foreground_height}x{spec.foreground_width}"
    return f"{spec.foreground} {size} of {which}, {share:.1%} of the bytes"


@store_app.command()
def verify(
    store: _Store,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Drop what is damaged: the preprocess command then makes just that again.",
        ),
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that check shards (default: all cores).")
    ] = None,
) -> None:
    """Check every checksum and decode every chunk; exit code 1 where something is damaged."""
    import os

    from fame import clipstore
    from fame.processes import pool

    with pool(workers or len(os.sched_getaffinity(0)), "fame.clipstore") as processes:
        report = clipstore.verify(store, run=processes.map)
    for key, problem in report.files.items():
        say(f"{store}/{key}: {plain(problem)}")
    for shard in report.shards:
        say(f"{store}: shard {shard.shard}: {plain('; '.join(shard.problems))}")
    if report.ok:
        print(
            f"{store}: every checksum holds and every chunk decodes; "
            f"{report.flat_maps} maps show no foreground"
        )
        return
    if repair:
        with clipstore.lock(store):
            clipstore.repair(store, report)
        print(
            f"{store}: dropped what is damaged; run the preprocess command that made "
            "the store again"
        )
    raise typer.Exit(1)


@store_app.command()
def preview(
    store: _Store,
    clips: Annotated[int, typer.Option(min=2, help="Clips to draw, of as many videos.")] = 6,
    beta: Annotated[float, typer.Option(help="Share of the frame that is foreground, 0..1.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Chooses the clips.")] = 0,
    out: Annotated[Path, typer.Option(help="A .png sheet, or a .gif that moves.")] = Path(
        "preview.png"
    ),
) -> None:
    """Draw frame, foreground map, mask and merged clip of some clips, each over the next one's
    background.
    """
    import numpy as np

    from fame.clipstore import ClipStore, Window
    from fame.preview import write_gif, write_png
    from fame.randomness import numpy_generator

    writers = {".png": write_png, ".gif": write_gif}
    if out.suffix not in writers:
        raise ValueError(f"--out must end in .png or .gif, got {out}")
    opened = ClipStore.open(store)
    valid, window = np.flatnonzero(opened.valid_V), Window()
    if len(valid) < clips:
        raise ValueError(
            f"{store}: {len(valid)} of its videos can be shown; --clips asks for {clips}"
        )
    rng = numpy_generator(seed, 0, 0, "preview")
    chosen = [
        (video, int(rng.choice(opened.starts(video, window))), window)
        for video in rng.choice(valid, clips, replace=False).tolist()
    ]
    frames, maps = ([read(*clip) for clip in chosen] for read in (opened.clip, opened.maps))
    out.parent.mkdir(parents=True, exist_ok=True)
    others = np.roll(np.arange(clips), -1)
    writers[out.suffix](out, np.stack(frames), np.stack(maps), beta=beta, sources_N=others)
    print(out)


@store_app.command()
def browse(
    store: _Store,
    clips: Annotated[int, typer.Option(min=1, help="Most clips to show, of as many videos.")] = 60,
    beta: Annotated[float, typer.Option(help="Share of the frame that is foreground, 0..1.")] = 0.5,
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("browse.html"),
) -> None:
    """Write a page for a browser: clips in motion with map, mask and merged clip, and failures."""
    from fame.browse import browse as write

    shown = write(store, out, clips=clips, beta=beta)
    print(f"{out}: {shown} clips")


@app.command()
def export(
    checkpoint: Annotated[
        Path | None,
        typer.Argument(help="A checkpoint (default: ROOT/runs/pretrain/checkpoints/last.pt)."),
    ] = None,
    root: Root = Path("data"),
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to (default: ROOT/runs/export).")
    ] = None,
    frames: Annotated[
        int, typer.Option(min=1, help="Frames per clip that the exported program takes.")
    ] = 16,
    crop: Annotated[int, typer.Option(min=8, help="Side of its clips, pixels.")] = 224,
) -> None:
    """Write an encoder's weights as safetensors, a JSON card, and a program that runs without this
    project.
    """
    from fame.export import export_encoder

    folder, source = out or root / "runs" / "export", checkpoint_or_default(checkpoint, root)
    with hold(folder, what="export"):
        paths = export_encoder(source, folder, frames=frames, crop=crop)
    for path in paths:
        say(path)


# The demonstration --------------------------------------------------------------------------------

_WORLD = WorldSpec(
    videos=192,
    rho=0.0,
    test_rho=0.0,
    smallest=0.45,  # large enough to be seen at 36x48
    largest=0.6,
    objects=12,
)


@app.command()
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
    epochs: Annotated[int, typer.Option(min=1, help="Passes of pretraining over the videos.")] = 60,
    dataset_only: Annotated[
        bool, typer.Option("--dataset-only", help="Stop when the videos are written.")
    ] = False,
) -> None:
    """Draw a small video set, then preprocess, pretrain and evaluate it; every command is shown."""
    from preprocess.world import write_world
    from train.evaluate.plots import plot_curves

    spec = replace(_WORLD, **given)
    print(f"Drawing {spec.videos} videos of 6 motions into {out / 'world'} ...", flush=True)
    write_world(spec, out / "world")
    if dataset_only:
        return
    commands = _demo_commands(out, epochs=epochs, seed=spec.seed)
    for number, arguments in enumerate(commands, 1):
        print(f"\n[{number}/{len(commands)}] $ fame {shlex.join(arguments)}", flush=True)
        done = subprocess.run([*beside("fame"), *arguments], check=False)  # noqa: S603 (ourselves)
        if done.returncode:
            raise typer.Exit(done.returncode)
    plot_curves(out / "run", out / "report" / "curves.png")
    print(f"\nOpen {out / 'report' / 'report.html'}: curves, merged clips, neighbours and tables.")
    print("Beside it lie curves.png, preview.png and the JSON files of each measure.")


def _demo_commands(out: Path, *, epochs: int, seed: int) -> list[list[str]]:
    """The pipeline as a person would type it, less the word ``fame``."""
    world, run, report = out / "world", out / "run", out / "report"
    train_store, test_store = (
        out / "stores" / f"world-{split}.zarr" for split in ("train", "test")
    )
    recipe = ["--keep", "3", "--height", "36", "--width", "48"]
    commands: list[list[object]] = []
    for split, store in (("train", train_store), ("test", test_store)):
        source = ["--videos", world / "videos", "--list", world / f"{split}.txt", "--split", split]
        commands.append(["preprocess", "folder", *source, "--store", store, *recipe])
    commands.append(
        ["store", "preview", train_store, "--beta", "0.25", "--out", report / "preview.png"]
    )
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
    shown = [report / f"{name}.json" for name in ("retrieval", "knn", "linear")]
    shown += [report / "bias" / "bias.json", report / "bias" / "bias.png"]
    results = [word for path in shown for word in ("--results", path)]
    page = ["--store", test_store, *results, "--out", report / "report.html"]
    commands.append(["report", run, *page])
    return [[str(word) for word in command] for command in commands]


if __name__ == "__main__":
    app()
