"""Options come from settings: their help at 80 columns, config files, and torchrun's parser."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer.main
from torch.distributed.run import get_args_parser
from typer.testing import CliRunner

from cli import app
from tests.stores import make_store
from train.config import FinetuneConfig, PretrainConfig
from train.recipes import RECIPES, recipe


def commands(
    command: Any = None, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command and group with the words that call it."""
    command = command or typer.main.get_command(app)
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, (*path, name))


# A value of 10^9 leaves in 200 bytes.
LAUGHS = (
    "epochs: ["
    + "".join(
        f"&{name} [{','.join([before] * 10)}],"
        for before, name in zip(
            ("x", *["*a", "*b", "*c", "*d", "*e", "*f", "*g", "*h"]), "abcdefghi", strict=True
        )
    )
    + "]"
)


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in arguments])


def show(*arguments: object) -> dict[str, Any]:
    done = run(*arguments, "--show-config")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def refused(*arguments: object) -> str:
    done = run(*arguments)
    assert done.exit_code == 2, done.output
    (line,) = done.stderr.splitlines()
    return line


@pytest.mark.parametrize("path", [path for path, _ in commands()], ids=" ".join)
def test_help_fits_80_columns_and_cuts_nothing(path: tuple[str, ...], monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = run(*path, "--help").output
    assert "…" not in text
    assert not [line for line in text.splitlines() if len(line) > 80]
    assert not [line for line in text.splitlines() if line.endswith("...") and "Usage" not in line]
    (command,) = (found for where, found in commands() if where == path)
    words = text.split()
    for parameter in command.params:
        for name in (*parameter.opts, *parameter.secondary_opts):
            assert parameter.param_type_name == "argument" or name in words, name


@pytest.mark.parametrize("command", [("pretrain",), ("finetune", "ucf101")], ids=" ".join)
def test_every_field_is_an_option_that_says_its_default(command: tuple[str, ...]) -> None:
    kind = PretrainConfig if command == ("pretrain",) else FinetuneConfig
    text = " ".join(run(*command, "--help").output.split())
    for name in kind.fields():
        assert f"--{name.replace('_', '-')} " in text
    assert "set by the recipe; fame-k400: bf16" in text or kind is FinetuneConfig
    for panel in ("Data:", "Optimiser:", "Speed and memory:", "Run:", "Launch:"):
        assert panel in text


def test_the_help_lists_the_recipes() -> None:
    text = run("pretrain", "--help").output
    for name, make in RECIPES.items():
        assert f"{name:16}  {(make.__doc__ or '').splitlines()[0]}" in text


def test_no_option_is_ambiguous_to_torchrun() -> None:
    """torchrun reads the options after the script too, and refuses what begins two of its own."""
    parser = get_args_parser()
    for path, command in commands():
        if path[:1] not in (("pretrain",), ("finetune",)):
            continue
        for option in (name for p in command.params for name in (*p.opts, *p.secondary_opts)):
            if option.startswith("-"):
                words = ["--nproc-per-node", "2", "fame", *path, "STORE", option, "x"]
                assert parser.parse_args(words).training_script_args == words[3:]


def test_an_option_and_set_say_the_same() -> None:
    by_option = show("pretrain", "--bn-group", "none", "--milestones", "3,5", "--no-compile")
    by_set = show(
        *("pretrain", "--set", "bn_group=none", "--set", "milestones=3,5"),
        *("--set", "compile=false"),
    )
    wanted = replace(recipe("fame-k400"), bn_group=None, milestones=(3, 5), compile=False)
    assert by_option == by_set == wanted.to_dict()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--beta", "0.4", "--set", "beta=0.3"], "beta is given twice, as 0.4 and as 0.3"),
        (["--set", "lr=1", "--set", "lr=2"], "lr is given twice, as 1 and as 2"),
        (["--beta", "1.5"], "beta must be a number above 0 and at most 1, got 1.5"),
        (["--set", "betta=1"], "did you mean 'beta'?"),
        (["--recipe", "reference-k40"], "reference-k400"),
        (["--config", "gone.json"], "gone.json is not there"),
    ],
)
def test_what_cannot_be_is_one_line(options: list[str], words: str) -> None:
    assert words in refused("pretrain", *options)
    same = run("pretrain", "--beta", "0.4", "--set", "beta=0.4", "--show-config")
    assert same.exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("pretrain --epochs abc", "--epochs must be a whole number, got 'abc'"),
        ("pretrain --beta x", "--beta must be a number, got 'x'"),
        ("evaluate knn --k 1.5", "--k must be a whole number, got '1.5'"),
        ("finetune ucf101 --fold 7", "fold must be a whole number from 1 to 3, got 7"),
        ("store verify x --workers 0", "--workers must be at least 1, got '0'"),
        ("pretrain --device x", "Invalid value for '--device': 'x' is not one of 'auto', 'cpu'"),
        ("report --out=", "--out is empty; is a variable of your shell not set?"),
        ("pretrain --resume", "Option '--resume' requires an argument"),
        ("demo --videos 21", "21 videos are too few to train on: give --videos 22 or more"),
    ],
)
def test_a_bad_value_is_echoed_with_its_option(arguments: str, words: str) -> None:
    assert refused(*arguments.split()).startswith(f"fame: {words}")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["export", ""], "an argument is empty; is a variable"),
        (["preprocess", "folder", "--videos", ""], "--videos is empty"),
        (["pretrain", "--config", "."], ".: cannot be read (Is a directory)"),
        (["pretrain", "x" * 300], "xxx is not there"),
        (["store", "info", "loop"], "loop is not there"),
        (["pretrain", "store", "--run-dir", "loop"], "cannot make"),
        (["demo", "--out", "/proc/demo"], "/proc/demo: No such file or directory"),
        (["demo", "--out", "a\udcff", "--videos", "22"], r"\udcff"),
        (["store", "browse", "store", "--out", "pipe"], "pipe: is a folder or a device"),
        (["preprocess", "folder", "--videos", ".", "--store", "loop/x"], "loop"),
    ],
)
def test_a_path_that_cannot_be_is_named(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    os.mkfifo("pipe")
    Path("one.mp4").touch()
    make_store(Path("store"), videos=1)
    line = refused(*arguments)
    assert words in line and "[Errno" not in line


def test_the_config_of_a_run_is_a_config_file(tmp_path: Path) -> None:
    config = replace(recipe("small-cpu"), beta=0.3)
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    assert show("pretrain", "--config", tmp_path / "config.json") == config.to_dict()
    changed = show("pretrain", "--config", tmp_path / "config.json", "--lr", "1", "--set", "dim=8")
    assert changed == replace(config, lr=1.0, dim=8).to_dict()


def test_a_yaml_file_changes_the_recipe(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("lr: 1e-3\nmilestones: [3, 5]\nbn_group: null\n")
    shown = show("pretrain", "--recipe", "small-cpu", "--config", file)
    wanted = replace(recipe("small-cpu"), lr=1e-3, milestones=(3, 5), bn_group=None)
    assert shown == wanted.to_dict()
    tuned = show("finetune", "folder", "--pretrained", "none", "--config", file, "--epochs", "10")
    assert (tuned["lr"], tuned["milestones"], tuned["epochs"]) == (1e-3, [3, 5], 10)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.json", "{", "a.json: "),
        ("a.yaml", "{", "a.yaml: "),
        ("a.yaml", "- 3", "must hold fields"),
        ("a.yaml", "betta: 1", "did you mean 'beta'"),
        ("a.json", '{"beta": 2}', "a.json: beta must be"),
        ("a.yaml", "!!python/object/apply:os.getcwd []", "a.yaml: "),
        ("a.yaml", "lr: 1\nlr: 2\n", "a.yaml: 'lr' is there twice"),
        ("a.yaml", "width: {a: [{b: 1, b: 2}]}\n", "a.yaml: 'b' is there twice"),
        ("a.yaml", "lr: &a [*a]\n", "a.yaml: lr"),
        ("a.json", '{"lr": 1, "lr": 2}', "'lr' is there twice"),
        ("a.yaml", "[" * 5000, "a.yaml: nested too deeply"),
        ("a.json", "[" * 100_000, "nested too deeply"),
        ("a.yaml", "3: 4", "has no field '3'"),
        ("a.yaml", "on: 4", "has no field 'True'"),
        ("a.yaml", LAUGHS, "a.yaml: epochs must be a whole number of at least 1, got [['x'"),
        ("a.json", f'{{"{"x" * 10**6}": 1}}', "xxx'; did you mean"),
        ("a.yaml", "epochs: 9223372036854775808", "epochs must be a whole number"),
        ("a.json", f'{{"epochs": {"9" * 400}}}', "epochs must be a whole number"),
    ],
)
def test_a_bad_config_file_is_named(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    assert words in refused("pretrain", "--config", tmp_path / name)


def test_completion_knows_recipes_and_fields() -> None:
    (pretrain,) = (command for path, command in commands() if path == ("pretrain",))
    options = {parameter.name: parameter for parameter in pretrain.params}
    with pretrain.make_context("pretrain", ["--show-config"], resilient_parsing=True) as context:
        fields = options["settings"].shell_complete(context, "ema")
        recipes = options["recipe_name"].shell_complete(context, "ref")
    assert [item.value for item in fields] == ["ema=", "ema_schedule="]
    assert [item.value for item in recipes] == ["reference-k400", "reference-ucf101"]
