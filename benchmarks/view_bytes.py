"""Aim: compiled, the views of 64 pairs move <= 12 GB (135 GB when every operation ran alone).

Run: ``python -m benchmarks.view_bytes``; no GPU is needed. Bytes are what kernels read and write
once each, whole buffers: compiled, as Inductor counts them for the kernels that it makes for this
machine; uncompiled, the inputs and outputs of every operation on tensors without values. Counted on
a few pairs, and scaled to 64: all buffers of note grow with the pairs. Nothing is timed.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch._inductor.graph import GraphLowering
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.harness import options as parser_of
from benchmarks.harness import write
from benchmarks.plain_step import synthetic_pairs
from fame.clipstore import StoreSpec
from fame.transfer import send
from train.config import PretrainConfig
from train.recipes import recipe
from train.views import draw_views, render

PAIRS = 64


class StoppedError(Exception):
    """Code was made; it need not be compiled."""


class Traffic(TorchDispatchMode):
    """Bytes that operations read and write, views of memory not counted."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = [leaf for leaf in tree_leaves((args, kwargs, made)) if is_there(leaf)]
            self.total += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return made


def is_there(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.is_meta


def eager_bytes(config: PretrainConfig, spec: StoreSpec) -> float:
    """Bytes of one operation after the other."""
    pairs = synthetic_pairs(config, spec, torch.device("cpu"))
    meta = torch.device("meta")
    draws = send(draw_views(pairs, config, epoch=0, step=0), meta)
    with Traffic() as traffic:
        render(pairs.clip_B2THWC.to(meta), pairs.score_B2hw.to(meta), draws, config)
    return traffic.total / config.batch


@contextmanager
def counting(rows: list[tuple[str, float]]) -> Generator[None]:
    """Let Inductor plan its kernels, note their bytes, and go on as if they had run."""
    build = GraphLowering.compile_to_module

    def count(self: GraphLowering) -> None:
        self.codegen()
        total, nodes, _ = self.count_bytes()
        rows.extend((node.get_name(), 4 * words) for node, words in nodes)
        rows.append(("total", total))
        raise StoppedError

    GraphLowering.compile_to_module = count
    try:
        yield
    finally:
        GraphLowering.compile_to_module = build


def compiled_bytes(config: PretrainConfig, spec: StoreSpec) -> dict[str, float]:
    """Bytes a pair of each compiled part of the views."""
    import train.views as views

    pairs = synthetic_pairs(config, spec, torch.device("cpu"))
    draws = draw_views(pairs, config, epoch=0, step=0)
    counted: dict[str, float] = {}

    def counted_run(function: Any, config: PretrainConfig) -> Any:
        def run(*arguments: Any) -> Any:
            # Each view by its own program: the second one has no background to read.
            name, rows = function.__name__.lstrip("_"), list[tuple[str, float]]()
            try:
                with counting(rows):
                    views._compiled.__wrapped__(function)(*arguments)
            except Exception as error:
                if "StoppedError" not in f"{type(error)} {error}" and not rows:
                    raise
            counted[name] = counted.get(name, 0) + rows[-1][1] / config.batch
            print(
                name,
                [(n, round(b / config.batch / 1e6, 1)) for n, b in rows if b / config.batch > 1e5],
                flush=True,
            )
            return function(*arguments)

        return run

    views._run, run = counted_run, views._run
    try:
        render(pairs.clip_B2THWC, pairs.score_B2hw, draws, config)
    finally:
        views._run = run
    return counted


def main() -> None:
    """Count, print, write."""
    parser = parser_of(__doc__)
    parser.add_argument("--pairs", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    small = [f"batch={options.pairs}", "device=cpu", "bn_group=2", "merge_group=2"]
    config, spec = recipe("fame-k400").override(small), StoreSpec()
    eager = eager_bytes(config.override(["compile=false"]), spec)
    parts = compiled_bytes(config, spec)
    scale = PAIRS / 1e9
    figures = {
        "pairs": PAIRS,
        "uncompiled_gb": round(eager * scale, 2),
        "compiled_gb": round(sum(parts.values()) * scale, 2),
        "parts_gb": {name: round(count * scale, 2) for name, count in parts.items()},
    }
    write("view_bytes", figures)


if __name__ == "__main__":
    main()
