"""Making a store: resuming, killing at any moment, refusing what is not this store, full disks, the
lock.
"""

import dataclasses
import errno
import fcntl
import io
import itertools
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from fame.clipstore import (
    StoreError,
    StoreSpec,
    VideoFailure,
    VideoFrames,
    create,
    finalise,
    is_finished,
    lock,
    missing_shards,
    read_record,
    write_shard,
)
from fame.clipstore import files as store_files
from fame.clipstore.layout import record_key
from tests.fame.clipstore import small


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A store with its middle shard done."""
    small.begin(tmp_path / "s", small.SPEC, 5)
    write_shard(tmp_path / "s", 1, small.shard_videos(small.SPEC, 1, 5, failed=[2]))
    return tmp_path / "s"


def go_on(path: Path, count: int = 5, failed: tuple[int, ...] = (2,)) -> None:
    small.begin(path, small.SPEC, count)
    for shard in missing_shards(path):
        write_shard(path, shard, small.shard_videos(small.SPEC, shard, count, failed=failed))
    finalise(path)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_bytes_do_not_depend_on_the_order_of_shards(
    finished: dict[str, Path], tmp_path: Path, order: tuple[int, ...]
):
    small.begin(tmp_path / "s", small.SPEC, 5)
    for shard in order:
        write_shard(tmp_path / "s", shard, small.shard_videos(small.SPEC, shard, 5, failed=[2]))
    finalise(tmp_path / "s")
    assert small.contents(tmp_path / "s") == small.contents(finished["jpeg"])


def test_beginning_again_and_finishing_again_change_nothing(
    finished: dict[str, Path], tmp_path: Path
):
    store = small.copy(finished["jpeg"], tmp_path / "s")
    (store / ".partial").mkdir()
    (store / ".partial/rest").write_bytes(b"left by a killed writer")
    go_on(store)
    assert small.contents(store) == small.contents(finished["jpeg"])
    assert not (store / ".partial").exists()


def test_missing_shards_are_those_without_a_record(begun: Path):
    assert missing_shards(begun) == [0, 2]
    assert not is_finished(begun)
    with pytest.raises(StoreError, match="2 of 3 shards are missing, first 0"):
        finalise(begun)
    with pytest.raises(StoreError, match="cannot read"):
        read_record(begun, 0)
    assert [outcome.status for outcome in read_record(begun, 1).videos] == ["failed", "ok"]


def damage_json(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b'"ok"', b'"no"'))


@pytest.mark.parametrize(
    "damage",
    [
        lambda store: (store / "frames/c.1.0.0.0.0").unlink(),
        lambda store: (store / "foreground/c.1.0.0.0").write_bytes(b"short"),
        lambda store: (store / record_key(1)).write_bytes(b""),
        lambda store: (store / record_key(1)).write_bytes(b"[]"),
        lambda store: damage_json(store / record_key(1)),
        lambda store: (store / record_key(1)).rename(store / record_key(0)),
        lambda store: (store / record_key(1)).write_bytes(
            (store / record_key(1)).read_bytes() + b" "
        ),
    ],
)
def test_a_record_that_is_wrong_does_not_count(begun: Path, finished: dict[str, Path], damage):
    damage(begun)
    assert missing_shards(begun) == [0, 1, 2]
    go_on(begun)
    assert small.contents(begun) == small.contents(finished["jpeg"])


def test_a_record_of_another_store_does_not_count(begun: Path, tmp_path: Path):
    other = dataclasses.replace(small.SPEC, quality=50)
    small.begin(tmp_path / "other", other, 5)
    (tmp_path / "other/records").mkdir()
    (tmp_path / "other" / record_key(1)).write_bytes((begun / record_key(1)).read_bytes())
    assert 1 in missing_shards(tmp_path / "other")


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"split": "val"}, "split 'train' .asked for: 'val'"),
        ({"class_names": ("run", "sit", "lie")}, "class_names"),
        ({"spec": dataclasses.replace(small.SPEC, keep=4, seconds=0.8)}, "keep 2 .asked for: 4"),
        ({"foreground_parameters": {"sigma": 1.0}}, "foreground_parameters"),
    ],
)
def test_another_recipe_is_refused_by_what_differs(begun: Path, changes: dict, word: str):
    before = small.contents(begun)
    with pytest.raises(StoreError, match=word):
        create(
            begun,
            dataclasses.replace(small.header(), **changes),
            names=small.names(5),
            labels=small.labels(5),
        )
    assert small.contents(begun) == before


def test_other_videos_are_refused(begun: Path):
    with pytest.raises(StoreError, match="other videos or labels"):
        small.begin(begun, small.SPEC, 4)


def test_a_newer_software_may_go_on(begun: Path, finished: dict[str, Path]):
    create(
        begun, small.header(software="fame-video 9"), names=small.names(5), labels=small.labels(5)
    )
    go_on(begun)
    assert small.contents(begun) == small.contents(finished["jpeg"])


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(StoreError, match="holds no clip store"):
        small.begin(tmp_path, small.SPEC, 5)
    assert small.contents(tmp_path) == {"thesis.tex": b"years of work"}


@pytest.mark.parametrize(
    ("names", "labels", "word"),
    [
        ([], [], "needs videos"),
        (["a"], [0, 1], "one label for each"),
        (["a", "a"], [0, 1], "same name"),
        (["../a"], [0], "not a path below"),
        (["caf\udce9.mp4"], [0], "not UTF-8"),
        (["a"], [2], "2 classes"),
        (["a"], [-2], "-2"),
    ],
)
def test_impossible_videos_are_refused(tmp_path: Path, names: list, labels: list, word: str):
    with pytest.raises(ValueError, match=word):
        create(tmp_path / "s", small.header(), names=names, labels=labels)
    assert not (tmp_path / "s").exists()


def test_a_reason_of_any_text_is_kept(begun: Path):
    record = write_shard(begun, 2, [VideoFailure("caf\udce9.mp4: \n\0 \U0001f41f" + "x" * 5000)])
    assert record.videos[0].reason.startswith("caf\\udce9.mp4: \n\0 \U0001f41fxxx")
    assert read_record(begun, 2) == record
    assert len(record.videos[0].reason) == 1000


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_shard_takes_exactly_its_videos(begun: Path, count: int):
    with pytest.raises(StoreError, match="exactly videos 0 to 1"):
        write_shard(begun, 0, small.videos(small.SPEC, count))
    with pytest.raises(StoreError, match="no shard 3"):
        write_shard(begun, 3, [])
    assert missing_shards(begun) == [0, 2]
    assert not list((begun / ".partial").iterdir())


@pytest.mark.parametrize(
    "wrong",
    [
        dataclasses.replace(small.SPEC, height=24, width=16),
        dataclasses.replace(small.SPEC, foreground_width=5),
        dataclasses.replace(small.SPEC, foreground_every=1),
        dataclasses.replace(small.SPEC, foreground="none"),
    ],
)
def test_a_video_of_other_shapes_is_refused(begun: Path, wrong: StoreSpec):
    with pytest.raises(ValueError, match="must be uint8 of shape"):
        write_shard(begun, 0, [small.video(wrong, 0), small.video(wrong, 1)])


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"source": np.full((6, 2), -1, np.int32)}, "source"),
        ({"stretches": 4}, "stretches of equal length, not 6 in 4"),
        ({"length": 7}, "from 1 to 6 frames"),
        ({"length": 0}, "from 1 to 6 frames"),
    ],
)
def test_a_video_that_cannot_be_is_refused(begun: Path, change: dict, word: str):
    if (length := change.pop("length", None)) is not None:
        change["frames"] = np.zeros((length, 16, 24, 3), np.uint8)
        change["source"] = np.zeros((length, 2), np.int32)
    video = dataclasses.replace(small.video(small.SPEC, 0), **change)
    with pytest.raises(ValueError, match=word):
        write_shard(begun, 0, [video, video])


def test_an_error_among_the_videos_passes_through_and_leaves_nothing(begun: Path):
    def videos():
        yield small.video(small.SPEC, 0)
        raise FileNotFoundError("a video's own trouble")

    with pytest.raises(FileNotFoundError, match="own trouble"):
        write_shard(begun, 0, videos())
    assert not list((begun / ".partial").iterdir())


class FullFile(io.FileIO):
    """A file on a full disk."""

    def write(self, data: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("call", "fails"), [("fdopen", FullFile), ("fsync", full), ("fchmod", full)]
)
def test_a_full_disk_is_a_clear_error_and_the_run_goes_on(
    begun: Path, finished: dict[str, Path], monkeypatch: pytest.MonkeyPatch, call: str, fails
):
    with monkeypatch.context() as patch:
        patch.setattr(store_files.os, call, fails)
        with pytest.raises(
            StoreError,
            match=r"No space left on device.*free some space.*run the same command again",
        ):
            write_shard(begun, 0, small.shard_videos(small.SPEC, 0, 5))
    assert missing_shards(begun) == [0, 2]
    assert not list((begun / ".partial").iterdir())
    go_on(begun)
    assert small.contents(begun) == small.contents(finished["jpeg"])


def write_all(path: Path, ready) -> None:
    with lock(path):
        ready.set()
        go_on(path)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_killed_at_any_moment_the_same_command_ends_with_the_same_bytes(
    finished: dict[str, Path], tmp_path: Path
):
    context, rng, killed = multiprocessing.get_context("fork"), random.Random(0), 0
    for attempt in range(20):
        path, ready = tmp_path / f"{attempt}", context.Event()
        writer = context.Process(target=write_all, args=(path, ready))
        writer.start()
        assert ready.wait(240)
        time.sleep(rng.uniform(0, 0.06))
        writer.kill()
        writer.join()
        killed += writer.exitcode == -signal.SIGKILL
        write_all(path, context.Event())
        assert small.contents(path) == small.contents(finished["jpeg"])
    assert killed > 0


def test_objects_are_durable_before_their_record_is(begun: Path, monkeypatch: pytest.MonkeyPatch):
    steps: list[tuple[str, str]] = []
    rename = Path.rename

    def note_sync(descriptor: int) -> None:
        steps.append(("sync", Path(f"/proc/self/fd/{descriptor}").readlink().name))

    def note_rename(source: Path, target: Path) -> Path:
        steps.append((f"rename {source.name}", target.name))
        return rename(source, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "rename", note_rename)
    write_shard(begun, 0, small.shard_videos(small.SPEC, 0, 5))
    expected = (
        ("c.0.0.0.0", "foreground"),
        ("c.0.0.0.0.0", "frames"),
        ("c.0.0.0", "source"),
        ("0.json", "records"),
    )
    for (synced, renamed, folder), (name, parent) in zip(
        zip(*[iter(steps)] * 3, strict=True), expected, strict=True
    ):
        assert renamed == (f"rename {synced[1]}", name)
        assert folder == ("sync", parent)


class Killed(BaseException):
    """Stands for a kill: nothing catches it, nothing cleans up after it."""


def test_killed_before_any_file_gets_its_name_the_same_command_ends_with_the_same_bytes(
    finished: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Every rename in turn is the first thing that is not done; nor is any cleaning up."""
    rename = Path.rename
    for step in itertools.count():
        path, left = tmp_path / f"{step}", itertools.count(step, -1)

        def rename_or_die(source: Path, target: Path, left=left) -> Path:
            if next(left) <= 0:
                raise Killed
            return rename(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", rename_or_die)
            patch.setattr(store_files.FileDraft, "discard", lambda self: self._file.close())
            try:
                go_on(path)
                break
            except Killed:
                pass
        go_on(path)
        assert small.contents(path) == small.contents(finished["jpeg"]), (
            f"killed before rename {step}"
        )
    assert step == 10 + 3 * 4 + 3  # the skeleton, the shards, length, stretches and the seal


def test_memory_is_that_of_one_video(tmp_path: Path):
    spec = dataclasses.replace(small.SPEC, videos_per_shard=50)
    create(tmp_path / "s", small.header(spec), names=small.names(50), labels=[-1] * 50)
    alive: list[int] = []

    def videos():
        import weakref

        seen: list[weakref.ref[VideoFrames]] = []
        for number in range(50):
            video = small.video(spec, number)
            seen.append(weakref.ref(video))
            yield video
            del video
            alive.append(sum(reference() is not None for reference in seen))

    write_shard(tmp_path / "s", 0, videos())
    assert max(alive) <= 1


def hold(path: Path, ready, leave) -> None:
    with lock(path):
        ready.set()
        leave.wait(240)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_two_runs_exclude_each_other_and_a_dead_one_blocks_nobody(tmp_path: Path):
    context = multiprocessing.get_context("fork")
    ready, leave = context.Event(), context.Event()
    holder = context.Process(target=hold, args=(tmp_path / "s", ready, leave))
    holder.start()
    assert ready.wait(240)
    with pytest.raises(StoreError, match="another run"), lock(tmp_path / "s"):
        pass
    with lock(tmp_path / "other"):
        pass
    holder.kill()
    holder.join()
    with lock(tmp_path / "s"):
        assert not (tmp_path / "s").exists()
    assert not list(tmp_path.iterdir())


def test_one_process_cannot_lock_twice(tmp_path: Path):
    with lock(tmp_path / "s"):
        with pytest.raises(StoreError, match="another run"), lock(tmp_path / "s"):
            pass
        with pytest.raises(StoreError, match="another run"), lock(tmp_path / "x" / ".." / "s"):
            pass


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_does_not_hold_the_lock(tmp_path: Path):
    context = multiprocessing.get_context("fork")
    leave = context.Event()
    with lock(tmp_path / "s"):
        child = context.Process(target=leave.wait, args=(30,))
        child.start()
    with lock(tmp_path / "s"):
        pass
    leave.set()
    child.join()


def test_a_file_system_without_locks_warns_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def unsupported(*_: object):
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with pytest.warns(UserWarning, match="has no locks"), lock(tmp_path / "s"):
        pass
