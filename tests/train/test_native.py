"""Classifiers of the reference's code, tested on frames of the videos' own size: which pixels the
network is given.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

import fame
from cli import app
from fame.clipstore import ClipStore, Window
from fame.models import build_encoder
from fame.models.backbone import Backbone
from fame.normalize import encoder_input
from fame.weights import read_weights
from tests.preprocess.videos import all_frames, write_video
from train.evaluate.features import crop_for, window_for
from train.finetune import configured

HEIGHT, WIDTH = 240, 320  # a frame of UCF101
CLASSES = ("HammerThrow", "Hammering", "JumpRope", "JumpingJack")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of one video of 40 frames for each class."""
    root = tmp_path_factory.mktemp("videos")
    for name in CLASSES:
        write_video(root / name / "one.mkv", 40, height=HEIGHT, width=WIDTH)
    return root


@pytest.fixture(scope="module")
def native(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store that `fame preprocess --height 240 --width 320` makes of them, without loss."""
    path = tmp_path_factory.mktemp("stores") / "native.zarr"
    options = ["--foreground", "none", "--codec", "lz4", "--executor", "serial"]
    size = ["--height", str(HEIGHT), "--width", str(WIDTH)]
    where = ["--videos", str(videos), "--store", str(path)]
    done = CliRunner().invoke(app, ["preprocess", "folder", *where, *size, *options])
    assert done.exit_code == 0, done.output
    return path


@pytest.fixture(scope="module", params=[("i3d", 224), ("r2plus1d_18", 112)], ids=lambda of: of[0])
def theirs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, int]:
    """A classifier as the reference's code saves one, and the side that it was trained at."""
    name, side = request.param
    head = {"kind": "classifier", "classes": len(CLASSES), "dropout": 0.5}
    state = build_encoder(name, head=head, seed=0).state_dict()
    path = tmp_path_factory.mktemp("theirs") / f"{name}.pth.tar"
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, path)
    return path, side


def test_a_store_of_native_size_holds_the_frames_of_its_videos(native: Path, videos: Path) -> None:
    store = ClipStore.open(native)
    for video, name in enumerate(store.names):
        frames = all_frames(videos / name)
        number_L = store.source(video)[:, 0]
        assert number_L.tolist() == list(range(0, 40, 2))
        for kept, number in enumerate(number_L):
            assert np.array_equal(store.clip(video, kept, Window(frames=1))[0], frames[number])


def test_the_test_gives_a_network_the_middle_of_the_frames(
    native: Path,
    videos: Path,
    theirs: tuple[Path, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, side = theirs
    given: list[Tensor] = []

    def record(self: Backbone, clip_BCTHW: Tensor) -> Tensor:
        given.append(clip_BCTHW)
        return torch.zeros(len(clip_BCTHW), len(CLASSES))

    monkeypatch.setattr(Backbone, "forward", record)
    words = ["evaluate", "test", str(path), "--store", str(native), "--out", str(tmp_path)]
    done = CliRunner().invoke(app, [*words, "--clips", "1", "--batch", "1", "--device", "cpu"])
    assert done.exit_code == 0, done.output
    # 112 of 240x320 pixels are rows 64-176 and columns 104-216.
    top, left = (HEIGHT - side) // 2, (WIDTH - side) // 2
    assert len(given) == len(CLASSES)
    for clip_BCTHW, name in zip(given, ClipStore.open(native).names, strict=True):
        # Clips of 16 of 20 kept frames start at 0 to 4, so the middle one is frames 4, 6, ... 34.
        frames = np.stack(all_frames(videos / name)[4:36:2])
        square = frames[:, top : top + side, left : left + side].copy()
        assert torch.equal(clip_BCTHW, encoder_input(torch.from_numpy(square)[None]))


def test_the_size_of_clips_is_that_of_the_references_training(
    native: Path, theirs: tuple[Path, int]
) -> None:
    path, side = theirs
    encoder, store = fame.load(path), ClipStore.open(native)
    assert (crop_for(encoder, store, None), window_for(encoder)) == (side, Window(frames=16))
    assert crop_for(encoder, store, 96) == 96
    assert window_for(encoder, frames=8) == Window(frames=8)


def test_fine_tuning_from_it_takes_clips_of_the_same_size(theirs: tuple[Path, int]) -> None:
    path, side = theirs
    weights = read_weights(path)
    config = configured(weights, {})
    assert (config.crop, config.window) == (side, Window(frames=16))
    assert config.encoder == weights.card.name
    chosen = configured(weights, {"crop": 96, "frames": 8})
    assert (chosen.crop, chosen.window) == (96, Window(frames=8))


def test_the_page_says_how_much_of_a_picture_is_tested() -> None:
    page = (Path(__file__).parents[2] / "docs/reproduce.md").read_text()

    def share(side: int, height: int, width: int) -> str:
        return f"{100 * side**2 / (height * width):.0f} %"

    i3d = f"{share(224, HEIGHT, WIDTH)} of the picture | {share(224, 256, 340)} | |"
    assert f"| I3D, 224 pixels | {i3d}" in page
    small = [share(112, *size) for size in ((HEIGHT, WIDTH), (256, 340), (128, 170))]
    assert f"| R(2+1)D-18, 112 pixels | {' | '.join(small)} |" in page
