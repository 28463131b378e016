"""Each kind of checkpoint that was met in the field gives the outputs that its own project gives."""

import gzip
import tarfile
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fame
from fame.archive import CheckpointError, Claim
from fame.models import build_encoder
from fame.normalize import normalise, to_colours
from fame.randomness import generator
from fame.recognise import recognise

State = dict[str, Tensor]


def behind(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


def headless(state: State) -> State:
    return {name: value for name, value in state.items() if not name.startswith("fc.")}


def negative(state: State) -> State:
    """Another encoder of the same names, which must not be taken."""
    return {name: -value for name, value in state.items()}


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
    "NumPy arrays, paths, dates beside": lambda state: {
        "model": state,
        "history": {"loss": np.arange(3.0), "when": datetime(2024, 1, 2)},
        "out": Path("runs"),
        "options": SimpleNamespace(lr=0.1),
        "seen": defaultdict(list, a=[1]),
    },
    "a defaultdict": lambda state: defaultdict(list, state),
    "net": lambda state: {"net": state, "acc": 93.1, "epoch": 7},
    "network": lambda state: {"network": behind("module.", state)},
    "weights": lambda state: {"weights": state},
    "params": lambda state: {"params": state, "params_ema": negative(state)},
    "two deep": lambda state: {"checkpoint": {"model": {"state_dict": state}}, "step": 5},
    "a tuple": lambda state: (state, {"lr": 0.1}),
    "model beside model_ema": lambda state: {"model_ema": negative(state), "model": state},
    "an averaged model": lambda state: {
        "model": {"n_averaged": torch.tensor(3), **behind("module.", state)}
    },
    "Lightning, beside a loss": lambda state: {
        "state_dict": {**behind("model.", state), "criterion.weight": torch.ones(5)},
        "hyper_parameters": {"lr": 0.1},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_path": "x"}},
        "pytorch-lightning_version": "2.1.0",
    },
    "net._orig_mod.": lambda state: behind("net._orig_mod.", state),
    "_orig_mod.module.": lambda state: behind("_orig_mod.module.", state),
    "compiled within": lambda state: {
        name.replace("block1.", "block1._orig_mod.", 1): value for name, value in state.items()
    },
    "FSDP": lambda state: behind("_fsdp_wrapped_module.", state),
    "an unknown prefix": lambda state: {"state_dict": behind("model.video_model.trunk.", state)},
    "encoder_q.module.": lambda state: {"state_dict": behind("encoder_q.module.", state)},
    "base_encoder with encoder_q's copy": lambda state: {
        "state_dict": {
            **behind("module.momentum_encoder.", negative(state)),
            **behind("module.base_encoder.", state),
        }
    },
    "teacher and student with encoder_q's head": lambda state: {
        "student": behind("module.backbone.", negative(headless(state))),
        "teacher": behind("backbone.", headless(state)),
    },
    "online_encoder, as encoder_q": lambda state: {
        **behind("target_encoder.", negative(state)),
        **behind("online_encoder.", state),
        "predictor.0.weight": torch.ones(2),
    },
    "backbone. and its momentum copy, no head": lambda state: {
        **behind("backbone_momentum.", negative(headless(state))),
        **behind("backbone.", headless(state)),
    },
    "another head beside no head": lambda state: {
        **headless(state),
        "classifier.1.weight": torch.ones(3, 2),
        "projector.0.weight": torch.ones(2, 2),
    },
    "dropout before fc, no head": lambda state: {
        **headless(state),
        "fc.1.weight": state["fc.weight"],
        "fc.1.bias": state["fc.bias"],
    },
    "numbers among the weights": lambda state: {**state, "epoch": 3, "arch": "c3d"},
    "counters of operations": lambda state: {**state, "block1.total_ops": torch.zeros(1)},
    "before torch 0.4.1": lambda state: {
        name: value for name, value in state.items() if not name.endswith("num_batches_tracked")
    },
    "parameters": lambda state: {
        name: nn.Parameter(value) if value.is_floating_point() else value
        for name, value in state.items()
    },
    "float64": lambda state: {
        name: value.double() if value.is_floating_point() else value
        for name, value in state.items()
    },
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
        if "no head" in kind or "mmaction2" in kind or "student" in kind:
            assert loaded.card.head is None
        elif "encoder_q" in kind:
            assert loaded.card.head == {"kind": "linear", "dim": 5}
        else:
            torch.testing.assert_close(
                loaded.output(clips(4, 16)), network(colours), atol=1e-5, rtol=0
            )


@pytest.mark.parametrize("suffix", [".safetensors", ".bin", ".pth"])
def test_safetensors_of_half_precision_behind_a_prefix(tmp_path: Path, suffix: str):
    """Whatever the file is called; what comes back is float32, of the halves."""
    network = build_encoder("c3d_small", head={"kind": "classifier", "classes": 5}, seed=1).eval()
    halves = {
        name: value.half().contiguous() if value.is_floating_point() else value
        for name, value in network.state_dict().items()
    }
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(safetensors.torch.save(behind("model.", halves), {"format": "pt"}))
    network.load_state_dict(halves)
    with torch.no_grad():
        wanted = network.features(normalise(to_colours(clips(4, 16))))
    torch.testing.assert_close(fame.load(path).features(clips(4, 16)), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("classes", [157, 400])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_pytorch_i3d_of_any_number_of_classes(tmp_path: Path, classes: int, prefix: str):
    """Only names and shapes: what it gives is held against that project's code below."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        theirs = PytorchI3D(classes).state_dict()
    found = recognise({"state_dict": described(behind(prefix, theirs))})
    assert found.name == "pytorch_i3d" and found.head == {"kind": "classifier", "classes": classes}
    assert "fc.weight" in found.state and "conv3d_1a_7x7.batch3d.weight" in found.state


def described(state: State) -> dict[str, Claim]:
    return {
        name: Claim(key=name, dtype=value.dtype, shape=tuple(value.shape), stride=value.stride())
        for name, value in state.items()
    }


STRANGERS = {
    "features.0.0.0.weight": "torchvision:s3d@FILE",
    "module.stem.0.weight": "torchvision:r3d_18@FILE",
    "pos_encoding.class_token": "torchvision:mvit_v2_s@FILE",
    "features.0.0.attn.qkv.weight": "torchvision:swin3d_t@FILE",
    "videomae.embeddings.patch_embeddings.projection.weight": "a transformer: name hf:FOLDER",
    "encoder.blocks.0.attn.qkv.weight": "convert it to that of transformers",
    "s1.pathway0_stem.conv.weight": "a network of SlowFast",
    "blocks.0.conv.conv_t.weight": "a network of pytorchvideo",
    "backbone.conv1.conv.weight": "a ResNet of mmaction2",
    "module.layer1.0.conv1.weight": "a ResNet of images",
    "trunk.weight": r"package\.module:function@FILE loads it into your own network",
}


@pytest.mark.parametrize("name", STRANGERS)
def test_a_network_that_is_not_ours_is_refused_with_what_it_is(tmp_path: Path, name: str):
    torch.save({"state_dict": {name: torch.ones(2), "epoch": 3}}, tmp_path / "weights.pth")
    says = f"no encoder known here .its weights begin: {name}; .*{STRANGERS[name]}"
    with pytest.raises(CheckpointError, match=says):
        fame.load(tmp_path / "weights.pth")


def deeper(state: State) -> State:
    return {**state, "block1.7.weight": torch.ones(1)}


REFUSED: dict[str, tuple[Callable[[State], Any], str]] = {
    "two streams": (
        lambda state: {**behind("rgb.", state), **behind("flow.", state)},
        r"several encoders, behind rgb\. and flow\.: save the one that you mean",
    ),
    "a whole module": (
        lambda state: {"model": nn.Linear(2, 2), **state},
        r"refused: it holds 'torch.nn.modules.linear.Linear'.*as model.state_dict\(\) has them",
    ),
    "more layers": (deeper, r"of another network: it has the unknown block1\.7\.weight"),
    "a layer less": (
        lambda state: {name: state[name] for name in state if not name.startswith("block2.")},
        r"of another network: it lacks block2\.",
    ),
    "another width": (
        lambda state: state | {"block1.0.weight": torch.ones(2, 3, 3, 3, 3)},
        r"block1\.0\.weight is \[2, 3, 3, 3, 3\], not \[16, 3, 3, 3, 3\] as here",
    ),
    "an array for a tensor": (
        lambda state: state | {"block1.1.bias": np.ones(3)},
        r"block1\.1\.bias is Record\(.*\), not a tensor",
    ),
    "NaN": (
        lambda state: state | {"block1.1.bias": state["block1.1.bias"] * float("nan")},
        r"block1\.1\.bias holds a value that is not finite",
    ),
    "optimiser alone": (
        lambda state: {"optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}, "epoch": 1},
        "has no encoder known here",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("old", [False, True])
@pytest.mark.filterwarnings("ignore")  # torch warns of what it saves
def test_what_is_near_to_weights_is_refused_with_what_it_is(tmp_path: Path, kind: str, old: bool):
    make, says = REFUSED[kind]
    draws = torch.get_rng_state()
    state = dict(build_encoder("c3d_small", head={"kind": "classifier", "classes": 5}).state_dict())
    path = tmp_path / "weights.pth"
    torch.save(make(state), path, _use_new_zipfile_serialization=not old)
    torch.set_rng_state(draws)
    with pytest.raises(CheckpointError, match=says) as caught:
        fame.load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"<!DOCTYPE html><html>Google Drive: virus scan", "a page of HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a pointer of Git LFS"),
        (gzip.compress(b"weights", mtime=0), "compressed by gzip"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    ],
)
def test_a_file_that_holds_no_weights_is_named(tmp_path: Path, content: bytes, says: str):
    (tmp_path / "weights.pth.tar").write_bytes(content)
    with pytest.raises(CheckpointError, match=f"not a checkpoint but {says}"):
        fame.load(tmp_path / "weights.pth.tar")


@pytest.mark.filterwarnings("ignore")  # torch.jit is deprecated
def test_archives_and_programs_are_named(tmp_path: Path):
    torch.save({"a": torch.ones(1)}, tmp_path / "a.pth")
    with tarfile.open(tmp_path / "a.pth.tar", "w") as archive:
        archive.add(tmp_path / "a.pth", "a.pth")
    with pytest.raises(CheckpointError, match="but a tar archive: unpack it"):
        fame.load(tmp_path / "a.pth.tar")
    with torch.random.fork_rng(devices=[]):
        torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "a.pt"))
    with pytest.raises(CheckpointError, match=r"a TorchScript program; save its state_dict\(\)"):
        fame.load(tmp_path / "a.pt")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=f"is a folder.*; name it hf:{tmp_path}"):
        fame.load(tmp_path)


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
    def __init__(self, classes: int = 5) -> None:
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
        self.logits.conv3d = nn.Conv3d(1024, classes, 1)

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
