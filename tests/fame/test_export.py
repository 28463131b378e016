"""What is exported works where this project is not, and the page about features tells the truth."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import fame
from fame.export import export_encoder
from fame.files import WriteError
from fame.models import build_encoder

HEAD = {"kind": "projection", "dim": 8}
I3D = {"name": "i3d", "options": {"width": 0.125}, "head": HEAD}
R2PLUS1D = {"name": "r2plus1d_18", "options": {}, "head": HEAD}

CHECKPOINT = "runs/k400/last.pt"

# Two processes in one: the program with torch alone, the weights with the models and nothing of the
# other rooms.
SCRIPT = """
import sys
import numpy as np
import torch
folder = sys.argv[1]
frames_BTHWC = torch.from_numpy(np.load(f"{folder}/frames.npy"))
program = torch.export.load(f"{folder}/encoder.pt2").module()
np.save(f"{folder}/of_program.npy", program(frames_BTHWC).detach().numpy())
assert not any(name.partition(".")[0] in {"fame", "zarr", "kornia"} for name in sys.modules)
import fame
np.save(f"{folder}/of_weights.npy", fame.load(f"{folder}/encoder.safetensors").features(frames_BTHWC).numpy())
strangers = {"zarr", "kornia", "cv2", "ray", "typer", "train", "preprocess", "fame.clipstore"} & set(sys.modules)
assert not strangers, strangers
"""


def export(model: dict[str, object], folder: Path, *, frames: int, crop: int) -> None:
    network = build_encoder(model["name"], head=HEAD, options=model["options"], seed=3)
    content = {"format": "fame-checkpoint/1", "model": model, "config": {"beta": 0.3}}
    checkpoint = folder / CHECKPOINT
    checkpoint.parent.mkdir(parents=True)
    torch.save({**content, "state": {"encoder_q": network.state_dict()}}, checkpoint)
    export_encoder(checkpoint, folder, frames=frames, crop=crop)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    export(I3D, folder, frames=8, crop=64)
    return folder


def check_in_a_bare_process(exported: Path, *, frames: int, crop: int) -> None:
    """Program and weights give what the checkpoint gives, for three clips: the program was traced
    with two.
    """
    source = np.random.default_rng(0)
    frames_BTHWC = source.integers(0, 256, (3, frames, crop, crop, 3), dtype=np.uint8)
    np.save(exported / "frames.npy", frames_BTHWC)
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(exported)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr[-3000:]
    expected = fame.load(exported / CHECKPOINT).features(torch.from_numpy(frames_BTHWC))
    for of in ("program", "weights"):
        np.testing.assert_allclose(np.load(exported / f"of_{of}.npy"), expected, atol=1e-5)


def test_program_and_weights_run_in_a_bare_process(exported: Path) -> None:
    check_in_a_bare_process(exported, frames=8, crop=64)


@pytest.mark.slow
def test_those_of_the_other_network_too(tmp_path: Path) -> None:
    export(R2PLUS1D, tmp_path, frames=4, crop=32)
    check_in_a_bare_process(tmp_path, frames=4, crop=32)


def test_an_unknown_format_and_onnx_without_its_packages_are_one_line(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"^no format 'tflite': there are safetensors, torch\.exp"):
        export_encoder(exported / CHECKPOINT, tmp_path, formats=["tflite"])
    monkeypatch.setattr("fame.export.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs onnx: pip install onnx onnxscript"):
        export_encoder(exported / CHECKPOINT, tmp_path, formats=["onnx"])
    assert not list(tmp_path.glob("*.onnx"))
    (weights, card) = export_encoder(exported / CHECKPOINT, tmp_path, formats=["safetensors"])
    assert weights.name == "encoder.safetensors" and card.name == "encoder.json"


def test_what_cannot_be_written_is_found_before_anything_is(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "encoder.pt2").mkdir()
    with pytest.raises(WriteError, match=r"encoder.pt2: is a folder or a device; name a file"):
        export_encoder(exported / CHECKPOINT, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["encoder.pt2"]


OWN = """
import torch

class Odd(torch.nn.Conv3d):
    def forward(self, clip):
        return super().forward(clip if clip.mean() > 0 else -clip)

def network():
    return torch.nn.Conv3d(3, 8, 3)

def odd():
    return Odd(3, 8, 3)
"""


def test_a_network_of_your_own_is_exported_for_any_batch_or_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    name = f"{tmp_path / 'mine.py'}:network"
    options = {"frames": 4, "crop": 16, "formats": ["torch.export"]}
    (_, program) = export_encoder(Path(name), tmp_path, **options)
    clip_BTHWC = torch.arange(3 * 4 * 16 * 16 * 3).reshape(3, 4, 16, 16, 3).byte()
    found = torch.export.load(program).module()(clip_BTHWC)
    torch.testing.assert_close(found, fame.load(name).features(clip_BTHWC))
    with pytest.raises(ValueError, match=r"mine.py:odd: torch.export cannot trace it: ") as caught:
        export_encoder(tmp_path / "mine.py:odd", tmp_path, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_an_onnx_runtime_gives_the_same_features(exported: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    (_, program) = export_encoder(
        exported / CHECKPOINT, tmp_path, frames=8, crop=32, formats=["onnx"]
    )
    session = onnxruntime.InferenceSession(program, providers=["CPUExecutionProvider"])
    frames_BTHWC = np.random.default_rng(0).integers(0, 256, (3, 8, 32, 32, 3), dtype=np.uint8)
    (feature_BD,) = session.run(None, {"clip_BTHWC": frames_BTHWC})
    expected = fame.load(exported / CHECKPOINT).features(torch.from_numpy(frames_BTHWC))
    np.testing.assert_allclose(feature_BD, expected, atol=1e-5)


def test_the_card_says_what_the_weights_are(exported: Path) -> None:
    card = json.loads((exported / "encoder.json").read_text())
    assert card["model"] == {
        **I3D,
        "config": {"beta": 0.3},
        "class_names": [],
        "stranger": False,
        "trusted": False,
    }
    assert card["feature_dim"] == 128
    assert card["program_input"]["shape"] == ["batch", 8, 64, 64, 3]
    assert fame.load(exported / "encoder.safetensors").card.config == {"beta": 0.3}
    assert not list(exported.glob(".partial*"))
