"""Which dataset, splits, fold and stores each command of a dataset means."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli import app
from commands import preprocess, training

Calls = list[tuple[tuple[Any, ...], dict[str, Any]]]


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in arguments])


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """What the commands would make and train, without doing it."""
    found: Calls = []
    for module, name in ((preprocess, "_preprocess"), (training, "_finetune")):
        monkeypatch.setattr(module, name, lambda *given, **named: found.append((given, named)))
    return found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("ssv2", "jester", "ucf101", "hmdb51", "diving48"):
        (tmp_path / "videos" / name / "annotations").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize("dataset", ["k400", "k600", "k700"])
def test_kinetics_has_train_and_val(dataset: str, calls: Calls, root: Path) -> None:
    assert run("preprocess", dataset, "--root", root).exit_code == 0
    (((name, _, given), named),) = calls
    assert (name, given, named) == (dataset, {}, {"splits": ["train", "val"], "root": root})


@pytest.mark.parametrize(
    ("dataset", "splits", "fold"),
    [
        ("ssv2", ["train", "val"], None),
        ("jester", ["train", "val"], None),
        ("ucf101", ["train", "test"], 1),
        ("hmdb51", ["train", "test"], 1),
        ("diving48", ["train", "test"], None),
    ],
)
def test_official_lists_lie_beside_the_videos(
    dataset: str, splits: list[str], fold: int | None, calls: Calls, root: Path
) -> None:
    assert run("preprocess", dataset, "--root", root).exit_code == 0
    (((name, _, given), named),) = calls
    assert (name, named["splits"], given.get("fold")) == (dataset, splits, fold)
    assert given["annotations"] == root / "videos" / dataset / "annotations"


def test_other_splits_folds_and_lists_are_taken(calls: Calls, root: Path, tmp_path: Path) -> None:
    lists = tmp_path / "lists"
    lists.mkdir()
    words = ("--split", "test", "--fold", 3, "--annotations", lists, "--root", root)
    assert run("preprocess", "ucf101", *words).exit_code == 0
    (((_, _, given), named),) = calls
    assert (named["splits"], given["fold"], given["annotations"]) == (["test"], 3, lists)


def test_missing_lists_are_named_before_anything_is_made(calls: Calls, tmp_path: Path) -> None:
    result = run("preprocess", "ssv2", "--root", tmp_path)
    assert result.exit_code == 2 and not calls
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"fame: {tmp_path}/videos/ssv2/annotations is not there; put the")


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["ucf101"], {"dataset": "ucf101", "fold": 1}),
        (["ucf101", "--fold", 2], {"dataset": "ucf101", "fold": 2}),
        (["hmdb51", "--fold", 3], {"dataset": "hmdb51", "fold": 3}),
        (["diving48"], {"dataset": "diving48"}),
        (["k400"], {"dataset": "k400", "test": "val"}),
        (["folder"], {"dataset": "folder"}),
        (["folder", "--name", "mine"], {"dataset": "mine"}),
    ],
)
def test_fine_tuning_means_these_stores(
    words: list[object], meant: dict[str, Any], calls: Calls
) -> None:
    assert run("finetune", *words).exit_code == 0
    ((_, named),) = calls
    assert named == meant


def test_a_fold_that_is_not_there_is_refused(calls: Calls) -> None:
    result = run("finetune", "hmdb51", "--fold", 4)
    assert result.exit_code == 2 and not calls
    assert result.stderr == "fame: fold must be a whole number from 1 to 3, got 4\n"


def test_one_store_cannot_hold_two_splits(root: Path) -> None:
    (root / "videos" / "k400").mkdir()
    result = run("preprocess", "k400", "--root", root, "--store", root / "one.zarr")
    assert result.exit_code == 2
    assert "--store names one store, but there are 2 splits; choose one" in result.stderr
