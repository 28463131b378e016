"""The bias report of every encoder and classifier of ``footage.py``: do they look at the people or
at the room?

What is cut out is only as good as the stores' flow maps: nobody has drawn true masks of this
footage.

Run after ``footage.py`` with the same ``--work``, where every report is kept: ``python -m
benchmarks.footage_bias``. Results: ``results/footage_bias.{md,json}``, every seed;
``docs/images/footage_bias.png``, encoders of the first seed.
"""

import json
import statistics
from pathlib import Path
from typing import Any

import torch

from benchmarks.footage import ARMS, PRETRAIN, make_stores, start_of
from benchmarks.harness import markdown, options, write
from train.bias.picture import draw_bars, metric_name
from train.bias.report import BiasReport, Metric, encoder_report
from train.evaluate.config import BiasConfig

PICTURES = Path(__file__).parents[1] / "docs" / "images"
SEEDS = (0, 1, 2)
ENCODER = [
    *(
        f"{measure}/{variant}"
        for measure in ("knn", "linear")
        for variant in ("original", "background swapped")
    ),
    "linear/background only",
    "linear/frame repeated",
    "cosine/background wins",
]
CLASSIFIER = [
    f"classifier/{name}"
    for name in (
        "original",
        "background swapped",
        "background only",
        "frame repeated",
        "contrasted",
    )
]


def measure(arm: str, seed: int, stores: dict[str, Path], work: Path) -> None:
    """Report on one arm's encoder as pretrained, and as fine-tuned, and keep both."""
    folder = work / f"{arm}-{seed}"
    checkpoints = {
        "bias.json": start_of(arm, seed, stores, folder),
        "bias-finetuned.json": folder / "finetune" / "checkpoints" / "last.pt",
    }
    config = BiasConfig(
        test_store=stores["test"],
        train_store=stores["train"],
        cache=folder / "features",
        crop=PRETRAIN.crop,
        batch=128,
        device="cpu",
    )
    for name, checkpoint in checkpoints.items():
        kept = folder / name
        if not kept.exists():
            report = encoder_report(checkpoint, config) | {
                "checkpoint": str(checkpoint.relative_to(work))
            }
            kept.with_suffix(".partial").write_text(json.dumps(report))
            kept.with_suffix(".partial").replace(kept)
            print(f"{arm}, seed {seed}: {kept}", flush=True)


def collected(work: Path, name: str) -> dict[str, list[dict[str, Any]]]:
    """Arm -> the report of every seed."""
    return {
        arm: [json.loads((work / f"{arm}-{seed}" / name).read_text()) for seed in SEEDS]
        for arm in ARMS
    }


def table(reports: dict[str, list[dict[str, Any]]], figures: list[str]) -> str:
    """A Markdown table: a row for each figure, a column for each arm, the mean and every seed."""
    rows = []
    for figure in figures:
        chance = next(iter(reports.values()))[0]["figures"][figure]["chance"]
        cells = []
        for of_seeds in reports.values():
            values = [report["figures"][figure]["value"] for report in of_seeds]
            cells.append(
                f"**{statistics.mean(values):.1f}** "
                f"({', '.join(f'{value:.1f}' for value in values)})"
            )
        label = f"{figure.split('/')[0]}: {metric_name(figure)}"
        rows.append([label, "" if chance is None else f"{chance:.1f}", *cells])
    return markdown(["", "guessing", *reports], rows)


def as_report(plain: dict[str, Any]) -> BiasReport:
    """A report from the plain values that are kept of it."""
    figures = {name: Metric(**figure) for name, figure in plain["figures"].items()}
    rest = {name: value for name, value in plain.items() if name != "figures"}
    return BiasReport(metrics=figures, **rest)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--work", type=Path, default=Path("data/runs/footage"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    stores = make_stores(arguments.work, "flow")
    for seed in SEEDS:
        for arm in ARMS:
            measure(arm, seed, stores, arguments.work)
    encoders = collected(arguments.work, "bias.json")
    classifiers = collected(arguments.work, "bias-finetuned.json")
    text = f"Mean (every seed), %, on {encoders['MoCo'][0]['videos']} test clips of 8 classes.\n\n"
    text += f"Pretrained encoders:\n\n{table(encoders, ENCODER)}\n"
    text += f"Fine-tuned classifiers:\n\n{table(classifiers, CLASSIFIER)}"
    write("footage_bias", {"encoders": encoders, "classifiers": classifiers}, table=text)
    first = [as_report(reports[0]) for reports in encoders.values()]
    draw_bars(
        PICTURES / "footage_bias.png",
        first,
        list(encoders),
        title="overhead actions, seed 0; 95 % intervals",
    )


if __name__ == "__main__":
    main()
