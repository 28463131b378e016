"""A pretraining run that takes a fraction of a second: ``python -m tests.train.tiny STORE RUN
[key=value ...]``.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from train.config import FinetuneConfig, PretrainConfig
from train.pretrain import pretrain

TINY = PretrainConfig(
    device="cpu",
    width=0.125,
    frames=8,
    crop=32,
    batch=4,
    epochs=2,
    bn_group=4,
    merge_group=4,
    dim=8,
    queue=24,
    # Batch norm over a handful of values makes huge gradients: rounding must not grow into losses
    lr=1e-4,
    ema=0.9,
    workers=0,
    log_every=1,
    checkpoint_every=1,
    views="both",
)

# The last batch norms of a tiny I3D see a handful of values, and a rounding grows tenfold a step.
# In this network they see thousands: its losses are the same on every kind of CPU, and for any
# number of processes.
SMOOTH = TINY.override(
    ["encoder=c3d_small", "batch=16", "bn_group=8", "merge_group=8", "epochs=12"]
)


TUNED = FinetuneConfig(
    device="cpu",
    encoder="c3d_small",
    frames=8,
    clips=1,
    crop=16,
    batch=6,
    epochs=1,
    milestones=(1,),
    workers=0,
)


def figures(run: Path, name: str = "loss") -> list[float]:
    """One figure of every step of a run."""
    return [json.loads(line)[name] for line in (run / "metrics.jsonl").read_text().splitlines()]


def state_of(run: Path) -> dict[str, Any]:
    """The state in a run's last checkpoint, flat."""
    return flat(torch.load(run / "checkpoints" / "last.pt", weights_only=True)["state"])


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, keys joined by slashes."""
    if not isinstance(value, dict):
        return {prefix: value}
    return {
        key: leaf
        for name, part in value.items()
        for key, leaf in flat(part, f"{prefix}/{name}").items()
    }


def same(left: dict[str, Any], right: dict[str, Any]) -> bool:
    """Whether two states are bitwise the same."""
    return left.keys() == right.keys() and all(
        torch.equal(left[key], right[key])
        if isinstance(left[key], torch.Tensor)
        else left[key] == right[key]
        for key in left
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    result = pretrain(
        TINY.override(sys.argv[3:]), stores=[Path(sys.argv[1])], run_dir=Path(sys.argv[2])
    )
    sys.exit(result.exit_code)
