"""The card of a run: what is in it was measured, and nothing that a stranger named is markup."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from cli import app
from tests.train.tiny import TINY, TUNED
from train.finetune import finetune
from train.modelcard import model_card
from train.pretrain import pretrain

CONFIG = TINY.override(["encoder=c3d_small", "epochs=1"])


@pytest.fixture(scope="module")
def run(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    config = replace(CONFIG, cache=tmp_path_factory.mktemp("private"))
    pretrain(config, stores=[store], run_dir=folder)
    return folder


def results(path: Path, checkpoint: str) -> Path:
    figure = {"value": 51.25, "low": 40.0, "high": 60.0, "chance": 50.0}
    row = {"checkpoint": checkpoint, "figures": {"knn/mixed": figure, "cosine/static": 0.5}}
    path.write_text(json.dumps({"settings": {}, "results": [row]}))
    return path


def test_the_card_says_what_the_run_was(run: Path, tmp_path: Path) -> None:
    bias = results(tmp_path / "bias.json", "runs/first")
    card = model_card(run, name="lab/first", results=[bias], licence="cc-by-4.0")
    _, head, body = card.split("---\n", 2)
    assert yaml.safe_load(head)["license"] == "cc-by-4.0"
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    for words in (
        "# lab/first\n",
        (
            "This is a video encoder (c3d\\_small). FAME pretrained it by momentum contrast on clips "
            "whose foreground was pasted on the background of another clip (mask stored, beta 0.5).\n"
        ),
        "It was trained on clips of 8 frames with a step of 1, cropped to 32 x 32 pixels.\n",
        'fame.load("hf://lab/first")',
        "- tiny/train: 18 of 20 videos, 216 frames, recipe ",
        "The run used the recipe `fame-k400` with ",
        "| milestones | none |",
        "| beta | 0.5 |",
        f"| steps | {last['step'] + 1} |",
        f"| loss | {last['loss']:.4g} |",
        "## Bias\n\n`fame bias` measures how much an encoder leans on the background of a video.\n",
        "\n### bias\n",
        "|  | runs/first |",
        "| knn/mixed | 51.25 |",
        "| torch | ",
    ):
        assert words in body, words
    assert "Not measured" not in card
    bare = model_card(run, name="lab/first")
    assert "Not measured. `fame bias` measures" in bare and "license" not in bare


def test_the_card_of_a_fine_tuned_network_names_data_and_merging(
    store: Path, tmp_path: Path
) -> None:
    config = replace(TUNED, merge=0.5, cache=tmp_path / "private")
    finetune(config, train_store=store, test_store=store, weights=None, run_dir=tmp_path / "run")
    card = model_card(tmp_path / "run", name="lab/second")
    for words in (
        (
            "(c3d\\_small) with a classifier. FAME fine-tuned it on labelled videos; a clip's foreground "
            "was pasted on the background of another clip (mask difference, beta 0.5) with probability "
            "0.5.\n"
        ),
        "- trained on: tiny/train: 18 of 20 videos",
        "- tested on: tiny/train: 18 of 20 videos",
        "- started from: untrained\n",
        "| milestones | 1 |",
        "| test top-1, % | ",
    ):
        assert words in card, words
    assert "private" not in card and "\n| workers |" not in card


def test_words_of_others_are_text(run: Path, tmp_path: Path) -> None:
    evil = results(tmp_path / "knn.json", "<script>|[x](javascript:0)\n# head")
    card = model_card(run, name="lab/first", results=[evil], licence="a: b\n---\n# x")
    assert r"\<script\>\|\[x\](javascript:0)" in card
    assert "\n# head" not in card
    assert yaml.safe_load(card.split("---\n", 2)[1])["license"] == r"a: b\n---\n# x"


def test_the_folders_of_a_machine_are_not_published(run: Path, tmp_path: Path) -> None:
    """Neither of results, nor of the network that a person named by its file."""
    rows = [
        {"checkpoint": name, "figures": {"top-1": 1.0}}
        for name in (
            "/home/me/first/checkpoints/last.pt",
            "/home/me/second/epoch-0010.pt",
            "../mine/second/epoch-0010.pt",
            "untrained c3d_small {'width': 0.125}",
            "hf:/home/me/videomae",
            "/home/me/mine.py:net@/home/me/w.pt",
        )
    ]
    knn = tmp_path / "knn.json"
    knn.write_text(json.dumps({"settings": {}, "results": rows}))
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    config = json.loads((run / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"encoder": "/home/me/mine.py:net"}))
    card = model_card(copy, name="lab/first", results=[knn])
    head = (
        "|  | first | 2: epoch-0010.pt | 3: epoch-0010.pt | untrained c3d\\_small {'width': 0.125} | "
        "hf:videomae | mine.py:net@w.pt |"
    )
    assert head in card
    assert "(mine.py:net)" in card and "| encoder | mine.py:net |" in card
    assert "/home" not in card and "../" not in card


def test_a_folder_without_a_run_and_odd_results_are_one_line(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is not the folder of a run"):
        model_card(tmp_path, name="lab/first")
    (tmp_path / "odd.json").write_text("{}")
    with pytest.raises(ValueError, match=r"odd.json: no results; it must be written by fame eval"):
        model_card(run, name="lab/first", results=[tmp_path / "odd.json"])


def test_a_dry_run_writes_what_would_be_pushed(run: Path, tmp_path: Path) -> None:
    command = ["push", "lab/first", str(run), "--dry-run", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    names = ["encoder.safetensors", "encoder.json", "README.md"]
    assert done.stdout.split() == [str(tmp_path / "out" / name) for name in names]
    assert "private" in (run / "config.json").read_text()
    for name in names:  # the folder of the cache stays at home
        assert b"private" not in (tmp_path / "out" / name).read_bytes()
    wrong = CliRunner().invoke(app, ["push", "first", str(run), "--dry-run"])
    assert (wrong.exit_code, wrong.stderr.count("\n")) == (2, 1)
    assert "first is no name of a repository: write ORG/NAME" in wrong.stderr
