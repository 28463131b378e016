"""Does merging help where motion decides? Real footage of a hand that draws a figure in the air
(``../shared/data/ego-pointing``), tested across scenes.

    python benchmarks/evidence/pointing.py                        # the first experiment for a GPU
    python benchmarks/evidence/pointing.py --plan cores           # the same, small: hours of a core
    python benchmarks/evidence/pointing.py --plan cores_longer    # with four times the pretraining

The search finds what learns the figures at all: every candidate is trained from scratch on the
first fold. The first that is right in ``--needed`` percent across scenes goes on; if none is,
nothing is compared, and that is the result. The comparison then gives its network to an untrained
encoder, MoCo, and FAME with maps per clip and per frame, pretrained with the same budget on the
training scenes and, in equal parts, on the other footage that lies beside them (``scenes.py``). It
measures probe, kNN, leakage by scene and fine-tuning, the accuracy on tennis strokes split at
random and by source, and trains from scratch with and without merging; three folds by scene, every
seed, and on a GPU the biased list. Clips span their video, and nothing is mirrored: left and right
are classes. What is finished is kept below ``--work`` and not run again; ``--rows``, ``--splits``
and ``--seeds`` run a part, ``--table`` only writes the results of what is there:
``../results/evidence_pointing.{json,md}``, of another plan ``evidence_pointing_PLAN``.
"""

import argparse
import dataclasses
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch

sys.path.insert(0, str(Path(__file__).parent))
from run import PICTURES, RESULTS, untrained
from scenes import HANDS, TENNIS, Stores

from fame.archive import RUN_CHECKPOINT
from fame.weights import load, read_weights
from train.bias.report import encoder_report
from train.config import FinetuneConfig, PretrainConfig
from train.evaluate.config import BiasConfig, EvaluationConfig
from train.evaluate.frozen import evaluate, linear
from train.finetune import finetune
from train.pretrain import pretrain
from train.recipes import recipe

FOOTAGE = Path(__file__).resolve().parents[3] / "shared" / "data" / "ego-pointing"
# Clips over the whole video and colours left alone, as small-cpu does: a first try on a CPU without
# them stayed at chance.
COLOURS: dict[str, Any] = {
    name: getattr(recipe("small-cpu"), name) for name in ("min_area", "gray", "jitter", "blur")
}
SUPERVISED = FinetuneConfig(
    **COLOURS,
    span=1.0,
    flip=0.0,
    batch=16,
    optimizer="adamw",
    lr=1e-3,
    weight_decay=0.05,
    schedule="cosine",
    warmup_epochs=5,
    dropout=0.5,
    epochs=200,
    clips=1,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """An experiment of one size: frames of the stores, what is tried, in this order, and what the
    pretrainings and the fine-tunings of the comparison get beyond the network.
    """

    size: tuple[int, int]
    candidates: dict[str, tuple[str, ...]]
    pretraining: PretrainConfig
    tuning: tuple[str, ...] = ()
    clips: int = 1


GPU = Plan(
    size=(128, 170),
    candidates={
        "c3d_small, 64 pixels": ("encoder=c3d_small", "crop=64", "lr=0.002"),
        "c3d_small, 112 pixels, 32 frames": (
            "encoder=c3d_small",
            "crop=112",
            "frames=32",
            "lr=0.002",
        ),
        "R(2+1)D-18, 112 pixels": ("encoder=r2plus1d_18", "crop=112"),
        "R(2+1)D-18, 112 pixels, 32 frames": ("encoder=r2plus1d_18", "crop=112", "frames=32"),
        "R(2+1)D-18, 112 pixels, 600 epochs": ("encoder=r2plus1d_18", "crop=112", "epochs=600"),
        "I3D, 112 pixels, 32 frames": ("encoder=i3d", "crop=112", "frames=32"),
    },
    pretraining=dataclasses.replace(
        recipe("fame-k400"),
        queue=192,  # fewer keys than an epoch makes
        batch=32,
        span=0.8,
        flip=0.0,
        min_area=0.5,
        epochs=400,
        compile=False,
    ),
)
_SMALL = ("encoder=c3d_small", "crop=32", "frames=16", "device=cpu", "workers=0")
CORES = Plan(
    size=(36, 48),
    candidates={
        "c3d_small, 32 pixels, 600 epochs": (*_SMALL, "epochs=600"),
        "c3d_small, 32 pixels, 600 epochs, twice the rate": (*_SMALL, "epochs=600", "lr=0.002"),
        "c3d_small, 32 pixels, 1,200 epochs": (*_SMALL, "epochs=1200"),
    },
    pretraining=dataclasses.replace(
        recipe("small-cpu"),
        queue=512,
        batch=32,
        span=0.8,
        flip=0.0,
        epochs=30,
    ),
    tuning=("epochs=100",),
    clips=3,
)
# Four times the pretraining: among 32 clips the loss of FAME fell from 3.5 to 2.7 only.
LONGER = dataclasses.replace(
    CORES, pretraining=dataclasses.replace(CORES.pretraining, epochs=4 * CORES.pretraining.epochs)
)
PLANS = {"gpu": GPU, "cores": CORES, "cores_longer": LONGER}
PRETRAINED: dict[str, tuple[str, ...] | None] = {
    "untrained": None,
    "MoCo": ("background=none",),
    "FAME, maps per clip": ("background=inter", "mask=stored", "beta=0.3"),
    "FAME, maps per frame": ("background=inter", "mask=frames", "beta=0.3"),
}
SCRATCH: dict[str, tuple[str, ...]] = {
    "from scratch": (),
    "from scratch, merged": ("merge=0.5", "mask=stored", "beta=0.3"),
}
COLUMNS = {
    "linear/original": "linear probe",
    "knn/original": "kNN",
    "neighbour/background not class": "leakage by scene",
    "tennis random": "tennis, random split",
    "tennis source": "tennis, by source",
    "fine-tuned": "fine-tuned",
    "biased": "fine-tuned, biased list",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """Where it reads and writes, its plan, and the settings that every training and pretraining
    gets beyond it.
    """

    plan: Plan
    stores: Stores
    training: Sequence[str] = ()
    pretraining: Sequence[str] = ()

    @property
    def work(self) -> Path:
        """The folder in which everything is kept."""
        return self.stores.work

    def supervised(
        self, settings: Sequence[str], split: str, folder: Path, start: Path | None = None
    ) -> float:
        """Train on one half of a split, from scratch or from a checkpoint; percent on the other."""
        train_store, test_store = self.stores.pointing(split)
        result = finetune(
            SUPERVISED.override([*settings, *self.training]),
            train_store=train_store,
            test_store=test_store,
            weights=read_weights(start) if start else None,
            run_dir=folder,
        )
        assert result.metrics is not None, "the run was stopped; the same command goes on"
        return result.metrics["top-1"]

    def search(self, needed: float) -> dict[str, float]:
        """Percent across scenes of the candidates, up to the first that has ``needed``."""
        found: dict[str, float] = {}
        for number, (name, settings) in enumerate(self.plan.candidates.items()):
            folder = self.work / "search" / str(number)
            train = partial(self.supervised, settings, "fold1", folder / "run")
            found[name] = kept(folder, lambda train=train: {"top1": train()})["top1"]
            print(f"{name}: {found[name]:.1f} % across scenes, {needed:g} needed", flush=True)
            if found[name] >= needed:
                break
        return found

    def folder(self, row: str, split: str, seed: int) -> Path:
        """Where a row of the table is kept for one split and seed."""
        return self.work / "trials" / f"{row},{split},seed={seed}"

    def trial(self, row: str, network: str, split: str, seed: int) -> dict[str, float]:
        """What one row of the table gives on one split, with the network of a candidate."""
        folder = self.folder(row, split, seed)
        if row in PRETRAINED:  # first, so that its seconds are counted once
            self.encoder(row, network, split, f"seed={seed}", folder)
        return kept(folder, lambda: self._trial(row, network, split, f"seed={seed}", folder))

    def _trial(
        self, row: str, network: str, split: str, seed: str, folder: Path
    ) -> dict[str, float]:
        settings = self.plan.candidates[network]
        column = "biased" if split == "biased" else "fine-tuned"
        if row in SCRATCH:
            return {
                column: self.supervised((*settings, *SCRATCH[row], seed), split, folder / "run")
            }
        path, seconds = self.encoder(row, network, split, seed, folder)
        measured = {} if split == "biased" else self._measured(path, split, folder)
        tuned = (*settings, *self.plan.tuning, seed)
        measured[column] = self.supervised(tuned, split, folder / "tuned", path)
        return measured | {"cpu seconds of pretraining": seconds}

    def encoder(
        self, row: str, network: str, split: str, seed: str, folder: Path
    ) -> tuple[Path, float]:
        """Pretrain as a row says, half on the hands and half on the rest; the checkpoint, and CPU
        seconds.
        """
        names = ("encoder", "crop", "frames", "device", "workers")
        shared = [s for s in self.plan.candidates[network] if s.split("=")[0] in names]
        config = self.plan.pretraining.override(
            [*shared, seed, *self.pretraining, *(PRETRAINED[row] or ())]
        )
        if PRETRAINED[row] is None:
            folder.mkdir(parents=True, exist_ok=True)
            return untrained(config, folder / "untrained.pt"), 0

        def run() -> dict[str, float]:
            stores = [self.stores.pointing(split)[0], self.stores.rest()]
            done = pretrain(config, stores=stores, run_dir=made, proportion=(1.0, 1.0))
            assert done.status == "finished", "the run was stopped; the same command goes on"
            return {}

        made = folder / "pretrained"
        return made / RUN_CHECKPOINT, kept(folder / "encoder", run)["cpu seconds"]

    def _measured(self, path: Path, split: str, folder: Path) -> dict[str, float]:
        """The bias report across scenes, and the probe of both splits of the tennis strokes."""
        train_store, test_store = self.stores.pointing(split)
        device, cache = load(path).card.config["device"], folder / "features"
        shown = {"cache": cache, "clips": self.plan.clips, "device": device}
        hands = BiasConfig(
            test_store=test_store, train_store=train_store, backgrounds=self.stores.scenes, **shown
        )
        report = encoder_report(path, hands)
        (folder / "bias.json").write_text(json.dumps(report))
        found = {name: report["figures"][name]["value"] for name in COLUMNS if "/" in name}
        for name in TENNIS:
            train_store, test_store = self.stores.tennis(name)
            strokes = EvaluationConfig(train_store=train_store, test_store=test_store, **shown)
            found[f"tennis {name}"] = evaluate([path], strokes, linear)[0].metrics["top-1"]
        return found

    def collected(self) -> dict[str, list[dict[str, float]]]:
        """Row -> its trials that are there, by seed and split."""
        found: dict[str, list[dict[str, float]]] = {}
        for row in (*PRETRAINED, *SCRATCH):
            folders = (self.folder(row, split, seed) for seed in (1, 2, 3) for split in HANDS)
            paths = [folder / "result.json" for folder in folders]
            found[row] = [json.loads(path.read_text()) for path in paths if path.exists()]
        return {row: trials for row, trials in found.items() if trials}


def kept(folder: Path, make: Callable[[], dict[str, float]]) -> dict[str, float]:
    """What ``make`` returns, with its CPU seconds; it is called once and its result kept in
    ``folder``.
    """
    path, partial = folder / "result.json", folder / "result.partial"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        started = time.process_time()
        made = make()
        made["cpu seconds"] = round(time.process_time() - started)
        partial.write_text(json.dumps(made))
        partial.replace(path)
    return json.loads(path.read_text())


def table(found: dict[str, list[dict[str, float]]]) -> str:
    """A row an arm: the mean over folds and seeds, and each of them."""
    lines = [f"| | {' | '.join(COLUMNS.values())} |", "|---" * (1 + len(COLUMNS)) + "|"]
    for row, trials in found.items():
        cells = []
        for name in COLUMNS:
            each = [trial[name] for trial in trials if name in trial]
            shown = ", ".join(f"{value:.1f}" for value in each)
            cells.append(f"**{statistics.mean(each):.1f}** ({shown})" if each else "")
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def plot(found: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Bars of the means, a dot for every fold and seed, a panel a column of the table."""
    shown = [name for name in COLUMNS if any(name in t for each in found.values() for t in each)]
    drawn, panels = plt.subplots(
        1, len(shown), figsize=(2.3 * len(shown), 0.4 * len(found) + 1.2), sharey=True
    )
    for panel, name in zip(panels, shown, strict=True):
        for row, trials in enumerate(found.values()):
            each = [trial[name] for trial in trials if name in trial]
            if each:
                panel.barh(row, statistics.mean(each), color="0.8")
                panel.plot(each, [row] * len(each), "o", color="tab:blue", markersize=4)
        panel.set(title=COLUMNS[name], xlim=(0, 100), xlabel="%")
        panel.title.set_fontsize(9)
    panels[0].set_yticks(range(len(found)), list(found))
    panels[0].invert_yaxis()
    drawn.tight_layout()
    drawn.savefig(path, dpi=110)
    plt.close(drawn)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parsed(arguments)
    plan = PLANS[options.plan]
    work = options.work.resolve() / options.plan
    experiment = Experiment(
        plan=plan,
        stores=Stores(hands=options.footage, work=work, size=options.size or plan.size),
        training=options.set,
        pretraining=options.set_pretraining,
    )
    if options.plan != "gpu":
        torch.set_num_threads(1)
    if options.encoders_only:
        for seed, split, row in itertools.product(options.seeds, options.splits, options.rows):
            folder = experiment.folder(row, split, seed)
            experiment.encoder(row, next(iter(plan.candidates)), split, f"seed={seed}", folder)
        return
    tried = experiment.search(options.needed)
    network, best = list(tried.items())[-1]
    if best < options.needed:
        print("Nothing learns the figures across scenes: there is nothing to compare.")
    elif not (options.search_only or options.table):
        for seed, split, row in itertools.product(options.seeds, options.splits, options.rows):
            figures = experiment.trial(row, network, split, seed)
            print(f"{row}, {split}, seed {seed}: {figures}", flush=True)
    name = "evidence_pointing" + ("" if options.plan == "gpu" else f"_{options.plan}")
    write(experiment, tried, options.results / name)
    if found := experiment.collected():
        plot(found, options.pictures / f"{name}.png")


def write(experiment: Experiment, tried: dict[str, float], result: Path) -> None:
    """Write what was found as JSON and as Markdown."""
    found, network = experiment.collected(), list(tried)[-1]
    lines = "".join(f"| {name} | {value:.1f} |\n" for name, value in tried.items())
    text = f"Supervised, first fold, %:\n\n| | across scenes |\n|---|---|\n{lines}"
    if found:
        trials = [trial for each in found.values() for trial in each]
        hours = sum(v for t in trials for name, v in t.items() if "cpu" in name) / 3600
        text += f"\nMean (every fold, seed by seed), %, network {network}:\n\n{table(found)}"
        text += f"\n{hours:.1f} CPU hours.\n"
    result.with_suffix(".md").write_text(text)
    result.with_suffix(".json").write_text(
        json.dumps({"search": tried, "compared": found}, indent=1) + "\n"
    )
    print(text)


def parsed(arguments: Sequence[str] | None) -> Any:
    """The options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    rows = [*PRETRAINED, *SCRATCH]
    parser.add_argument("--plan", choices=PLANS, default="gpu")
    parser.add_argument("--footage", type=Path, default=FOOTAGE)
    parser.add_argument("--work", type=Path, default=Path("data/runs/pointing"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--pictures", type=Path, default=PICTURES)
    parser.add_argument("--size", type=int, nargs=2, help="height and width of the stores' frames")
    parser.add_argument("--needed", type=float, default=60.0, metavar="PERCENT")
    parser.add_argument("--search-only", action="store_true")
    parser.add_argument(
        "--encoders-only", action="store_true", help="pretrain the rows and measure nothing"
    )
    parser.add_argument("--table", action="store_true", help="only write what is there")
    parser.add_argument("--rows", nargs="+", choices=rows, default=rows, metavar="ROW")
    parser.add_argument("--splits", nargs="+", choices=HANDS, default=list(HANDS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE")
    parser.add_argument("--set-pretraining", nargs="*", default=[], metavar="NAME=VALUE")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
