"""Files that are whole or not there, and folders with one writer."""

import errno
import os
import threading
from pathlib import Path

import pytest
import torch

from fame.files import WriteError, sweep, try_write, whole
from fame.lock import hold


def test_a_file_is_the_old_one_or_the_new_one(tmp_path: Path):
    path = tmp_path / "new" / "a.json"
    with whole(path) as partial:
        partial.write_text("one")
        assert partial.suffix == ".json"
        assert not path.exists()
    with pytest.raises(KeyError), whole(path) as partial:
        partial.write_text("two")
        raise KeyError
    assert path.read_text() == "one"
    assert list(path.parent.iterdir()) == [path]


def test_two_writers_of_one_file_do_not_mix(tmp_path: Path):
    path = tmp_path / "a"
    with whole(path) as first:
        first.write_text("first")
        with whole(path) as second:
            second.write_text("second")
        assert path.read_text() == "second"
    assert path.read_text() == "first"


def test_what_killed_writers_left_is_swept(tmp_path: Path):
    kept = tmp_path / "last.pt"
    kept.write_text("whole")
    with whole(kept) as partial:
        left = partial.with_name(partial.name.replace(".last", ".next"))
        left.write_text("half")
        partial.write_text("again")
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == [kept]


@pytest.mark.parametrize(("code", "told"), [(errno.ENOSPC, "disk full"), (errno.EIO, "output")])
@pytest.mark.parametrize("call", ["fsync", "write"])
def test_a_disk_that_refuses_is_told_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, told: str, call: str
):
    class Full:
        def write(self, data: bytes) -> int:
            raise OSError(code, os.strerror(code))

        def flush(self) -> None: ...

    def refuse(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    path = tmp_path / "last.pt"
    path.write_text("old")
    if call == "fsync":
        monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(WriteError, match=told), whole(path) as partial:
        partial.touch()
        if call == "write":  # torch hides the reason in an error of its own
            torch.save({"a": torch.zeros(1000)}, Full())  # pyright: ignore[reportArgumentType]
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_where_no_file_can_be_written_is_found_before_the_work(tmp_path: Path):
    old, new = tmp_path / "old.csv", tmp_path / "new" / "a.csv"
    old.write_text("old")
    for path in (old, new):
        try_write(path)
    assert old.read_text() == "old"
    assert list(new.parent.iterdir()) == []
    os.mkfifo(tmp_path / "pipe")
    for path, says in (
        (tmp_path, "is a folder or a device; name a file"),
        (tmp_path / "pipe", "is a folder or a device; name a file"),
        (Path("/dev/null"), "is a folder or a device; name a file"),
        (old / "a.csv", "cannot write: (Not a directory|File exists)"),
        (tmp_path / ("n" * 300), "cannot write: File name too long"),
    ):
        with pytest.raises(WriteError, match=says) as caught:
            try_write(path)
        assert "\n" not in str(caught.value)
        with pytest.raises(WriteError, match=says), whole(path):
            pytest.fail("there is nothing to write to")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old.csv", "pipe"]


def test_another_error_of_torch_is_not_taken_for_a_full_disk(tmp_path: Path):
    with pytest.raises(RuntimeError, match="shape"), whole(tmp_path / "a"):
        raise RuntimeError("shape")


def test_a_folder_has_one_writer(tmp_path: Path):
    run = tmp_path / "run"
    with hold(run, what="run folder"):
        with pytest.raises(ValueError, match=r"run: another run is writing this run folder"):
            hold(run, what="run folder").__enter__()
        with hold(tmp_path / "other"):
            pass
    assert not run.exists()  # nothing was written to it
    with hold(run):
        pass


def test_a_job_that_begins_again_may_wait_for_its_last_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("FAME_LOCK_SECONDS", "60")
    held = hold(tmp_path)
    held.__enter__()
    ending = threading.Timer(0.05, held.__exit__, (None, None, None))
    ending.start()
    with hold(tmp_path):
        assert not ending.is_alive()
    monkeypatch.setenv("FAME_LOCK_SECONDS", "soon")
    with pytest.raises(ValueError, match="FAME_LOCK_SECONDS"):
        hold(tmp_path).__enter__()


def test_where_no_folder_can_be_made_it_is_said(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot make the folder"):
        hold(tmp_path / "file" / "run").__enter__()
