"""Memory of a pretraining step by recipe and batch, and the largest batch of GPUs of 24, 40 and
80 GB. No claim: a table, computed without a GPU.

Run: ``python -m benchmarks.memory_table``. The encoder runs on two clips on the CPU and every
tensor that it keeps for the backward is counted once, floats by the bytes of the recipe's precision
(tensors without values would not do: their layouts are others, and so are the copies). To that come
what grows with the batch beside it (frames as bytes, views) and what does not (weights of both
encoders, gradients, momentum, queue). Left out are the workspaces of cuDNN, what the allocator
cannot use, and what a compiler saves by computing anew; ``SPARE`` of a GPU is kept for them.
``train_memory.py`` measures.
"""

import argparse
from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from benchmarks.harness import markdown, write
from fame.clipstore import StoreSpec
from train.config import PretrainConfig
from train.pretrain import build_moco
from train.recipes import recipe

RECIPES = ("fame-k400", "reference-k400", "r2plus1d")
VARIANTS = {
    "as it is": [],
    "accumulate 2": ["accumulate=2"],
    "checkpoint activations": ["checkpoint_activations=true"],
}
GPUS, SPARE = (24, 40, 80), 0.1
_CLIPS = 2  # counted on as many, and scaled


@contextmanager
def kept(sizes: dict[int, int], alive: list[object], *, float_bytes: int) -> Generator[None]:
    """Note the bytes of every storage that is kept for the backward."""

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        alive.append(storage)  # else another one would take its place
        if not isinstance(tensor, nn.Parameter):
            bytes_each = float_bytes if tensor.is_floating_point() else tensor.element_size()
            count = storage.nbytes() // tensor.element_size()
            sizes[storage.data_ptr()] = count * bytes_each
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield


def per_pair(config: PretrainConfig) -> float:
    """Bytes that the two views of a pair keep for the backward, where most of them are there: at
    the end of the forward, or of the first stage that is computed again.
    """
    plain = config.override(["checkpoint_activations=false", "compile=false", "queue=8"])
    encoder = build_moco(plain).encoder_q
    encoder.train()
    float_bytes = 2 if config.precision == "bf16" else 4
    given = torch.zeros(_CLIPS, 3, config.frames, config.crop, config.crop)
    given = given.contiguous(memory_format=torch.channels_last_3d)
    alive: list[object] = []
    every: dict[int, int] = {}  # a map that one stage gives and the next takes counts once
    stage_bytes = inputs = 0
    for stage in encoder._stages():  # pyright: ignore[reportCallIssue, reportPrivateUsage]
        sizes: dict[int, int] = {}
        inputs += given.numel() * float_bytes
        with kept(sizes, alive, float_bytes=float_bytes):
            given = stage(given)
        every |= sizes
        stage_bytes = max(stage_bytes, sum(sizes.values()))
    if not config.checkpoint_activations:
        return 2 * sum(every.values()) / _CLIPS
    # In bf16 both views are one forward, so that a stage is computed again for both; else one view
    # after the other.
    again = 2 if config.precision == "bf16" else 1
    return (2 * inputs + again * stage_bytes) / _CLIPS


def memory(config: PretrainConfig) -> tuple[float, float]:
    """Bytes of a step that do not depend on the batch, and those of one more pair in it."""
    moco = build_moco(config.override(["compile=false", "queue=8"]))
    weights = sum(parameter.nbytes for parameter in moco.encoder_q.parameters())
    fixed = 4 * weights + config.queue * (4 * config.dim + 8)  # both encoders, gradients, momentum
    spec = StoreSpec() if config.crop > 112 else StoreSpec(height=128, width=170)
    frames = 2 * config.frames * spec.height * spec.width * 3
    views = 2 * 3 * config.frames * config.crop**2 * (2 if config.precision == "bf16" else 4)
    # Two batches of frames: the next one arrives. Maps of a forward without a backward, and slopes
    # of maps, are alive when little else is.
    pair = 2 * frames + views + per_pair(config) / config.accumulate
    return fixed, pair


def largest_batch(fixed: float, pair: float, gigabytes: int, step: int) -> int:
    """The most pairs, a multiple of ``step``, that fit."""
    room = gigabytes * 1e9 * (1 - SPARE) - fixed
    return int(room // (pair * step)) * step


def main() -> None:
    """Count, print, write."""
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    rows, lines = [], []
    for name in RECIPES:
        for variant, settings in VARIANTS.items():
            config = recipe(name).override(settings)
            fixed, pair = memory(config)
            step = 8 * config.accumulate
            most = {str(size): largest_batch(fixed, pair, size, step) for size in GPUS}
            rows.append(
                {
                    "recipe": name,
                    "variant": variant,
                    "fixed_mb": round(fixed / 1e6),
                    "mb_per_pair": round(pair / 1e6),
                    "gb_at_64": round((fixed + 64 * pair) / 1e9, 1),
                    "largest_batch_by_gb": most,
                }
            )
            lines.append(
                [name, variant, rows[-1]["mb_per_pair"], rows[-1]["gb_at_64"], *most.values()]
            )
    heads = ["recipe", "variant", "MB a pair", "GB at 64 pairs", *(f"{size} GB" for size in GPUS)]
    write("memory_table", {"spare": SPARE, "rows": rows}, table=markdown(heads, lines))


if __name__ == "__main__":
    main()
