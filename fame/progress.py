"""Progress of long work, the same for every stage: a bar on a terminal, plain lines elsewhere.

The work is a row of phases, so that something is shown from the first second, and the time of each
phase can be printed at the end:

    with Progress() as progress:
        progress.phase("loading the store")  # shown at once, with the time that passes
        progress.phase("training", total=100)
        progress.at(36, "loss 4.2")  # elsewhere: training 36/100, loss 4.2, 5 s gone, 9 s left
        progress.say(progress.took())  # took 14 s: training 12 s, loading the store 2 s

It writes to the standard error output, so that pipes stay clean.
"""

import math
import time
from collections import defaultdict
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar

from fame.words import plain

PLAIN_SECONDS = 10.0  # between two lines where there is no terminal
_WORTH_NAMING = 1.0  # seconds of a phase


class Progress:
    """What is done, what is left and how long it took. Use as a context.

    Args:
        show: whether anything is written; of several processes one should.
        console: where to write, instead of the standard error output.
    """

    def __init__(self, *, show: bool = True, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._show, self._terminal = show, show and self._console.is_terminal
        self._bar = Bar(*_columns(), console=self._console)
        self._row = self._bar.add_task("", total=None, notes="")
        self._spent: defaultdict[str, float] = defaultdict(float)
        self._phase, self._total, self._first = "", 0, 0
        self._begun = self._since = self._phase_since = self._plain_at = time.monotonic()

    def __enter__(self) -> "Progress":
        if self._terminal:
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._terminal:
            self._bar.live.transient = not self._total  # of what was not counted nothing stays
            self._bar.stop()

    def phase(
        self, name: str, *, total: int = 0, done: int = 0, on_terminal_only: bool = False
    ) -> None:
        """Begin a phase; the one before it ends. With ``total`` it counts, from ``done`` on."""
        self._switch(name)
        self._total, self._first, self._phase_since = total, done, self._since
        self._plain_at = self._since
        if self._terminal:
            self._bar.update(self._row, total=total or None, completed=done, notes="")
        elif not (total or on_terminal_only):
            self.say(f"{name} ...")

    @contextmanager
    def aside(self, name: str) -> Generator[None]:
        """Interrupt a phase for something else, which is counted apart."""
        before = self._phase
        self._switch(name)
        try:
            yield
        finally:
            self._switch(before)

    def at(self, done: int, notes: str = "", *, now: bool = False) -> None:
        """Show that ``done`` of the phase's ``total`` are done, with a few words on them.

        Plain lines come every ten seconds, and ``now``.
        """
        if self._terminal:
            self._bar.update(self._row, completed=done, notes=notes)
        elif self._show and (now or time.monotonic() - self._plain_at > PLAIN_SECONDS):
            self._plain_at = time.monotonic()
            times = f"{duration(self.elapsed)} gone, {duration(self._left(done))} left"
            words = [f"{self._phase} {done}/{self._total}", notes, times]
            self.say(", ".join(word for word in words if word))

    def waited(self, seconds: float, name: str) -> None:
        """Count a part of the current phase under another name."""
        self._spent[name] += seconds
        self._spent[self._phase] -= seconds

    def say(self, text: str) -> None:
        """Write lines above the bar."""
        lines = [plain(line) for line in text.splitlines()] if self._show else []
        try:
            for line in lines:
                self._console.print(
                    line, highlight=False, markup=False, emoji=False, soft_wrap=True
                )
        except BrokenPipeError:
            raise
        except OSError:  # a file on a full disk: no reason to end a run of days
            self._show = False

    @property
    def elapsed(self) -> float:
        """Return the seconds since the beginning."""
        return time.monotonic() - self._begun

    def took(self) -> str:
        """Return the time that everything took, with the phases that took longest first."""
        self._switch(self._phase)
        named = [
            f"{name} {duration(seconds)}"
            for name, seconds in sorted(self._spent.items(), key=lambda item: -item[1])
            if name and seconds >= _WORTH_NAMING
        ]
        return f"took {duration(self.elapsed)}" + (f": {', '.join(named)}" if named else "")

    def _switch(self, name: str) -> None:
        now = time.monotonic()
        self._spent[self._phase] += now - self._since
        self._phase, self._since = name, now
        if self._terminal:
            self._bar.update(self._row, description=plain(name))

    def _left(self, done: int) -> float:
        """Return the seconds that are left at the speed of this phase, NaN before its first one.

        Example: begun at 20 of 100 and 35 after 30 s, 65 are left: 30 / (35 - 20) * 65 = 130 s.
        """
        passed, left = time.monotonic() - self._phase_since, self._total - done
        if not left:
            return 0.0
        return passed / (done - self._first) * left if done > self._first else math.nan


def duration(seconds: float) -> str:
    """Return a time in words: ``9 s``, ``1 min 05 s``, ``2 h 10 min``; of NaN ``unknown time``."""
    if math.isnan(seconds):
        return "unknown time"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, hours = whole // 60 % 60, whole // 3600
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {whole % 60:02d} s"


def _columns() -> tuple[Any, ...]:
    return (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        TextColumn("{task.fields[notes]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("gone"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
