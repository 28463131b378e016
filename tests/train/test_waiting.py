"""A whole step asks nothing of the device that makes the host wait for it.

Tensors without values (meta) stand in for a GPU's: asking for one fails, and each copy that would
block is counted.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fame.clipstore import ClipStore
from tests.train.tiny import TINY
from train.data import on_device
from train.pretrain import PretrainTask

META = torch.device("meta")


class Blocking(TorchDispatchMode):
    """Names of operations between host and device that are no copies marked as non-blocking."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        tensors = [leaf for leaf in tree_leaves((args, kwargs, made)) if hasattr(leaf, "is_meta")]
        sides = {tensor.is_meta for tensor in tensors if tensor.ndim or tensor.is_meta}
        free = "empty" in func.name() or kwargs.get("non_blocking")
        free = free or (func.name() == "aten::copy_" and args[-1] is True)
        if len(sides) == 2 and not free:
            self.found.append(func.name())
        return made


def test_blocking_copies_are_found():
    with Blocking() as blocking:
        torch.zeros(3).to(META, non_blocking=True)
        torch.empty(3, device=META).copy_(torch.zeros(3), non_blocking=True)
        torch.empty(3, device=META) * 2.0
        assert not blocking.found
        torch.zeros(3).to(META)
        torch.empty(3, device=META).copy_(torch.zeros(3))
        torch.empty(3, device=META)[torch.tensor([0, 1])]
    assert len(blocking.found) == 3


@pytest.mark.parametrize(
    "settings", [[], ["enqueue=between", "negatives=all"], ["accumulate=2", "bn_group=2"]]
)
@pytest.mark.parametrize("one_forward", [False, True])
def test_no_copy_of_a_step_blocks(store: Path, settings: list[str], one_forward: bool):
    config = TINY.override(["batch=8", *settings])
    task = PretrainTask(config, stores=[ClipStore.open(store)], device=torch.device("cpu"))
    batch = on_device([next(task.batches(0, 1))], torch.device("cpu"))
    task.moco.to(META)
    task.moco.one_forward = one_forward
    with Blocking() as blocking:
        there = on_device([batch, batch._replace(sample_B=batch.sample_B[:0])], META)
        there = there._replace(clip_B2THWC=there.clip_B2THWC[:8], score_B2hw=there.score_B2hw[:8])
        figures = task.backward(0, there)
        torch.nn.utils.get_total_norm([p.grad for p in task.network.parameters()])
    assert blocking.found == []
    assert torch.as_tensor(figures["loss"]).is_meta
