"""Memory of a training step by batch size: what it holds before the first step, and its peak. No
claim: a table.

Run: ``python -m benchmarks.train_memory``: I3D of full width at 16x112x112 in fp32 on the CPU (at
224x224 a clip's activations take four times as much); on a GPU ``--device cuda --crop 224`` and the
recipe's bf16. Each figure is of a fresh process: on the CPU its resident memory, on a GPU what
tensors took.
"""

import argparse
import json
import multiprocessing
import resource
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import psutil
import torch

from benchmarks.plain_step import synthetic_pairs
from fame.clipstore import ClipStore, StoreSpec
from tests.stores import make_store
from train.pretrain import PretrainTask
from train.recipes import recipe

RESULTS = Path(__file__).parent / "results/train_memory.json"
VARIANTS = {
    "plain": [],
    "accumulate=2": ["accumulate=2"],
    "checkpointing": ["checkpoint_activations=true"],
}


def measure(store: Path, settings: list[str]) -> dict[str, float]:
    """MiB before the first step and at the peak of two steps."""
    torch.set_num_threads(1)
    config = recipe("fame-k400").override(["workers=0", *settings])
    opened = ClipStore.open(store)
    device = torch.device(config.device)
    task = PretrainTask(config, stores=[opened], device=device)
    pairs = synthetic_pairs(config, opened.spec, device)
    before = _held(device)
    for step in range(2):
        task.step(step, pairs)
    return {"mib_before": round(before), "mib_peak": round(_peak(device))}


def _held(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device) / 2**20
    return psutil.Process().memory_info().rss / 2**20


def _peak(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--crop", type=int, default=112)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--batch", type=int, nargs="+", default=[4, 8, 16])
    options = parser.parse_args()
    on_gpu = options.device == "cuda"
    common = [
        f"device={options.device}",
        f"crop={options.crop}",
        f"width={options.width}",
        "compile=false",
    ]
    common += [f"precision={'bf16' if on_gpu else 'fp32'}", "bn_group=4", "merge_group=4"]
    height, width = (
        options.crop // 6 * 6 + 12,
        options.crop // 8 * 12,
    )  # sizes that the procedural clips come in
    maps = {
        "foreground": "difference",
        "foreground_height": height // 2,
        "foreground_width": width // 2,
    }
    spec = StoreSpec(seconds=2.0, stretch=16, height=height, width=width, **maps)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder) / "store", videos=max(options.batch), spec=spec)
        for batch in options.batch:
            for name, settings in VARIANTS.items():
                if name == "accumulate=2" and batch < 8:
                    continue  # parts of whole groups
                with ProcessPoolExecutor(
                    1, mp_context=multiprocessing.get_context("spawn")
                ) as pool:
                    figures = pool.submit(
                        measure, store, [*common, f"batch={batch}", *settings]
                    ).result()
                rows.append({"batch": batch, "variant": name, **figures})
                print(json.dumps(rows[-1]), flush=True)
    figures = {
        "device": torch.cuda.get_device_name() if on_gpu else "CPU, resident memory",
        "torch": torch.__version__,
        "config": {
            "encoder": "i3d",
            "frames": 16,
            "crop": options.crop,
            "width": options.width,
            "groups": 4,
        },
        "steps": rows,
    }
    RESULTS.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
