"""What the benchmarks share: turns, ratios within a round, parts kept, facts of the machine."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import harness


def test_jobs_take_turns_and_warm_rounds_do_not_count() -> None:
    called: list[tuple[str, int]] = []
    ticks: Iterator[int] = iter(range(100))
    jobs = {name: lambda n, name=name: called.append((name, n)) for name in ("a", "b")}
    seconds = harness.in_turns(jobs, rounds=2, warm=1, clock=lambda: next(ticks))
    assert called == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    assert seconds == {"a": [1, 1], "b": [1, 1]}


def test_a_ratio_is_taken_within_each_round() -> None:
    seconds = {"ours": [1.0, 10.0, 2.0], "theirs": [2.0, 30.0, 2.0]}
    assert harness.ratio(seconds, "theirs", "ours") == 2.0  # of 2, 3, 1
    assert harness.medians(seconds) == {"ours": 2.0, "theirs": 2.0}


def test_results_say_where_they_were_measured(tmp_path: Path) -> None:
    harness.write("some", {"figure": 1}, table="| a |\n", folder=tmp_path / "new")
    kept = harness.read("some", tmp_path / "new")
    assert kept["figure"] == 1 and kept["machine"]["cores"] == len(os.sched_getaffinity(0))
    assert "torch" in kept["machine"]["packages"]
    assert (tmp_path / "new" / "some.md").read_text() == "| a |\n"
    assert str(Path.home()) not in json.dumps(kept) and os.uname().nodename not in json.dumps(kept)


def test_a_part_is_put_beside_the_others(tmp_path: Path) -> None:
    assert harness.read("some", tmp_path) == {}
    harness.update("some", {"first": {"a": 1}}, folder=tmp_path)
    harness.update("some", {"second": {"b": 2}}, folder=tmp_path)
    harness.update("some", {"first": {"a": 3}}, folder=tmp_path)
    kept = harness.read("some", tmp_path)
    assert {name: part.keys() - {"machine"} for name, part in kept.items()} == {
        "first": {"a"},
        "second": {"b"},
    }
    assert kept["first"]["a"] == 3


def test_the_peak_of_a_process_of_its_own_is_not_this_ones() -> None:
    ballast = bytearray(300 * 2**20)
    assert harness.in_fresh_process(harness.peak_mib) < harness.peak_mib() - 100 and ballast


def test_cpu_seconds_count_ended_children() -> None:
    before = harness.cpu_seconds()
    harness.in_fresh_process(sum, range(3_000_000))
    assert harness.cpu_seconds() > before


def test_a_package_that_is_missing_has_no_version() -> None:
    assert harness.installed("no-such-package-here") is None
    assert harness.installed("numpy")


def test_a_table_in_markdown() -> None:
    assert harness.markdown(["a", "b"], [[1, "x"]]) == "| a | b |\n|---|---|\n| 1 | x |\n"


@pytest.mark.parametrize("name", sorted(p.stem for p in (harness.ROOT / "benchmarks").glob("*.py")))
def test_every_benchmark_can_be_started(name: str) -> None:
    pytest.importorskip(f"benchmarks.{name}", exc_type=ImportError)
