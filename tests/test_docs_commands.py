"""Every command in the documentation is one that the command line takes, and what a page shows as
run is run here.

The steps of a page run where a short ``fame demo`` has been, with options that keep them short.
What they print is held against the page: its lines come in this order, numbers apart.

With ``--update-pages FOLDER`` they run as the page has them where a whole demo has been, and the
numbers that they print are written into the page (make pages):

    (cd FOLDER && fame demo > demo.txt) && pytest tests/test_docs_commands.py --update-pages FOLDER
"""

import os
import random
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import typer.main
from typer.exceptions import TyperException
from typer.testing import CliRunner

import cli
from commands.demo import demo_commands
from preprocess.world import WorldSpec, write_world
from tests.markdown import ROOT, Step, commands, mentions, pages, steps

PAGES = {str(page.relative_to(ROOT)): page.read_text() for page in pages()}
RUNNABLE = {name: found for name, text in PAGES.items() if (found := list(steps(text)))}
SHORT = {
    "preprocess": ["--executor", "serial", "--seconds", "2"],
    "pretrain": ["--epochs", "1", "--workers", "0"],
    "finetune": ["--epochs", "1"],
}


def descend(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the words name, and the words after its name."""
    command: Any = typer.main.get_command(cli.app)
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    return command, words


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_the_page_is_taken(page: str) -> None:
    for words in commands(PAGES[page]):
        command, arguments = descend(words)
        if hasattr(command, "commands"):
            assert set(arguments) <= {"-h", "--help", "--version"}, (
                f"no such command: fame {shlex.join(words)}"
            )
            continue
        try:
            if not {"-h", "--help"} & set(arguments):
                command.make_context(command.name, arguments)
        except TyperException as error:
            pytest.fail(f"fame {shlex.join(words)}: {error.format_message()}")


@pytest.mark.parametrize("page", PAGES)
def test_every_command_that_is_mentioned_exists(page: str) -> None:
    """A mention may be a part of a command, name one of several in braces, or leave the rest to
    dots and capitals.
    """
    for words in mentions(PAGES[page]):
        command, rest = descend(words)
        group = getattr(command, "commands", {})
        if group and rest and not rest[0].startswith("-"):
            named = rest[0].strip("{}").split(",")
            assert rest[0] == "..." or rest[0].isupper() or set(named) <= set(group), (
                f"fame {shlex.join(words)}"
            )
        options = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        if not group:
            asked = {word for word in rest if word.startswith("--")}
            assert asked <= options, f"fame {shlex.join(words)} has no {asked - options}"


@pytest.fixture(scope="module")
def demonstration(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A folder where a short ``fame demo`` was run, with the files of its steps as the command line
    makes them; with ``--update-pages`` that of the whole one.
    """
    if whole := request.config.getoption("--update-pages"):
        return Path(whole)
    place = tmp_path_factory.mktemp("docs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        patch.chdir(place)
        write_world(WorldSpec(videos=24), Path("demo/world"))
        for arguments in demo_commands(Path("demo"), epochs=1, seed=0):
            if arguments[0] not in ("evaluate", "bias", "report"):
                call(shlex.join(["fame", *arguments]))
    return place


@pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*(num_workers|GPU available|log_every_n):UserWarning")
@pytest.mark.parametrize("page", RUNNABLE)
def test_the_page_can_be_followed(
    page: str,
    demonstration: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    whole = request.config.getoption("--update-pages")
    shutil.copytree(demonstration, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FAME_ROOT", raising=False)
    monkeypatch.setattr(os, "fsync", lambda _: None)
    if page == "README.md":  # its example comes after its commands, which take days
        Path("data/runs").mkdir(parents=True)
        Path("data/runs/pretrain").symlink_to(tmp_path / "demo/run")
    names: dict[str, Any] = {}
    state = random.getstate()
    for step in RUNNABLE[page]:
        if step.code == "fame demo":  # it has run where the pages are updated, and takes minutes
            if whole:
                update(ROOT / page, step, matched(step, Path("demo.txt").read_text()))
        elif step.command:
            lines = matched(step, call(step.code, short=not whole))
            if whole:
                update(ROOT / page, step, lines)
        else:
            with torch.random.fork_rng():  # an example may draw
                exec(compile(step.code, page, "exec"), names)
    if whole:
        random.setstate(state)  # Ray draws from it, which commands that are shortened do not start


def update(page: Path, step: Step, lines: list[str]) -> None:
    """Put the lines that a step printed in the place of those that the page has."""
    text, old, new = page.read_text(), "\n".join(step.output), "\n".join(lines)
    assert old == new or text.count(old) == 1, f"{page}: more than once is there {old}"
    page.write_text(text.replace(old, new))


def call(command: str, *, short: bool = True) -> str:
    """Run a command line in this process, shortened, and return what it prints."""
    program, name, *arguments = shlex.split(command, comments=True)
    assert program == "fame", f"only fame is run here: {command}"
    if short and "--dry-run" not in arguments:
        arguments += SHORT.get(name, [])
    result = CliRunner().invoke(cli.app, [name, *arguments])
    assert result.exit_code == 0, f"{command}\n{result.output}"
    return result.output


def matched(step: Step, printed: str) -> list[str]:
    """Return the printed line for each line of the page. They must be the same in the same order,
    numbers and times apart; `...` stands for any number of lines.
    """
    lines, found = iter(printed.splitlines()), []
    for line in step.output:
        wanted = without_numbers(line)
        same = (
            line
            if wanted in ("", "...")
            else next((other for other in lines if without_numbers(other) == wanted), None)
        )
        assert same is not None, f"$ {step.code}\ndid not print: {line}\nbut:\n{printed}"
        found.append(same.rstrip())
    return found


def without_numbers(line: str) -> str:
    """The line with its times, numbers, their units, hashes and the widths of tables made one."""
    line = re.sub(r"\b(\d+ h \d+ min|\d+ min \d+ s|\d+ s)\b", "TIME", line)
    line = re.sub(r"\b[0-9a-f]{16}\b|\d[\d.,]*(?:e-\d+)?(?: ?[kKMGT]?B\b)?", "#", line)
    return re.sub(r"([━─])+", r"\1", " ".join(line.split()))


def test_lines_are_matched_without_their_numbers() -> None:
    step = Step("fame x", command=True, output=("made in 1 min 10 s", "...", "loss 4.1  │ 0.1 │"))
    assert matched(step, "made in 9 s\nmore\nloss 3 │ 1e-05  │ ") == [
        "made in 9 s",
        "...",
        "loss 3 │ 1e-05  │",
    ]
    with pytest.raises(AssertionError, match="did not print: made in"):
        matched(step, "loss 3 │ 1 │\nmade in 9 s, slowly")
