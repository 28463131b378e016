"""Every option and every setting that an error, a help text or a page names is there."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from cli import app
from commands.renamed import RENAMED
from tests.markdown import ROOT
from tests.test_docs_settings import KINDS

SOURCES = [
    path
    for folder in ("fame", "preprocess", "train", "commands")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Neither ``var(--ink)`` nor ``--ink: #000`` of a style sheet.
OPTION = re.compile(r"(?<![\w-])(?<!var\()--[a-z][a-z0-9]*(?:-[a-z0-9]+)*(?![\w:-])")
# Options of the programs that pages call beside fame, by the word that must stand on their line.
OTHERS = re.compile(
    r"\b(docker|compose|pip|git|torchrun|torch\.distributed|ray|python|pytest|make|curl|aws|srun|sbatch"
    r"|kubectl|mkdocs|ffmpeg|jupyter|uv|apt|tensorboard|hf|benchmarks|conda|ssh|rsync|SBATCH)\b"
)


def options() -> set[str]:
    found = {"--help"}

    def collect(command: Any) -> None:
        for parameter in command.params:
            found.update((*parameter.opts, *parameter.secondary_opts))
        for child in getattr(command, "commands", {}).values():
            collect(child)

    collect(typer.main.get_command(app))
    return found


OPTIONS = options()
PUBLISHED = {"--cos", "--freeze"}  # of the paper's code, which pages compare with
FORMER = {old for names in RENAMED.values() for old in names}


def texts(path: Path, *, docstrings: bool = True) -> Iterator[tuple[int, str]]:
    """Every text of a module with its line; those of an f-string part by part."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    alone = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    for node in nodes:
        if not docstrings and id(node) in alone:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def unknown(text: str) -> set[str]:
    return {name for name in OPTION.findall(text) if name not in OPTIONS}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_option_that_the_source_names_exists(path: Path) -> None:
    allowed = FORMER if path.name == "renamed.py" else set[str]()
    wrong = [
        f"line {line}: {name}"
        for line, text in texts(path)
        for name in sorted(unknown(text) - allowed)
        if not OTHERS.search(text)
    ]
    assert not wrong


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_option_that_a_page_names_exists(path: Path) -> None:
    if path.name in ("log.md", "CHANGELOG.md"):  # they tell of earlier versions
        return
    blocks = re.split(r"\n\s*\n", path.read_text())  # a command may go over several lines
    assert not [
        (name, block)
        for block in blocks
        for name in unknown(block) - PUBLISHED
        if not OTHERS.search(block)
    ]


def test_every_setting_that_the_source_gives_as_name_and_value_exists() -> None:
    """As in ``set crop=112 or less``, and ``schedule=steps needs milestones``; ``key=value`` stands
    for any.
    """
    fields = {name for kind in KINDS.values() for name in kind.fields()}
    advice = re.compile(r"(?:^|[ (])([a-z_]{3,})=[a-z0-9]+(?=[ ,:;)]|$)")
    named = [
        (path.name, name)
        for path in SOURCES
        for _, text in texts(path, docstrings=False)
        if " " in text
        for name in advice.findall(text)
    ]
    assert len(named) > 5
    assert not [(file, name) for file, name in named if name not in {*fields, "key"}]


def test_an_option_that_is_none_is_found() -> None:
    assert unknown("give --no-such-option or --batch 3") == {"--no-such-option"}
    assert unknown("a--b, ---, and --Capital") == set()
