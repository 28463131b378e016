"""Pictures of a run, drawn with matplotlib without a display."""

import json
from pathlib import Path

from matplotlib.figure import Figure

_SMOOTH_SHARE = 20  # the bold line averages a twentieth of the run


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The lines of a run's ``metrics.jsonl``; ``ValueError`` where there are none."""
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    if not lines:
        raise ValueError(f"{path}: no metrics; is it the folder of a run that has begun?")
    return lines


def plot_curves(run: Path, picture: Path) -> None:
    """Draw loss, contrastive accuracy and feature spread over the steps of the run folder ``run`` as a PNG."""
    lines = read_metrics(run / "metrics.jsonl")
    steps = [line["step"] for line in lines]
    figure = Figure(figsize=(12, 3.4), layout="constrained")
    panels = (("loss", "InfoNCE loss"), ("accuracy", "queries that find their key"), ("spread", "feature spread"))
    for axes, (name, title) in zip(figure.subplots(1, 3), panels, strict=True):
        values = [line[name] for line in lines]
        axes.plot(steps, values, color="tab:blue", alpha=0.3, linewidth=1)
        axes.plot(steps, moving_average(values, max(1, len(values) // _SMOOTH_SHARE)), color="tab:blue")
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=100)


def moving_average(values: list[float], width: int) -> list[float]:
    """Mean of each value and up to ``width - 1`` before it."""
    windows = (values[max(0, end - width) : end] for end in range(1, len(values) + 1))
    return [sum(window) / len(window) for window in windows]
