"""Optimiser and precision of a config: what pretraining and fine-tuning share beyond the loop."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from train.config import TrainingConfig


def set_precision(config: TrainingConfig) -> None:
    """Allow CUDA to round float32 products and convolutions to TF32, or with ``precision="fp32"``
    forbid both; convolutions are rounded by default.
    """
    torch.backends.cuda.matmul.allow_tf32 = config.precision != "fp32"
    torch.backends.cudnn.allow_tf32 = config.precision != "fp32"
    torch.backends.cudnn.benchmark = True


@contextmanager
def sound_kernels(config: TrainingConfig, device: torch.device) -> Generator[None]:
    """Turn oneDNN off while a bf16 run trains on a CPU.

    On processors with AVX512-BF16, oneDNN of torch 2.13 returns unwritten memory as the weight
    gradient of a padded 3x3x3 convolution over two frames (1e37 where 0.04 is right).
    """
    before = torch.backends.mkldnn.enabled
    if device.type == "cpu" and config.precision == "bf16":
        torch.backends.mkldnn.enabled = False
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = before


def make_optimizer(
    config: TrainingConfig, parameters: Sequence[nn.Parameter]
) -> torch.optim.Optimizer:
    """Return the optimiser of a config, fused into one kernel per step."""
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            parameters,
            config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            fused=True,
        )
    return torch.optim.AdamW(parameters, config.lr, weight_decay=config.weight_decay, fused=True)
