"""What masks of each kind keep in the controlled worlds: how much of it is the mover, how much
gives the place away.

Every mask is made as a training step makes it, on the crops of the first epoch, and held against
the true masks.

Run after ``run.py``: ``python benchmarks/evidence/masks.py``; results:
``../results/evidence_masks.{json,md}``.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from run import BASE, RESULTS

from fame.clipstore import ClipStore
from fame.foreground import gauss_score, grid_score, motion_score, paper_score, top_fraction
from fame.randomness import generator
from train.data import PairDataset
from train.views import crop_pairs, draw_views

KINDS: dict[
    str, Callable[[Tensor, Tensor, Tensor], Tensor]
] = {  # crop, flow map, true map -> score
    "paper's maps": lambda clip, flow, truth: paper_score(clip, hue="reference"),
    "paper's maps, hue corrected": lambda clip, flow, truth: paper_score(clip, hue="correct"),
    "motion alone (seed)": lambda clip, flow, truth: motion_score(clip),
    "flow maps": lambda clip, flow, truth: flow,
    "true masks": lambda clip, flow, truth: truth,
    "Gaussian": lambda clip, flow, truth: gauss_score(clip),
    "random grid": lambda clip, flow, truth: grid_score(
        clip, generator=generator(0, 0, 0, "masks")
    ),
}


def crops(world: Path, videos: int) -> tuple[Tensor, Tensor, Tensor]:
    """Crops [B, 3, T, S, S] of the first epoch, their flow maps and their true maps [B, S, S]."""
    config = BASE.override(["background=inter", "mask=stored"])
    addresses = [(0, position) for position in range(videos)]
    made = []
    for name in ("train", "truth"):
        dataset = PairDataset(
            [ClipStore.open(world / f"{name}.zarr")],
            seed=config.seed,
            window=config.window,
            maps=True,
        )
        pairs = dataset.__getitems__(addresses)
        draws = draw_views(pairs, config, epoch=0, step=0)
        made.append(crop_pairs(pairs.clip_B2THWC, pairs.score_B2hw, draws, config))
    (clips, flow), (_, truth) = made
    return clips[0], flow[0], truth[0] / 255


def kept(mask_BHW: Tensor, truth_BHW: Tensor) -> dict[str, float]:
    """Means over clips in percent; ``truth`` is the share of time that the object covers a
    pixel.
    """
    mask, seen = mask_BHW.float().flatten(1), truth_BHW.flatten(1)
    there = seen.sum(1) > 0  # the object is in the crop
    mask, seen = mask[there], seen[there]
    passed = (seen > 0.01).float()  # above the rounding of a stored map
    figures = {
        "of the mask: the mover": (mask * seen).sum(1) / mask.sum(1),
        "never the mover": (mask * (1 - passed)).sum(1) / mask.sum(1),
        "of the mover: kept": (mask * seen).sum(1) / seen.sum(1),
    }
    return {name: round(100 * value.mean().item(), 1) for name, value in figures.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("data/runs/evidence"))
    parser.add_argument("--videos", type=int, default=256)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for world in ("still", "camera"):
        clip, flow, truth = crops(options.work / world, options.videos)
        found[world] = {
            name: kept(top_fraction(score(clip, flow, truth), BASE.beta), truth)
            for name, score in KINDS.items()
        }
    names = list(next(iter(found["still"].values())))
    lines = [f"Mean over {options.videos} clips, %; masks keep {BASE.beta:.0%} of each crop.", ""]
    lines += ["| world | mask | " + " | ".join(names) + " |", "|---" * (2 + len(names)) + "|"]
    for world, kinds in found.items():
        lines += [
            f"| {world} | {kind} | {' | '.join(str(row[name]) for name in names)} |"
            for kind, row in kinds.items()
        ]
    (RESULTS / "evidence_masks.md").write_text("\n".join(lines) + "\n")
    (RESULTS / "evidence_masks.json").write_text(
        json.dumps({"beta": BASE.beta, "kept": found}, indent=1) + "\n"
    )
    print("\n".join(lines))


if __name__ == "__main__":
    main()
