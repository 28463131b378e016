"""Memory of a training step by batch size: what it holds before the first step, and its peak. No
claim: a table.

Run: ``python -m benchmarks.train_memory``: I3D of full width at 16x112x112 in fp32 on the CPU (at
224x224 a clip's activations take four times as much); on a GPU ``--device cuda --crop 224`` and the
recipe's bf16. Each figure is of a fresh process: on the CPU its resident memory, on a GPU what
tensors took.
"""

import json
import tempfile
from pathlib import Path

import psutil
import torch

from benchmarks.harness import in_fresh_process, peak_mib, write
from benchmarks.harness import options as parser_of
from benchmarks.plain_step import synthetic_pairs
from fame.clipstore import ClipStore, StoreSpec
from tests.stores import make_store
from train.pretrain import PretrainTask
from train.recipes import recipe

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
    return peak_mib()


def main() -> None:
    """Measure, print, write."""
    parser = parser_of(__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--crop", type=int, default=112)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--batch", type=int, nargs="+", default=[4, 8, 16])
    options = parser.parse_args()
    on_gpu, crop = options.device == "cuda", options.crop
    common = [f"device={options.device}", f"crop={crop}", f"width={options.width}"]
    common += [f"precision={'bf16' if on_gpu else 'fp32'}", "compile=false"]
    common += ["bn_group=4", "merge_group=4"]
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder) / "store", videos=max(options.batch), spec=_spec(crop))
        for batch in options.batch:
            for name, settings in VARIANTS.items():
                if name == "accumulate=2" and batch < 8:
                    continue  # parts of whole groups
                asked = [*common, f"batch={batch}", *settings]
                memory = in_fresh_process(measure, store, asked)
                rows.append({"batch": batch, "variant": name, **memory})
                print(json.dumps(rows[-1]), flush=True)
    config = {"encoder": "i3d", "frames": 16, "crop": crop, "width": options.width, "groups": 4}
    device = torch.cuda.get_device_name() if on_gpu else "CPU, resident memory"
    write("train_memory", {"device": device, "config": config, "steps": rows})


def _spec(crop: int) -> StoreSpec:
    """Frames in which the crop lies, of a size that the procedural clips come in."""
    height, width = crop // 6 * 6 + 12, crop // 8 * 12
    return StoreSpec(
        seconds=2.0,
        stretch=16,
        height=height,
        width=width,
        foreground="difference",
        foreground_height=height // 2,
        foreground_width=width // 2,
    )


if __name__ == "__main__":
    main()
