"""Optimiser and precision of a config: what pretraining and fine-tuning share beyond the loop."""

from collections.abc import Sequence

import torch
from torch import nn

from train.config import TrainingConfig


def set_precision(config: TrainingConfig) -> None:
    """Let or forbid CUDA to round float32 products to TF32; convolutions round by default, so
    forbid it too.
    """
    torch.backends.cuda.matmul.allow_tf32 = config.precision != "fp32"
    torch.backends.cudnn.allow_tf32 = config.precision != "fp32"
    torch.backends.cudnn.benchmark = True


def make_optimizer(
    config: TrainingConfig, parameters: Sequence[nn.Parameter]
) -> torch.optim.Optimizer:
    """The optimiser of a config, fused into one kernel per step."""
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            parameters,
            config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            fused=True,
        )
    return torch.optim.AdamW(parameters, config.lr, weight_decay=config.weight_decay, fused=True)
