"""Pictures of a run."""

import json
from pathlib import Path

import pytest
from PIL import Image

from train.visualize import moving_average, plot_curves


def test_the_moving_average_looks_back_only() -> None:
    assert moving_average([1.0, 3.0, 5.0, 7.0], 2) == [1.0, 2.0, 4.0, 6.0]


def test_the_curves_of_a_run_are_drawn(tmp_path: Path) -> None:
    lines = [{"step": step, "loss": 4 - step / 50, "accuracy": step / 100, "spread": 0.5} for step in range(100)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    plot_curves(tmp_path, tmp_path / "report" / "curves.png")
    with Image.open(tmp_path / "report" / "curves.png") as picture:
        assert picture.size == (1200, 340)
        assert len(picture.convert("RGB").getcolors(2**20)) > 50


def test_a_folder_without_metrics_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"metrics\.jsonl"):
        plot_curves(tmp_path, tmp_path / "curves.png")
