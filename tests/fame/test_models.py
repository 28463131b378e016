"""Backbones and heads: the reference's outputs, flat convolutions, padding, small inputs, seeds,
checkpointing.
"""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from fame.models import (
    Backbone,
    build_backbone,
    build_encoder,
    set_activation_checkpointing,
    set_norm_group,
)
from fame.models.convolution import FlatConv3d, _over_space, _product
from fame.models.i3d import MaxPool, Mixed, same_padding, scaled
from fame.models.registry import seeded
from fame.normalize import MEAN, STD, encoder_input

REFERENCES = {
    "i3d_projection": ("i3d", {"kind": "projection", "dim": 128}),
    "i3d_classifier": ("i3d", {"kind": "classifier", "classes": 101}),
    "r2plus1d_18": ("r2plus1d_18", {"kind": "linear", "dim": 128}),
}


def tiny(head: dict[str, object] | None = None, *, seed: int = 0) -> Backbone:
    return build_encoder(
        "i3d", head=head or {"kind": "projection", "dim": 16}, options={"width": 0.125}, seed=seed
    )


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def ruled(name: str, shape: list[int]) -> Tensor:
    """A weight of the golden networks, filled by the rule that their README states."""
    draw = np.random.RandomState(zlib.crc32(name.encode()))
    if name.endswith("num_batches_tracked"):
        return torch.tensor(0)
    if name.endswith("running_var"):
        values = 0.5 + draw.random_sample(shape)
    elif name.endswith("running_mean"):
        values = 0.1 * draw.standard_normal(shape)
    elif len(shape) == 1:
        values = float(name.endswith("weight")) + 0.1 * draw.standard_normal(shape)
    else:
        values = draw.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


@pytest.mark.parametrize("reference", REFERENCES)
def test_names_shapes_and_outputs_are_those_of_the_reference(reference: str, golden: Path) -> None:
    name, head = REFERENCES[reference]
    described = json.loads((golden / "backbones_reference.json").read_text())[reference]
    expected = np.load(golden / "backbones_reference.npz")
    encoder = build_encoder(name, head=head).eval()
    assert {key: list(value.shape) for key, value in encoder.state_dict().items()} == described[
        "state_dict"
    ]
    assert list(encoder.state_dict()) == list(described["state_dict"]), (
        "an optimiser's state goes by order"
    )

    encoder.load_state_dict(
        {key: ruled(key, shape) for key, shape in described["state_dict"].items()}
    )
    draw = np.random.RandomState(7)
    clip_BCTHW = torch.from_numpy(
        draw.random_sample(described["input"]["shape"]).astype(np.float32)
    )
    with torch.no_grad():
        features, output = encoder.features(clip_BCTHW), encoder(clip_BCTHW)
    np.testing.assert_allclose(features, expected[f"{reference}/features"], atol=1e-4)
    np.testing.assert_allclose(output, expected[f"{reference}/output"], atol=1e-4)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [
        ((1, 1, 1), (1, 1, 1), (0, 0, 0)),
        ((1, 1, 1), (2, 2, 2), (0, 0, 0)),
        ((1, 3, 3), (1, 2, 2), (0, 1, 1)),
        ((1, 3, 5), (1, 1, 1), (0, 0, 2)),
        ((3, 1, 1), (2, 1, 1), (1, 0, 0)),
        ((3, 3, 3), (2, 1, 1), (1, 1, 1)),
    ],
)
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last_3d])
def test_a_flat_convolution_is_the_convolution(
    kernel: tuple[int, int, int],
    stride: tuple[int, int, int],
    padding: tuple[int, int, int],
    memory: torch.memory_format,
    device: torch.device,
) -> None:
    with seeded(0):
        flat = FlatConv3d(5, 7, kernel, stride, padding)
    flat.load_state_dict({"weight": noise(7, 5, *kernel)})
    flat = flat.to(device=device).to(memory_format=memory)
    plain_input = (
        noise(2, 5, 5, 7, 6, seed=1).to(device).contiguous(memory_format=memory).requires_grad_()
    )
    flat_input = plain_input.detach().clone().requires_grad_()
    weight = flat.weight.detach().clone().requires_grad_()
    plain, ours = F.conv3d(plain_input, weight, None, stride, padding), flat(flat_input)
    torch.testing.assert_close(ours, plain, atol=1e-4, rtol=1e-4)
    gradient = torch.linspace(-1, 1, plain.numel(), device=device).view(plain.shape)
    plain.backward(gradient)
    ours.backward(gradient)
    torch.testing.assert_close(flat_input.grad, plain_input.grad, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(flat.weight.grad, weight.grad, atol=1e-3, rtol=1e-4)


@given(size=st.integers(1, 64), kernel=st.integers(1, 8), stride=st.integers(1, 4))
def test_same_padding_is_the_least_that_reaches_the_ceiling(
    size: int, kernel: int, stride: int
) -> None:
    before, after = same_padding(size, kernel, stride)

    def outputs(total: int) -> int:
        return (size + total - kernel) // stride + 1

    wanted = -(-size // stride)
    assert 0 <= after - before <= 1
    if before + after:
        assert outputs(before + after) == wanted
        assert outputs(before + after - 1) < wanted
    else:
        assert outputs(0) >= wanted


@settings(deadline=None, max_examples=40)
@given(
    size=st.tuples(*[st.integers(1, 9)] * 3),
    shape=st.sampled_from(
        [
            ((1, 3, 3), (1, 2, 2)),
            ((3, 3, 3), (2, 2, 2)),
            ((2, 2, 2), (2, 2, 2)),
            ((3, 3, 3), (1, 1, 1)),
        ]
    ),
)
def test_pooling_equals_pooling_of_zero_padded_activations(
    size: tuple[int, int, int], shape: tuple[tuple[int, int, int], tuple[int, int, int]]
) -> None:
    kernel, stride = shape
    activation = noise(1, 2, *size).relu()
    pads = [same_padding(*side) for side in zip(size, kernel, stride, strict=True)]
    padded = F.pad(activation, [count for pad in reversed(pads) for count in pad])
    assert torch.equal(MaxPool(kernel, stride)(activation), F.max_pool3d(padded, kernel, stride))


def test_pooling_in_two_passes_keeps_layout_and_gradients() -> None:
    for kernel, stride in (((3, 3, 3), (1, 1, 1)), ((3, 3, 3), (2, 2, 2)), ((2, 2, 2), (2, 2, 2))):
        ours = noise(2, 4, 5, 7, 6).contiguous(memory_format=torch.channels_last_3d)
        plain = ours.clone().requires_grad_()
        ours.requires_grad_()
        pads = [same_padding(*side)[0] for side in zip((5, 7, 6), kernel, stride, strict=True)]
        expected = F.max_pool3d(plain, kernel, stride, pads, ceil_mode=True)
        pooled = MaxPool(kernel, stride)(ours)
        assert torch.equal(pooled, expected)
        assert pooled.is_contiguous(memory_format=torch.channels_last_3d)
        slope = torch.linspace(-1, 1, pooled.numel()).view(pooled.shape)
        pooled.backward(slope)
        expected.backward(slope)
        torch.testing.assert_close(ours.grad, plain.grad, atol=1e-5, rtol=0)


def test_both_forms_of_a_kernel_of_one_element_are_the_convolution() -> None:
    clip, weight = noise(2, 5, 3, 7, 6), noise(7, 5, 1, 1, 1, seed=1)
    for form in (_product, _over_space):
        torch.testing.assert_close(form(clip, weight), F.conv3d(clip, weight), atol=1e-5, rtol=1e-5)


def test_three_convolutions_as_one_product_are_the_branches() -> None:
    with seeded(0):
        ours, apart = Mixed(16, [8, 8, 16, 8, 8, 8]), Mixed(16, [8, 8, 16, 8, 8, 8])
    apart.load_state_dict(ours.state_dict())
    set_norm_group(ours, 2)
    set_norm_group(apart, 2)
    clip = noise(4, 16, 3, 5, 5).contiguous(memory_format=torch.channels_last_3d)
    expected = torch.cat([branch(clip) for branch in apart.children()], 1)
    output = ours(clip)
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)
    output.square().mean().backward()
    expected.square().mean().backward()
    for mine, theirs in zip(ours.parameters(), apart.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-5, rtol=1e-4)
    for mine, theirs in zip(ours.buffers(), apart.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("size", [(8, 64, 64), (8, 32, 32), (4, 17, 23), (1, 1, 1)])
@pytest.mark.parametrize("name", ["i3d", "r2plus1d_18", "c3d_small"])
def test_any_size_of_clip_is_encoded(name: str, size: tuple[int, int, int]) -> None:
    backbone = build_backbone(name, **({"width": 0.125} if name == "i3d" else {})).eval()
    by = {"i3d": (8, 32, 32), "r2plus1d_18": (8, 16, 16), "c3d_small": (4, 8, 8)}[name]
    with torch.no_grad():
        map_BDthw = backbone.feature_map(noise(1, 3, *size))
    assert map_BDthw.shape == (
        1,
        backbone.feature_dim,
        *(-(-a // b) for a, b in zip(size, by, strict=True)),
    )
    assert map_BDthw.isfinite().all()


@pytest.mark.parametrize("shape", [(1, 1, 8, 32, 32), (0, 3, 8, 32, 32), (1, 3, 8, 0, 32)])
def test_what_is_no_clip_is_refused_with_its_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected clips of shape.*got \[" + str(shape[0])):
        tiny()(torch.zeros(shape))


def test_a_seed_decides_the_weights() -> None:
    first, again, other = (
        tiny(seed=1).state_dict(),
        tiny(seed=1).state_dict(),
        tiny(seed=2).state_dict(),
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(
        first["conv3d_1a_7x7.conv3d.weight"], other["conv3d_1a_7x7.conv3d.weight"]
    )
    assert not torch.equal(first["id_head.4.weight"], other["id_head.4.weight"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: build_backbone("resnet"),
            "unknown backbone 'resnet': there are i3d, r2plus1d_18, c3d_small",
        ),
        (lambda: build_backbone("i3d", depth=3), "'i3d' cannot be built with .*depth"),
        (lambda: build_backbone("r2plus1d_18", width=0.5), "cannot be built with"),
        (lambda: build_backbone("i3d", width=0.0), "width .* got 0.0"),
        (lambda: build_encoder("i3d", head={}), "unknown head None"),
        (lambda: build_encoder("i3d", head={"kind": "classifier"}), "'classifier' cannot be built"),
        (
            lambda: tiny({"kind": "classifier", "classes": 0}),
            "classes of a head is at least 1, got 0",
        ),
        (lambda: tiny({"kind": "classifier", "classes": 2, "dropout": 1.0}), "dropout .* got 1.0"),
        (lambda: tiny({"kind": "linear", "dim": -1}), "dim of a head is at least 1, got -1"),
    ],
)
def test_a_network_that_does_not_exist_is_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@given(channels=st.integers(1, 832), width=st.floats(0.01, 4))
def test_width_gives_whole_multiples_of_eight(channels: int, width: float) -> None:
    assert scaled(channels, width) % 8 == 0
    assert scaled(channels, width) >= 8
    assert abs(scaled(channels, width) - channels * width) <= max(4, 8 - channels * width)


def test_heads_normalise_as_they_say() -> None:
    clip_BCTHW = noise(3, 3, 4, 32, 32)
    projected = tiny({"kind": "projection", "dim": 5}).eval()(clip_BCTHW)
    torch.testing.assert_close(projected.norm(dim=1), torch.ones(3))
    log_probability = tiny({"kind": "classifier", "classes": 4}).eval()(clip_BCTHW)
    torch.testing.assert_close(log_probability.exp().sum(1), torch.ones(3))
    linear = tiny({"kind": "linear", "dim": 6}).eval()
    expected = F.linear(linear.features(clip_BCTHW), linear.fc.weight, linear.fc.bias)
    torch.testing.assert_close(linear(clip_BCTHW), expected)


def test_dropout_acts_in_training_only() -> None:
    head = tiny({"kind": "classifier", "classes": 3, "dropout": 0.7}).fc
    feature_BD = noise(2, 128)
    assert torch.equal(head.eval()(feature_BD), head(feature_BD))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first, second = head.train()(feature_BD), head(feature_BD)
    assert not torch.equal(first, second)


def trained(encoder: Backbone) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Output, gradients and buffers after one training forward and backward."""
    output = encoder.train()(noise(4, 3, 4, 32, 32))
    output.square().mean().add(output[:, 0].sum()).backward()
    gradients = {name: value.grad for name, value in encoder.named_parameters()}
    return output, gradients, dict(encoder.named_buffers())


def test_checkpointed_activations_change_nothing() -> None:
    plain, frugal = tiny(), tiny()
    set_activation_checkpointing(frugal, True)
    for encoder in (plain, frugal):
        set_norm_group(encoder, 2)
    for ours, expected in zip(trained(frugal), trained(plain), strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=0)
    assert int(frugal.get_buffer("mixed_5c.branch_0.batch3d.num_batches_tracked")) == 1


def test_checkpointing_saves_activations() -> None:
    def saved(encoder: Backbone) -> int:
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: sizes.append(t.numel()) or t, lambda t: t
        ):
            encoder.train()(noise(2, 3, 4, 32, 32))
        return sum(sizes)

    frugal = tiny()
    set_activation_checkpointing(frugal, True)
    assert saved(frugal) < saved(tiny()) / 4


def test_bf16_autocast_keeps_the_output() -> None:
    encoder, clip_BCTHW = tiny().eval(), noise(2, 3, 4, 32, 32)
    with torch.no_grad():
        expected = encoder(clip_BCTHW)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(encoder(clip_BCTHW).float(), expected, atol=0.02, rtol=0.1)


def test_both_forms_of_clips_give_the_same_input() -> None:
    frames_BTHWC = torch.randint(
        0, 256, (2, 4, 6, 5, 3), generator=torch.Generator().manual_seed(0)
    ).byte()
    colours_BCTHW = frames_BTHWC.permute(0, 4, 1, 2, 3) / 255
    expected = (colours_BCTHW.numpy() - np.reshape(MEAN, (3, 1, 1, 1))) / np.reshape(
        STD, (3, 1, 1, 1)
    )
    np.testing.assert_allclose(encoder_input(frames_BTHWC), expected, atol=1e-5)
    np.testing.assert_allclose(encoder_input(colours_BCTHW), expected, atol=1e-5)


def test_colours_normalised_twice_are_refused() -> None:
    with pytest.raises(ValueError, match=r"colours in 0..1, got -2"):
        encoder_input(torch.full((1, 3, 2, 4, 4), -2.0))


def test_every_norm_is_grouped() -> None:
    for name in ("i3d", "r2plus1d_18", "c3d_small"):
        backbone = build_backbone(name)
        norms = [
            module
            for module in backbone.modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm)
        ]
        set_norm_group(backbone, 8)
        assert norms
        assert all(norm.group == 8 for norm in norms)
