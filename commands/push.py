"""``fame push``. Heavy imports live inside the command."""

from pathlib import Path
from typing import Annotated

import typer

from commands.output import say
from commands.paths import Root, existing
from fame.lock import hold


def push(
    name: Annotated[str, typer.Argument(metavar="ORG/NAME", help="Repository on the hub.")],
    run: Annotated[
        Path | None,
        typer.Argument(
            metavar="RUN", help="Run folder (default: ROOT/runs/pretrain).", show_default=False
        ),
    ] = None,
    root: Root = Path("data"),
    results: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="JSON of `fame evaluate` or `fame bias` for the model card; may be repeated.",
        ),
    ] = None,
    licence: Annotated[
        str | None,
        typer.Option(
            "--license", metavar="NAME", help="Licence of the weights, for instance cc-by-4.0."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Where the files are written first (default: ROOT/runs/push/ORG/NAME).",
        ),
    ] = None,
    private: Annotated[bool, typer.Option(help="Make a new repository private.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write the files, push none.")] = False,
) -> None:
    """Put a run's encoder on a model hub, with a card of its data, recipe, metrics and bias."""
    from fame import hub
    from fame.export import export_encoder
    from train.modelcard import write_card

    hub.check_name(name)
    source = existing(run or root / "runs" / "pretrain", made_by="`fame pretrain` makes runs")
    folder = out or root / "runs" / "push" / name
    with hold(folder, what="folder to push", beside=True):
        paths = export_encoder(source, folder, formats=["safetensors"])
        card = write_card(source, folder, name=name, results=results or (), licence=licence)
        for path in (*paths, card):
            say(path)
        if not dry_run:
            say(hub.push([*paths, card], name, private=private))
