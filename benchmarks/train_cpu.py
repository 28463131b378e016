"""Claim: on a CPU a training step is >= 2 times as fast as the plain implementation of the same
step.

Run: ``python -m benchmarks.train_cpu [CLAIM ...]``. Both steps see the same batches and weights at
the start; rounds alternate and the time is the process's CPU time, so that other work on the
machine counts little. The plain step is ``benchmarks/plain_step.py``; it says what plain means.
Also: what both steps ask of PyTorch (operations, bytes that they read and write, and how many of
these only move numbers), and the loader's memory over ``--loader-batches`` batches.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.harness import in_fresh_process, in_turns, medians, ratio, update
from benchmarks.harness import options as parser_of
from benchmarks.plain_step import PlainStep, check_equal, plain_views, synthetic_pairs
from fame.clipstore import ClipStore, StoreSpec
from fame.moco import shuffle
from tests.stores import SPEC, make_store
from train.config import PretrainConfig
from train.data import PairDataset, Pairs, stream
from train.pretrain import build_moco
from train.run.optimizer import make_optimizer
from train.views import make_views

CPU = torch.device("cpu")
# Operations that compute nothing: they move numbers, or write zeros.
MOVES = ("cat", "stack", "copy_", "_to_copy", "clone", "index", "constant_pad_nd", "fill_", "zero_")


class Operations(TorchDispatchMode):
    """Operations that are run, and the bytes of what they are given and make; views of memory not
    counted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = self.bytes = self.moved = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if not func.is_view:
            leaves = tree_leaves((args, kwargs, made))
            size = sum(leaf.nbytes for leaf in leaves if isinstance(leaf, torch.Tensor))
            self.count, self.bytes = self.count + 1, self.bytes + size
            self.moved += size if func.overloadpacket.__name__ in MOVES else 0
        return made


Jobs = dict[str, Callable[[int], object]]
Losses = dict[str, list[float]]


def both_ways(config: PretrainConfig, spec: StoreSpec) -> tuple[Jobs, Losses, float]:
    """Return the parts of a step, both ways, the losses that they will note, and how far the views
    of the two differ.
    """
    moco, pairs = build_moco(config).train(), synthetic_pairs(config, spec, CPU)
    difference = check_equal(moco, pairs, config)
    slow = PlainStep(moco.to(memory_format=torch.contiguous_format), config)
    moco.to(memory_format=torch.channels_last_3d)
    optimizer = make_optimizer(config, list(moco.encoder_q.parameters()))
    views = make_views(pairs, config, epoch=0, step=0)

    losses: Losses = {"fast": [], "slow": []}

    def fast_step(step: int) -> None:
        shaped = [view.to(memory_format=torch.channels_last_3d) for view in views]
        moco.update_key_encoder_(config.ema)
        optimizer.zero_grad(set_to_none=True)
        orders = [
            shuffle(config.batch, seed=config.seed, epoch=0, step=step, view=view)
            for view in (1, 2)
        ]
        result = moco.step(shaped[0], shaped[1], shuffles=(orders[0], orders[1]), enqueue="between")
        optimizer.step()
        losses["fast"].append(float(result.loss))

    def slow_step(step: int) -> None:
        pair = [view.contiguous() for view in views]
        losses["slow"].append(float(slow.step(*pair, step=step, momentum=config.ema)))

    jobs: Jobs = {
        "views": lambda step: make_views(pairs, config, epoch=0, step=step),
        "plain_views": lambda step: plain_views(pairs, config, epoch=0, step=step),
        "network": fast_step,
        "plain_network": slow_step,
    }
    return jobs, losses, difference


def measure_step(config: PretrainConfig, spec: StoreSpec, *, rounds: int) -> dict[str, float]:
    """Return the CPU seconds of a step, both ways, views and network apart."""
    jobs, losses, difference = both_ways(config, spec)
    seconds = in_turns(jobs, rounds=rounds, warm=1)
    first = abs(losses["fast"][0] - losses["slow"][0])
    if first > 1e-2:
        raise AssertionError(f"the plain step is not the step: losses differ by {first}")
    whole = {
        kind: [
            sum(both)
            for both in zip(seconds[f"{kind}views"], seconds[f"{kind}network"], strict=True)
        ]
        for kind in ("", "plain_")
    }
    return {
        **medians(seconds),
        "ratio": ratio(whole, "plain_", ""),
        "first_loss_difference": first,
        "view_difference": difference,
    }


def count_operations(config: PretrainConfig, spec: StoreSpec) -> dict[str, dict[str, float]]:
    """Return the operations of a step, both ways, and the MB that they read and write."""
    counted: dict[str, dict[str, float]] = {}
    for name, job in both_ways(config, spec)[0].items():
        job(0)  # the first step makes the momentum of the optimiser
        with Operations() as found:
            job(1)
        counted[name] = {
            "operations": found.count,
            "mb": round(found.bytes / 1e6),
            "mb_only_moved": round(found.moved / 1e6),
        }
    return counted


def measure_loader(batches: int) -> dict[str, float]:
    """Resident memory of the process after a tenth of the batches and at the end."""
    config = PretrainConfig(batch=4, workers=0, frames=8)
    process = psutil.Process()
    with tempfile.TemporaryDirectory() as folder:
        spec = StoreSpec(**{name: getattr(SPEC, name) for name in SPEC.__dataclass_fields__})
        data = PairDataset(
            [ClipStore.open(make_store(Path(folder) / "s", videos=40, spec=spec))],
            seed=0,
            window=config.window,
            maps=True,
        )
        resident: list[float] = []
        for count, pairs in enumerate(stream(data, config, start=0, stop=batches, device=CPU)):
            assert isinstance(pairs, Pairs)
            if count % max(1, batches // 10) == 0:
                resident.append(process.memory_info().rss / 2**20)
    return {"batches": batches, "mib_after_a_tenth": resident[1], "mib_at_the_end": resident[-1]}


def measure_steps(options: argparse.Namespace) -> dict[str, object]:
    """The step, and what it was measured with."""
    torch.set_num_threads(1)
    config = PretrainConfig(
        width=options.width,
        crop=options.crop,
        batch=8,
        bn_group=4,
        merge_group=4,
        queue=1024,
        device="cpu",
    )
    height, width = options.crop * 8 // 7, options.crop * 3 // 2
    maps = {"foreground_height": height, "foreground_width": width}
    spec = StoreSpec(height=height, width=width, **maps)
    with torch.random.fork_rng():
        counts = count_operations(config, spec)
        seconds = measure_step(config, spec, rounds=options.rounds)
    return {
        "config": {
            "width": options.width,
            "crop": options.crop,
            "frames": 16,
            "batch": 8,
            "threads": 1,
        },
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "step_seconds": seconds,
        "operations": counts,
    }


def main() -> None:
    """Measure, print, write."""
    parser = parser_of(__doc__)
    parser.add_argument("claims", nargs="*", metavar="claim", help="step, loader; default: both")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--crop", type=int, default=64)
    parser.add_argument("--loader-batches", type=int, default=10_000)
    options = parser.parse_args()
    claims = options.claims or ["step", "loader"]
    if "step" in claims:
        update("train_cpu", {"step": measure_steps(options)})
    if "loader" in claims:
        loader = in_fresh_process(measure_loader, options.loader_batches)
        update("train_cpu", {"loader": loader})


if __name__ == "__main__":
    main()
