"""Does merging make an encoder look at motion? Baseline and FAME on controlled worlds, every seed
of several shown.

The protocol, written before the runs, is ``README.md`` beside this file. One trial is one
pretraining and the bias report of what came out. Trials run in parallel through Ray, one a core;
each keeps what it measured below ``--work`` and goes on where it was killed, and what is there is
not run again.

Run: ``python benchmarks/evidence/run.py [EXPERIMENT ...]``; results:
``../results/evidence_EXPERIMENT.{json,md}`` and ``docs/images/evidence_EXPERIMENT.png``.
"""

import argparse
import dataclasses
import json
import os
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import ray
import torch

sys.path.insert(0, str(Path(__file__).parent))
import worlds

from fame.checkpoint import save
from train.bias.report import encoder_report
from train.config import PretrainConfig
from train.evaluate.config import BiasConfig
from train.pretrain import build_moco, pretrain
from train.recipes import recipe

RESULTS = Path(__file__).parents[1] / "results"
PICTURES = Path(__file__).parents[2] / "docs" / "images"
SEEDS = (1, 2, 3)
# What every arm has in common.
BASE = dataclasses.replace(
    recipe("small-cpu"),
    background="none",
    mask="stored",
    cut="frame",
    epochs=25,
    batch=64,
    queue=1024,
    device="cpu",
)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One row of a table: how it differs from the baseline, and the store whose maps it sees
    (``train``: flow).
    """

    name: str
    world: str = "still"
    settings: tuple[str, ...] = ()
    maps: str = "train"
    trained: bool = True

    @property
    def key(self) -> str:
        """Names its folder: arms of two experiments that are the same trial share it."""
        parts = (
            [self.world, self.maps, *sorted(self.settings)]
            if self.trained
            else [self.world, "untrained"]
        )
        return ",".join(parts)


ARMS: dict[str, dict[str, Any]] = {
    "untrained": {"trained": False},
    "MoCo": {},
    "FAME, paper's maps": {"settings": ("background=inter", "mask=online")},
    "FAME, frame difference": {"settings": ("background=inter", "mask=difference")},
    "FAME, masks per frame": {"settings": ("background=inter", "mask=median")},
    "FAME, masks per frame, adaptive": {
        "settings": ("background=inter", "mask=median", "cut=adaptive")
    },
    "FAME, flow maps": {"settings": ("background=inter", "mask=stored")},
    "FAME, flow maps per frame": {"settings": ("background=inter", "mask=frames")},
    "FAME, masks per frame, whole queue": {
        "settings": ("background=inter", "mask=median", "negatives=all")
    },
    "FAME, masks per frame, 12 %": {"settings": ("background=inter", "mask=median", "beta=0.12")},
    "FAME, true masks": {"settings": ("background=inter", "mask=stored"), "maps": "truth"},
    "FAME, random grid": {"settings": ("background=inter", "mask=grid")},
    "FAME, flow maps, both views": {"settings": ("background=inter", "mask=stored", "views=both")},
}
FIRST = [name for name in ARMS if "per frame" not in name]
WHOLE_QUEUE = "FAME, masks per frame, whole queue"
ONLY_STILL = ("FAME, random grid", "FAME, flow maps, both views")
MOVING = (
    "MoCo",
    "FAME, frame difference",
    "FAME, masks per frame",
    "FAME, masks per frame, adaptive",
)

TEMPTING_MASKS = (
    "FAME, flow maps",
    "FAME, flow maps per frame",
    "FAME, masks per frame, 12 %",
)


def arms(world: str, names: Iterable[str]) -> list[Arm]:
    """Arms by name in one world."""
    return [Arm(name=name, world=world, **ARMS[name]) for name in names]


def longer(short: Iterable[Arm]) -> list[Arm]:
    """The same with six times the steps: 3,000."""
    return [dataclasses.replace(arm, settings=(*arm.settings, "epochs=150")) for arm in short]


def ablations() -> list[Arm]:
    """The rows of the paper's ablation tables, each one setting away from the paper's method."""
    paper = ("background=inter", "mask=online")
    rows = [
        ("background none (MoCo)", ()),
        ("background intra", ("background=intra", "mask=online")),
    ]
    rows += [("background inter, beta 0.25, paper's mask", paper)]
    rows += [(f"beta {beta}", (*paper, f"beta={beta}")) for beta in (0.1, 0.5)]
    rows += [
        (f"mask {mask}", ("background=inter", f"mask={mask}"))
        for mask in ("gauss", "difference", "grid", "stored")
    ]
    rows += [("both views", (*paper, "views=both")), ("hue corrected", (*paper, "hue=correct"))]
    return [Arm(name=name, settings=settings) for name, settings in rows]


EXPERIMENTS = {
    "still": arms("still", FIRST),
    "camera": arms("camera", (name for name in FIRST if name not in ONLY_STILL)),
    "frames": arms("still", (*MOVING, WHOLE_QUEUE)),
    "ablations": ablations(),
    "longer": longer(arms("still", ("MoCo", "FAME, frame difference", "FAME, flow maps"))),
    "backgrounds": longer(arms("backgrounds", ("untrained", "MoCo", "FAME, frame difference"))),
    **{f"tempting_{world}": arms(world, MOVING) for world in worlds.TEMPTING},
    **{f"tempting_{world}_longer": longer(arms(world, MOVING)) for world in worlds.TEMPTING},
    "tempting_masks": arms("strong", TEMPTING_MASKS),
    "tempting_masks_longer": longer(arms("strong", TEMPTING_MASKS[:2])),
}
COLUMNS = {  # of the tables: figure of the bias report -> heading
    "linear/original": "linear probe",
    "knn/original": "kNN",
    "neighbour/background": "same background",
    "neighbour/background not class": "leakage",
}


def run_trial(arm: Arm, seed: int, work: Path) -> dict[str, Any]:
    """Pretrain, report, keep; what is kept is not made again."""
    folder = work / "trials" / f"{arm.key},seed={seed}"
    kept = folder / "result.json"
    if kept.exists():
        return json.loads(kept.read_text())
    torch.set_num_threads(1)
    world, config = work / arm.world, BASE.override([*arm.settings, f"seed={seed}"])
    folder.mkdir(parents=True, exist_ok=True)
    started = time.process_time()
    if arm.trained:
        run = pretrain(config, stores=[world / f"{arm.maps}.zarr"], run_dir=folder / "run")
        assert run.status == "finished", "the run was stopped; the same command goes on"
        path = run.checkpoint
    else:
        path = untrained(config, folder / "untrained.pt")
    seconds = time.process_time() - started  # of the last part of a trial that was killed
    report = encoder_report(
        path,
        BiasConfig(
            test_store=world / "test.zarr",
            train_store=world / "train.zarr",
            backgrounds=worlds.background_table(arm.world, work),
            cache=folder / "features",
            beta=config.beta,
            batch=128,
            device="cpu",
        ),
    )
    report["checkpoint"] = str(
        path.relative_to(work)
    )  # says where it was, and nothing of the machine
    result = {
        "arm": dataclasses.asdict(arm),
        "seed": seed,
        "pretraining_cpu_seconds": round(seconds),
    }
    result |= {"curve": curve(folder / "run" / "metrics.jsonl"), "report": report}
    kept.with_suffix(".partial").write_text(json.dumps(result))
    kept.with_suffix(".partial").replace(kept)
    return result


def untrained(config: PretrainConfig, path: Path) -> Path:
    """A checkpoint of the network as its seed made it."""
    model = {"name": config.encoder, "options": config.encoder_options, "head": config.head_options}
    state = {"encoder_q": build_moco(config).encoder_q.state_dict()}
    save(path, {"model": model, "config": config.to_dict(), "state": state, "progress": {}})
    return path


def curve(path: Path, points: int = 20) -> list[dict[str, float]]:
    """Loss and spread (the sign of a collapse) along a run, from its metrics."""
    if not path.exists():
        return []
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    chosen = lines[:: max(1, len(lines) // points)] + lines[-1:]
    return [{name: line[name] for name in ("step", "loss", "spread")} for line in chosen]


def sweep(chosen: Sequence[Arm], seeds: Sequence[int], work: Path, *, workers: int) -> None:
    """Run all trials, ``workers`` at a time, the first seed of every arm first."""
    for world in dict.fromkeys(arm.world for arm in chosen):
        worlds.prepare(world, work)
    trials = [(arm, seed) for seed in seeds for arm in chosen]
    if workers == 1:
        for arm, seed in trials:
            say(arm, seed, run_trial(arm, seed, work))
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False)
    remote = ray.remote(max_retries=3)(run_trial)
    names = {remote.remote(arm, seed, work): (arm, seed) for arm, seed in trials}
    waiting = list(names)
    while waiting:
        (done,), waiting = ray.wait(waiting)
        say(*names[done], ray.get(done))
    ray.shutdown()


def say(arm: Arm, seed: int, result: dict[str, Any]) -> None:
    """Print one line on a trial that is done."""
    figures = result["report"]["figures"]
    shown = ", ".join(
        f"{heading} {figures[name]['value']:.1f}" for name, heading in COLUMNS.items()
    )
    print(f"{arm.name}, seed {seed}: {shown}", flush=True)


def restore(work: Path) -> None:
    """Lay the trials of the results that are kept in the project where they count as done."""
    for path in sorted(RESULTS.glob("evidence_*.json")):
        trials = json.loads(path.read_text()).get("trials", {})
        for trial in (trial for each in trials.values() for trial in each):
            key = Arm(**trial["arm"]).key.replace("mask=seed", "mask=difference")  # formerly
            folder = work / "trials" / f"{key},seed={trial['seed']}"
            if not (folder / "result.json").exists():
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "result.json").write_text(json.dumps(trial))


# What is shown ------------------------------------------------------------------------------------


def collected(chosen: Sequence[Arm], work: Path) -> dict[str, list[dict[str, Any]]]:
    """Arm -> the trials that are there, in order of their seeds."""
    found: dict[str, list[dict[str, Any]]] = {}
    for arm in chosen:
        kept = (work / "trials" / f"{arm.key},seed={seed}" / "result.json" for seed in SEEDS)
        found[arm.name] = [json.loads(path.read_text()) for path in kept if path.exists()]
    return found


def values(trials: Sequence[dict[str, Any]], figure: str) -> list[float]:
    """One figure of every seed."""
    return [trial["report"]["figures"][figure]["value"] for trial in trials]


def cell(trials: Sequence[dict[str, Any]], figure: str) -> str:
    """Mean and every seed."""
    each = values(trials, figure)
    if not each:
        return "not run"
    return f"**{statistics.mean(each):.1f}** ({', '.join(f'{value:.1f}' for value in each)})"


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """A Markdown table, a row an arm, with the spread of the features at the end of training."""
    some = next(trial for trials in found.values() for trial in trials)["report"]["figures"]
    lines = ["Mean (every seed), %, on unseen backgrounds.", ""]
    lines += [
        f"| | {' | '.join(COLUMNS.values())} | spread at the end |",
        "|---" * (2 + len(COLUMNS)) + "|",
    ]
    for name, trials in found.items():
        spreads = ", ".join(
            f"{trial['curve'][-1]['spread']:.2f}" for trial in trials if trial["curve"]
        )
        lines.append(
            f"| {name} | {' | '.join(cell(trials, figure) for figure in COLUMNS)} | {spreads} |"
        )
    chances = (some[figure]["chance"] for figure in COLUMNS)
    lines.append(f"| chance | {' | '.join(f'{chance:.1f}' for chance in chances)} | |")
    trials = [trial for trials in found.values() for trial in trials if trial["arm"]["trained"]]
    hours = sum(trial["pretraining_cpu_seconds"] for trial in trials) / 3600
    return "\n".join([*lines, "", f"{len(trials)} pretrainings, {hours:.1f} CPU hours."]) + "\n"


def plot(found: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Bars of the means and a dot for every seed, a panel a column of the table."""
    figure, panels = plt.subplots(
        1, len(COLUMNS), figsize=(3.2 * len(COLUMNS), 0.5 * len(found) + 1.2), sharey=True
    )
    for panel, (name, heading) in zip(panels, COLUMNS.items(), strict=True):
        for row, trials in enumerate(found.values()):
            each = values(trials, name)
            if each:
                panel.barh(row, statistics.mean(each), color="0.8")
                panel.plot(each, [row] * len(each), "o", color="tab:blue", markersize=4)
        chance = next(trial for trials in found.values() for trial in trials)["report"]["figures"][
            name
        ]["chance"]
        panel.axvline(chance, color="0.4", linestyle=":", linewidth=1)
        panel.set(title=heading, xlim=(0, 100), xlabel="%")
    panels[0].set_yticks(range(len(found)), list(found))
    panels[0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    named = f"of {', '.join(EXPERIMENTS)}; default: all"
    parser.add_argument("experiments", nargs="*", metavar="experiment", help=named)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument(
        "--arms", nargs="+", metavar="name", help="run only these rows of the tables"
    )
    parser.add_argument("--workers", type=int, default=2, help="trials at a time, a core each")
    parser.add_argument("--work", type=Path, default=Path("data/runs/evidence"))
    parser.add_argument(
        "--table", action="store_true", help="only write the tables of what is there"
    )
    parser.add_argument(
        "--extend", action="store_true", help="count the trials in the results as done"
    )
    options = parser.parse_args()
    work = options.work.resolve()
    if options.extend:
        restore(work)
    for experiment in options.experiments or EXPERIMENTS:
        chosen = EXPERIMENTS[experiment]
        if not options.table:
            wanted = [arm for arm in chosen if not options.arms or arm.name in options.arms]
            sweep(wanted, options.seeds, work, workers=options.workers)
        found = collected(chosen, work)
        if not any(found.values()):
            print(f"{experiment}: nothing was run")
            continue
        settings = BASE.to_dict()
        result = RESULTS / f"evidence_{experiment}"
        result.with_suffix(".json").write_text(
            json.dumps({"config": settings, "trials": found}, indent=1) + "\n"
        )
        result.with_suffix(".md").write_text(table(found))
        plot(found, PICTURES / f"{result.name}.png")
        print(table(found))


if __name__ == "__main__":
    main()
