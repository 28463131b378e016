"""The ``fame`` command line: parse, make a config, call. Heavy imports live inside the commands.

Every path has a default under one data root (``--root``, ``FAME_ROOT``, else ``./data``): videos in
``videos/<dataset>``, stores in ``stores/<dataset>-<split>.zarr``, runs in ``runs/<name>``.
"""

from typing import Annotated, Any

import typer

from commands.app import App, Commands
from commands.bias import bias
from commands.demo import demo
from commands.evaluate import activate, evaluate_app
from commands.export import export
from commands.preprocess import app as preprocess_app
from commands.push import push
from commands.report import report
from commands.store import store_app
from commands.training import finetune_app, pretrain, recipe_lines

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
    "push",
)


class InOrder(Commands):
    """Lists its commands in the order in which they are used; Typer would list all groups after all
    commands.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names in that order. Raise ``ValueError`` for one that has no place in it."""
        return sorted(super().list_commands(ctx), key=ORDER.index)


app = App(
    "Pretrain video encoders that look at motion and not at the background (FAME, CVPR 2022).",
    cls=InOrder,
)
app.command()(demo)
app.add_typer(preprocess_app, name="preprocess")
app.add_typer(store_app, name="store")
app.command(epilog=recipe_lines())(pretrain)
app.add_typer(finetune_app, name="finetune")
app.add_typer(evaluate_app, name="evaluate")
app.command()(activate)
app.command()(bias)
app.command()(report)
app.command()(export)
app.command()(push)


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


if __name__ == "__main__":
    app()
