"""Nothing is lost without a word: names in the report, files chosen, classes without a video, and a
finished store on a disk that takes no writes.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from cli import app
from fame.clipstore import ClipStore, StoreError, Window
from preprocess.config import PreprocessConfig
from preprocess.run import preprocess
from tests.preprocess.conftest import SPEC, Configure
from tests.preprocess.videos import all_frames, write_video


def written(config: PreprocessConfig) -> dict[str, Any]:
    """The report beside a store."""
    return json.loads(
        (Path(config.store).parent / f"{Path(config.store).name}.report.json").read_text()
    )


@pytest.fixture
def twice(tmp_path: Path) -> PreprocessConfig:
    """Two clips of Kinetics, each damaged in its class folder and repaired in another one."""
    train = tmp_path / "videos" / "train"
    rows = ["label,youtube_id,time_start,time_end,split"]
    for class_name, clip in (("skydiving", "AAAAAAAAAAA"), ("abseiling", "BBBBBBBBBBB")):
        good = write_video(train / "replacement" / f"{clip}_000001_000011.avi", 8, codec="MJPG")
        (train / class_name).mkdir()
        (train / class_name / good.name).write_bytes(good.read_bytes()[:300])
        rows.append(f"{class_name},{clip},1,11,train")
    (tmp_path / "train.csv").write_text("\n".join([*rows, "running,CCCCCCCCCCC,1,11,train"]))
    return PreprocessConfig(
        dataset="k400",
        split="train",
        videos=tmp_path / "videos",
        annotations=tmp_path / "train.csv",
        store=tmp_path / "store",
        executor="serial",
        spec=SPEC,
        max_missing=0.5,
    )


def test_of_the_same_clip_twice_the_one_that_opens_is_taken(twice: PreprocessConfig) -> None:
    report = preprocess(twice)
    assert (report.failed, report.counts["missing"]) == (0, 1)
    store = ClipStore.open(twice.store)
    assert [name.split("/")[1] for name in store.names] == ["replacement", "replacement"]
    assert [store.header.class_names[label] for label in store.labels_V] == [
        "skydiving",
        "abseiling",
    ]
    choices = written(twice)["choices"]
    assert [choice["taken"] for choice in choices] == list(store.names)[::-1]
    assert all(next(iter(choice["left"].values())) for choice in choices), "why not the first"
    assert preprocess(twice).already_finished, "the choice is the same again"


def test_the_report_names_what_did_not_match(twice: PreprocessConfig) -> None:
    (twice.videos / "train" / "notes.xyz").touch()
    (twice.videos / "train" / "more.avi").touch()
    (twice.videos / "train" / "gone.avi").symlink_to("nowhere.avi")
    report = preprocess(twice)
    found = written(twice)
    assert found["names"] == {
        "missing": ["train/running/CCCCCCCCCCC_000001_000011"],
        "extra": ["train/more.avi"],
        "doubled": [],
        "failed": [],
        "still": [],
    }
    assert found["reasons"] == {"train/gone.avi": "the link leads nowhere"}
    assert found["passed_over"] == {"xyz": 1}
    assert found["empty_classes"] == ["running"]
    assert "note: 1 of 3 classes have no video: running" in str(report)
    assert "note: 2 videos have several files; for 2 of them" in str(report)


def test_a_class_whose_videos_all_failed_is_named_too(configure: Configure, tmp_path: Path) -> None:
    write_video(tmp_path / "videos" / "walk" / "1.mkv", 8)
    (tmp_path / "videos" / "run").mkdir()
    (tmp_path / "videos" / "run" / "2.mkv").write_text("not a video")
    report = preprocess(configure(executor="serial", videos=tmp_path / "videos"))
    assert report.empty_classes == ("run",)


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder that a remount makes read-only."""
    mount, folder = shutil.which("mount"), tmp_path / "disk"
    folder.mkdir()
    made = (
        mount
        and not subprocess.run(
            [mount, "-t", "tmpfs", "-o", "size=4m", "none", folder], check=False
        ).returncode
    )
    if not made:
        pytest.skip("cannot mount a file system here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_finished_store_on_a_read_only_disk_is_finished(
    configure: Configure, read_only: Path
) -> None:
    finished = configure(executor="serial", store=read_only / "store")
    preprocess(finished)
    subprocess.run(["mount", "-o", "remount,ro", read_only], check=True)
    assert preprocess(finished).already_finished
    with pytest.raises(StoreError, match="split 'train'"):
        preprocess(replace(finished, split="test"))
    with pytest.raises(StoreError, match="lock file"):
        preprocess(replace(finished, store=read_only / "other"))


def fame(*arguments: object) -> Any:
    """Run a command in this process, with a store small enough to be made in no time."""
    recipe = "--seconds 1 --height 16 --width 16 --foreground none"
    options = ["--executor", "serial", *recipe.split()]
    return CliRunner().invoke(app, [*map(str, arguments), *options])


def test_all_splits_are_listed_before_the_first_is_made(tmp_path: Path) -> None:
    write_video(tmp_path / "videos" / "train" / "a" / "1.mkv", 8)
    places = ("--videos", tmp_path / "videos", "--root", tmp_path / "out")
    done = fame("preprocess", "k400", *places)
    assert done.exit_code == 2 and not (tmp_path / "out").exists()
    write_video(tmp_path / "videos" / "val" / "a" / "2.mkv", 8)
    assert fame("preprocess", "k400", *places).exit_code == 0
    assert len(list((tmp_path / "out" / "stores").glob("*.zarr"))) == 2


def test_links_are_allowed_by_name(tmp_path: Path) -> None:
    folders = [tmp_path / "far" / name for name in ("one", "two")]
    (tmp_path / "videos" / "a").mkdir(parents=True)
    for number, folder in enumerate(folders):
        video = write_video(folder / f"{number}.mkv", 8)
        (tmp_path / "videos" / "a" / video.name).symlink_to(video)
    places = ("--videos", tmp_path / "videos", "--root", tmp_path / "out")
    assert fame("preprocess", "folder", *places).exit_code == 2
    assert fame("preprocess", "folder", *places, "--allow-links", folders[0]).exit_code == 2
    allowed = [part for folder in folders for part in ("--allow-links", folder)]
    assert fame("preprocess", "folder", *places, *allowed).exit_code == 0
    store = ClipStore.open(tmp_path / "out" / "stores" / "folder-train.zarr")
    assert store.names == ("a/0.mkv", "a/1.mkv") and store.valid_V.all()


def test_a_folder_of_frames_is_a_video(tmp_path: Path) -> None:
    """It gives the frames that a video of the same pictures gives; the rest is on record."""
    video = write_video(tmp_path / "videos" / "a" / "v.mkv", 9)
    for number, frame_HW3 in enumerate(all_frames(video), 1):
        folder = tmp_path / "frames" / "a" / "v"
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"img_{number:05d}.png"), frame_HW3[..., ::-1])
    (tmp_path / "frames" / "a" / "cut").mkdir()
    whole = (folder / "img_00001.png").read_bytes()
    (tmp_path / "frames" / "a" / "cut" / "img_00001.png").write_bytes(whole[:50])
    spec, stores = replace(SPEC, codec="lz4"), []
    for root, options in (("videos", {}), ("frames", {"frames_folders": True})):
        config = PreprocessConfig(
            dataset="folder",
            split="train",
            videos=tmp_path / root,
            store=tmp_path / f"{root}.zarr",
            executor="serial",
            spec=spec,
            max_failed=1.0,
            **options,
        )
        report = preprocess(config)
        stores.append(ClipStore.open(config.store))
    assert report.failures == (("a/cut", "img_00001.png is no whole picture"),)
    of_video, of_frames = stores
    assert of_frames.names == ("a/cut", "a/v")
    window = Window(frames=int(of_video.length_V[0]))
    np.testing.assert_array_equal(of_frames.clip(1, 0, window), of_video.clip(0, 0, window))
    with pytest.raises(ValueError, match=r"holds no video .*--frames-folders reads"):
        preprocess(replace(config, frames_folders=False))
