"""What a run leaves beside its checkpoints: lines that are cut back, results that are read again."""

import json
from pathlib import Path

import pytest

from train.evaluate.results import read_object, read_results
from train.run.log import truncate_metrics


def lines_of(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("step", "kept"), [(0, []), (2, [0, 1]), (5, [0, 1, 2, 3, 4]), (9, [*range(6)])]
)
def test_lines_of_later_steps_are_dropped(step: int, kept: list[int], tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        "".join(json.dumps({"step": number, "loss": 0.5}) + "\n" for number in range(6))
    )
    truncate_metrics(path, step)
    assert lines_of(path) == kept


@pytest.mark.parametrize("half", ['{"step": 2, "lo', "[2]", '{"loss": 1}', "\x00\x00", "{"])
def test_a_line_that_was_being_written_is_dropped(half: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0}\n{"step": 1}\n' + half)
    truncate_metrics(path, 100)
    assert lines_of(path) == [0, 1]


def test_where_there_are_no_metrics_none_are_made(tmp_path: Path) -> None:
    truncate_metrics(tmp_path / "metrics.jsonl", 3)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[1]", "holds no JSON object"),
        ("{", r"is not JSON \(Expecting property name"),
        ("[" * 100_000, r"is not JSON \(nested too deeply\)"),
        (" " * (2**24 + 1), "larger than the 16 MiB"),
    ],
)
def test_files_that_are_no_results_are_named(text: str, found: str, tmp_path: Path) -> None:
    path = tmp_path / "knn.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=found) as caught:
        read_object(path)
    assert str(caught.value).startswith(str(path))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot be read .*No such file"):
        read_object(tmp_path / "none.json")


def test_results_are_those_of_our_commands_only(tmp_path: Path) -> None:
    path = tmp_path / "knn.json"
    path.write_text('{"results": 3}')
    with pytest.raises(ValueError, match="no results; it must be written by fame evaluate"):
        read_results(path)
    rows = [{"figures": {str(row): 10**400, "b": {"value": 1}, "c": True}} for row in range(1000)]
    path.write_text(json.dumps({"results": rows}))
    with pytest.raises(ValueError, match="more than 100,000 figures"):
        read_results(path)
    path.write_text(json.dumps({"results": rows[:1]}))
    assert read_results(path) == (["0", "b", "c"], [["", "-", "1", "-"]])
