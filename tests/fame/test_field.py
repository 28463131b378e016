"""Each kind of checkpoint that was met in the field gives the outputs that its own project gives."""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fame
from fame.models import build_encoder
from fame.normalize import normalise, to_colours
from fame.randomness import generator

State = dict[str, Tensor]


def behind(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


def headless(state: State) -> State:
    return {name: value for name, value in state.items() if not name.startswith("fc.")}


def clips(frames: int = 8, side: int = 48) -> Tensor:
    draws = generator(0, 0, 0, "tests/field")
    return torch.randint(0, 256, (2, frames, side, side, 3), generator=draws).byte()


KINDS: dict[str, Callable[[State], Any]] = {
    "a bare state dict": lambda state: state,
    "model, as torchvision's script": lambda state: {"model": state, "epoch": 3},
    "state_dict": lambda state: {"state_dict": state},
    "module.": lambda state: {"state_dict": behind("module.", state)},
    "module.encoder_q.": lambda state: {
        "state_dict": {
            **behind("module.encoder_q.", state),
            **behind("module.encoder_k.", {name: -value for name, value in state.items()}),
            "module.queue": torch.zeros(8, 16),
            "module.queue_ptr": torch.zeros(1),
        }
    },
    "encoder_q.": lambda state: {
        "state_dict": {**behind("encoder_q.", state), "queue": torch.zeros(8, 4)}
    },
    "model with encoder_q.": lambda state: {"model": behind("encoder_q.", state)},
    "model_state, as SlowFast": lambda state: {"model_state": state},
    "backbone., as mmaction2": lambda state: {
        "state_dict": {
            **behind("backbone.", headless(state)),
            "cls_head.fc_cls.bias": torch.zeros(3),
        },
        "meta": {},
    },
    "_orig_mod.": lambda state: {"state_dict": behind("_orig_mod.", state)},
    "module._orig_mod.": lambda state: {"state_dict": behind("module._orig_mod.", state)},
    "no head": lambda state: {"state_dict": headless(state)},
    "argparse.Namespace beside": lambda state: {"state_dict": state, "args": Namespace(lr=0.1)},
    "a NumPy number beside": lambda state: {"state_dict": state, "best_acc1": np.float64(3.0)},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("old", [False, True])
def test_a_state_dict_in_any_wrapping_gives_the_same_outputs(tmp_path: Path, kind: str, old: bool):
    head = {"kind": "classifier", "classes": 5}
    network = build_encoder("c3d_small", head=head, seed=1).eval()
    path = tmp_path / "weights.pth"
    content = KINDS[kind](dict(network.state_dict()))
    torch.save(content, path, _use_new_zipfile_serialization=not old)
    loaded = fame.load(path)
    colours = normalise(to_colours(clips(4, 16)))
    with torch.no_grad():
        torch.testing.assert_close(
            loaded.features(clips(4, 16)), network.features(colours), atol=1e-5, rtol=0
        )
        if "head" in kind or "mmaction2" in kind:
            assert loaded.card.head is None
        elif "encoder_q" in kind:
            assert loaded.card.head == {"kind": "linear", "dim": 5}
        else:
            torch.testing.assert_close(
                loaded.output(clips(4, 16)), network(colours), atol=1e-5, rtol=0
            )


def test_a_head_of_two_layers_on_r2plus1d(tmp_path: Path):
    """``fc.0``, ReLU, ``fc.2``: what the reference puts on R(2+1)D in pretraining."""
    network = build_encoder("r2plus1d_18", head={"kind": "projection", "dim": 8}, seed=1).eval()
    state = dict(network.state_dict())
    theirs = {
        name.replace("id_head.2.", "fc.0.").replace("id_head.4.", "fc.2."): value
        for name, value in state.items()
    }
    assert "fc.0.weight" in theirs and "fc.2.bias" in theirs
    torch.save({"state_dict": behind("module.encoder_q.", theirs)}, tmp_path / "moco.pth")
    loaded = fame.load(tmp_path / "moco.pth")
    with torch.no_grad():
        feature_BD = network.features(normalise(to_colours(clips(4, 32))))
        hidden = F.relu(feature_BD @ theirs["fc.0.weight"].T + theirs["fc.0.bias"])
        wanted = F.normalize(hidden @ theirs["fc.2.weight"].T + theirs["fc.2.bias"], dim=1)
    torch.testing.assert_close(loaded.features(clips(4, 32)), feature_BD, atol=1e-5, rtol=0)
    output = F.normalize(loaded.output(clips(4, 32)), dim=1)
    torch.testing.assert_close(output, wanted, atol=1e-5, rtol=0)


# pytorch-i3d, written anew from the published architecture as that project runs it: zeros around
# the input -1..1, 1e-3 added to variances, a convolution of one pixel as classifier.


def around(clip: Tensor, kernel: list[int], stride: list[int]) -> Tensor:
    pads: list[int] = []
    for size, k, s in reversed(list(zip(clip.shape[2:], kernel, stride, strict=True))):
        total = max(k - (s if size % s == 0 else size % s), 0)
        pads += [total // 2, total - total // 2]
    return F.pad(clip, pads)


class Conv(nn.Module):
    def __init__(self, before: int, after: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(before, after, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(after, eps=1e-3)

    def forward(self, clip: Tensor) -> Tensor:
        kernel, stride = list(self.conv3d.kernel_size), list(self.conv3d.stride)
        return F.relu(self.bn(self.conv3d(around(clip, kernel, stride))))


def pooled(clip: Tensor, kernel: list[int], stride: list[int]) -> Tensor:
    return F.max_pool3d(around(clip, kernel, stride), kernel, stride)


class Inception(nn.Module):
    def __init__(self, before: int, a: int, b1: int, b: int, c1: int, c: int, d: int) -> None:
        super().__init__()
        self.b0 = Conv(before, a)
        self.b1a, self.b1b = Conv(before, b1), Conv(b1, b, 3)
        self.b2a, self.b2b = Conv(before, c1), Conv(c1, c, 3)
        self.b3b = Conv(before, d)

    def forward(self, clip: Tensor) -> Tensor:
        parts = [self.b0(clip), self.b1b(self.b1a(clip)), self.b2b(self.b2a(clip))]
        return torch.cat([*parts, self.b3b(pooled(clip, [3, 3, 3], [1, 1, 1]))], 1)


class PytorchI3D(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = Conv(3, 64, 7, 2)
        self.Conv3d_2b_1x1, self.Conv3d_2c_3x3 = Conv(64, 64), Conv(64, 192, 3)
        self.Mixed_3b = Inception(192, 64, 96, 128, 16, 32, 32)
        self.Mixed_3c = Inception(256, 128, 128, 192, 32, 96, 64)
        self.Mixed_4b = Inception(480, 192, 96, 208, 16, 48, 64)
        self.Mixed_4c = Inception(512, 160, 112, 224, 24, 64, 64)
        self.Mixed_4d = Inception(512, 128, 128, 256, 24, 64, 64)
        self.Mixed_4e = Inception(512, 112, 144, 288, 32, 64, 64)
        self.Mixed_4f = Inception(528, 256, 160, 320, 32, 128, 128)
        self.Mixed_5b = Inception(832, 256, 160, 320, 32, 128, 128)
        self.Mixed_5c = Inception(832, 384, 192, 384, 48, 128, 128)
        self.logits = nn.Module()
        self.logits.conv3d = nn.Conv3d(1024, 5, 1)

    def forward(self, clip: Tensor) -> Tensor:
        clip = pooled(self.Conv3d_1a_7x7(clip), [1, 3, 3], [1, 2, 2])
        clip = pooled(self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(clip)), [1, 3, 3], [1, 2, 2])
        clip = pooled(self.Mixed_3c(self.Mixed_3b(clip)), [3, 3, 3], [2, 2, 2])
        clip = self.Mixed_4e(self.Mixed_4d(self.Mixed_4c(self.Mixed_4b(clip))))
        clip = pooled(self.Mixed_4f(clip), [2, 2, 2], [2, 2, 2])
        return self.Mixed_5c(self.Mixed_5b(clip)).mean((2, 3, 4))


def test_pytorch_i3d_gives_its_own_features_and_classes(tmp_path: Path):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        theirs = PytorchI3D().eval()
        for module in theirs.modules():
            if isinstance(module, nn.BatchNorm3d):  # variances that 1e-3 changes
                nn.init.uniform_(module.get_buffer("running_var"), 1e-4, 1e-2)
                nn.init.normal_(module.get_buffer("running_mean"), 0, 0.01)
                module.weight.data.mul_(0.1)
    torch.save(theirs.state_dict(), tmp_path / "rgb_imagenet.pt")
    encoder = fame.load(tmp_path / "rgb_imagenet.pt")
    assert (encoder.card.name, encoder.card.head) == (
        "pytorch_i3d",
        {"kind": "classifier", "classes": 5},
    )
    colours = clips().permute(0, 4, 1, 2, 3).float() / 255
    with torch.no_grad():
        feature_BD = theirs(colours * 2 - 1)
        logits = theirs.logits.get_submodule("conv3d")(feature_BD[:, :, None, None, None]).flatten(
            1
        )
    assert float(feature_BD.std()) > 1e-3
    torch.testing.assert_close(encoder.features(clips()), feature_BD, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(encoder.output(clips()), logits.log_softmax(1), atol=1e-5, rtol=1e-4)
