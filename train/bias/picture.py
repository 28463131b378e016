"""The bias report for the eye: what its metrics are called, bars with intervals, and the clips that
were shown.

Shapes: P variants, T frames, S crop size.
"""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from fame.bias import VARIANTS
from fame.files import whole
from fame.preview import tile
from train.bias.clips import VariantClips
from train.bias.report import BiasReport
from train.figures import Axes, Figure

MEASURES = {
    "knn": "kNN accuracy, %",
    "linear": "linear probe accuracy, %",
    "classifier": "classifier accuracy, %",
    "merged": "a foreground on a lent background, %",
    "neighbour": "nearest neighbour of a video, %",
    "cosine": "cosine with the original",
}
# The arrow shows the direction that is better: towards motion, away from the background.
NAMES = {
    "background only": "background only ↓",
    "foreground only": "foreground only ↑",
    "background swapped": "background swapped ↑",
    "foreground swapped": "foreground swapped ↓",
    "frame repeated": "frame repeated ↓",
    "contrasted": "contrasted ↑",
    "background wins": "background wins ↓",
    "lender": "nearest to the lender ↓",
    "lender class": "to the lender's class ↓",
    "own class": "to its own class ↑",
    "background": "same background ↓",
    "background not class": "same background, other class ↓",
    "class not background": "same class, other background ↑",
}
# Okabe and Ito's colours, which colour-blind readers can distinguish; the hatching serves prints in
# grey.
_LOOKS = (
    ("#BBBBBB", ""),
    ("#0072B2", ""),
    ("#E69F00", "///"),
    ("#56B4E9", "..."),
    ("#D55E00", "\\\\\\"),
    ("#F0E442", "xxx"),
    ("#009E73", "---"),
    ("#CC79A7", "+++"),
)
_LABEL_LETTERS = 14  # in a line below a group of bars


def panels(reports: Sequence[BiasReport]) -> dict[str, list[str]]:
    """Return the metrics that any report has, by the measure beside which they are shown."""
    shown: dict[str, list[str]] = {measure: [] for measure in MEASURES}
    for metric in dict.fromkeys(metric for report in reports for metric in report.metrics):
        measure = "merged" if metric == "cosine/background wins" else metric.split("/")[0]
        shown[measure].append(metric)
    return {measure: metrics for measure, metrics in shown.items() if metrics}


def metric_name(metric: str) -> str:
    """Return the name of a metric within its panel."""
    name = metric.split("/", 1)[1]
    return NAMES.get(name, name)


def draw_bars(
    path: Path, reports: Sequence[BiasReport], columns: Sequence[str], *, title: str
) -> None:
    """Draw every figure of every report as a bar with its interval, as a PNG; ``columns`` names the
    reports.
    """
    shown = panels(reports)
    wide = [measure for measure in shown if measure in ("knn", "linear", "classifier")]
    narrow = [measure for measure in shown if measure not in wide]
    figure = Figure(figsize=(11, 0.9 + 2.3 * (len(wide) + 1)), layout="constrained", dpi=130)
    figure.suptitle(title, fontsize=11)
    top, bottom = figure.subfigures(2, 1, height_ratios=(len(wide), 1.15), squeeze=False)[:, 0]
    rows = top.subplots(len(wide), 1, sharey=True, squeeze=False)[:, 0]
    widths = [len(shown[measure]) + 0.6 for measure in narrow]
    places = [*rows, *bottom.subplots(1, len(narrow), width_ratios=widths, squeeze=False)[0]]
    for axes, measure in zip(places, (*wide, *narrow), strict=True):
        axes.set_title(MEASURES[measure], fontsize=9.5, loc="left")
        _bars(axes, reports, columns, shown[measure])
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=min(4, len(labels)),
        fontsize=9,
        frameon=False,
    )
    with whole(path) as partial:
        figure.savefig(partial)


def _bars(
    axes: Axes, reports: Sequence[BiasReport], columns: Sequence[str], shown: Sequence[str]
) -> None:
    breadth = 0.8 / len(reports)
    for number, (report, column) in enumerate(zip(reports, columns, strict=True)):
        colour, hatch = _LOOKS[number % len(_LOOKS)]
        offset = (number - (len(reports) - 1) / 2) * breadth
        there = [
            (place + offset, report.metrics[name])
            for place, name in enumerate(shown)
            if name in report.metrics
        ]
        places, values = [place for place, _ in there], [figure.value for _, figure in there]
        reach = [[f.value - f.low for _, f in there], [f.high - f.value for _, f in there]]
        axes.bar(
            places,
            values,
            0.92 * breadth,
            color=colour,
            hatch=hatch,
            edgecolor="0.15",
            linewidth=0.6,
            label=column,
        )
        axes.errorbar(
            places,
            values,
            np.clip(reach, 0, None),
            fmt="none",
            ecolor="0.1",
            elinewidth=1,
            capsize=2,
        )
    _mark_guessing(axes, reports, shown)
    axes.set_xticks(range(len(shown)), [_lines(metric_name(name)) for name in shown], fontsize=8)
    axes.set_xlim(-0.55, len(shown) - 0.45)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.85", linewidth=0.6)
    axes.set_axisbelow(True)


def _mark_guessing(axes: Axes, reports: Sequence[BiasReport], shown: Sequence[str]) -> None:
    """Draw a dashed line at the value of guessing over the bars of each metric that has one."""
    for place, name in enumerate(shown):
        if (chance := chance_of(reports, name)) is not None:
            axes.plot(
                [place - 0.45, place + 0.45],
                [chance, chance],
                "--",
                color="black",
                linewidth=1.3,
                label="guessing" if place == 0 else None,  # one entry in the legend
            )


def draw_clips(path: Path, clips: VariantClips, *, videos: int = 4) -> None:
    """Draw what is shown of a few videos, two moments of each, one column for each variant, as a
    PNG.
    """
    rows: list[list[np.ndarray]] = []
    for position in np.linspace(0, len(clips) - 1, min(videos, len(clips))).round().astype(int):
        clip_PTSS3 = clips[int(position)][0].numpy()
        frames = clip_PTSS3.shape[1]
        rows += [list(clip_PTSS3[:, moment]) for moment in (frames // 4, 3 * frames // 4)]
    with whole(path) as partial:
        Image.fromarray(tile(rows, VARIANTS)).save(partial, "PNG")


def chance_of(reports: Sequence[BiasReport], metric: str) -> float | None:
    """Return the value of a metric by guessing, from the first report that has it."""
    return next(report.metrics[metric].chance for report in reports if metric in report.metrics)


def _lines(label: str) -> str:
    """Return a label broken into lines that fit side by side; an arrow stays with its last word."""
    return textwrap.fill(label.replace(" ↑", "\u00a0↑").replace(" ↓", "\u00a0↓"), _LABEL_LETTERS)
