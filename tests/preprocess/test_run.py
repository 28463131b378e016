"""The stage from end to end, on both executors: same bytes, every video's fate on record, and clear
refusals.
"""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from fame.clipstore import ClipStore, StoreError, Window, is_finished, lock
from fame.flow import map_clip, map_frames
from fame.progress import Progress
from preprocess.config import PreprocessConfig
from preprocess.isolation import DecoderStartError, SourceError
from preprocess.plan import list_videos
from preprocess.report import Snapshot, shown_on
from preprocess.run import preprocess
from tests.preprocess.conftest import SPEC, Configure, tree
from tests.preprocess.test_isolation import ROGUE
from tests.preprocess.test_selection import sampling, slow_kept
from tests.preprocess.videos import frame_number, mutated, write_video


def test_both_executors_make_the_same_finished_store(
    configure: Configure, executor: dict[str, Any], reference: dict[str, bytes]
) -> None:
    config = configure(**executor)
    report = preprocess(config)
    assert tree(config.store) == reference
    assert (report.counts["videos"], report.ok, report.cut, report.failed) == (12, 5, 5, 2)
    assert report.shards_made == report.shards == 6 and report.problems == ()
    assert [name for name, _ in report.failures] == ["a/slow_text.mp4", "b/slow_empty.avi"]
    assert all(
        reason.startswith("no video stream could be opened") for _, reason in report.failures
    )


def test_the_store_holds_the_frames_it_says(configure: Configure, corpus: Path) -> None:
    config = configure(executor="serial", spec=replace(SPEC, codec="lz4"))
    preprocess(config)
    store = ClipStore.open(config.store)
    assert store.header.class_names == ("a", "b")
    listed = sorted(p.relative_to(corpus).as_posix() for p in corpus.rglob("*") if p.is_file())
    assert list(store.names) == listed
    assert [store.header.class_names[label] for label in store.labels_V] == [
        name[0] for name in listed
    ]
    for video in np.flatnonzero(store.valid_V).tolist():
        name = listed[video]
        wanted = list(range(0, 3 if name.endswith("_4.mkv") else 8 + int(name[-5]), 2))
        stretches = slow_kept(sampling(slots=SPEC.slots, stretch=2), len(wanted))
        kept = [wanted[place] for stretch in stretches for place in stretch]
        shown = [store.clip(video, n, Window(frames=1))[0] for n in range(len(kept))]
        assert [frame_number(frame) for frame in shown] == kept
        assert store.source(video).tolist() == [[number, 40 * number] for number in kept]
    failed = [name for name, valid in zip(listed, store.valid_V, strict=True) if not valid]
    assert failed == ["a/slow_text.mp4", "b/slow_empty.avi"]


def test_parts_of_one_file_are_videos_of_their_own(
    configure: Configure, corpus: Path, executor: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "list").write_text("a/slow_8.mkv 4 9 b\na/slow_8.mkv 0 4 a\na/slow_8.mkv 9 99 a\n")
    spec = replace(SPEC, codec="lz4")
    report = preprocess(configure(list_file=tmp_path / "list", spec=spec, **executor))
    store = ClipStore.open(report.store)
    assert store.names == ("a/slow_8.mkv[0:4]", "a/slow_8.mkv[4:9]", "a/slow_8.mkv[9:99]")
    assert store.labels_V.tolist() == [0, 1, 0]
    kept = [store.source(video)[:, 0].tolist() for video in range(3)]
    assert kept == [[0, 2], [4, 6, 8], [9, 11, 13, 15]]
    for video, numbers in enumerate(kept):
        shown = store.clip(video, 0, Window(frames=len(numbers)))
        assert [frame_number(frame) for frame in shown] == numbers
    assert report.damaged == (("a/slow_8.mkv[9:99]", 83),), "the file has 16 frames"


@pytest.mark.parametrize("foreground", ["flow", "paper", "difference"])
def test_maps_are_those_of_the_stored_frames(configure: Configure, foreground: str) -> None:
    config = configure(executor="serial", spec=replace(SPEC, codec="zstd", foreground=foreground))
    preprocess(config)
    store = ClipStore.open(config.store)
    size = {"height": SPEC.foreground_height, "width": SPEC.foreground_width}
    for video in np.flatnonzero(store.valid_V)[::3].tolist():
        everything = Window(frames=int(store.length_V[video]))
        frames, maps = (read(video, 0, everything) for read in (store.clip, store.maps))
        np.testing.assert_array_equal(maps[::2], map_frames(foreground, frames, every=2, **size))
        np.testing.assert_array_equal(
            store.foreground(video, 0, everything), map_clip(foreground, frames, **size)
        )


def test_a_second_run_says_so_and_does_nothing(
    configure: Configure, executor: dict[str, Any]
) -> None:
    config = configure(**executor)
    preprocess(config)
    before = times(config.store.parent)
    snapshots: list[Snapshot] = []
    report = preprocess(config, progress=snapshots.append, decoder=("false",))
    assert report.already_finished and "nothing to do" in str(report) and not snapshots
    assert (report.ok, report.cut, report.failed) == (5, 5, 2)
    assert times(config.store.parent) == before


def times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spec": replace(SPEC, keep=3)}, "keep 2 .asked for: 3"),
        ({"spec": replace(SPEC, quality=80)}, "quality 90 .asked for: 80"),
        ({"split": "test"}, "split 'train'"),
    ],
)
def test_another_recipe_is_refused(
    configure: Configure, change: dict[str, Any], message: str
) -> None:
    preprocess(configure(executor="serial"))
    with pytest.raises(StoreError, match=message):
        preprocess(configure(executor="serial", **change))


def test_runs_on_one_store_exclude_each_other(configure: Configure) -> None:
    config = configure(executor="serial")
    with lock(config.store), pytest.raises(StoreError, match="another run"):
        preprocess(config)
    assert preprocess(config).ok == 5


def test_a_store_without_failures_has_no_file_of_failures(
    configure: Configure, corpus: Path, tmp_path: Path
) -> None:
    (tmp_path / "whole").mkdir()
    shutil.copy(corpus / "a" / "slow_0.mkv", tmp_path / "whole")
    config = configure(executor="serial", videos=tmp_path / "whole")
    left = config.store.with_name("store.failures.jsonl")
    left.parent.mkdir(parents=True, exist_ok=True)
    left.write_text('{"video": "of an earlier run", "reason": "gone"}\n')
    assert preprocess(config).ok == 1
    assert not left.exists()


def test_reports_lie_beside_the_store(configure: Configure) -> None:
    config = configure(executor="serial", max_failed=0.1)
    report = preprocess(config)
    assert report.problems == ("2 of 12 videos failed, above the 10.0% allowed",)
    written = json.loads((config.store.parent / "store.report.json").read_text())
    assert (written["ok"], written["failed"], written["problems"]) == (5, 2, list(report.problems))
    lines = (config.store.parent / "store.failures.jsonl").read_text().splitlines()
    assert [tuple(json.loads(line).values()) for line in lines] == list(report.failures)
    assert preprocess(config).problems == report.problems, (
        "a finished store is judged by the same budget"
    )
    assert preprocess(replace(config, max_failed=0.2)).problems == ()


def test_missing_videos_are_counted_up_to_a_share(configure: Configure, tmp_path: Path) -> None:
    names = ["a/slow_0.mkv", "a/slow_2.mkv", "a/slow_0.mkv", "b/gone.mkv", "b/slow_1.mkv"]
    (tmp_path / "list.txt").write_text("\n".join(names))
    config = configure(executor="serial", list_file=tmp_path / "list.txt")
    with pytest.raises(
        ValueError, match=r"1 of 4 listed videos are missing.*above the 20% allowed.*b/gone.mkv"
    ):
        preprocess(config)
    report = preprocess(replace(config, max_missing=0.25))
    assert (*report.counts.values(),) == (3, 1, 9, 1)


def test_a_dry_run_writes_nothing_and_estimates(configure: Configure) -> None:
    config = configure(executor="serial", dry_run=True)
    report = preprocess(config)
    assert not config.store.exists() and not list(config.store.parent.glob("*.json*"))
    made = preprocess(replace(config, dry_run=False))
    assert report.estimate is not None
    assert (report.estimate.slots, report.estimate.shards, report.estimate.sampled) == (6, 6, 8)
    assert 0.5 < report.estimate.bytes / made.stored_bytes < 2
    assert report.estimate.seconds > 0 and "plan: 12 videos of at most 6 frames in 6 shards" in str(
        report
    )


def test_bad_videos_cost_themselves(
    configure: Configure, executor: dict[str, Any], corpus: Path, tmp_path: Path
) -> None:
    for name in ("crash", "hang", "greedy", "noisy", "good"):
        write_video(tmp_path / "videos" / f"{name}.mkv", 9)
    config = configure(videos=tmp_path / "videos", time_limit=1, memory_per_worker=1, **executor)
    report = preprocess(config, decoder=ROGUE)
    assert (report.ok, report.failed, report.problems) == (2, 3, ())
    reasons = dict(report.failures)
    assert reasons["crash.mkv"] == "the decoder died: SIGSEGV"
    assert reasons["hang.mkv"] == "decoding took longer than 1 s"
    assert reasons["greedy.mkv"].startswith("Unable to allocate")


def test_a_decoder_that_does_not_start_stops_the_run(
    configure: Configure, executor: dict[str, Any]
) -> None:
    with pytest.raises(DecoderStartError):
        preprocess(configure(**executor), decoder=("false",))


def test_a_full_disk_stops_the_run_and_space_lets_it_go_on(
    configure: Configure, executor: dict[str, Any], small_disk: Path, reference: dict[str, bytes]
) -> None:
    config = configure(store=small_disk / "store", **executor)
    filler = small_disk / "filler"
    filler.write_bytes(bytes(36 << 10))
    with pytest.raises(
        StoreError, match=r"No space left on device.*free some space.*same command again"
    ):
        preprocess(config)
    filler.unlink()
    os.system(f"mount -o remount,size=4m {small_disk}")
    preprocess(config)
    assert tree(config.store) == reference


def test_videos_that_go_away_are_not_recorded_as_failed(
    configure: Configure,
    executor: dict[str, Any],
    reference: dict[str, bytes],
    corpus: Path,
    tmp_path: Path,
) -> None:
    videos, away = tmp_path / "videos", tmp_path / "away"
    shutil.copytree(corpus, videos)
    config = configure(videos=videos, **executor)
    listing = list_videos(config)
    videos.rename(away)
    with pytest.raises(SourceError, match=r"ENOENT"):
        preprocess(config, listing=listing)
    assert not is_finished(config.store)
    away.rename(videos)
    assert preprocess(config).problems == ()
    assert tree(config.store) == reference


def test_failed_videos_are_made_anew_and_the_rest_stays(
    configure: Configure, executor: dict[str, Any], corpus: Path, tmp_path: Path
) -> None:
    videos = tmp_path / "videos"
    shutil.copytree(corpus, videos)
    config = configure(videos=videos, **executor)
    preprocess(config)
    before = tree(config.store)
    retried = replace(config, retry_failed=True)
    assert preprocess(retried).shards_made == 2 and tree(config.store) == before
    shutil.copy(videos / "a" / "slow_0.mkv", videos / "a" / "slow_text.mp4")
    assert preprocess(config).already_finished
    report = preprocess(retried)
    assert (report.shards_made, report.failed, report.problems) == (2, 1, ())
    after = tree(config.store)
    changed = {name for name in before if before[name] != after[name]}
    assert changed <= {
        "seal.json",
        "length/c.0",
        "stretches/c.0",
        *(n for n in before if "/c.2" in n),
        "records/2.json",
    }
    preprocess(replace(config, store=tmp_path / "fresh"))
    assert after == tree(tmp_path / "fresh")


def test_an_unforeseen_error_costs_its_shard(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter(range(100))

    def trip(*args: object) -> None:
        if next(calls) == 4:
            raise RuntimeError("tripped")

    config = configure(executor="serial")
    with monkeypatch.context() as patch:
        patch.setattr("preprocess.task._foreground", trip)
        report = preprocess(config)
    assert len(report.problems) == 1 and "tripped" in report.problems[0] and report.shards_made == 5
    assert preprocess(config).problems == ()


def test_mutated_videos_are_all_on_record(
    configure: Configure, executor: dict[str, Any], mutants: tuple[Path, dict[str, bytes]]
) -> None:
    videos, expected = mutants
    config = configure(videos=videos, time_limit=20, videos_per_shard=64, **executor)
    report = preprocess(config)
    assert report.ok + report.cut + report.failed == report.counts["videos"] == 504
    assert report.ok + report.cut > 100 and report.failed > 200
    assert all(
        reason and "died" not in reason and "longer" not in reason for _, reason in report.failures
    )
    assert tree(config.store) == expected


@pytest.fixture(scope="session")
def mutants(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """504 damaged videos and the store that a serial run makes of them."""
    folder = tmp_path_factory.mktemp("mutants")
    codecs = {
        "mkv": "FFV1",
        "avi": "XVID",
        "mp4": "mp4v",
        "webm": "VP80",
        "mpg": "MPG1",
        "wmv": "WMV2",
        "mov": "MJPG",
    }
    sources = [
        write_video(folder / f"source.{suffix}", 12, codec=codec)
        for suffix, codec in codecs.items()
    ]
    (folder / "videos").mkdir()
    mutated(sources, folder / "videos", count=504)
    config = PreprocessConfig(
        dataset="folder",
        split="train",
        videos=folder / "videos",
        store=folder / "store",
        executor="serial",
        spec=SPEC,
        videos_per_shard=64,
        max_failed=1.0,
    )
    preprocess(config)
    return folder / "videos", tree(folder / "store")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dataset": "imagenet"}, "dataset must be one of"),
        ({"executor": "dask"}, "executor must be one of serial, ray"),
        ({"executor": "serial", "workers": 2}, "workers and address need executor=ray"),
        ({"workers": 0}, "workers must be a whole number of at least 1, or none, got 0"),
        ({"time_limit": 0}, "time_limit must be a number above 0"),
        ({"max_missing": 2}, "max_missing must be a number from 0 to 1, got 2"),
        ({"dataset": "ucf101"}, "ucf101 needs its official annotations"),
        ({"annotations": Path()}, "folder takes a list of videos"),
        ({"dataset": "k400", "list_file": Path("a")}, "k400 has its own lists"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(
    configure: Configure, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        configure(**fields)


def test_an_empty_root_is_refused(configure: Configure, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no video"):
        list_videos(configure(videos=tmp_path / "empty"))


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_shown(configure: Configure, terminal: bool) -> None:
    console = Console(force_terminal=terminal, width=200, record=True)
    with Progress(console=console) as progress:
        preprocess(configure(executor="serial"), progress=shown_on(progress))
    text = console.export_text()
    assert (
        "making shards" in text
        and "12/12" in text
        and "2 failed" in text
        and "videos/s" in text
        and "left" in text
    )
