"""The paper's score, mask and merge: parity with the reference, speed and memory on the CPU, cost
in a GPU step.

    python -m benchmarks.foreground          # writes results/foreground.json
    python -m benchmarks.foreground --tiny   # seconds: runs the code of the GPU part on the CPU and keeps nothing

CPU: score + mask + merge of 8x3x16x224x224 float32 on one thread, against the same steps written
straightforwardly (tests/oracle_foreground.py), in turn, as CPU time. They are the steps of the
reference, whose own code took 1.00 to 1.05 times their time when it was run beside them. GPU:
against one symmetric I3D training step (two queries forward and backward, two keys forward) of the
same 8 clips, where CUDA exists.

Shapes: B batch, C = 3 RGB in 0..1, T frames, H W pixels.
"""

import time
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.harness import FOOTAGE, in_turns, medians, options, peak_mib, ratio, write
from fame.foreground import motion_score, paper_score, top_fraction
from fame.merging import derangement, merge
from fame.models import build_backbone
from fame.randomness import generator
from tests.oracle_foreground import straightforward_merge, straightforward_score

GOLDEN = FOOTAGE.parent / "golden/foreground_reference.npz"
BETA, REPEATS = 0.5, 7


def make_clip(batch: int, frames: int, size: int, device: str = "cpu") -> torch.Tensor:
    """Blocks of colour under noise: like footage, few colours and no ties."""
    rng = generator(0, 0, 0, "benchmark")
    clip = torch.rand(batch, 3, frames, size, size, generator=rng).mul_(0.1)
    clip += (
        torch.rand(batch, 3, 1, 8, 8, generator=rng)
        .mul_(0.9)
        .repeat_interleave(size // 8, 3)
        .repeat_interleave(size // 8, 4)
    )
    return clip.to(device)


def ours(clip: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    return merge(clip, top_fraction(paper_score(clip), BETA), source)


def straightforward(clip: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    return straightforward_merge(clip, straightforward_score(clip), BETA, source)


def parity() -> dict[str, dict[str, float]]:
    """Largest error of motion and score against the reference and share of mask pixels that agree,
    by group.
    """
    result: dict[str, dict[str, float]] = {}
    with np.load(GOLDEN) as file:
        for group in ("real112", "toy64", "real224"):
            clip = torch.from_numpy(file[f"{group}/clips"]).permute(0, 4, 1, 2, 3).float() / 255
            score = paper_score(clip)
            row = {
                "motion": float(
                    (motion_score(clip) - torch.from_numpy(file[f"{group}/motion"])).abs().max()
                ),
                "score": float((score - torch.from_numpy(file[f"{group}/score"])).abs().max()),
            }
            for beta in (0.3, 0.5):
                if f"{group}/mask_beta_{beta}" in file:
                    theirs = np.unpackbits(file[f"{group}/mask_beta_{beta}"], axis=-1).astype(bool)
                    row[f"mask@{beta}"] = float(
                        (top_fraction(score, beta).numpy() == theirs).mean()
                    )
            result[group] = row
    return result


def memory() -> dict[str, float]:
    """Peak resident memory that score + mask + merge add, in units of the clip (the merged clip is
    1 of them, the rest is freed memory that the allocator has kept).
    """
    small = make_clip(2, 4, 32)
    ours(small, torch.tensor([1, 0]))  # libraries and thread pools are not the method's memory
    clip, source = make_clip(8, 16, 224), derangement(8, generator=generator(0, 0, 0, "source"))
    before = peak_mib()
    ours(clip, source)
    extra_bytes = (peak_mib() - before) * 2**20
    return {"extra / clip": extra_bytes / clip.nbytes, "clip MB": clip.nbytes / 1e6}


def cpu_speed() -> dict[str, float]:
    """CPU milliseconds of each part and of the whole against the straightforward whole: medians, in
    turn.
    """
    clip, source = make_clip(8, 16, 224), derangement(8, generator=generator(0, 0, 0, "source"))
    score = paper_score(clip)
    mask = top_fraction(score, BETA)
    steps: dict[str, Callable[[int], object]] = {
        "ours": lambda _: ours(clip, source),
        "straightforward": lambda _: straightforward(clip, source),
        "ours: score": lambda _: paper_score(clip),
        "ours: mask": lambda _: top_fraction(score, BETA),
        "ours: merge": lambda _: merge(clip, mask, source),
    }
    seconds = in_turns(steps, rounds=REPEATS, warm=1)
    result = {name: 1e3 * median for name, median in medians(seconds).items()}
    return result | {"ratio": ratio(seconds, "straightforward", "ours")}


def step_share(
    device: str, *, batch: int, frames: int, size: int, width: float, dtype: torch.dtype
) -> dict[str, float]:
    """Milliseconds of a symmetric training step and of what FAME adds to it, and the shares."""
    clip = make_clip(batch, frames, size, device)
    source = derangement(batch, generator=generator(0, 0, 0, "source"))
    query, key = (build_backbone("i3d", width=width).to(device) for _ in range(2))
    score = paper_score(clip)

    def train_step() -> None:
        with torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32):
            loss = query.features(clip).float().sum() + query.features(clip).float().sum()
            with torch.no_grad():
                key.features(clip), key.features(clip)
        loss.backward()
        query.zero_grad(set_to_none=True)

    step = _milliseconds(train_step, device)
    merged = _milliseconds(lambda: merge(clip, top_fraction(score, BETA), source), device)
    scored = _milliseconds(lambda: paper_score(clip), device)
    return {
        "step": step,
        "mask + merge": merged,
        "score": scored,
        "merge share": merged / step,
        "score share": scored / step,
    }


def _milliseconds(action: Callable[[], object], device: str, repeats: int = 10) -> float:
    for _ in range(3):
        action()
    _wait(device)
    start = time.perf_counter()
    for _ in range(repeats):
        action()
    _wait(device)
    return 1e3 * (time.perf_counter() - start) / repeats


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def gpu() -> dict[str, object]:
    """Shares at the reference size in float32 (TF32 off, as the reference trained) and bfloat16."""
    sizes = {"batch": 8, "frames": 16, "size": 224, "width": 1.0}
    shares = {
        str(dtype): step_share("cuda", dtype=dtype, **sizes)
        for dtype in (torch.float32, torch.bfloat16)
    }
    return {"device": torch.cuda.get_device_name(), **shares}


def main() -> None:
    parser = options(__doc__)
    parser.add_argument(
        "--tiny", action="store_true", help="only run the code of the GPU part, small, on the CPU"
    )
    torch.set_num_threads(1)
    if parser.parse_args().tiny:
        print(step_share("cpu", batch=2, frames=8, size=32, width=0.125, dtype=torch.float32))
        return
    result = {
        "memory": memory(),  # first: the peak of a process never falls
        "CPU ms, 8x3x16x224x224, one thread": cpu_speed(),
        "parity": parity() if GOLDEN.is_file() else "golden file not found",
        "GPU": gpu() if torch.cuda.is_available() else "not measured: no CUDA device",
    }
    write("foreground", result)


if __name__ == "__main__":
    main()
