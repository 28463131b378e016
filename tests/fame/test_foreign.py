"""Networks of other projects: each family gives features, at its own normalisation, or says why not."""

import copy
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import fame
from fame.export import export_encoder
from fame.models import build_encoder, build_foreign
from fame.normalize import encoder_input, normalise

transformers = pytest.importorskip("transformers")
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
FAMILIES = {
    "videomae": ("VideoMAE", {"image_size": 32, "patch_size": 16, "num_frames": 8, **SMALL}),
    "timesformer": ("Timesformer", {"image_size": 32, "patch_size": 16, "num_frames": 8, **SMALL}),
    "vivit": ("Vivit", {"image_size": 32, "tubelet_size": [2, 16, 16], "num_frames": 8, **SMALL}),
    "vjepa2": (
        "VJEPA2",
        {
            "crop_size": 32, "patch_size": 16, "frames_per_clip": 8, "hidden_size": 16,
            "num_hidden_layers": 1, "num_attention_heads": 2, "pred_hidden_size": 16,
            "pred_num_hidden_layers": 1, "pred_num_attention_heads": 2,
        },
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small network of each family with random weights, as transformers saves it."""
    made = {}
    with torch.random.fork_rng():
        for family, (name, options) in FAMILIES.items():
            made[family] = tmp_path_factory.mktemp(family)
            config = getattr(transformers, f"{name}Config")(**options)
            getattr(transformers, f"{name}Model")(config).save_pretrained(made[family])
    return made


def clip(batch: int = 2, frames: int = 8, side: int = 32) -> Tensor:
    return torch.rand(batch, 3, frames, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_the_tokens_of_transformers(folders: dict[str, Path], family: str):
    encoder = fame.load(f"hf:{folders[family]}")
    map_BDthw = encoder.feature_map(clip())
    t = 8 if family == "timesformer" else 4
    assert map_BDthw.shape == (2, 16, t, 2, 2)
    mean, std = (
        torch.tensor(v).view(3, 1, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    model = transformers.AutoModel.from_pretrained(folders[family]).eval()
    given = {
        "pixel_values_videos" if family == "vjepa2" else "pixel_values": (
            (clip() - mean) / std
        ).transpose(1, 2)
    }
    with torch.no_grad():
        token_BND = model(**given).last_hidden_state
    token_BND = token_BND[:, 1:] if family in ("timesformer", "vivit") else token_BND
    assert torch.allclose(encoder.features(clip()), token_BND.mean(1), atol=1e-5)


def test_timesformer_counts_frames_fastest(folders: dict[str, Path]):
    """A clip whose frames change only in one patch changes only that patch's place on the map."""
    encoder = fame.load(f"hf:{folders['timesformer']}")
    network = encoder.network.network.embeddings
    still = clip(1)
    moved = still.clone()
    moved[:, :, 5, :16, 16:] = 0  # frame 5, upper right patch
    maps = []
    for pixels in (still, moved):
        token_BND = network(pixels.transpose(1, 2))[:, 1:]
        maps.append(token_BND.unflatten(1, (2, 2, 8)).permute(0, 4, 3, 1, 2))
    changed = (maps[0] != maps[1]).any(1)[0].nonzero().tolist()
    assert changed == [[5, 0, 1]]


def test_the_weights_must_be_there_to_measure_but_not_to_train(tmp_path: Path):
    transformers.VideoMAEConfig(**FAMILIES["videomae"][1]).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"no model.safetensors"):
        fame.load(f"hf:{tmp_path}")
    network = build_encoder(f"hf:{tmp_path}", head={"kind": "projection", "dim": 8})
    assert network(normalise(clip())).shape == (2, 8)


def test_a_copy_has_weights_of_its_own(folders: dict[str, Path]):
    network = build_foreign(f"hf:{folders['videomae']}").eval()
    other = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    before = network.features(encoder_input(clip()))
    assert torch.equal(network.features(encoder_input(clip())), before)
    assert not torch.equal(other.features(encoder_input(clip())), before)


OWN = """
import torch


class Net(torch.nn.Module):
    crop, mean, std = 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv3d(3, 6, 3)

    def features(self, clips):
        assert -1 <= clips.min() and clips.max() <= 1
        return self.conv(clips).mean((2, 3, 4))


def net():
    return Net()


def other():
    return Net()


def number():
    return 7


def broken():
    return torch.nn.Linear(5, 5)


def of(features, **attributes):
    network = torch.nn.Identity()
    network.features = features
    for name, value in attributes.items():
        setattr(network, name, value)
    return network


def mean(clips):
    return clips.mean((2, 3, 4))


words = lambda: of(lambda clips: {"x": clips})
still = lambda: of(mean, frames=1)
huge = lambda: of(lambda clips: mean(clips).repeat(1, 100_000))
wants = lambda number: of(mean)
raises = lambda: [][7]
asserts = lambda: of(lambda clips: exec("assert False, 'only\\\\n64'"))
leaves = lambda: exit(3)
rank3 = lambda: of(lambda clips: clips.mean((3, 4)))
nan = lambda: of(lambda clips: mean(clips) * float("nan"))
whole = lambda: of(lambda clips: mean(clips).long())
empty = lambda: of(lambda clips: mean(clips)[:, :0])
text = lambda: of(mean, frames="8")
large = lambda: of(mean, crop=10**6)
two = lambda: of(mean, mean=(1, 2))
flat = lambda: of(mean, std=(0, 0, 0))
meta = lambda: torch.nn.Conv3d(3, 4, 3, device="meta")
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(OWN)
    return tmp_path / "mine.py"


def test_your_own_function_by_file_and_by_module(own: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(own.parent)
    for name in (f"{own}:net", "mine:net"):
        encoder = fame.load(name)
        assert encoder.feature_dim == 6
        assert encoder.features(clip(side=32)).shape == (2, 6)
        assert encoder.feature_map(clip(side=32)).shape == (2, 6, 1, 1, 1)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("{own}:number", "must return a torch.nn.Module, got int"),
        ("{own}:nothing", "cannot be imported"),
        ("{own}.py:net", "cannot be imported"),
        ("nowhere.to:be", "cannot be imported"),
        ("{own}:broken", "fails on a clip"),
        ("{own}:words", r"must return \[B, D\] or \[B, D, t, h, w\], got dict"),
        ("{own}:wants", r"wants\(\) fails; it is called without arguments: TypeError .*number"),
        ("{own}:raises", r"raises\(\) fails; .*: IndexError list index out of range"),
        ("{own}:leaves", r"leaves\(\) fails; .*: SystemExit 3"),
        ("{own}:asserts", r"fails on a clip \[1, 3, 16, 112, 112\]: AssertionError only 64"),
        ("{own}:rank3", r"must return \[B, D\] or \[B, D, t, h, w\], got \[1, 3, 16\]"),
        ("{own}:nan", r"must return floats that are finite, got \[1, 3, 1, 1, 1\] torch.float32"),
        ("{own}:whole", r"must return floats .* torch.int64"),
        ("{own}:empty", r"must return floats .* \[1, 0, 1, 1, 1\]"),
        ("{own}:text", "frames must be 1 to 1024, got '8'"),
        ("{own}:large", "crop must be 1 to 4096, got 1000000"),
        ("{own}:two", r"mean must be three numbers, got \(1, 2\)"),
        ("{own}:flat", r"std must be three numbers other than 0, got \(0, 0, 0\)"),
        ("{own}:meta", "must return a network with weights"),
        ("json:loads", r"loads\(\) fails; .* missing 1 required"),
        (":net", r"cannot be imported \(ValueError Empty module name\)"),
        (".mine:net", "cannot be imported"),
        ("{own}:net@", "neither a checkpoint nor a run"),
        ("{own}:net@{own}", "not a checkpoint"),
        ("hf:{own}", "no network that can be used here"),
        ("torchvision:resnet50", "there are r3d_18"),
        ("torchvision:r3d_18", "has no weights of its own"),
    ],
)
def test_what_is_no_network_is_refused_in_one_line(own: Path, name: str, says: str):
    with pytest.raises(ValueError, match=says) as caught:
        fame.load(name.format(own=own))
    assert "\n" not in str(caught.value)


def test_networks_of_one_frame_of_many_features_and_without_weights(own: Path):
    still = fame.load(f"{own}:still")
    assert still.features(clip(frames=1)).shape == (2, 3)
    with pytest.raises(ValueError, match="takes clips of 1 frames of any size, got 8 of 32x32"):
        still.features(clip())
    assert fame.load(f"{own}:huge").features(clip()).shape == (2, 300_000)


def test_code_that_fails_when_it_is_imported_is_one_line(tmp_path: Path):
    for code, says in (
        ("raise KeyError('at import')", "KeyError 'at import'"),
        ("raise SystemExit", "SystemExit"),
        ("net = (", r"was never closed \(mine.py, line 1\)"),
        ("net = 3", "TypeError 'int' object is not callable"),
    ):
        (tmp_path / "mine.py").write_text(code)
        with pytest.raises(ValueError, match=says) as caught:
            fame.load(f"{tmp_path / 'mine.py'}:net")
        assert "\n" not in str(caught.value)


def test_an_export_names_no_folder_and_loads_beside_the_function(own: Path, tmp_path: Path):
    """The function's file is on a person's machine."""
    export_encoder(Path(f"{own}:net"), tmp_path / "out", formats=["safetensors"])
    for path in (tmp_path / "out").iterdir():
        assert str(tmp_path).encode() not in path.read_bytes()
    weights = tmp_path / "out" / "encoder.safetensors"
    again, first = fame.load(f"{own}:net@{weights}"), fame.load(f"{own}:net")
    assert again.network.state_dict().keys() == first.network.state_dict().keys()
    with pytest.raises(ValueError, match=r"name both, NETWORK@CHECKPOINT \(mine.py:net\)"):
        fame.load(weights)


def test_a_family_that_is_no_video_network_is_refused(tmp_path: Path):
    with torch.random.fork_rng():
        config = transformers.ViTConfig(image_size=32, **SMALL)
        transformers.ViTModel(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="type 'vit'"):
        fame.load(f"hf:{tmp_path}")


def test_clips_of_another_size_are_refused(folders: dict[str, Path]):
    encoder = fame.load(f"hf:{folders['videomae']}")
    with pytest.raises(ValueError, match=r"8 frames of 32x32 pixels, got 4 of 16x16"):
        encoder.features(clip(frames=4, side=16))


def test_torchvision_networks_lose_their_classifier(monkeypatch: pytest.MonkeyPatch):
    """Their interface, without the package, whose build here cannot be imported."""

    class Small(nn.Module):
        def __init__(self, weights: None) -> None:
            super().__init__()
            self.stem, self.fc = nn.Conv3d(3, 4, 3), nn.Linear(4, 400)

        def forward(self, clip_BCTHW: Tensor) -> Tensor:
            return self.fc(self.stem(clip_BCTHW).mean((2, 3, 4)))

    video = types.ModuleType("torchvision.models.video")
    video.r3d_18 = Small
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.models", types.ModuleType("torchvision.models"))
    monkeypatch.setitem(sys.modules, "torchvision.models.video", video)
    with torch.random.fork_rng():
        network = build_foreign("torchvision:r3d_18")
    assert network.feature_dim == 4


def test_a_checkpoint_may_not_choose_code_but_you_may(own: Path, tmp_path: Path, store_run: Path):
    """What was trained on your function loads only where you name the function yourself."""
    with pytest.raises(ValueError, match="name both, NETWORK@CHECKPOINT"):
        fame.load(store_run)
    encoder = fame.load(f"{own}:net@{store_run}")
    assert encoder.feature_dim == 6
    saved = torch.load(store_run, weights_only=True)["state"]["encoder_q"]
    assert torch.equal(
        encoder.network.state_dict()["network.conv.weight"], saved["network.conv.weight"]
    )
    with pytest.raises(ValueError, match=r"it is of .*, not of"):
        fame.load(f"{own}:other@{store_run}")


def test_a_bare_state_dict_fills_the_network_that_you_name(own: Path, tmp_path: Path):
    encoder = fame.load(f"{own}:net")
    state = {f"module.{k}": v + 1 for k, v in encoder.network.network.state_dict().items()}
    torch.save({"state_dict": {**state, "module.fc.weight": torch.zeros(2)}}, tmp_path / "w.pt")
    filled = fame.load(f"{own}:net@{tmp_path / 'w.pt'}").network.network.state_dict()
    assert torch.equal(filled["conv.bias"], state["module.conv.bias"])
    torch.save({"state_dict": {"module.conv.bias": torch.zeros(6)}}, tmp_path / "half.pt")
    with pytest.raises(ValueError, match=r"half.pt.*lacks"):
        fame.load(f"{own}:net@{tmp_path / 'half.pt'}")


@pytest.fixture
def store_run(own: Path, tmp_path: Path) -> Path:
    """A checkpoint of a pretraining run of your function."""
    from tests.stores import make_store
    from tests.train.tiny import TINY
    from train.pretrain import pretrain

    store = make_store(tmp_path / "tiny", videos=8)
    config = TINY.override([f"encoder={own}:net", "epochs=1", "queue=16"])
    return pretrain(config, stores=[store], run_dir=tmp_path / "run").checkpoint
