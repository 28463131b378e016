"""How a command takes options: from settings, from dataclasses of options, and from both within."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from commands.app import PANELS, App
from commands.options import Options, Values
from fame import settings
from fame.settings import DATA, Setting, Settings


@dataclass(frozen=True, kw_only=True)
class Kitchen(Settings):
    heat: Annotated[int, DATA("Degrees.", low=0, high=300)] = 180
    pans: Annotated[int | None, Setting("Pans (default: all).", low=1)] = None
    gas: Annotated[bool, Setting("Cook with gas.")] = False


@dataclass(frozen=True, kw_only=True)
class Order:
    """Options of typer's own, and one of a settings class."""

    table: Annotated[int, typer.Option(help="Table.")] = 1
    kitchen: Annotated[Values, Options(Kitchen, only=("pans",))]


def taken(*arguments: str) -> Any:
    """What a command with options of every kind receives."""
    app, received = App("A restaurant."), dict[str, Any]()

    @app.callback()
    def main(debug: bool = False) -> None:
        """Take what stands before the command."""

    @app.command()
    def cook(
        kitchen: Annotated[Values, Options(Kitchen, without=("pans",), defaults={"heat": "warm"})],
        order: Order,
        dish: Annotated[str, typer.Argument(help="Dish.")] = "soup",
    ) -> None:
        """Cook."""
        received.update(kitchen=kitchen, order=order, dish=dish)

    @app.command()
    def clean(kitchen: Kitchen) -> None:
        """Clean."""
        received.update(kitchen=kitchen)

    done = CliRunner().invoke(app, arguments)
    return received if done.exit_code == 0 and received else done


def test_given_values_are_those_that_were_given() -> None:
    assert taken("cook")["kitchen"] == {}
    assert taken("cook", "--heat", "200", "--no-gas")["kitchen"] == {"heat": 200, "gas": False}


def test_a_group_holds_options_of_settings_too() -> None:
    found = taken("cook", "fish", "--table", "3", "--pans", "2")
    assert found["order"] == Order(table=3, kitchen={"pans": 2})
    assert found["dish"] == "fish" and found["kitchen"] == {}
    assert taken("cook", "--pans", "none")["order"].kitchen == {"pans": None}


def test_a_command_receives_a_settings_object() -> None:
    assert taken("clean", "--gas")["kitchen"] == Kitchen(gas=True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("cook --heat 301", "heat must be a whole number from 0 to 300, got 301"),
        ("cook --pans 0", "pans must be a whole number of at least 1, or none, got 0"),
        ("cook --pans two", "pans must be a whole number of at least 1, or none, got 'two'"),
        ("clean --heat -1", "heat must be a whole number from 0 to 300, got -1"),
    ],
)
def test_a_value_out_of_range_is_one_line(arguments: str, words: str) -> None:
    done = taken(*arguments.split())
    assert (done.exit_code, done.stderr) == (2, f"fame: {words}\n")


def test_defaults_in_words_and_panels_are_in_the_help() -> None:
    text = taken("cook", "--help").output
    assert "Degrees. [from 0 to 300; default: warm]" in " ".join(text.split())
    assert text.index("Arguments") < text.index("Data") < text.index("Options")


def test_every_panel_has_a_place_in_the_help() -> None:
    made = [value for value in vars(settings).values() if isinstance(value, partial)]
    named = [one.keywords["panel"] for one in made]
    assert len(named) == 9 and set(named) < set(PANELS)
    assert [panel for panel in PANELS if panel in named] == named  # in the order of the help
    assert DATA("Words.", low=1) == Setting("Words.", low=1, panel="Data")


def test_the_folder_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    taken("cook")
    assert not list(tmp_path.iterdir())
