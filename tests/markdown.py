"""What the pages of the documentation tell people to type: their code blocks, and the ``fame``
commands in them.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?:^ {4,}\S.*\n?)+", re.MULTILINE)
_INLINE = re.compile(r"`(fame [^`\n]*)`")


@dataclass(frozen=True)
class Step:
    """Something to do: a command line, with what it printed when the page was written, or a piece
    of Python.
    """

    code: str
    command: bool
    output: tuple[str, ...] = ()


def pages() -> list[Path]:
    """Every page whose commands are to be believed: the log and the changelog tell of the past."""
    found = [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "SECURITY.md",
        *(ROOT / "docs").rglob("*.md"),
    ]
    return sorted(
        page for page in found if page.exists() and page.name not in ("log.md", "changelog.md")
    )


def fenced(text: str, language: str) -> list[str]:
    """The blocks of one language."""
    return [code for _, found, code in _FENCED.findall(text) if found == language]


def commands(text: str) -> Iterator[list[str]]:
    """The arguments of each ``fame`` that the blocks of a page call, in whatever shell line it
    is.
    """
    blocks = [code for _, language, code in _FENCED.findall(text) if language in ("sh", "console")]
    blocks += _INDENTED.findall(_FENCED.sub("", text))
    for line in "\n".join(blocks).replace("\\\n", " ").splitlines():
        if (arguments := _arguments(line)) is not None:
            yield arguments


def mentions(text: str) -> Iterator[list[str]]:
    """The arguments of each ``fame`` within a sentence; they may be a part of a command only."""
    for command in _INLINE.findall(_FENCED.sub("", text)):
        yield shlex.split(command)[1:]


def steps(text: str) -> Iterator[Step]:
    """The blocks that a reader can run from top to bottom: ``console`` with its output, and
    ``python``.
    """
    for _, language, code in _FENCED.findall(text):
        if language == "python":
            yield Step(code, command=False)
        if language == "console":
            for part in re.split(r"^\$ ", code, flags=re.MULTILINE)[1:]:
                command, *output = part.replace("\\\n", " ").splitlines()
                yield Step(command, command=True, output=tuple(output))


def _arguments(line: str) -> list[str] | None:
    """What follows the word ``fame`` where it is what the line runs; none for a line that runs
    something else.
    """
    try:
        words = shlex.split(line.strip().removeprefix("$ "), comments=True)
    except ValueError:  # prose in a block, such as an apostrophe
        return None
    while words and "=" in words[0]:
        words = words[1:]
    runners = ("docker", "torchrun", "srun", ".venv/bin/fame", "fame")
    if not words or words[0] not in runners:
        return None
    calls = [
        i for i, word in enumerate(words) if word in ("fame", "fame-gpu", "fame)", ".venv/bin/fame")
    ]
    return words[calls[0] + 1 :] if calls else None
