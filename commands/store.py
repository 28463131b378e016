"""``fame store``. Heavy imports live inside the commands."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from commands.app import App
from commands.output import say, table
from commands.stores import existing_store
from fame.settings import MOST_FRAMES, Setting, Settings
from fame.words import plain
from train.evaluate.config import Beta

if TYPE_CHECKING:
    from fame.clipstore import StoreInfo, StoreSpec

store_app = App("Look at a clip store and check it.")

_Store = Annotated[
    str,
    typer.Argument(
        metavar="STORE",
        help="A clip store: a folder, or s3://bucket/path (gs://, az://).",
        show_default=False,
    ),
]


def _existing(store: str) -> str:
    """Return the address of a store. Raise ``ValueError`` naming what is there instead."""
    return str(existing_store(store, root=Path(os.environ.get("FAME_ROOT", "data"))))


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
    """Show what a store holds: videos, frames, recipe, bytes, classes, failures."""
    from fame.clipstore import store_info

    found = store_info(_existing(store))
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
            **({"without motion": _still(found)} if found.num_maps else {}),
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
    """Return the foreground maps in words, with their share of the store."""
    if spec.foreground == "none":
        return "none"
    share = array_bytes["foreground"] / max(1, sum(array_bytes.values()))
    which = "every frame" if spec.foreground_every == 1 else f"1 of {spec.foreground_every} frames"
    size = f"{spec.foreground_height}x{spec.foreground_width}"
    return f"{spec.foreground} {size} of {which}, {share:.1%} of the bytes"


def _still(found: "StoreInfo") -> str:
    """Return in words how many videos and maps show no foreground."""
    if found.flat_maps is None:
        return "not counted when the store was made; fame store verify counts"
    maps = f"{found.flat_maps} of {found.num_maps} maps are flat"
    return f"{len(found.still)} videos; {maps}: such clips are kept whole, not merged"


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
    from fame import clipstore
    from fame.processes import pool

    with pool(workers or len(os.sched_getaffinity(0)), "fame.clipstore") as processes:
        report = clipstore.verify(_existing(store), run=processes.map)
    for key, problem in report.files.items():
        say(f"{store}/{key}: {plain(problem)}")
    for shard in report.shards:
        say(f"{store}: shard {shard.shard}: {plain('; '.join(shard.problems))}")
    if report.ok:
        say(
            f"{store}: every checksum holds and every chunk decodes; "
            f"{report.flat_maps} maps show no foreground"
        )
        return
    if repair:
        with clipstore.lock(store):
            clipstore.repair(store, report)
        say(
            f"{store}: dropped what is damaged; run the preprocess command that made "
            "the store again"
        )
    raise typer.Exit(1)


@dataclass(frozen=True, kw_only=True)
class PreviewConfig(Settings):
    """Which clips of a store are drawn, and where."""

    clips: Annotated[int, Setting("Clips to draw, of as many videos.", low=2)] = 6
    frames: Annotated[int, Setting("Frames of a clip.", low=1, high=MOST_FRAMES)] = 16
    beta: Beta = 0.5
    seed: Annotated[int, Setting("Decides which clips are drawn.", low=0)] = 0
    out: Annotated[Path, Setting("A .png sheet of three frames a clip, or a .gif of all.")] = Path(
        "preview.png"
    )

    def __post_init__(self) -> None:
        """Raise ``ValueError`` for a picture of another kind."""
        super().__post_init__()
        if self.out.suffix not in (".png", ".gif"):
            raise ValueError(f"--out must end in .png or .gif, got {self.out}")


@store_app.command()
def preview(store: _Store, config: PreviewConfig) -> None:
    """Draw frames with their foreground maps, the clip's map and mask, and the clip merged over the
    next one's background.
    """
    import numpy as np

    from fame.clipstore import ClipStore, Window
    from fame.preview import write_gif, write_png
    from fame.randomness import numpy_generator

    clips, out = config.clips, config.out
    opened = ClipStore.open(_existing(store))
    valid, window = np.flatnonzero(opened.valid_V), Window(frames=config.frames)
    if len(valid) < clips:
        raise ValueError(
            f"{store}: {len(valid)} of its videos can be shown; --clips asks for {clips}"
        )
    rng = numpy_generator(config.seed, 0, 0, "preview")
    chosen = [
        (video, int(rng.choice(opened.starts(video, window))), window)
        for video in rng.choice(valid, clips, replace=False).tolist()
    ]
    frames, maps = ([read(*clip) for clip in chosen] for read in (opened.clip, opened.maps))
    out.parent.mkdir(parents=True, exist_ok=True)
    others = np.roll(np.arange(clips), -1)
    draw = write_gif if out.suffix == ".gif" else write_png
    draw(out, np.stack(frames), np.stack(maps), beta=config.beta, sources_N=others)
    say(out)


@dataclass(frozen=True, kw_only=True)
class BrowseConfig(Settings):
    """What the page of a store shows."""

    clips: Annotated[int, Setting("Most clips to show, of as many videos.", low=1)] = 60
    beta: Beta = 0.5
    out: Annotated[Path, Setting("The page to write.")] = Path("browse.html")


@store_app.command()
def browse(store: _Store, config: BrowseConfig) -> None:
    """Write a page for a browser: clips in motion with map, mask and merged clip, and failures."""
    from fame.browse import browse as write

    shown = write(_existing(store), config.out, clips=config.clips, beta=config.beta)
    say(f"{config.out}: {shown} clips")
