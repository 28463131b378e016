"""Pictures and films of a run, drawn without a display."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
from jaxtyping import Int, UInt8
from torch import Tensor

from fame.files import utf8, whole
from fame.reading import read_json_lines
from fame.words import shown
from train.evaluate.results import is_number, read_object, read_run
from train.figures import Figure

# Metric of a pretraining run, title, and what its numbers are.
CURVES = (
    ("batch_loss", "Loss among the batch's keys", "nats"),  # not in the metrics of older runs
    ("loss", "Loss against the queue", "nats"),
    ("accuracy", "Queries that find their key", "share"),
    ("spread", "Feature spread (0: collapse)", "standard deviation"),
)
SMOOTH_SHARE = 20  # the bold line averages a twentieth of the run
_NAMED_CLASSES = 60  # more names than that cannot be read along an axis
_NUMBERED_CLASSES = 15  # nor more numbers in the cells


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Return the lines of a run's ``metrics.jsonl``, less a last one that a run is writing.

    Raise ``ValueError`` where there are none, and for a line that is damaged.
    """
    found = list(read_json_lines(path)) if path.exists() else []
    lines: list[dict[str, float]] = []
    for number, _, line in found:
        if _is_line(line):
            lines.append(cast("dict[str, float]", line))
        elif number < len(found):
            raise ValueError(f"{path}, line {number}: damaged; the run's own command mends it")
    if not lines:
        raise ValueError(f"{path}: no metrics; is it the folder of a run that has begun?")
    return lines


def _is_line(line: Any) -> bool:
    """Return whether a line of metrics is that of a step: names and numbers."""
    return (
        isinstance(line, dict)
        and type(line.get("step")) is int
        and all(is_number(value) for value in cast("dict[str, Any]", line).values())
    )


def shown_curves(lines: Sequence[Mapping[str, float]]) -> list[tuple[str, str, str]]:
    """Return name, title and unit of each curve that all lines have; a resumed run may be of two
    versions of this program.
    """
    return [curve for curve in CURVES if all(curve[0] in line for line in lines)]


def plot_curves(run: Path, picture: Path) -> None:
    """Draw the losses, contrastive accuracy and feature spread of a run folder as a PNG.

    Dashed lines are what guessing reaches.
    """
    lines, levels = read_metrics(run / "metrics.jsonl"), chance_levels(run)
    steps = [line["step"] for line in lines]
    width = max(1, len(lines) // SMOOTH_SHARE)
    shown = shown_curves(lines)
    raw, smooth = curve_names(steps, width)
    rows = -(-len(shown) // 2)  # two side by side: legible in a page
    figure = Figure(figsize=(10, 3.6 * rows), layout="constrained")
    panels = list(figure.subplots(rows, 2, squeeze=False).flat)
    for spare in panels[len(shown) :]:
        spare.remove()
    for axes, (name, title, unit) in zip(panels, shown, strict=False):
        values = [line[name] for line in lines]
        axes.plot(steps, values, color="tab:blue", alpha=0.3, linewidth=1, label=raw)
        axes.plot(steps, moving_average(values, width), color="tab:blue", label=smooth)
        if name in levels:
            level, label = levels[name], guessing(name, levels[name])
            axes.axhline(level, color="0.4", linestyle="--", linewidth=1, label=label)
        axes.set(title=title, xlabel="step", ylabel=unit)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    _save(figure, picture)


def curve_names(steps: Sequence[float], width: int) -> tuple[str, str]:
    """Return what a curve and its mean of ``width`` entries are called: a run logs every k-th step.

    ``([0, 10, 20], 2)`` gives ``("every 10th step", "mean over 20 steps")``.
    """
    every = round(steps[1] - steps[0]) if len(steps) > 1 else 1
    return (
        "each step" if every == 1 else f"every {every}th step",
        f"mean over {width * every} steps",
    )


def chance_levels(run: Path) -> dict[str, float]:
    """Return what guessing reaches in a pretraining run, by the name of the metric.

    Among K negatives and the key, it is a loss of ln(K + 1) and an accuracy of 1 / (K + 1): for a
    queue of 63 keys 4.16 and 1.6 %. Among the keys of B clips it is a loss of ln(B).
    """
    config = read_run(run) if (run / "config.json").is_file() else {}
    if "queue" not in config:
        return {}
    file = run / "environment.json"
    processes = read_object(file).get("processes", 1) if file.is_file() else 1
    if type(processes) is not int or processes < 1:
        raise ValueError(f"{file}: processes is {shown(processes)}, not a number of processes")
    negatives, at_hand = config["queue"], config["batch"] / config["accumulate"] / processes
    return {
        "batch_loss": math.log(at_hand),
        "loss": math.log(negatives + 1),
        "accuracy": 1 / (negatives + 1),
    }


def guessing(name: str, level: float) -> str:
    """Return in words what guessing reaches: ``guessing: ln(64) = 4.16``."""
    share = name == "accuracy"
    among = round(1 / level if share else math.exp(level))
    return f"guessing: {f'1/{among}' if share else f'ln({among})'} = {level:.3g}"


def moving_average(values: list[float], width: int) -> list[float]:
    """Return the mean of each value and up to ``width - 1`` before it."""
    windows = (values[max(0, end - width) : end] for end in range(1, len(values) + 1))
    return [sum(window) / len(window) for window in windows]


def plot_confusion(
    matrix_KK: Int[Tensor, "k_classes k_classes"],
    class_names: Sequence[str],
    picture: Path,
    *,
    title: str = "",
) -> None:
    """Draw a confusion matrix (row: true class, column: what it was taken for), each row as shares,
    as a PNG.
    """
    count_KK = matrix_KK.numpy()
    share_KK = count_KK / np.maximum(1, count_KK.sum(1, keepdims=True))
    classes = len(class_names)
    side = min(
        24.0, max(4.5, 2.5 + 0.22 * classes, 0.6 * classes if classes <= _NUMBERED_CLASSES else 0)
    )
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(share_KK, vmin=0, vmax=1, cmap="Blues", interpolation="nearest")
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.7)
    axes.set(xlabel="taken for", ylabel="true class", title=title)
    if classes <= _NAMED_CLASSES:
        axes.set_xticks(range(classes), class_names, rotation=90, fontsize=8)
        axes.set_yticks(range(classes), class_names, fontsize=8)
    if classes <= _NUMBERED_CLASSES:
        for row, column in np.argwhere(count_KK > 0):
            colour = "white" if share_KK[row, column] > 0.5 else "black"
            axes.text(
                column,
                row,
                str(count_KK[row, column]),
                ha="center",
                va="center",
                color=colour,
                fontsize=8,
            )
    _save(figure, picture)


def plot_kernels(kernels: Mapping[str, Mapping[str, np.ndarray]], picture: Path) -> None:
    """Draw the weights of temporal kernels (checkpoint -> stage -> values) as violins: figure 3 of
    the paper.
    """
    stages = list(next(iter(kernels.values())))
    figure = Figure(
        figsize=(max(6.0, 0.9 * len(stages) * len(kernels) ** 0.5), 4.2), layout="constrained"
    )
    axes = figure.subplots()
    breadth = 0.8 / len(kernels)
    for number, (name, by_stage) in enumerate(kernels.items()):
        places = [
            stage + (number - (len(kernels) - 1) / 2) * breadth for stage in range(len(stages))
        ]
        values = [by_stage[stage] for stage in stages]
        parts = axes.violinplot(
            values, places, widths=0.95 * breadth, showextrema=False, showmedians=True
        )
        for body in parts["bodies"]:  # pyright: ignore[reportGeneralTypeIssues]
            body.set(facecolor=f"C{number}", alpha=0.6)
        parts["cmedians"].set(color=f"C{number}")
        axes.plot([], color=f"C{number}", linewidth=6, alpha=0.6, label=name)
    axes.set_xticks(range(len(stages)), stages, rotation=30, ha="right", fontsize=8)
    axes.set(ylabel="weights of temporal kernels")
    axes.axhline(0, color="0.6", linewidth=0.6, zorder=0)
    axes.legend(fontsize=8)
    _save(figure, picture)


def _save(figure: Figure, picture: Path) -> None:
    with whole(picture) as partial:
        figure.savefig(partial, dpi=100)


def write_video(
    path: Path, moments: Sequence[UInt8[np.ndarray, "p q 3"]], *, frames_per_second: float = 8
) -> None:
    """Write RGB pictures of one size as an MPEG-4 video, white added to an odd side. Raise
    ``OSError`` where it cannot be.
    """
    with whole(path) as partial:
        _write_video(partial, moments, frames_per_second)


def _write_video(path: Path, moments: Sequence[np.ndarray], frames_per_second: float) -> None:
    height, width, _ = moments[0].shape
    even = (width + width % 2, height + height % 2)  # the codec takes no other
    writer = cv2.VideoWriter(
        utf8(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), frames_per_second, even
    )
    if not writer.isOpened():
        raise OSError(f"{path}: cannot be written as a video")
    for moment in moments:
        edges = (0, even[1] - height, 0, even[0] - width)
        edged = cv2.copyMakeBorder(moment, *edges, cv2.BORDER_CONSTANT, value=(255, 255, 255))
        writer.write(cv2.cvtColor(edged, cv2.COLOR_RGB2BGR))
    writer.release()
