"""Compilation, in a process of its own: the type-checking hook of the suite cannot be traced."""

import subprocess
import sys

import pytest

SCRIPT = """
import torch
from fame.models import Backbone, set_activation_checkpointing, set_norm_group
from fame.models.i3d import MaxPool, Unit
from fame.models.norm import in_passes
from fame.models.registry import seeded

class Short(Backbone):
    def __init__(self):
        super().__init__()
        self.stem = Unit(3, 8, kernel=7, stride=2)
        self.pool = MaxPool((1, 3, 3), (1, 2, 2))
        self.last = Unit(8, 8, kernel=3)
        self.feature_dim = 8

clip_BCTHW = torch.randn(7, 3, 4, 16, 16, generator=torch.Generator().manual_seed(0))

def step(checkpointing, compiled):
    with seeded(0):
        network = Short().to(memory_format=torch.channels_last_3d).train()
    set_norm_group(network, 3)
    set_activation_checkpointing(network, checkpointing)
    forward = torch.compile(network, backend="aot_eager", fullgraph=True) if compiled else network
    forward(clip_BCTHW)
    with in_passes(network, 2):
        output = forward(clip_BCTHW[:6])
    output.square().mean().backward()
    return output, [weight.grad for weight in network.parameters()], list(network.buffers())

expected = step(False, compiled=False)
for checkpointing in (False, True):
    torch.testing.assert_close(step(checkpointing, compiled=True), expected, atol=1e-4, rtol=1e-4)
print("same")
"""


@pytest.mark.slow
def test_a_compiled_step_with_groups_and_checkpointing_is_the_eager_one() -> None:
    command = [sys.executable, "-W", "error::UserWarning", "-c", SCRIPT]
    result = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert result.stdout == "same\n", result.stderr[-3000:]
