"""The experiments of ``benchmarks/evidence``, walked end to end at a size of seconds."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import davis
from benchmarks.evidence import pays, pointing, run, worlds
from fame.clipstore import ClipStore
from preprocess.world import write_world

TINY = replace(worlds.STILL, videos=36, frames=24, test_share=1 / 3)


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A controlled world in the layout of the pointing hands; its backgrounds are the scenes."""
    folder = tmp_path_factory.mktemp("footage")
    write_world(TINY, folder)
    with (folder / "videos.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    with (folder / "clips.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label", "scene"))
        for row in rows:
            writer.writerow((f"videos/{row['video']}", row["motion"], row["background"]))
    for names in pointing.SPLITS.values():
        for listed, split in zip(names, ("train", "test"), strict=True):
            (folder / listed).write_text((folder / f"{split}.txt").read_text())
    return folder


SMALL = [
    "encoder=c3d_small",
    "crop=24",
    "frames=8",
    "epochs=1",
    "batch=12",
    "device=cpu",
    "workers=0",
    "lr=0.001",
]


@pytest.mark.slow
def test_pointing_hands_are_walked_from_videos_to_the_table(footage: Path, tmp_path: Path) -> None:
    where = ["--footage", footage, "--work", tmp_path / "work", "--results", tmp_path]
    short = ["--needed", 0, "--splits", "fold1", "biased", "--seeds", 1, "--set", *SMALL]
    short += ["warmup_epochs=0", "--height", 36, "--width", 48]
    first = ["--set-pretraining", *SMALL, "precision=fp32", "queue=12", "bn_group=none"]
    first += ["merge_group=none", "channels_last=false"]
    pointing.main([str(word) for word in (*where, *short, *first)])
    found = json.loads((tmp_path / "evidence_pointing.json").read_text())
    assert list(found["search"]) == [next(iter(pointing.CANDIDATES))]  # the first has 0 %
    assert list(found["compared"]) == [*pointing.PRETRAINED, *pointing.SCRATCH]
    for row, (fold, biased) in found["compared"].items():
        assert list(biased) == ["biased"]
        columns = [name for name in pointing.COLUMNS if name != "biased"]
        assert list(fold) == (columns[-1:] if row in pointing.SCRATCH else columns)
    assert "| MoCo | " in (tmp_path / "evidence_pointing.md").read_text()


def test_nothing_is_compared_where_nothing_learns(
    footage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    def supervised(*_: object) -> float:
        return 10.0

    monkeypatch.setattr(pointing.Experiment, "supervised", supervised)
    where = ["--footage", footage, "--work", tmp_path / "work", "--results", tmp_path]
    pointing.main([str(word) for word in where])
    found = json.loads((tmp_path / "evidence_pointing.json").read_text())
    assert found == {"search": dict.fromkeys(pointing.CANDIDATES, 10.0), "compared": {}}


def test_no_tested_background_was_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = replace(TINY, backgrounds=None, videos=48)
    tested = replace(TINY, backgrounds=12, videos=18, test_share=2 / 3)
    monkeypatch.setattr(worlds, "TEMPTING", {"own": own})
    monkeypatch.setattr(worlds, "WORLDS", {"own": own, "own-tested": tested})
    folder = worlds.prepare("own", tmp_path)
    with worlds.background_table("own", tmp_path).open(newline="") as file:
        shown = {row["video"]: int(row["background"]) for row in csv.DictReader(file)}
    train, test = (ClipStore.open(folder / f"{split}.zarr") for split in ("train", "test"))
    unseen = {shown[name] for name in test.names}
    trained = worlds.backgrounds(folder, train.names)
    assert len(unseen) > 1  # some test videos share a background
    assert len(set(trained)) == len(trained)  # no training videos do
    assert not unseen & set(trained)


TRIAL = {
    "arm": {"trained": True},
    "pretraining_cpu_seconds": 3600,
    "curve": [{"spread": 0.5}],
    "report": {"figures": {name: {"value": 50.0, "chance": 16.7} for name in run.COLUMNS}},
}


def test_a_table_of_evidence_shows_every_seed_and_what_was_not_run() -> None:
    lines = run.table({"MoCo": [TRIAL, TRIAL], "FAME": []}).splitlines()
    assert "| MoCo | **50.0** (50.0, 50.0) |" in "\n".join(lines)
    assert any(line.startswith("| FAME | not run |") for line in lines)
    assert lines[-1] == "2 pretrainings, 2.0 CPU hours."


def test_when_merging_pays_is_drawn_from_what_was_run(tmp_path: Path) -> None:
    kept = {"trials": {"MoCo": [TRIAL, TRIAL], "FAME, flow maps": [TRIAL]}}
    (tmp_path / "evidence_tempting_own.json").write_text(json.dumps(kept))
    pays.main(results=tmp_path, pictures=tmp_path)
    lines = (tmp_path / "evidence_pays.md").read_text().splitlines()
    each = " | ".join(["**50.0** (50.0, 50.0)"] * 3)
    assert lines[4:] == [
        f"| own background for each video | 500 | MoCo | {each} |",  # no other arm of the picture
        "",
        "2 pretrainings, 2.0 CPU hours.",
    ]
    assert (tmp_path / "evidence_pays.png").stat().st_size > 10_000


def test_windows_of_davis_without_the_object_are_left_out_and_counted() -> None:
    shown, never, briefly = (np.zeros((4, 2, 2), bool) for _ in range(3))
    shown[:2, 0, 0] = True
    briefly[:1] = True  # nowhere for half of the time
    clips = [
        davis.Window(sequence="s", frames_THWC=np.zeros((4, 2, 2, 3), np.uint8), truth_THW=truth)
        for truth in (shown, never, briefly)
    ]
    kept, without = davis.with_object(iter(clips))
    assert [clip is clips[0] for clip in kept] == [True]
    assert without == 2
