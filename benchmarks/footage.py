"""What pretraining is worth on real, labelled footage: untrained, MoCo and FAME, by kNN, linear
probe and fine-tuning.

The footage is ``../shared/data/overhead-actions``: 302 training and 133 test clips of 8 indoor
actions seen from the ceiling, split by recording. Both pretrainings see the training clips only,
for the same epochs, batch and recipe, and differ in nothing but ``background``. Every arm runs with
three seeds, which decide weights, order and every draw; nothing was tuned on the test clips and the
weights after the last epoch are tested.

Run: ``python -m benchmarks.footage`` (about 20 minutes of one core). What was measured is kept
below ``--work`` and not measured again: a killed run goes on, and ``--arms MoCo`` may run beside
``--arms FAME untrained``.
"""

import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import FOOTAGE as SHARED_DATA
from benchmarks.harness import RESULTS, markdown, options, write
from fame.checkpoint import save
from fame.clipstore import ClipStore
from fame.weights import read_weights
from train.config import FinetuneConfig
from train.evaluate.config import EvaluationConfig
from train.evaluate.frozen import evaluate, knn, linear
from train.finetune import finetune
from train.pretrain import build_moco, pretrain
from train.recipes import recipe

FOOTAGE = SHARED_DATA / "overhead-actions"
RECIPE = ["--keep", "4", "--height", "48", "--width", "64"]
SHARED: dict[str, Any] = {"device": "cpu", "crop": 40, "batch": 32}
# A queue shorter than an epoch's 576 keys: else every video's own older keys are among its
# negatives.
PRETRAIN = replace(recipe("small-cpu"), mask="stored", cut="frame", epochs=40, queue=256, **SHARED)
SMALL = {
    name: getattr(PRETRAIN, name)
    for name in ("encoder", "min_area", "gray", "jitter", "blur", "workers")
}
FINETUNE = FinetuneConfig(
    **SHARED,
    **SMALL,
    frames=8,
    clips=4,
    epochs=20,
    optimizer="adamw",
    lr=1e-3,
    schedule="cosine",
    dropout=0.5,
)
ARMS = {"untrained": None, "MoCo": "none", "FAME": "inter"}  # arm -> background
MEASURES = ("kNN", "linear", "fine-tune")


def make_stores(work: Path, foreground: str) -> dict[str, Path]:
    """The two stores, made by the offline stage where they are not there yet."""
    stores = {split: work / f"{split}.zarr" for split in ("train", "test")}
    classes = sorted({line.split("/")[0] for line in (FOOTAGE / "train.txt").read_text().split()})
    work.mkdir(parents=True, exist_ok=True)
    (work / "classes.txt").write_text("\n".join(classes) + "\n")
    for split, store in stores.items():
        source = [
            "--videos",
            str(FOOTAGE),
            "--list",
            str(FOOTAGE / f"{split}.txt"),
            "--split",
            split,
        ]
        where = [
            "--classes",
            str(work / "classes.txt"),
            "--store",
            str(store),
            "--executor",
            "serial",
        ]
        command = [sys.executable, "-m", "cli", "preprocess", "folder", *source, *where, *RECIPE]
        subprocess.run([*command, "--foreground", foreground], check=True)
    return stores


def start_of(arm: str, seed: int, stores: dict[str, Path], folder: Path) -> Path:
    """The checkpoint that an arm is evaluated from: pretrained here, or as untrained as its seed
    made it.
    """
    background = ARMS[arm]
    config = replace(PRETRAIN, seed=seed, background=background or "none")
    if background:
        return pretrain(config, stores=[stores["train"]], run_dir=folder / "pretrain").checkpoint
    path = folder / "untrained.pt"
    model = {"name": config.encoder, "options": config.encoder_options, "head": config.head_options}
    state = {"encoder_q": build_moco(config).encoder_q.state_dict()}
    save(path, {"model": model, "config": config.to_dict(), "state": state, "progress": {}})
    return path


def measures(
    start: Path, seed: int, stores: dict[str, Path], folder: Path
) -> dict[str, Callable[[], dict[str, float]]]:
    """What is measured of a checkpoint, by name."""
    config = EvaluationConfig(
        train_store=stores["train"],
        test_store=stores["test"],
        cache=folder / "features",
        clips=4,
        device="cpu",
    )

    def tuned() -> dict[str, float]:
        result = finetune(
            replace(FINETUNE, seed=seed),
            train_store=stores["train"],
            test_store=stores["test"],
            weights=read_weights(start),
            run_dir=folder / "finetune",
        )
        assert result.metrics is not None
        return result.metrics

    return {
        "kNN": lambda: evaluate([start], config, knn)[0].metrics,
        "linear": lambda: (
            evaluate([start], config, lambda train, test: linear(train, test, seed=seed))[0].metrics
        ),
        "fine-tune": tuned,
    }


def measure(arm: str, seed: int, stores: dict[str, Path], work: Path) -> None:
    """Measure one arm with one seed and keep each figure as it comes."""
    folder = work / f"{arm}-{seed}"
    kept = folder / "result.json"
    result: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    if all(name in result for name in MEASURES):
        return
    folder.mkdir(parents=True, exist_ok=True)
    start = start_of(arm, seed, stores, folder)
    for name, run in measures(start, seed, stores, folder).items():
        if name not in result:
            result[name] = run()
            kept.write_text(json.dumps(result, indent=1) + "\n")
            print(f"{arm}, seed {seed}, {name}: {result[name]['top-1']:.1f} %", flush=True)


def collected(work: Path, seeds: list[int]) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Arm -> measure -> seed -> figures, of what is there."""
    found: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for arm in ARMS:
        found[arm] = {name: {} for name in MEASURES}
        for seed in seeds:
            kept = work / f"{arm}-{seed}" / "result.json"
            result = json.loads(kept.read_text()) if kept.exists() else {}
            for name in MEASURES:
                if name in result:
                    found[arm][name][str(seed)] = result[name]
    return found


def cell(figures: dict[str, dict[str, float]], name: str) -> str:
    """Mean, spread and every seed of one figure."""
    values = [figure[name] for figure in figures.values()]
    if not values:
        return "not measured"
    each = ", ".join(f"{value:.1f}" for value in values)
    if len(values) == 1:
        return each
    return f"**{statistics.mean(values):.1f}** ± {statistics.stdev(values):.1f} ({each})"


def table(found: dict[str, dict[str, dict[str, dict[str, float]]]], majority: float) -> str:
    """Two Markdown tables: top-1, and the mean over classes."""
    lines = [
        "Mean ± standard deviation over seeds (every seed), %, on 133 test clips of 8 classes:",
        f"one clip is 0.75 points. Always answering the commonest class: top-1 {majority:.1f}, mean class 12.5.",
    ]
    for name in ("top-1", "mean class"):
        cells = ([arm, *(cell(of[m], name) for m in MEASURES)] for arm, of in found.items())
        lines += ["", markdown([name, *MEASURES], cells).rstrip()]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument(
        "--foreground", default="flow", help="maps of the stores: flow, paper or seed"
    )
    parser.add_argument("--work", type=Path, default=Path("data/runs/footage"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument(
        "--table", action="store_true", help="only write the table of what is there"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.table:
        stores = make_stores(arguments.work, arguments.foreground)
        for seed in arguments.seeds:
            for arm in arguments.arms:
                measure(arm, seed, stores, arguments.work)
    label_V = ClipStore.open(arguments.work / "test.zarr").labels_V
    majority = 100 * max((label_V == label).mean() for label in set(label_V.tolist()))
    found = collected(arguments.work, [0, 1, 2])
    settings = {"stores": [*RECIPE, "--foreground", arguments.foreground], "arms": ARMS}
    settings |= {"pretrain": asdict(PRETRAIN), "finetune": asdict(FINETUNE), "majority": majority}
    results = {"settings": settings, "results": found}
    write("footage", results, table=table(found, majority), folder=arguments.out)


if __name__ == "__main__":
    main()
