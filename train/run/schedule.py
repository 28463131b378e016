"""Learning rate and key-encoder momentum as pure functions of the step."""

import math

from train.config import PretrainConfig, TrainingConfig


def learning_rate(config: TrainingConfig, *, step: int, steps_per_epoch: int) -> float:
    """Return the rate at ``step`` (counted from 0): a linear warm-up, then cosine to 0, tenfold
    steps, or constant.

    With ``lr_update="epoch"`` it is what it was at the first step of the epoch, as in the
    reference.
    """
    epoch = step // steps_per_epoch if config.lr_update == "epoch" else step / steps_per_epoch
    # 5 epochs of warm-up: by epochs a fifth of the rate in the first and all of it in the fifth.
    if epoch < config.warmup_epochs:
        share = (
            epoch + (1 if config.lr_update == "epoch" else 1 / steps_per_epoch)
        ) / config.warmup_epochs
        return config.lr * min(1.0, share)
    if config.schedule == "cosine":
        return config.lr * 0.5 * (1 + math.cos(math.pi * epoch / config.epochs))
    if config.schedule == "steps":
        return config.lr * 0.1 ** sum(epoch >= milestone for milestone in config.milestones)
    return config.lr


def key_momentum(config: PretrainConfig, *, step: int, steps_per_epoch: int) -> float:
    """Return the momentum of the key encoder: constant, or rising to 1 along a cosine."""
    if config.ema_schedule == "constant":
        return config.ema
    # At share 0 the momentum is ``ema``, halfway it is halfway to 1, at the end 1.
    share = step / (config.epochs * steps_per_epoch)
    return 1 - (1 - config.ema) * 0.5 * (1 + math.cos(math.pi * share))
