"""Colours: each operation against kornia and the golden outputs of its version of the paper's date,
in any order and both forms; what holds for a batch holds for each clip.
"""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from kornia.enhance import (
    adjust_brightness_accumulative,
    adjust_contrast_with_mean_subtraction,
    adjust_hue,
    adjust_saturation_with_gray_subtraction,
)
from kornia.filters import gaussian_blur2d

from fame.augment import draw_colour, draw_order
from fame.colour import (
    _OPERATIONS,
    HUE,
    Colour,
    JitterKind,
    _wide,
    apply_colour,
    blur_along,
    blur_kernel,
    blur_weights,
)
from fame.randomness import generator

KORNIA = (
    adjust_brightness_accumulative,
    adjust_contrast_with_mean_subtraction,
    adjust_saturation_with_gray_subtraction,
    lambda image, turns: adjust_hue(image, turns * 2 * math.pi),
)
ORDERS = list(itertools.permutations(range(4)))


def operated(
    kind: JitterKind, number: int, clip: torch.Tensor, factor_B4: torch.Tensor
) -> torch.Tensor:
    planes = _OPERATIONS[kind][number](clip.unbind(1), _wide(factor_B4[:, number]))
    return torch.stack(planes, 1)


def jitter(batch: int) -> Colour:
    return draw_colour(
        seed=0, epoch=0, indices=range(batch), view=0, gray=0.0, jitter=1.0, blur=0.0
    )


def colourful(batch: int) -> torch.Tensor:
    """Random clips with what formulas stumble over: grey, black, white and pure colours."""
    clip = floats(batch)
    corners = torch.tensor(list(itertools.product((0.0, 0.5, 1.0), repeat=3)))
    clip[:, :, :, 0, :27] = corners.T[None, :, None]
    return clip


@pytest.mark.parametrize("number", range(4))
def test_an_operation_is_kornias(number: int):
    clip, factor_B4 = colourful(6), jitter(6).factor_B4
    frames = KORNIA[number](clip.transpose(1, 2), factor_B4[:, number, None, None, None, None])
    ours = operated("current", number, clip, factor_B4)
    torch.testing.assert_close(ours, frames.transpose(1, 2), atol=3e-6, rtol=0)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_an_operation_of_the_papers_date_is_that_of_the_reference(name: str, golden: Path):
    clip, factor_B4, expected = reference(golden, name)
    number = ["brightness", "contrast", "saturation", "hue"].index(name)
    ours = operated("paper", number, clip, factor_B4)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["order_0123", "order_3210", "order_2031"])
@pytest.mark.parametrize("as_data", [False, True])
def test_jitter_of_the_papers_date_is_that_of_the_reference(name: str, as_data: bool, golden: Path):
    clip, factor_B4, expected = reference(golden, name)
    order = [int(digit) for digit in name[-4:]]
    colour = jitter(len(clip))._replace(factor_B4=factor_B4)
    ours = apply_colour(clip, colour, order=torch.tensor(order) if as_data else order, kind="paper")
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


def reference(golden: Path, name: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images as clips of one frame, factors, and what the reference's kornia made of them."""
    with np.load(golden / "colour_jitter_reference.npz") as file:
        images, made = torch.from_numpy(file["images"]) / 255, torch.from_numpy(file[name])
        factor_B4 = torch.from_numpy(file["factors"])
    clip, expected = (value.permute(0, 3, 1, 2)[:, :, None] for value in (images, made))
    return clip, factor_B4, expected


@pytest.mark.parametrize("kind", ["current", "paper"])
def test_an_order_as_data_is_the_order(kind: JitterKind):
    clip, colour = colourful(3), jitter(3)
    for order in ORDERS:
        plain = apply_colour(clip, colour, order=order, kind=kind)
        data = apply_colour(clip, colour, order=torch.tensor(order), kind=kind)
        torch.testing.assert_close(data, plain, atol=1e-5, rtol=0, msg=str(order))


def test_the_kinds_differ_in_all_but_hue():
    clip, factor_B4 = floats(2), jitter(2).factor_B4
    for number in range(4):
        made = [operated(kind, number, clip, factor_B4) for kind in ("current", "paper")]
        assert torch.equal(*made) == (number == HUE)


def test_blur_is_kornias_in_both_forms():
    clip = floats(4)
    colour = draw_colour(seed=0, epoch=0, indices=range(4), view=0, gray=0.0, jitter=0.0, blur=1.0)
    kernel = blur_kernel(32)
    sigma_B2 = colour.sigma_B[:, None].expand(-1, 2)
    expected = gaussian_blur2d(clip.flatten(1, 2), (kernel, kernel), sigma_B2).view_as(clip)
    torch.testing.assert_close(apply_colour(clip, colour), expected, atol=1e-6, rtol=0)
    sums, weight_BK = clip, blur_weights(colour, kernel)
    for columns in (False, True):
        sums = blur_along(sums, weight_BK, columns=columns)
    torch.testing.assert_close(sums, expected, atol=1e-6, rtol=0)


def test_a_sample_draws_the_same_in_any_batch():
    colours = {"gray": 0.2, "jitter": 0.8, "blur": 0.5, "seed": 1, "epoch": 2, "view": 0}
    many, one = draw_colour(indices=[3, 9, 4], **colours), draw_colour(indices=[9], **colours)
    assert all(torch.equal(left[1], right[0]) for left, right in zip(many, one, strict=True))


def test_probabilities_are_met():
    colour = draw_colour(
        seed=0, epoch=0, indices=range(2000), view=0, gray=0.2, jitter=0.8, blur=0.5
    )
    for drawn, probability in ((colour.gray_B, 0.2), (colour.jitter_B, 0.8), (colour.blur_B, 0.5)):
        assert float(drawn.float().mean()) == pytest.approx(probability, abs=0.04)
    assert float(colour.sigma_B.min()) >= 0.1
    assert float(colour.sigma_B.max()) <= 2.0
    assert torch.all(
        (colour.factor_B4 - torch.tensor([1, 1, 1, 0.0])).abs()
        <= torch.tensor([0.4, 0.4, 0.4, 0.1])
    )


def floats(batch: int) -> torch.Tensor:
    return torch.rand(batch, 3, 4, 32, 32, generator=generator(0, 0, 0, "test/floats"))


def test_every_frame_of_a_clip_is_coloured_alike_and_clips_apart():
    still = floats(1)[:, :, :1].expand(4, -1, 4, -1, -1)
    colour = draw_colour(seed=0, epoch=0, indices=range(4), view=0, gray=0.0, jitter=1.0, blur=1.0)
    result = apply_colour(still, colour, order=draw_order(seed=0, epoch=0, step=0, view=0))
    assert torch.allclose(result, result[:, :, :1].expand_as(result), atol=1e-6)
    assert not torch.allclose(result[0], result[1], atol=1e-2)


def test_a_batch_is_coloured_as_its_clips_one_by_one():
    clip = floats(6)
    colour = draw_colour(seed=0, epoch=0, indices=range(6), view=0, gray=0.5, jitter=0.5, blur=0.5)
    order = draw_order(seed=0, epoch=0, step=0, view=0)
    result = apply_colour(clip, colour, order=order)
    for row in range(6):
        one = type(colour)(*(value[row : row + 1] for value in colour))
        assert torch.allclose(
            result[row : row + 1], apply_colour(clip[row : row + 1], one, order=order), atol=1e-5
        )
    assert float(result.min()) >= 0
    assert float(result.max()) <= 1


def test_nothing_drawn_changes_nothing_and_the_input_is_left_alone():
    clip = floats(3)
    before = clip.clone()
    none = draw_colour(seed=0, epoch=0, indices=range(3), view=0, gray=0.0, jitter=0.0, blur=0.0)
    every = draw_colour(seed=0, epoch=0, indices=range(3), view=0, gray=1.0, jitter=1.0, blur=1.0)
    assert torch.equal(apply_colour(clip, none), clip)
    assert not torch.equal(apply_colour(clip, every), clip)
    assert torch.equal(clip, before)


def test_grey_has_equal_channels():
    gray = draw_colour(seed=0, epoch=0, indices=range(2), view=0, gray=1.0, jitter=0.0, blur=0.0)
    result = apply_colour(floats(2), gray)
    assert torch.allclose(result[:, 0], result[:, 2], atol=1e-6)
