"""Words of strangers on a terminal: shown, never obeyed."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli import app
from commands.output import output, say, table
from fame.words import plain


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("[/x] [old]", "[/x] [old]"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("a\nfame: all is well", r"a\nfame: all is well"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\udcff", r"\udcff"),
        ("x" * 2900 + "y" * 100, "x" * 1800 + "... (3000 letters) ..." + "x" * 100 + "y" * 100),
        ("Übung 滑雪", "Übung 滑雪"),
    ],
)
def test_what_a_terminal_would_obey_is_spelled_out(text: str, shown: str):
    assert plain(text) == shown


def test_tables_and_lines_show_brackets(capsys: pytest.CaptureFixture[str]):
    table({"class [/x]": "[old] \x1b[2J"})
    output().print("[bold]:smile:")
    say("[/y]\a")
    told = capsys.readouterr().out
    assert "class [/x]" in told and r"[old] \x1b[2J" in told
    assert "[bold]:smile:" in told and r"[/y]\x07" in told


def test_an_error_that_names_a_strange_file_is_one_short_line(tmp_path: Path):
    name = "[/x]\x1b[31m\n" + "y" * 9000
    done = CliRunner().invoke(app, ["store", "info", str(tmp_path / name)])
    assert done.exit_code == 2
    assert len(done.stderr) < 2100 and done.stderr.count("\n") == 1
    assert r"[/x]\x1b[31m" in done.stderr
