"""Kill a pretraining run with SIGKILL, again and again, and compare its end with one never killed.

    python benchmarks/kill_training.py --kills 20 --saves 5

A run of a tiny network saves after every step. It is killed at a random moment, or while a
checkpoint is being written: its partial file was there when the signal went, and lies there still.
After each kill every checksum of the checkpoint has to hold; each run that ends has to have the
state and the losses, bit for bit, of the run that nobody killed. Linux.
"""

import json
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from benchmarks import harness
from fame.checkpoint import checksum
from fame.randomness import numpy_generator
from tests.stores import make_store
from tests.train.tiny import TINY
from train.pretrain import pretrain

CONFIG = TINY.override(["width=0.25", "epochs=6", "save_seconds=0", "workers=1", "queue=8192"])
Row = dict[str, Any]


def work(store: Path, run: Path) -> None:
    """Train, in a process of its own."""
    torch.set_num_threads(1)
    pretrain(CONFIG, stores=[store], run_dir=run)


def start(store: Path, run: Path) -> BaseProcess:
    """Start the run; it is forked from a server that has all imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["train.pretrain", __name__])
    process = context.Process(target=work, args=(store, run))
    process.start()
    return process


def partials(run: Path) -> list[Path]:
    """The checkpoints in the making."""
    return [*run.glob("checkpoints/.*.partial*")]


def end_of(run: Path) -> tuple[str, list[float]]:
    """The checksum of a run's last state, and its losses; ``ValueError`` for a damaged file."""
    saved = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    if damaged := [
        part
        for part, state in saved["state"].items()
        if checksum(state) != saved["checksums"][part]
    ]:
        raise ValueError(f"{run}: damaged {damaged}")
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return checksum(saved["state"]), [json.loads(line)["loss"] for line in lines]


def step_of(run: Path) -> int:
    """The step of the last checkpoint, whose checksums hold; 0 where there is none."""
    if not (run / "checkpoints" / "last.pt").exists():
        return 0
    saved = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    assert all(checksum(part) == saved["checksums"][name] for name, part in saved["state"].items())
    return int(saved["progress"]["step"])


def wait_for_save(process: BaseProcess, run: Path) -> None:
    """Return when a checkpoint is in the making, or the process has ended."""
    left = set(partials(run))  # of the kill before
    while process.is_alive() and not set(partials(run)) - left:
        pass  # a save takes milliseconds: no time to sleep


def kills(folder: Path, store: Path, *, wanted: int, saves: int) -> Iterator[Row]:
    """Kill until there were ``wanted`` kills, ``saves`` of them during a save; compare each end."""
    started = time.monotonic()
    work(store, folder / "whole")
    seconds, expected = time.monotonic() - started, end_of(folder / "whole")
    random, done, during, number = numpy_generator(0, 0, 0, "kill training"), 0, 0, 0
    while done < wanted or during < saves:
        number += 1
        run = folder / str(number)
        while True:
            process = start(store, run)
            if done % 2:
                process.join(random.uniform(0, seconds))
            else:
                wait_for_save(process, run)
            if not process.is_alive():
                break
            os.kill(process.pid or 0, signal.SIGKILL)
            process.join()
            done, saving = done + 1, bool(partials(run))
            during += saving
            yield {"kill": done, "run": number, "during a save": saving, "step saved": step_of(run)}
        assert process.exitcode == 0, process.exitcode
        assert end_of(run) == expected, f"run {number} ended otherwise"
        assert not partials(run)
        yield {"run": number, "ended as the run that was never killed": True}


def main() -> None:
    """Kill, and write what came out."""
    parser = harness.options(__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--saves", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = make_store(folder / "store")
        rows = list(kills(folder, store, wanted=arguments.kills, saves=arguments.saves))
    killed = [row for row in rows if "kill" in row]
    results = {
        "kills": len(killed),
        "during a save": sum(row["during a save"] for row in killed),
        "runs, each ended bit for bit as the one never killed": len(rows) - len(killed),
        "rows": rows,
    }
    harness.write("kill_training", results)


if __name__ == "__main__":
    main()
