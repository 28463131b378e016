"""Claims about training on one GPU (I3D, 16 frames of 224x224, bf16, compiled).

* pairs per second, TFLOP/s and their share of the matmul peak measured here: >= 30 %, aim 38 %;
* >= 5 times the plain fp32 implementation of the same step (``benchmarks/plain_step.py``);
* augmentation and merging take <= 6 % of the step;
* fed from a jpeg store by this machine's cores: >= 95 % of the rate on a resident batch;
* projected hours for Kinetics-400 x 200 epochs: <= 20.

Run: ``python -m benchmarks.train_gpu [PART ...] --batch 64 --out DIR``. Every part is written to
``DIR/train_gpu.json`` as soon as it is measured, beside what earlier calls wrote there, so a call
that is cut short loses one part only, and the parts can be spread over calls of a few minutes.
``--tiny --device cpu`` walks the same path in seconds and proves nothing.

Two counts of FLOP are given. "Counted" is three forwards for every forward with a backward, as is
usual; "true" leaves out the gradient of the stem's input, which nobody needs.
"""

import argparse
import dataclasses
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.harness import RESULTS, read
from benchmarks.harness import options as parser_of
from benchmarks.plain_step import PlainStep, plain_views, synthetic_pairs
from fame.clipstore import ClipStore, StoreSpec
from fame.randomness import generator
from tests.stores import make_store
from train.config import PretrainConfig
from train.data import PairDataset, Pairs, stream
from train.pretrain import PretrainTask, build_moco
from train.recipes import recipe
from train.run.waiting import Waits
from train.views import make_views

PARTS = ("peak", "step", "plain", "feeding", "profile")
SPEC = StoreSpec(seconds=2.0, stretch=16, foreground="difference", videos_per_shard=16)
TINY_SPEC = dataclasses.replace(
    SPEC, height=36, width=48, foreground_height=36, foreground_width=48
)
TINY = [
    "width=0.125",
    "frames=8",
    "crop=32",
    "compile=false",
    "precision=fp32",
    "queue=64",
    "workers=0",
]

K400_VIDEOS, EPOCHS = 240_000, 200
# I3D at 16x224x224. Two query forwards with their backwards count three times, two key forwards
# once: 8 forwards a pair. The stem's input needs no gradient, once per query.
GMAC_PER_FORWARD, GMAC_OF_STEM = 27.78, 6.61
TFLOP_COUNTED = 2 * GMAC_PER_FORWARD * 8 / 1000
TFLOP_TRUE = TFLOP_COUNTED - 2 * GMAC_OF_STEM * 2 / 1000


class Results:
    """What was measured so far, in one JSON file that every new part is added to at once."""

    def __init__(self, folder: Path, name: str = "train_gpu") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.path = folder, folder / f"{name}.json"
        self.parts = read(name, folder)

    def put(self, name: str, value: Any) -> None:
        """Print a part, add it to the file, and judge again."""
        self.parts[name] = value
        if holds := verdicts(self.parts):
            self.parts["holds"] = holds
        self.path.write_text(json.dumps(self.parts, indent=1) + "\n")
        print(json.dumps({name: value}), flush=True)


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_per_call(
    work: Callable[[int], object], device: torch.device, *, warm: int, rounds: int
) -> float:
    """Mean time of a call, the device drained before and after."""
    for number in range(warm):
        work(number)
    synchronise(device)
    start = time.perf_counter()
    for number in range(rounds):
        work(warm + number)
    synchronise(device)
    return (time.perf_counter() - start) / rounds


def matmul_peak(device: torch.device, *, size: int) -> float:
    """TFLOP/s of a large bf16 product of random numbers, against which shares are measured.

    Random, because a GPU draws less power and clocks higher on zeros or ones: 13 % on an H200.
    """
    draws = generator(0, 0, 0, "benchmark/peak")
    left, right = (
        torch.randn(size, size, generator=draws).to(device, torch.bfloat16) for _ in range(2)
    )
    seconds = seconds_per_call(lambda _: left @ right, device, warm=3, rounds=10)
    return 2 * size**3 / seconds / 1e12


def task_on(
    config: PretrainConfig, spec: StoreSpec, folder: Path, device: torch.device
) -> PretrainTask:
    """A task on a jpeg store of procedural clips, enough for a few batches."""
    path = folder / "store"
    if not path.exists():
        make_store(path, videos=max(2 * config.batch, 64), spec=spec)
    return PretrainTask(config, stores=[ClipStore.open(path)], device=device)


def measure_step(task: PretrainTask, pairs: Pairs, *, peak: float, rounds: int) -> dict[str, float]:
    """The step on a batch that is on the device already."""
    device, config = task.device, task.config
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    step = seconds_per_call(lambda number: task.step(number, pairs), device, warm=5, rounds=rounds)
    with torch.no_grad():
        views = seconds_per_call(
            lambda number: make_views(pairs, config, epoch=0, step=number),
            device,
            warm=3,
            rounds=rounds,
        )
    rate = config.batch / step
    return {
        "batch": config.batch,
        "step_ms": step * 1e3,
        "pairs_per_second": rate,
        "tflops_counted": rate * TFLOP_COUNTED,
        "share_of_peak_counted": rate * TFLOP_COUNTED / peak,
        "share_of_peak_true": rate * TFLOP_TRUE / peak,
        "views_ms": views * 1e3,
        "views_share": views / step,
        "peak_memory_gib": torch.cuda.max_memory_allocated(device) / 2**30
        if device.type == "cuda"
        else 0.0,
        "k400_hours": K400_VIDEOS * EPOCHS / rate / 3600,
    }


def measure_plain(
    config: PretrainConfig, pairs: Pairs, device: torch.device, *, rounds: int
) -> dict[str, float]:
    """The plain fp32 step, TF32 off, on as many clips."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    plain = PlainStep(
        build_moco(dataclasses.replace(config, compile=False, channels_last=False)).to(device),
        config,
    )

    def work(number: int) -> None:
        with torch.no_grad():
            views = plain_views(pairs, config, epoch=0, step=number)
        plain.step(*views, step=number, momentum=config.ema)

    step = seconds_per_call(work, device, warm=2, rounds=rounds)
    return {
        "batch": config.batch,
        "step_ms": step * 1e3,
        "pairs_per_second": config.batch / step,
    }


def measure_feeding(task: PretrainTask, *, steps: int) -> dict[str, float]:
    """End to end from the store: pairs per second, the wait for data, and what one core decodes."""
    warm = min(3, steps - 1)
    batches = task.batches(0, steps)
    for number in range(warm):
        task.step(number, next(batches))
    synchronise(task.device)
    start, waits = time.perf_counter(), Waits(task.device)
    for number in range(warm, steps):
        with waits.span():
            batch = next(batches)
        task.step(number, batch)
    synchronise(task.device)
    elapsed = time.perf_counter() - start
    alone = dataclasses.replace(task.config, workers=0)
    data = PairDataset(task.dataset.stores, seed=0, window=alone.window, maps=True)
    reading = stream(data, alone, start=0, stop=2, device=torch.device("cpu"))
    next(reading)
    start = time.perf_counter()
    next(reading)
    return {
        "batch": task.config.batch,
        "cores": os.cpu_count() or 1,
        "workers": task.config.workers,
        "pairs_per_second": task.config.batch * (steps - warm) / elapsed,
        "data_wait": sum(waits.take(), 0.0) / elapsed,
        "pairs_per_second_per_core": task.config.batch / (time.perf_counter() - start),
    }


def profile_steps(task: PretrainTask, pairs: Pairs, folder: Path, *, rows: int = 40) -> str:
    """Write the kernels that three steps spend most time in, and return where."""
    for number in range(3):
        task.step(number, pairs)
    on_gpu = task.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiler:
        for number in range(3, 6):
            task.step(number, pairs)
        synchronise(task.device)
    key = "self_cuda_time_total" if on_gpu else "self_cpu_time_total"
    path = folder / "profile.txt"
    path.write_text(profiler.key_averages().table(sort_by=key, row_limit=rows) + "\n")
    return str(path)


def verdicts(parts: dict[str, Any]) -> dict[str, bool]:
    """Which claims hold, of those that the measured parts decide."""
    steps = [value for name, value in parts.items() if name.startswith("step ")]
    if not steps:
        return {}
    best = max(steps, key=lambda step: step["pairs_per_second"])
    holds = {
        "share of peak >= 30 %": best["share_of_peak_counted"] >= 0.30,
        "views <= 6 %": best["views_share"] <= 0.06,
        "K400 x 200 epochs <= 20 h": best["k400_hours"] <= 20,
    }
    if "plain" in parts:
        ratio = best["pairs_per_second"] / parts["plain"]["pairs_per_second"]
        holds["plain fp32 ratio >= 5"] = ratio >= 5
    if "feeding" in parts:
        same = [step for step in steps if step["batch"] == parts["feeding"]["batch"]]
        if same:
            share = parts["feeding"]["pairs_per_second"] / same[0]["pairs_per_second"]
            holds["fed >= 95 % of resident"] = share >= 0.95
    return holds


def measure(options: argparse.Namespace, results: Results, folder: Path) -> None:
    """Measure the wanted parts, each written as soon as it is there."""
    device = torch.device(options.device)
    config, spec = recipe("fame-k400"), SPEC
    sizes, rounds = options.batch, options.rounds
    if options.tiny:
        config, spec, sizes, rounds = config.override(TINY), TINY_SPEC, [8], 1
    workers = config.workers and max(1, (os.cpu_count() or 1) - 2)
    sized = [dataclasses.replace(config, batch=batch, workers=workers) for batch in sizes]
    on_gpu = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if on_gpu else "cpu (path only, no claim)"
    cudnn = torch.backends.cudnn.version() if on_gpu else None
    results.put("device", {"name": name, "torch": torch.__version__, "cudnn": cudnn})
    if "peak" in options.parts or "peak" not in results.parts:
        results.put("peak", matmul_peak(device, size=256 if options.tiny else 8192))

    def resident(one: PretrainConfig) -> tuple[PretrainTask, Pairs]:
        task = task_on(one, spec, folder / str(one.batch), device)
        return task, synthetic_pairs(one, spec, device)

    for one in sized if "step" in options.parts else []:
        try:
            step = measure_step(*resident(one), peak=results.parts["peak"], rounds=rounds)
        except torch.OutOfMemoryError:
            results.put(f"batch {one.batch}", "does not fit this device")
            break
        results.put(f"step {one.batch}", step)
    first = sized[0]
    if "profile" in options.parts:
        results.put("profile", profile_steps(*resident(first), results.folder))
    if "feeding" in options.parts:
        task = task_on(first, spec, folder / str(first.batch), device)
        results.put("feeding", measure_feeding(task, steps=4 if options.tiny else 40))
    if "plain" in options.parts:
        pairs = synthetic_pairs(first, spec, device)
        results.put("plain", measure_plain(first, pairs, device, rounds=max(1, rounds // 4)))


def main() -> None:
    """Read the options and measure."""
    parser = parser_of(__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, nargs="+", default=[64], help="the first is also fed")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}: there are {', '.join(PARTS)}")
    options.parts = options.parts or list(PARTS)
    with tempfile.TemporaryDirectory() as folder:
        measure(options, Results(options.out), Path(folder))


if __name__ == "__main__":
    main()
