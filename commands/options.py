"""What every command shares: groups whose errors are one line, options in dataclasses, paths below
one root, tables.

Light to import: ``fame --help`` goes through here.
"""

import dataclasses
import inspect
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

if TYPE_CHECKING:
    from rich.console import Console

Root = Annotated[
    Path,
    typer.Option(envvar="FAME_ROOT", help="Data root: videos/, stores/ and runs/ live below it."),
]


class Commands(TyperGroup):
    """A group whose user errors are one line and exit code 2; a traceback only with ``--debug``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args or ["--help"])

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (ValueError, OSError) as error:
            if ctx.find_root().params["debug"]:
                raise
            raise TyperException(str(error) or type(error).__name__) from error

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            code = super().main(*args, **{**kwargs, "standalone_mode": False})
        except TyperException as error:
            print("fame:", " ".join(error.format_message().split()), file=sys.stderr)
            code = 2
        sys.exit(code or 0)


def expand(command: Callable[..., Any]) -> Callable[..., Any]:
    """Let a command take dataclasses of options: each of their fields becomes an option of its
    own.
    """
    signature = inspect.signature(command)
    groups: dict[str, type[Any]] = {
        name: parameter.annotation
        for name, parameter in signature.parameters.items()
        if hasattr(parameter.annotation, "__dataclass_fields__")
    }

    def run(**options: Any) -> Any:
        for name, group in groups.items():
            options[name] = group(
                **{field.name: options.pop(field.name) for field in dataclasses.fields(group)}
            )
        return command(**options)

    parameters: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        if name not in groups:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
        else:
            parameters.extend(inspect.signature(groups[name]).parameters.values())
    run.__signature__ = signature.replace(parameters=parameters)  # pyright: ignore[reportFunctionMemberAccess]
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return run


AnyPath = TypeVar("AnyPath", Path, Path | str)


def existing(path: AnyPath, *, made_by: str) -> AnyPath:
    """``path`` itself; ``ValueError`` that says where was looked and what makes it when it is not
    there.

    Of a store at ``s3://`` nothing is asked here: opening it tells.
    """
    if not str(path).startswith("s3://") and not Path(path).exists():
        raise ValueError(f"{path} is not there; {made_by}")
    return path


def checkpoint_or_default(given: Path | None, root: Path) -> Path:
    """The checkpoint that was named, else the last one of the default run."""
    path = given or root / "runs" / "pretrain" / "checkpoints" / "last.pt"
    return existing(path, made_by="`fame pretrain` makes checkpoints")


def output() -> "Console":
    """Where tables go: as wide as the terminal, or wide enough for a file to hold unbroken
    lines.
    """
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 200)


def table(rows: dict[str, str]) -> None:
    """Print named values in two columns."""
    from rich.table import Table

    grid = Table(show_header=False, box=None)
    for name, value in rows.items():
        grid.add_row(name, value)
    output().print(grid)


@contextmanager
def watch(what: str, clips: int) -> Generator[Callable[[int], None]]:
    """A bar of encoded clips on a terminal, a line at the start elsewhere."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if not console.is_terminal:
        console.print(f"encoding {clips} clips: {what}", highlight=False, soft_wrap=True)
        yield lambda count: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        row = bar.add_task(what, total=clips)
        yield lambda count: bar.advance(row, count)
