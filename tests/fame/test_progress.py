"""Progress is shown from the first second, says what is left, and at the end what took long."""

import errno
import io
import math

import pytest
from rich.console import Console

from fame import progress as module
from fame.progress import Progress, duration


class Clock:
    """A clock that stands still between two calls of ``pass_``."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def plain_console() -> Console:
    return Console(force_terminal=False, record=True, width=200)


def lines(console: Console) -> list[str]:
    return console.export_text().splitlines()


def test_phases_lines_and_what_took_long(clock: Clock) -> None:
    console = plain_console()
    with Progress(console=console) as progress:
        progress.phase("loading")
        clock.pass_(3)
        progress.phase("training", total=100, done=20)
        clock.pass_(5)
        progress.at(25, "loss 4")  # too early for a line
        with progress.aside("saving"):
            clock.pass_(2)
        clock.pass_(23)
        progress.at(35, "loss 3")
        progress.waited(10.0, "waiting for data")
        clock.pass_(1)
        progress.at(100, now=True)
        assert lines(console) == [
            "loading ...",
            "training 35/100, loss 3, 33 s gone, 2 min 10 s left",  # 30 s for 15: 130 s for 65
            "training 100/100, 34 s gone, 0 s left",
        ]
        took = "took 34 s: training 19 s, waiting for data 10 s, loading 3 s, saving 2 s"
        assert progress.took() == took


def test_what_is_left_is_unknown_before_anything_is_done(clock: Clock) -> None:
    console = plain_console()
    with Progress(console=console) as progress:
        progress.phase("training", total=10)
        clock.pass_(30)
        progress.at(0)
        assert progress.took() == "took 30 s: training 30 s"
    assert lines(console) == ["training 0/10, 30 s gone, unknown time left"]


def test_short_phases_are_not_named(clock: Clock) -> None:
    progress = Progress(show=False)
    progress.phase("blinking")
    clock.pass_(0.4)
    assert progress.took() == "took 0 s"


def test_a_terminal_shows_a_bar_and_the_lines_above_it() -> None:
    console = Console(force_terminal=True, record=True, width=120)
    with Progress(console=console) as progress:
        progress.phase("loading [bold]")
        progress.phase("training", total=10)
        progress.at(4, "loss [4]")
        progress.say("saved \x1b[2J")
    text = console.export_text()
    assert "training" in text and "4/10" in text and "loss [4]" in text
    assert "saved \\x1b[2J" in text and "gone" in text and "left" in text


class Full(io.StringIO):
    """A file on a full disk."""

    writes = 0

    def write(self, text: str) -> int:
        self.writes += 1
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_log_on_a_full_disk_ends_no_run() -> None:
    full = Full()
    progress = Progress(console=Console(file=full, force_terminal=False))
    progress.say("first")
    progress.say("second")
    progress.phase("training", total=3)
    assert full.writes == 1


def test_other_processes_are_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(show=False) as progress:
        progress.phase("training", total=2)
        progress.at(2, now=True)
        progress.say("done")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0 s"),
        (59.6, "1 min 00 s"),
        (65.0, "1 min 05 s"),
        (7799.0, "2 h 09 min"),
        (90000.0, "25 h 00 min"),
        (math.nan, "unknown time"),
    ],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words
