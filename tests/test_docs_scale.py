"""The page on scale says what follows from the committed figures."""

import json

from tests.markdown import ROOT

VIDEOS, FRAMES = 240_000, 300  # Kinetics-400, 10 s at 30 frames a second
FIGURES = json.loads((ROOT / "benchmarks" / "results" / "offline_stage.json").read_text())
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "docs" / "scale.md").read_text().splitlines()
    if line.startswith("| core-hours")
]


def core_hours() -> list[float]:
    """Of videos kept small, and of videos of 180 to 1080 pixels."""
    small = FIGURES["cost"]["flow"]["cpu_s_per_video"]
    maps = small - FIGURES["cost"]["none"]["cpu_s_per_video"]
    large = FRAMES / FIGURES["speed"]["180 to 1080 px"]["stage_frames_per_cpu_s"] + maps
    return [VIDEOS * seconds / 3600 for seconds in (small, large)]


def test_the_core_hours_follow_from_the_figures() -> None:
    assert [int(figure) for *_, figure in ROWS] == [round(hours) for hours in core_hours()]
    assert f"{FIGURES['cost']['flow']['cpu_s_per_video']} CPU seconds" in ROWS[0][1]
    frames = FIGURES["speed"]["180 to 1080 px"]["stage_frames_per_cpu_s"]
    assert f"{frames:.0f} frames per CPU second without maps: {FRAMES / frames:.2f} +" in ROWS[1][1]


def test_the_table_of_draws_is_that_of_the_results() -> None:
    sampling = json.loads((ROOT / "benchmarks" / "results" / "sampling.json").read_text())
    page = (ROOT / "docs" / "scale.md").read_text()
    rows = {
        "format 1, ten windows": "format 1",
        "store, every second frame": "this store",
        "the reference, from the video": "reference",
    }
    for row, name in rows.items():
        of = sampling[name]
        shares = f"{of['overlapping']:.1%} | {of['source_frames_shown']:.1%}".replace("%", " %")
        figures = f"{of['starts']} | {of['pairs']:,} | {of['mean_gap']:.1f} | {shares}"
        assert f"| {row} | {figures} |" in page, row
