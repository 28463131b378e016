"""``fame report``. Heavy imports live inside the command."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from commands.options import option
from commands.output import say, starting
from commands.paths import Root, existing
from commands.stores import existing_store


def report(
    run: Annotated[
        Path | None,
        typer.Argument(
            metavar="RUN", help="Run folder (default: ROOT/runs/pretrain).", show_default=False
        ),
    ] = None,
    root: Root = Path("data"),
    store: Annotated[
        str | None,
        option("Store for the examples: nearest neighbours and activation maps.", metavar="STORE"),
    ] = None,
    results: Annotated[
        list[Path] | None,
        option(
            "JSON or PNG of `fame evaluate` or `fame bias` to show; may be repeated.",
            metavar="FILE",
        ),
    ] = None,
    out: Annotated[
        Path | None, option("Page to write (default: RUN/report.html).", metavar="FILE")
    ] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"],
        option("Where the examples are encoded.", panel="Speed and memory"),
    ] = "auto",
) -> None:
    """Write one page that shows a run: curves, merged clips, neighbours, tables, environment."""
    folder = existing(run or root / "runs" / "pretrain", made_by="`fame pretrain` makes runs")
    if store is not None:
        existing_store(store, root=root)
    path = out or folder / "report.html"
    with starting("loading PyTorch") as progress:
        from train.evaluate.page import write_page
        from train.run.peers import choose_device

        progress.phase("encoding examples and writing the page", on_terminal_only=True)
        write_page(folder, path, store=store, results=results or (), device=choose_device(device))
    say(path)
