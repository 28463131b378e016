"""Pictures of a run."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from train.evaluate.plots import (
    chance_levels,
    curve_names,
    guessing,
    moving_average,
    plot_confusion,
    plot_curves,
    plot_kernels,
    read_metrics,
)


def test_the_moving_average_looks_back_only() -> None:
    assert moving_average([1.0, 3.0, 5.0, 7.0], 2) == [1.0, 2.0, 4.0, 6.0]


def test_curves_are_called_by_how_often_a_run_logs() -> None:
    assert curve_names([0, 1, 2], 84) == ("each step", "mean over 84 steps")
    assert curve_names([0, 10, 20], 2) == ("every 10th step", "mean over 20 steps")
    assert curve_names([7], 1) == ("each step", "mean over 1 steps")


def test_the_curves_of_a_run_are_drawn(tmp_path: Path) -> None:
    lines = [
        {
            "step": step,
            "batch_loss": 2.0,
            "loss": 4 - step / 50,
            "accuracy": step / 100,
            "spread": 0.5,
        }
        for step in range(100)
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    config = {"queue": 63, "batch": 16, "accumulate": 2}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "environment.json").write_text(json.dumps({"processes": 2}))
    levels = {"batch_loss": 1.3863, "loss": 4.1589, "accuracy": 1 / 64}
    assert chance_levels(tmp_path) == pytest.approx(levels, abs=1e-4)
    assert guessing("loss", levels["loss"]) == "guessing: ln(64) = 4.16"
    assert guessing("accuracy", 1 / 64) == "guessing: 1/64 = 0.0156"
    plot_curves(tmp_path, tmp_path / "report" / "curves.png")
    with Image.open(tmp_path / "report" / "curves.png") as picture:
        assert picture.size == (1000, 720)
        assert len(picture.convert("RGB").getcolors(2**20)) > 50


def test_lines_that_are_damaged_are_named_and_an_unfinished_last_one_is_left_out(
    tmp_path: Path,
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 0}\n{"step": 1}\n{"ste')
    assert read_metrics(path) == [{"step": 0}, {"step": 1}]
    path.write_bytes(b'{"step": 0}\n\xff[2J\n{"step": 2}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2: damaged"):
        read_metrics(path)


def test_a_folder_without_metrics_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"metrics\.jsonl"):
        plot_curves(tmp_path, tmp_path / "curves.png")


def test_a_confusion_matrix_shows_rows_as_shares(tmp_path: Path) -> None:
    plot_confusion(torch.tensor([[3, 1], [0, 0]]), ("left", "right"), tmp_path / "new" / "two.png")
    with Image.open(tmp_path / "new" / "two.png") as picture:
        colours = [colour for _, colour in picture.convert("RGB").getcolors(2**20)]
    assert any(
        abs(red - 33) < 40 and blue > 120 and red < blue for red, _, blue in colours
    )  # three of four: dark blue
    plot_confusion(
        torch.eye(101, dtype=torch.int64), [str(k) for k in range(101)], tmp_path / "many.png"
    )
    with Image.open(tmp_path / "many.png") as picture:
        assert min(picture.size) > 1000


def test_kernels_are_drawn_for_every_checkpoint(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    kernels = {
        name: {stage: rng.normal(size=50) for stage in ("stem", "layer1")}
        for name in ("moco", "fame")
    }
    plot_kernels(kernels, tmp_path / "kernels.png")
    with Image.open(tmp_path / "kernels.png") as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(2**20)}
    assert sum(red > blue + 60 for red, _, blue in colours) > 0  # the second checkpoint's orange
    assert sum(blue > red + 60 for red, _, blue in colours) > 0  # the first's blue
