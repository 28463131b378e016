"""The figures on the page about performance are those of the committed results; ``--update-golden``
rewrites them.
"""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.markdown import ROOT

PAGE = ROOT / "docs" / "performance.md"


def _worst_mask(results: Any) -> float:
    parity = results["foreground"]["parity"].values()
    return min(
        value for measured in parity for name, value in measured.items() if name.startswith("mask")
    )


FIGURES: dict[str, tuple[str, Callable[[Any], float]]] = {
    "read clips of a jpeg store / decode the same JPEGs": (
        ".2f",
        lambda of: of["store"]["ratios"]["store jpeg / bare jpeg (target 0.90)"],
    ),
    "read clips of a jpeg store / decode the videos": (
        ".1f",
        lambda of: of["store"]["ratios"]["store jpeg / fastest on the fly (target 8)"],
    ),
    "read clips of a jpeg store / the same": (
        ".2f",
        lambda of: of["store"]["ratios"]["store jpeg / format 1 jpeg (target 0.90)"],
    ),
    "read clips of an lz4 store": (
        ".2f",
        lambda of: of["store"]["ratios"]["store lz4 / bare lz4 (target 0.80)"],
    ),
    "the same through zarr-python, jpeg": (
        ".2f",
        lambda of: of["store"]["ratios"]["zarr-python jpeg / bare jpeg"],
    ),
    "the same through zarr-python, lz4": (
        ".2f",
        lambda of: of["store"]["ratios"]["zarr-python lz4 / bare lz4"],
    ),
    **{
        f"frames per core / the first release, {name}": (
            ".2f",
            lambda of, name=name: of["offline_change"][name]["ratio"],
        )
        for name in (
            "128 px, 1-6 s",
            "UCF101, 320x240",
            "180 to 1080 px",
            "phones, all",
            "Kinetics, all",
        )
    },
    "frames per core / bare loop, videos of 128": (
        ".2f",
        lambda of: of["offline_stage"]["speed"]["128 px, 1-6 s"]["ratio_cpu"],
    ),
    "frames per core / bare loop, UCF101": (
        ".2f",
        lambda of: of["offline_stage"]["speed"]["UCF101, 320x240"]["ratio_cpu"],
    ),
    "frames per core / bare loop, 180": (
        ".2f",
        lambda of: of["offline_stage"]["speed"]["180 to 1080 px"]["ratio_cpu"],
    ),
    "Ray with two workers": (
        ".2f",
        lambda of: of["offline_stage"]["parallel on idle cores, 1 video a shard"][
            "ratio_wall_of_best"
        ],
    ),
    "the same by CPU seconds": (
        ".2f",
        lambda of: of["offline_stage"]["parallel"]["8 videos a shard"][
            "ratio_on_two_free_cores_by_cpu"
        ],
    ),
    "memory for an hour": (".2f", lambda of: of["offline_stage"]["memory"]["ratio_hour"]),
    "memory after 1,000 videos": (
        ".2f",
        lambda of: of["offline_stage"]["memory"]["ratio_1000_videos"],
    ),
    "straightforward score": (
        ".2f",
        lambda of: of["foreground"]["CPU ms, 8x3x16x224x224, one thread"]["ratio"],
    ),
    "memory beside the batch": (".2f", lambda of: of["foreground"]["memory"]["extra / clip"]),
    "share of the mask": (".4f", _worst_mask),
    "plain training step": (".2f", lambda of: of["train_cpu"]["step"]["step_seconds"]["ratio"]),
    "training data of a store in a bucket": (
        ".2f",
        lambda of: of["bucket"]["rate_over_that_of_the_folder"]["cache of the whole"][
            "later epochs"
        ],
    ),
    "loader's memory": (
        ".2f",
        lambda of: (
            of["train_cpu"]["loader"]["mib_at_the_end"]
            / of["train_cpu"]["loader"]["mib_after_a_tenth"]
        ),
    ),
    "features from a store / the encoder alone, I3D": (
        ".2f",
        lambda of: of["features"]["cases"]["i3d"]["extraction / encoder (target 0.90)"],
    ),
    "features from a store / the encoder alone, R": (
        ".2f",
        lambda of: of["features"]["cases"]["r2plus1d_18"]["extraction / encoder (target 0.90)"],
    ),
}


def test_the_figures_are_those_of_the_results(request: pytest.FixtureRequest) -> None:
    results = {
        path.stem: json.loads(path.read_text())
        for path in (ROOT / "benchmarks" / "results").glob("*.json")
    }
    text = PAGE.read_text()
    for row, (form, figure) in FIGURES.items():
        written = re.compile(rf"^(\| {re.escape(row)}[^|]*\| )([\d.]+)", re.MULTILINE)
        found, actual = written.search(text), format(figure(results), form)
        assert found, f"the page has no row {row!r} with a figure"
        if request.config.getoption("--update-golden"):
            text = written.sub(rf"\g<1>{actual}", text)
        else:
            assert found[2] == actual, f"{row}: the page says {found[2]}, the results {actual}"
    if request.config.getoption("--update-golden"):
        PAGE.write_text(text)


def test_every_figure_is_checked() -> None:
    rows = [
        line for line in PAGE.read_text().splitlines() if re.match(r"\| [^|]+\| [\d.]+ \|", line)
    ]
    assert len(rows) == len(FIGURES)
