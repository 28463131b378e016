"""When does merging pay? One picture and one table of the worlds, from pale backgrounds to
tempting ones, after 500 and 3,000 steps.

Run after ``run.py``: ``python benchmarks/evidence/pays.py``. It reads ``../results/evidence_*.json``
and writes ``../results/evidence_pays.md`` and ``docs/images/evidence_pays.png``. What was not run
is left out of the picture and empty in the table.
"""

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

sys.path.insert(0, str(Path(__file__).parent))
from run import PICTURES, RESULTS, cell, values

WORLDS = {  # name on the page -> the results after 500 and after 3,000 steps
    "pale": ("frames", "longer"),  # 12 backgrounds for all training videos
    "own": ("tempting_own", "tempting_own_longer"),  # a background for each of them
    "bold": ("tempting_bold", "tempting_bold_longer"),  # that, of twice the contrast
    "tempting": ("tempting_strong", "tempting_strong_longer"),  # that, and small movers
}
STEPS = (500, 3000)
ARMS = {
    "MoCo": "0.45",
    "FAME, frame difference": "tab:orange",
    "FAME, masks per frame": "tab:blue",
    "FAME, masks per frame, adaptive": "tab:green",
}
FIGURES = {
    "linear/original": "linear probe",
    "knn/original": "kNN",
    "neighbour/background not class": "leakage",
}
Trials = dict[str, list[dict[str, Any]]]


def read(results: Path) -> dict[tuple[str, int], Trials]:
    """(Name of a world, steps) -> arm -> its trials."""
    found: dict[tuple[str, int], Trials] = {}
    for heading, names in WORLDS.items():
        for steps, name in zip(STEPS, names, strict=True):
            path = results / f"evidence_{name}.json"
            trials = json.loads(path.read_text())["trials"] if path.exists() else {}
            found[heading, steps] = {arm: trials.get(arm, []) for arm in ARMS}
    return found


def table(found: dict[tuple[str, int], Trials]) -> str:
    """A row for each world, number of steps and arm that was run."""
    heads = ["world", "steps", "", *FIGURES.values()]
    lines = ["Mean (every seed), %, on unseen backgrounds.", ""]
    lines += [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for (heading, steps), trials in found.items():
        for arm, each in trials.items():
            if each:
                cells = [heading, f"{steps:,}", arm]
                cells += [cell(each, figure) for figure in FIGURES]
                lines.append(f"| {' | '.join(cells)} |")
    trials = [trial for part in found.values() for each in part.values() for trial in each]
    hours = sum(trial["pretraining_cpu_seconds"] for trial in trials) / 3600
    return "\n".join([*lines, "", f"{len(trials)} pretrainings, {hours:.1f} CPU hours."]) + "\n"


def plot(found: dict[tuple[str, int], Trials], path: Path) -> None:
    """A row of panels for each number of steps: lines through the means, dots for the seeds."""
    shown = [world for world in WORLDS if any(found[world, STEPS[0]].values())]
    drawn, panels = plt.subplots(
        len(STEPS), len(FIGURES), figsize=(11, 6.2), sharex=True, sharey=True, squeeze=False
    )
    for row, steps in zip(panels, STEPS, strict=True):
        for panel, (figure, heading) in zip(row, FIGURES.items(), strict=True):
            for shift, (arm, colour) in enumerate(ARMS.items()):
                each = [values(found[world, steps][arm], figure) for world in shown]
                run = {place + shift / 30: part for place, part in enumerate(each) if part}
                means = [statistics.mean(part) for part in run.values()]
                panel.plot(list(run), means, "-", color=colour, label=arm, linewidth=1.8)
                for place, part in run.items():
                    panel.plot([place] * len(part), part, "o", color=colour, markersize=4)
            panel.set(title=f"{heading}, {steps:,} steps", ylim=(0, 100))
            panel.set_xticks(range(len(shown)), shown)
            panel.set_xlim(-0.3, len(shown) - 0.6)
            panel.grid(axis="y", color="0.9")
        row[0].set_ylabel("%")
    drawn.legend(*panels[0][0].get_legend_handles_labels(), loc="lower center", ncols=len(ARMS))
    drawn.tight_layout(rect=(0, 0.05, 1, 1))
    drawn.savefig(path, dpi=110)
    plt.close(drawn)


def main(results: Path = RESULTS, pictures: Path = PICTURES) -> None:
    found = read(results)
    (results / "evidence_pays.md").write_text(table(found))
    plot(found, pictures / "evidence_pays.png")
    print(table(found))


if __name__ == "__main__":
    main()
