"""Checkpoints of every kind, good and bad; nothing may run code or end in a traceback of someone
else's.
"""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

import fame
from fame.models import Backbone, build_backbone, build_encoder
from fame.weights import Card, CheckpointError, load, read_weights

OPTIONS = {"width": 0.125}
PROJECTION = {"kind": "projection", "dim": 16}
CLASSIFIER = {"kind": "classifier", "classes": 3, "dropout": 0.5}


def network(head: dict[str, Any] = PROJECTION, *, seed: int = 1) -> Backbone:
    return build_encoder("i3d", head=head, options=OPTIONS, seed=seed)


def contents(**changes: object) -> dict[str, object]:
    """What a pretraining run saves."""
    model = {"name": "i3d", "options": OPTIONS, "head": PROJECTION}
    state = {"encoder_q": trained(), "encoder_k": {}}
    return {
        "format": "fame-checkpoint/1",
        "model": model,
        "config": {"beta": 0.3},
        "state": state,
        **changes,
    }


@cache
def trained() -> dict[str, Tensor]:
    return network().state_dict()


def save(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def clips() -> Tensor:
    return torch.randint(
        0, 256, (2, 4, 32, 32, 3), generator=torch.Generator().manual_seed(0)
    ).byte()


def test_a_pretraining_checkpoint_gives_the_query_encoder(tmp_path: Path) -> None:
    encoder = fame.load(save(tmp_path / "last.pt", contents()))
    expected = network().eval()
    assert encoder.feature_dim == 128
    assert encoder.card == Card(name="i3d", options=OPTIONS, head=PROJECTION, config={"beta": 0.3})
    colours = clips().permute(0, 4, 1, 2, 3) / 255
    mean, std = (
        torch.tensor(values).view(3, 1, 1, 1)
        for values in (fame.normalize.MEAN, fame.normalize.STD)
    )
    with torch.no_grad():
        wanted = expected.features((colours - mean) / std)
        head = expected((colours - mean) / std)
    torch.testing.assert_close(encoder.features(clips()), wanted, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(encoder.features(colours), wanted, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(encoder.output(clips()), head, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        encoder.feature_map(clips()).mean((2, 3, 4)), wanted, atol=1e-5, rtol=1e-4
    )
    assert not encoder.features(clips()).requires_grad
    assert not encoder.network.training


def test_a_fine_tuned_checkpoint_gives_the_classifier(tmp_path: Path) -> None:
    model = {"name": "i3d", "options": OPTIONS, "head": CLASSIFIER}
    content = contents(model=model, state={"classifier": network(CLASSIFIER).state_dict()})
    log_probability = load(save(tmp_path / "last.pt", content)).output(clips())
    torch.testing.assert_close(log_probability.exp().sum(1), torch.ones(2))


@pytest.mark.parametrize(
    ("name", "prefix", "head"),
    [
        ("i3d", "module.encoder_q.", {"kind": "projection", "dim": 128}),
        ("r2plus1d_18", "module.encoder_q.", {"kind": "linear", "dim": 128}),
        ("i3d", "module.", {"kind": "classifier", "classes": 101}),
        ("i3d", "module.", None),
    ],
)
def test_releases_of_the_reference_are_recognised(
    tmp_path: Path, name: str, prefix: str, head: Any
) -> None:
    encoder = build_backbone(name) if head is None else build_encoder(name, head=head)
    states = {prefix + key: value for key, value in encoder.state_dict().items()}
    if prefix == "module.encoder_q.":
        states |= {"module.encoder_k.fc.bias": torch.zeros(128)}
        states |= {
            "module.queue": torch.zeros(128, 8),
            "module.queue_ptr": torch.zeros(1, dtype=torch.long),
        }
    loaded = load(save(tmp_path / "released.pth.tar", {"epoch": 200, "state_dict": states}))
    assert loaded.card.name == name
    assert loaded.card.head == head
    for key, value in encoder.state_dict().items():
        assert torch.equal(loaded.network.state_dict()[key], value)


def test_the_backbone_moves_into_a_network_with_another_head(tmp_path: Path) -> None:
    weights = read_weights(save(tmp_path / "last.pt", contents()))
    fresh = network(CLASSIFIER, seed=5)
    head_before = fresh.fc.weight.detach().clone()
    weights.load_backbone_into_(fresh)
    assert torch.equal(fresh.fc.weight, head_before)
    assert torch.equal(
        fresh.mixed_5c.branch_0.conv3d.weight, network().mixed_5c.branch_0.conv3d.weight
    )
    with pytest.raises(CheckpointError, match=r"lacks fc\.bias"):
        weights.load_into_(fresh)


class RunsCode:
    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (str(self.proof),)


@pytest.mark.parametrize("plain", [False, True])
def test_a_pickle_that_runs_code_is_refused(tmp_path: Path, plain: bool) -> None:
    proof, path = tmp_path / "owned", tmp_path / "evil.pth.tar"
    content = {"state_dict": RunsCode(proof)}
    path.write_bytes(pickle.dumps(content)) if plain else torch.save(content, path)
    with pytest.raises(
        CheckpointError, match=r"^\S+evil.pth.tar: refused: .*could run code"
    ) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert not proof.exists()


MODEL = {"name": "i3d", "options": OPTIONS, "head": PROJECTION}
STEM = "conv3d_1a_7x7.conv3d.weight"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (contents(model={**MODEL, "name": "vit"}), "unknown backbone 'vit'"),
        (contents(model={**MODEL, "head": {"kind": "mlp"}}), "unknown head 'mlp'"),
        (contents(model={**MODEL, "options": {"width": "wide"}}), "cannot be built with"),
        (contents(model={**MODEL, "options": [1]}), "options .* is not a mapping"),
        (contents(model=None), "has no name"),
        (contents(model=3), "its model is 3, not a dictionary"),
        (contents(model={"options": {}}), "has no name"),
        (
            contents(model={**MODEL, "options": {"width": 0.25}}),
            rf"encoder_q.{STEM} is \[8, 3, 7, 7, 7\], not \[16, 3, 7, 7, 7\] as here",
        ),
        (
            contents(model={"name": "r2plus1d_18", "options": {}, "head": PROJECTION}),
            r"it lacks layer1.* in all\); it has the unknown conv3d_1a_7x7",
        ),
        (contents(state={"optimiser": {}}), "has no encoder .*holds: optimiser"),
        (contents(state={"encoder_q": trained() | {STEM: 3}}), f"{STEM} is 3, not a tensor"),
        (contents(state=None), "has no encoder .*holds: nothing"),
        (
            contents(state={"encoder_q": {STEM: 3}}),
            "encoder_q is of another network: it lacks",
        ),
        ({"state_dict": {"conv.weight": torch.ones(1)}}, "no encoder known here .*conv.weight"),
        (
            {"state_dict": {"module.conv.weight": torch.ones(1)}},
            "no encoder known here .*conv.weight",
        ),
        (
            {"state_dict": {f"m.{STEM}": torch.ones(1), "m.fc.weight": 1, "m.fc.bias": 2}},
            "the bias of its head is 2, not one row of numbers",
        ),
        ({"weights": 1}, r"neither fame-checkpoint/2 nor .*found: weights"),
        ([1], "found: list"),
    ],
)
def test_what_is_no_encoder_is_said_in_one_line(
    tmp_path: Path, content: object, message: str
) -> None:
    path = save(tmp_path / "odd.pt", content)
    with pytest.raises(CheckpointError, match=message) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_said_in_one_line(tmp_path: Path, suffix: str, kept: float) -> None:
    path = tmp_path / f"cut.{suffix}"
    state = {"weight": torch.ones(64)}
    save(path, {"state_dict": state}) if suffix == "pt" else safetensors.torch.save_file(
        state, path
    )
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(CheckpointError, match=r"truncated|not a readable safetensors") as caught:
        load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "garbage", [b"hello world\n", b"\x80\x04hello", bytes(range(256)) * 4, b"PK\x03\x04 no zip"]
)
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_garbage_is_said_in_one_line(tmp_path: Path, garbage: bytes, suffix: str) -> None:
    path = tmp_path / f"garbage.{suffix}"
    path.write_bytes(garbage)
    with pytest.raises(CheckpointError) as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_a_card_that_is_no_json_is_said(tmp_path: Path) -> None:
    path = tmp_path / "odd.safetensors"
    safetensors.torch.save_file({"a": torch.ones(1)}, path, metadata={"fame_card": "{"})
    with pytest.raises(CheckpointError, match="its card is damaged"):
        load(path)


def test_no_file_and_a_folder_are_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere\.pt: no such file"):
        load(tmp_path / "nowhere.pt")
    with pytest.raises(CheckpointError, match="is a folder, neither a checkpoint nor a run"):
        load(tmp_path)


def test_clips_of_another_form_are_refused(tmp_path: Path) -> None:
    encoder = load(save(tmp_path / "last.pt", contents()))
    with pytest.raises(
        ValueError, match=r"clips are uint8 .* got torch.float32 \[2, 4, 32, 32, 3\]"
    ):
        encoder.features(clips().float())


def test_importing_fame_does_not_import_torch() -> None:
    script = "import sys, fame; assert 'torch' not in sys.modules; fame.load; assert 'torch' in sys.modules"
    assert subprocess.run([sys.executable, "-c", script], timeout=240).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        fame.lode  # noqa: B018
