"""Activation maps against slow arithmetic, and the pictures and figures that come out."""

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from cli import app
from fame.clipstore import ClipStore
from fame.models import build_backbone
from fame.weights import load
from tests.stores import CLASSES, SPEC, WINDOW, make_store
from tests.train.labelled import checkpoint, classifier, labelled_store
from train.evaluate.activation import (
    activate,
    choose_clips,
    short_names,
    temporal_kernels,
)
from train.evaluate.config import ActivationConfig


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    head = {"kind": "projection", "dim": 8}
    moco, fame = folder / "moco", folder / "fame"
    moco.mkdir()
    fame.mkdir()
    return [
        checkpoint(moco / "last.pt", head=head, part="encoder_q"),
        checkpoint(fame / "last.pt", head=head, part="encoder_q", seed=1),
    ]


@pytest.fixture(scope="module")
def drawn(store: Path, checkpoints: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("drawn")
    words = [
        "activate",
        *map(str, checkpoints),
        "--store",
        str(store),
        "--out",
        str(out),
        "--device",
        "cpu",
    ]
    done = CliRunner().invoke(
        app, [*words, "--clips", "5", "--rows", "2", "--beta", "0.3", "--batch", "2"]
    )
    assert done.exit_code == 0, done.output
    assert "if it were uniform" in done.stdout
    return out


def test_the_shares_equal_a_slow_oracle(checkpoints: list[Path], tmp_path: Path) -> None:
    """The last map, averaged over channels and enlarged by hand, summed pixel by pixel inside the
    mask.
    """
    size = {"height": 66, "width": 88, "foreground_height": 11, "foreground_width": 11}
    large = make_store(tmp_path / "large.zarr", videos=4, spec=dataclasses.replace(SPEC, **size))
    config = ActivationConfig(
        store=large, out=tmp_path, crop=64, clips=3, batch=2, beta=0.3, device="cpu"
    )
    shown = choose_clips(ClipStore.open(large), config, window=WINDOW, crop=64)
    for path, found in zip(checkpoints, activate(checkpoints, config), strict=True):
        maps_NDthw = load(path).feature_map(shown.clip_NTSS3)
        assert maps_NDthw.shape[2:] == (1, 2, 2)
        for map_hw, mask_SS, share in zip(
            maps_NDthw.mean(1)[:, 0].numpy(), shown.mask_NSS, found.share_N, strict=True
        ):
            weight_S2 = np.array(
                [np.interp((i + 0.5) / 32 - 0.5, [0, 1], [0, 1]) for i in range(64)]
            )
            enlarge_S2 = np.stack([1 - weight_S2, weight_S2], 1)
            energy_SS = enlarge_S2 @ map_hw @ enlarge_S2.T
            assert share == pytest.approx(
                energy_SS[mask_SS.numpy()].sum() / energy_SS.sum(), abs=1e-5
            )
            assert abs(share - 0.3) > 5e-5  # the activation is not uniform
    content = json.loads((tmp_path / "activation.json").read_text())
    assert [entry["checkpoint"] for entry in content["results"]] == list(map(str, checkpoints))
    assert content["results"][1]["mean"] == pytest.approx(
        np.mean(list(content["results"][1]["share"].values()))
    )


def test_the_foreground_is_the_stored_map_under_the_crop(store: Path) -> None:
    opened = ClipStore.open(store)
    shown = choose_clips(
        opened,
        ActivationConfig(store=store, out=Path(), clips=3, beta=0.25),
        window=WINDOW,
        crop=32,
    )
    assert shown.video_N == (0, 9, 19)
    assert shown.clip_NTSS3.shape == (3, 8, 32, 32, 3)
    for mask_SS, video in zip(shown.mask_NSS, shown.video_N, strict=True):
        assert int(mask_SS.sum()) == 256
        map_hw = opened.foreground(video, 2, WINDOW)
        enlarged_HW = np.kron(map_hw, np.ones((4, 4)))  # without smoothing
        inside = enlarged_HW[2:34, 8:40][mask_SS.numpy()]
        assert inside.mean() > 1.2 * enlarged_HW.mean()


def test_the_pictures(drawn: Path) -> None:
    with Image.open(drawn / "activation.png") as sheet:
        assert sheet.size[0] > 9 * 32  # a label and 8 frames
        assert sheet.size[1] > 2 * 3 * 32  # of 2 clips: frames and two checkpoints
        assert len(sheet.convert("RGB").getcolors(2**20)) > 200
    with Image.open(drawn / "activation.gif") as animation:
        assert animation.n_frames == 8
        size = animation.size
    film = cv2.VideoCapture(str(drawn / "activation.mp4"))
    assert film.get(cv2.CAP_PROP_FRAME_COUNT) == 8
    there, frame_HW3 = film.read()
    assert there
    assert frame_HW3.shape == (size[1] + size[1] % 2, size[0] + size[0] % 2, 3)
    assert frame_HW3.mean() < 250  # not the paper alone
    with Image.open(drawn / "kernels.png") as violins:
        assert len(violins.convert("RGB").getcolors(2**20)) > 50


def test_without_stored_maps_frame_differences_are_the_foreground(
    checkpoints: list[Path], tmp_path: Path
) -> None:
    plain = labelled_store(tmp_path / "plain.zarr", CLASSES, [0, 1, -1], foreground="none")
    (found,) = activate(
        checkpoints[:1], ActivationConfig(store=plain, out=tmp_path, rows=9, device="cpu")
    )
    assert len(found.share_N) == 3
    assert (
        "frame differences" in json.loads((tmp_path / "activation.json").read_text())["foreground"]
    )


def test_names_say_what_differs() -> None:
    assert short_names([Path("/a/moco/ckpt/last.pt"), Path("/a/fame/ckpt/last.pt")]) == [
        "moco",
        "fame",
    ]
    assert short_names([Path("demo/run/checkpoints/last.pt")]) == ["run"]
    assert short_names([Path("runs/moco.pt")]) == ["moco"]
    assert short_names([Path("a/b.pt"), Path("c.pt")]) == ["a/b", "c"]
    runs = [Path("runs/moco/checkpoints/last.pt"), Path("runs/fame/checkpoints/epoch-0010.pt")]
    assert short_names(runs) == ["moco", "fame/checkpoints/epoch-0010"]
    assert short_names([Path("b.pt"), Path("b.pt")]) == ["1: b", "2: b"]


def test_temporal_kernels_are_those_of_more_than_one_frame() -> None:
    network = build_backbone("r2plus1d_18")
    found = temporal_kernels(network)
    assert list(found) == ["stem", "layer1", "layer2", "layer3", "layer4"]
    assert np.array_equal(found["stem"], network.stem[3].weight.detach().flatten().numpy())
    assert max(map(len, found.values())) <= 20_000
    i3d = temporal_kernels(build_backbone("i3d", width=0.125))
    assert list(i3d)[:3] == ["conv3d_1a_7x7", "conv3d_2c_3x3", "mixed_3b"]


def test_bad_input_is_one_clear_line(store: Path, checkpoints: list[Path], tmp_path: Path) -> None:
    empty = checkpoint(
        tmp_path / "empty.pt", head={"kind": "projection", "dim": 8}, part="optimizer"
    )
    other = tmp_path / "r2plus1d.pt"
    model = {"name": "r2plus1d_18", "options": {}, "head": None}
    state = {"encoder_q": build_backbone("r2plus1d_18").state_dict()}
    torch.save({"format": "fame-checkpoint/1", "model": model, "config": {}, "state": state}, other)
    for paths, options, words in (
        ([empty], [], "has no encoder"),
        ([checkpoints[0], other], [], "different networks, i3d and r2plus1d_18"),
        ([checkpoints[0]], ["--crop", "40"], "crop 40 is larger than the 36x48 frames"),
        ([checkpoints[0]], ["--beta", "0"], "beta must be a number above 0"),
        ([checkpoints[0]], ["--store", "gone"], "gone is not there"),
    ):
        words_of = [
            "activate",
            *map(str, paths),
            "--store",
            str(store),
            "--out",
            str(tmp_path),
            "--device",
            "cpu",
        ]
        done = CliRunner().invoke(app, [*words_of, *options])
        assert done.exit_code == 2, done.output
        (line,) = done.stderr.splitlines()
        assert words in line


def test_a_classifier_looks_too(store: Path, tmp_path: Path) -> None:
    path = classifier(tmp_path / "two.pt", CLASSES)
    (found,) = activate(
        [path], ActivationConfig(store=store, out=tmp_path, clips=1, rows=1, device="cpu")
    )
    assert found.checkpoint == str(path)
