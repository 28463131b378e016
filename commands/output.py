"""The output of commands: lines, tables and a progress bar."""

import os
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fame.words import plain

if TYPE_CHECKING:
    from rich.console import Console

    from fame.progress import Progress


def output() -> "Console":
    """Return the console for tables: as wide as the terminal, or wide enough for a file to hold
    unbroken lines. Brackets are no markup in it.
    """
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 200, markup=False, emoji=False)


def first_process() -> bool:
    """Return whether this is the process that prints, of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def say(text: object) -> None:
    """Print lines that hold words of strangers, before what a process begun next prints."""
    print("\n".join(plain(line) for line in str(text).split("\n")), flush=True)


def table(rows: dict[str, str]) -> None:
    """Print named values in two columns."""
    from rich.table import Table

    grid = Table(show_header=False, box=None)
    for name, value in rows.items():
        grid.add_row(plain(name), plain(value))
    output().print(grid)


@contextmanager
def starting(phase: str) -> Generator["Progress"]:
    """Show the progress of a command from its first phase on.

    Elsewhere than on a terminal the first phase is no line: an error stays the only one.
    """
    from fame.progress import Progress

    with Progress(show=first_process()) as progress:
        progress.phase(phase, on_terminal_only=True)
        yield progress


@contextmanager
def watch(what: str, clips: int) -> Generator[Callable[[int], None]]:
    """Show how many clips are encoded; the context takes how many more were."""
    with starting("encoding") as progress:
        progress.say(f"encoding {clips} clips: {what}")
        progress.phase("encoding", total=clips)
        done = 0

        def on_clips(count: int) -> None:
            nonlocal done
            done += count
            progress.at(done, what)

        yield on_clips
