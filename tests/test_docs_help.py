"""The page that shows the help of four commands is what they print."""

import pytest
from typer.testing import CliRunner

import cli
from tests.markdown import ROOT

PAGE = ROOT / "docs" / "help.md"
SHOWN = ("", "pretrain", "preprocess k400", "bias")
HEAD = """# Help on the command line

What `--help` prints, at 80 columns, for `fame` itself and three of its commands; every command has it. Options stand in panels by what
they concern, with their range and default. [Settings](settings.md) has all of them on one page, and
[which command when](which-command.md) says where to begin.
"""


def page() -> str:
    parts = [HEAD]
    for command in SHOWN:
        asked = [*command.split(), "--help"]
        result = CliRunner().invoke(cli.app, asked, prog_name="fame", env={"COLUMNS": "80"})
        assert result.exit_code == 0
        assert max(map(len, result.output.splitlines())) <= 80
        typed = " ".join(["fame", *asked])
        parts.append(f"\n## `{typed}`\n\n```text\n{result.output.rstrip()}\n```\n")
    return "".join(parts)


def test_the_page_shows_what_the_commands_print(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a change of an option: ``pytest tests/test_docs_help.py --update-golden``."""
    monkeypatch.delenv("FAME_ROOT", raising=False)
    if request.config.getoption("--update-golden"):
        PAGE.write_text(page())
    assert PAGE.read_text() == page()
