"""The experiments of ``benchmarks/evidence``, walked end to end at a size of seconds."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import davis
from benchmarks.evidence import pays, pointing, run, scenes, worlds
from fame.clipstore import ClipStore
from preprocess.world import write_world

TINY = replace(worlds.STILL, videos=36, frames=24, test_share=1 / 3)


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A controlled world in the layout of the pointing hands, its backgrounds the scenes, and the
    same videos beside it in that of the tennis strokes.
    """
    folder = tmp_path_factory.mktemp("footage") / "ego-pointing"
    write_world(TINY, folder)
    with (folder / "videos.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    with (folder / "clips.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label", "scene"))
        for row in rows:
            writer.writerow((f"videos/{row['video']}", row["motion"], row["background"]))
    tennis = folder.parent / "tennis-strokes"
    shutil.copytree(folder / "videos", tennis / "videos")
    for where, splits in ((folder, scenes.HANDS), (tennis, scenes.TENNIS)):
        for names in splits.values():
            for listed, split in zip(names, ("train", "test"), strict=True):
                (where / listed).write_text((folder / f"{split}.txt").read_text())
    return folder


SMALL = ["encoder=c3d_small", "crop=24", "frames=8", "epochs=1", "batch=12", "device=cpu"]
SMALL += ["workers=0"]


@pytest.mark.slow
@pytest.mark.parametrize("plan", ["gpu", "cores"])
def test_pointing_hands_are_walked_from_videos_to_the_table(
    footage: Path, tmp_path: Path, plan: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {**vars(pointing.PLANS[plan]), "size": (36, 48), "tuning": (), "clips": 1}
    candidates = pointing.PLANS[plan].candidates
    small["candidates"] = {
        name: (*settings, *SMALL, "warmup_epochs=0") for name, settings in candidates.items()
    }
    narrow = ["precision=fp32", "queue=12", "bn_group=none", "merge_group=none"]
    small["pretraining"] = pointing.PLANS[plan].pretraining.override(
        [*SMALL, *narrow, "channels_last=false"]
    )
    monkeypatch.setitem(pointing.PLANS, plan, pointing.Plan(**small))
    where = ["--plan", plan, "--footage", footage, "--work", tmp_path / "work"]
    short = ["--results", tmp_path, "--pictures", tmp_path, "--needed", 0, "--seeds", 1]
    short += ["--splits", "fold1", "biased"]
    pointing.main([str(word) for word in (*where, *short)])
    (written,) = tmp_path.glob("evidence_pointing*.json")
    found = json.loads(written.read_text())
    assert list(found["search"]) == list(candidates)[:1]  # 0 % is enough
    assert list(found["compared"]) == [*pointing.PRETRAINED, *pointing.SCRATCH]
    for row, (fold, biased) in found["compared"].items():
        seconds = ["cpu seconds of pretraining", "cpu seconds"][row in pointing.SCRATCH :]
        assert list(biased) == ["biased", *seconds]
        columns = [name for name in pointing.COLUMNS if name != "biased"]
        shown = columns[-1:] if row in pointing.SCRATCH else columns
        assert list(fold) == [*shown, *seconds]
    assert "| MoCo | " in written.with_suffix(".md").read_text()


def test_what_either_split_tests_is_not_pretrained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tennis, hands = tmp_path / "tennis-strokes", tmp_path / "ego-pointing"
    tennis.mkdir()
    lists = {"random": ("a b c", "d e"), "source": ("b c d", "a e")}
    for split, texts in lists.items():
        for listed, names in zip(scenes.TENNIS[split], texts, strict=True):
            rows = (f"videos/serve/{name}.mp4 serve\n" for name in names.split())
            (tennis / listed).write_text("".join(rows))
    (tmp_path / "exercise-typing" / "typing").mkdir(parents=True)
    (tmp_path / "exercise-typing" / "typing" / "1.mp4").touch()

    def made(*_: object, **__: object) -> None: ...

    monkeypatch.setattr(scenes, "preprocessed", made)
    scenes.Stores(hands=hands, work=tmp_path / "work", size=(36, 48)).rest()
    assert (tmp_path / "work" / "rest-train.txt").read_text().splitlines() == [
        "tennis-strokes/videos/serve/b.mp4",
        "tennis-strokes/videos/serve/c.mp4",
        "exercise-typing/typing/1.mp4",
    ]


def test_nothing_is_compared_where_nothing_learns(
    footage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    def supervised(*_: object) -> float:
        return 10.0

    monkeypatch.setattr(pointing.Experiment, "supervised", supervised)
    where = ["--footage", footage, "--work", tmp_path / "work", "--results", tmp_path]
    pointing.main([str(word) for word in where])
    found = json.loads((tmp_path / "evidence_pointing.json").read_text())
    assert found == {"search": dict.fromkeys(pointing.GPU.candidates, 10.0), "compared": {}}


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


ARM = {"name": "FAME", "world": "still", "settings": [], "maps": "train", "trained": True}
TRIAL = {
    "arm": ARM,
    "pretraining_cpu_seconds": 3600,
    "curve": [{"spread": 0.5}],
    "report": {"figures": {name: {"value": 50.0, "chance": 16.7} for name in run.COLUMNS}},
}


def test_a_table_of_evidence_shows_every_seed_and_what_was_not_run() -> None:
    lines = run.table({"MoCo": [TRIAL, TRIAL], "FAME": []}).splitlines()
    assert "| MoCo | **50.0** (50.0, 50.0) |" in "\n".join(lines)
    assert any(line.startswith("| FAME | not run |") for line in lines)
    assert lines[-1] == "2 pretrainings, 2.0 CPU hours."


def test_trials_of_the_results_count_as_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arm = {**ARM, "settings": ["background=inter", "mask=seed"]}  # the first release's word
    kept = {"trials": {"FAME": [{**TRIAL, "arm": arm, "seed": 2}], "none": []}}
    (tmp_path / "evidence_x.json").write_text(json.dumps(kept))
    monkeypatch.setattr(run, "RESULTS", tmp_path)
    run.restore(tmp_path / "work")
    difference = run.Arm(name="any", settings=("mask=difference", "background=inter"))
    found = run.run_trial(difference, 2, tmp_path / "work")  # else it would need a world
    assert found["arm"] == arm


def test_when_merging_pays_is_drawn_from_what_was_run(tmp_path: Path) -> None:
    kept = {"trials": {"MoCo": [TRIAL, TRIAL], "FAME, flow maps": [TRIAL]}}
    (tmp_path / "evidence_tempting_own.json").write_text(json.dumps(kept))
    pays.main(results=tmp_path, pictures=tmp_path)
    lines = (tmp_path / "evidence_pays.md").read_text().splitlines()
    each = " | ".join(["**50.0** (50.0, 50.0)"] * 3)
    assert lines[4:] == [
        f"| own | 500 | MoCo | {each} |",  # no other arm of the picture
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
