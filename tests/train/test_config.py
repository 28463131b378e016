"""Configs refuse what cannot be, survive JSON, and name the nearest field; every recipe is one."""

import dataclasses
import json

import pytest

from train.config import PretrainConfig
from train.recipes import RECIPES, recipe
from train.run.schedule import key_momentum, learning_rate


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("beta=1.5", ["beta", "1.5", "at most 1"]),
        ("beta=0", ["beta", "above 0"]),
        ("batch=0", ["batch", "0", "at least 1"]),
        ("mask=flow", ["mask", "flow", "stored, frames, online"]),
        ("lr=nan", ["lr", "nan"]),
        ("lr=inf", ["lr", "inf"]),
        ("epochs=2.5", ["epochs", "whole number", "2.5"]),
        ("compile=maybe", ["compile", "true or false", "maybe"]),
        ("milestones=a,b", ["milestones", "a,b"]),
        ("accumulate=5", ["accumulate", "64", "5"]),
        ("schedule=steps", ["milestones"]),
        ("quueue=7", ["quueue", "did you mean 'queue'"]),
        ("lr", ["key=value", "lr"]),
    ],
)
def test_a_bad_setting_is_one_line_that_says_what_is_allowed(setting: str, words: list[str]):
    with pytest.raises(ValueError, match=r"^[^\n]+$") as error:
        PretrainConfig().override([setting])
    assert all(word in str(error.value) for word in words), str(error.value)


def test_settings_take_their_fields_type():
    config = PretrainConfig().override(
        [
            "bn_group=none",
            "merge_group=4",
            "lr=1e-3",
            "compile=true",
            "schedule=steps",
            "milestones=60,120",
        ]
    )
    assert config.bn_group is None
    assert (config.merge_group, config.lr, config.compile) == (4, 1e-3, True)
    assert config.milestones == (60, 120)


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_survive_json_and_say_their_command(name: str):
    config = recipe(name)
    assert PretrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert "Command:" in (RECIPES[name].__doc__ or "")


def test_an_unknown_recipe_or_field_names_the_nearest():
    with pytest.raises(ValueError, match="reference-k400"):
        recipe("reference-k40")
    with pytest.raises(ValueError, match="did you mean 'temperature'"):
        PretrainConfig.from_dict({"temprature": 0.1})


def test_reference_recipes_are_the_papers():
    config = recipe("reference-k400")
    assert (config.lr, config.batch, config.epochs, config.queue, config.dim) == (
        0.01,
        64,
        200,
        65536,
        128,
    )
    assert (config.momentum, config.weight_decay, config.temperature, config.ema) == (
        0.9,
        1e-4,
        0.1,
        0.999,
    )
    assert (config.bn_group, config.merge_group, config.precision, config.views) == (
        8,
        8,
        "fp32",
        "single",
    )
    assert (config.mask, config.sources, config.enqueue, config.beta) == (
        "online",
        "permutation",
        "between",
        0.5,
    )
    assert recipe("reference-ucf101") == dataclasses.replace(config, queue=2048)


def test_schedules():
    config = PretrainConfig(epochs=10, lr=1.0)

    def rates(config: PretrainConfig) -> list[float]:
        return [learning_rate(config, step=step, steps_per_epoch=4) for step in range(40)]

    assert rates(config)[0] == 1
    assert rates(config) == sorted(rates(config), reverse=True)
    assert rates(config)[20] == pytest.approx(0.5)
    by_epoch = rates(dataclasses.replace(config, lr_update="epoch"))
    assert by_epoch[::4] == rates(config)[::4]
    assert by_epoch[3] == by_epoch[0]
    steps = rates(dataclasses.replace(config, schedule="steps", milestones=(2, 5)))
    assert (steps[7], steps[8], steps[20]) == pytest.approx((1, 0.1, 0.01))
    warm = rates(dataclasses.replace(config, schedule="constant", warmup_epochs=2.0))
    assert warm[:9] == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1, 1])
    rising = dataclasses.replace(config, ema=0.9, ema_schedule="cosine")
    assert key_momentum(config, step=39, steps_per_epoch=4) == 0.999
    assert key_momentum(rising, step=0, steps_per_epoch=4) == pytest.approx(0.9)
    assert key_momentum(rising, step=40, steps_per_epoch=4) == 1
