"""The optimisers of a config against their rules written out, and the switches of arithmetic."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from train.config import PretrainConfig
from train.run.optimizer import make_optimizer, set_precision, sound_kernels
from train.run.peers import gradients, share_of
from train.run.schedule import key_momentum, learning_rate


@pytest.fixture(autouse=True)
def switches() -> Iterator[None]:
    cuda: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    before = cuda.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    yield
    cuda.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before


def moved(config: PretrainConfig, slopes: list[float]) -> list[float]:
    """A weight of 1 after each step along these gradients."""
    weight = nn.Parameter(torch.ones(1))
    optimizer = make_optimizer(config, [weight])
    places: list[float] = []
    for slope in slopes:
        weight.grad = torch.full((1,), slope)
        optimizer.step()
        places.append(float(weight.detach()))
    return places


def test_sgd_moves_by_momentum_and_weight_decay() -> None:
    config = PretrainConfig(lr=0.1, momentum=0.5, weight_decay=0.2)
    weight, velocity, expected = 1.0, 0.0, []
    for slope in (1.0, -2.0, 0.5):
        velocity = 0.5 * velocity + slope + 0.2 * weight
        weight -= 0.1 * velocity
        expected.append(weight)
    assert moved(config, [1.0, -2.0, 0.5]) == pytest.approx(expected)


def test_adamw_moves_by_moments_and_decays_apart() -> None:
    config = PretrainConfig(optimizer="adamw", lr=0.1, weight_decay=0.2)
    weight, first, second, expected = 1.0, 0.0, 0.0, []
    for step, slope in enumerate((1.0, -2.0, 0.5), 1):
        weight *= 1 - 0.1 * 0.2
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        corrected = first / (1 - 0.9**step), second / (1 - 0.999**step)
        weight -= 0.1 * corrected[0] / (math.sqrt(corrected[1]) + 1e-8)
        expected.append(weight)
    assert moved(config, [1.0, -2.0, 0.5]) == pytest.approx(expected)


@pytest.mark.parametrize(("precision", "rounds"), [("fp32", False), ("tf32", True), ("bf16", True)])
def test_products_are_rounded_only_where_the_precision_lets_them(
    precision: Any, rounds: bool
) -> None:
    set_precision(PretrainConfig(precision=precision))
    assert torch.backends.cuda.matmul.allow_tf32 is rounds
    assert torch.backends.cudnn.allow_tf32 is rounds


@pytest.mark.parametrize(("precision", "off"), [("fp32", False), ("bf16", True)])
def test_onednn_is_off_in_bf16_runs_on_a_cpu_only(precision: Any, off: bool) -> None:
    before = torch.backends.mkldnn.enabled
    config = PretrainConfig(precision=precision)
    with pytest.raises(RuntimeError, match="stop"), sound_kernels(config, torch.device("cpu")):
        assert torch.backends.mkldnn.enabled is (before and not off)
        raise RuntimeError("stop")
    assert torch.backends.mkldnn.enabled is before  # after an error too
    with sound_kernels(config, torch.device("cuda")):
        assert torch.backends.mkldnn.enabled is before


def test_gradients_are_those_that_are_there() -> None:
    with torch.random.fork_rng():
        layer = nn.Linear(2, 1)
    layer.weight.grad = torch.ones(1, 2)
    assert [slope.tolist() for slope in gradients(layer)] == [[[1.0, 1.0]]]


def test_the_worked_example_of_shares() -> None:
    assert share_of(64, world=2, accumulate=2, groups={"bn_group": 8}) == 32
    with pytest.raises(ValueError, match="bn_group 32 does not divide the 16 clips"):
        share_of(64, world=2, accumulate=2, groups={"bn_group": 32})
    with pytest.raises(ValueError, match=r"give --bn-group 64$"):  # at once, whatever was asked for
        share_of(64, world=1, groups={"bn_group": 1 << 62})
    with pytest.raises(ValueError, match=r"give --bn-group 65536$"):
        share_of(1 << 62, world=1, groups={"bn_group": (1 << 61) - 1})


@pytest.mark.parametrize(("update", "first_full"), [("step", 9), ("epoch", 5)])
def test_the_rate_warms_up_and_ends_at_nothing(update: Any, first_full: int) -> None:
    config = PretrainConfig(epochs=10, warmup_epochs=2, lr=0.4, lr_update=update)
    rates = [learning_rate(config, step=step, steps_per_epoch=5) for step in range(50)]
    assert max(rates) == pytest.approx(0.4)
    assert rates.index(max(rates)) == first_full  # of the 10 steps or 2 epochs of the warm-up
    assert rates[:10] == sorted(rates[:10]) and rates[10:] == sorted(rates[10:], reverse=True)
    if update == "epoch":
        assert all(len(set(rates[i : i + 5])) == 1 for i in range(0, 50, 5))
    assert rates[-1] < 0.02


def test_the_steps_divide_the_rate_by_ten() -> None:
    config = PretrainConfig(epochs=4, schedule="steps", milestones=(1, 3), lr=1.0)
    rates = [learning_rate(config, step=step, steps_per_epoch=2) for step in range(8)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01])


def test_the_key_encoders_momentum_rises_to_one() -> None:
    constant = PretrainConfig(epochs=2, ema=0.9)
    assert {key_momentum(constant, step=s, steps_per_epoch=5) for s in range(10)} == {0.9}
    rising = PretrainConfig(epochs=2, ema=0.9, ema_schedule="cosine")
    values = [key_momentum(rising, step=s, steps_per_epoch=5) for s in range(10)]
    assert values[0] == pytest.approx(0.9) and values == sorted(values) and values[-1] < 1
    half = key_momentum(rising, step=5, steps_per_epoch=5)
    assert half == pytest.approx(0.95)
