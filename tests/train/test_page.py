"""The page of a run: everything is in it, strangers' words are escaped, and it opens in a browser."""

import json
import os
import re
import shutil
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.train.tiny import TINY, TUNED
from train.evaluate.page import write_page
from train.pretrain import pretrain

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page") / "run"
    pretrain(TINY.override(["encoder=c3d_small"]), stores=[store], run_dir=folder)
    return folder


def test_everything_of_a_run_is_on_its_page(run: Path, store: Path, tmp_path: Path):
    results = {"results": [{"checkpoint": "<b>x</b>", "figures": {"top-1": 12.345, "low": None}}]}
    (tmp_path / "knn.json").write_text(json.dumps(results))
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(tmp_path / "bars.png")
    path = tmp_path / "report.html"
    write_page(
        run, path, store=store, results=[tmp_path / "knn.json", tmp_path / "bars.png"], device=CPU
    )
    page = path.read_text()
    for words in ("Curves", "guessing", "Nearest neighbours", "Where the encoder looks", "Config"):
        assert words in page
    assert "&lt;b&gt;x&lt;/b&gt;" in page
    assert "12.35" in page
    assert page.count("query: ") == 4
    assert all(source.startswith("data:") for source in re.findall(r'src="([^"]*)"', page))
    assert list(tmp_path.glob("*partial*")) == []


def test_a_long_run_is_thinned_and_its_last_step_is_shown(run: Path, tmp_path: Path):
    shutil.copytree(run, tmp_path / "run")
    lines = [json.dumps({"step": 10 * number, "loss": 4.0}) for number in range(1002)]
    (tmp_path / "run" / "metrics.jsonl").write_text("\n".join(lines))
    write_page(tmp_path / "run", tmp_path / "page.html", device=CPU)
    page = (tmp_path / "page.html").read_text()
    raw, smooth = re.findall(r'points="([^"]*)"', page)
    assert len(raw.split(" ")) == len(smooth.split(" ")) == 335  # every third, and the last
    assert ">10010<" in page
    assert "every 30th step, mean over 500 steps; dashed, guessing" in page


def test_a_page_without_a_store_needs_no_checkpoint(run: Path, tmp_path: Path):
    shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    write_page(tmp_path / "run", tmp_path / "page.html", device=CPU)
    assert "Nearest neighbours" not in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[]", "no JSON object"),
        ("{", "is not JSON"),
        ("{}", "no results"),
        (None, r"\(No such file or directory\)$"),
    ],
)
def test_results_that_are_none_are_named(run: Path, tmp_path: Path, content: str | None, says: str):
    path = tmp_path / "some.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=rf"some\.json.*{says}"):
        write_page(run, tmp_path / "page.html", results=[path], device=CPU)
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("damage", ["text", "cut", "bomb", "pipe"])
def test_a_picture_that_is_none_is_named(run: Path, tmp_path: Path, damage: str):
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(path := tmp_path / "bias.png")
    good = path.read_bytes()
    path.unlink()
    if damage == "pipe":
        os.mkfifo(path)
    else:  # a header of 65,535 x 65,535 pixels, with its own checksum
        head = b"IHDR" + b"\0\0\xff\xff" * 2 + good[24:29]
        bomb = good[:12] + head + zlib.crc32(head).to_bytes(4) + good[33:]
        path.write_bytes({"text": b"no picture", "cut": good[:40], "bomb": bomb}[damage])
    with pytest.raises(ValueError, match=r"bias\.png: is (damaged, no picture|a pipe)"):
        write_page(run, tmp_path / "page.html", results=[path], device=CPU)


def test_a_run_of_fine_tuning_has_a_page(run: Path, tmp_path: Path):
    shutil.copytree(run, tmp_path / "run")
    for merge, says in ((0.0, "nothing, mask"), (0.5, "50 % of the clips, mask")):
        text = json.dumps(TUNED.to_dict() | {"merge": merge})
        (tmp_path / "run" / "config.json").write_text(text)
        write_page(tmp_path / "run", tmp_path / "page.html", device=CPU)
        assert says in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("config.json", '{"queue": "x"}', "queue must be a whole number"),
        ("config.json", '{"queue": 1, "batch": 0}', "batch must be a whole number"),
        ("environment.json", '{"processes": 0}', "processes is 0"),
        ("metrics.jsonl", '{"loss": 1}\n{"step": 1}', "line 1: damaged"),
        ("metrics.jsonl", '{"step": "0"}\n{"step": 1}', "line 1: damaged"),
        ("metrics.jsonl", '{"step": 0, "loss": null}\n{"step": 1}', "line 1: damaged"),
        ("metrics.jsonl", '{"step": 0, "loss": 1%s}\n{"step": 1}' % ("0" * 400), "line 1: damaged"),
        ("metrics.jsonl", "[" * 100_000 + '\n{"step": 1}', "line 1: damaged"),
    ],
)
def test_a_damaged_file_of_a_run_is_named(
    run: Path, tmp_path: Path, file: str, text: str, says: str
):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / file).write_text(text)
    with pytest.raises(ValueError, match=f"{file}.*{says}"):
        write_page(tmp_path / "run", tmp_path / "page.html", device=CPU)


def test_a_curve_that_not_every_line_has_is_left_out(run: Path, tmp_path: Path):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text('{"queue": 24}')  # of an earlier version
    lines = '{"step": 0, "loss": 1, "spread": 1}\n{"step": 1, "loss": 1}\n{"step": 2}'
    (tmp_path / "run" / "metrics.jsonl").write_text(lines)
    write_page(tmp_path / "run", tmp_path / "page.html", device=CPU)
    assert "points=" not in (tmp_path / "page.html").read_text()


def test_a_folder_that_is_no_run_is_named(tmp_path: Path):
    says = re.escape(f"{tmp_path} is not the folder of a run: it holds no config.json; give")
    with pytest.raises(ValueError, match=says):
        write_page(tmp_path, tmp_path / "page.html", device=CPU)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_shows_the_page_on_a_phone(run: Path, store: Path, tmp_path: Path, dark: bool):
    write_page(run, tmp_path / "page.html", store=store, device=CPU)
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    options += ["--disable-sync", "--no-first-run", f"--user-data-dir={tmp_path / 'profile'}"]
    options += ["--blink-settings=preferredColorScheme=0"] if dark else []
    shown = tmp_path / "shown.png"
    command = ["chromium", *options, f"--screenshot={shown}", "--window-size=500,900"]
    subprocess.run([*command, str(tmp_path / "page.html")], capture_output=True, check=True)
    with Image.open(shown) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50
    paper, ink = pixels[2, 2].mean(), pixels[:200, :400].mean(-1)
    assert (paper < 60) == dark
    assert np.abs(ink - paper).max() > 150  # the title can be read
