"""The lock of a folder: one holder at a time, none left behind, one line where there can be none."""

import errno
import fcntl
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from fame.clipstore import StoreError
from fame.lock import hold


def fail_with(code: int) -> Any:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    return flock


def test_a_second_holder_is_refused_and_a_later_one_is_not(tmp_path: Path) -> None:
    with (
        hold(tmp_path, what="report"),
        pytest.raises(StoreError, match=f"^{tmp_path}: another run is writing this report; wait"),
        hold(tmp_path, what="report", error=StoreError),
    ):
        pass
    with hold(tmp_path, what="report"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("beside", [False, True])
def test_the_lock_file_lies_in_the_folder_or_beside_it(tmp_path: Path, beside: bool) -> None:
    folder = tmp_path / "run"
    with hold(folder, what="run folder", beside=beside):
        held = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")]
        assert held == ([".run.lock"] if beside else ["run", "run/.lock"])
    assert list(tmp_path.iterdir()) == []  # a folder that was made for nothing is gone too


def test_a_folder_with_results_stays(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with hold(folder, what="run folder"):
        (folder / "result").touch()
    assert [path.name for path in folder.iterdir()] == ["result"]


def test_who_has_patience_gets_the_lock_when_it_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAME_LOCK_SECONDS", "600")
    held, ended = threading.Event(), threading.Event()

    def holder() -> None:
        with hold(tmp_path, what="report"):
            held.set()
            ended.wait()

    other = threading.Thread(target=holder)
    other.start()
    held.wait()
    threading.Timer(0.1, ended.set).start()
    with hold(tmp_path, what="report"):
        assert ended.is_set()
    other.join()


def test_patience_is_a_number_of_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAME_LOCK_SECONDS", "soon")
    with (
        pytest.raises(
            ValueError, match="FAME_LOCK_SECONDS must be a number of seconds, got 'soon'"
        ),
        hold(tmp_path, what="report"),
    ):
        pass


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_file_system_without_locks_warns(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", fail_with(code))
    with (
        pytest.warns(UserWarning, match="its file system has no locks; run one command at a time"),
        hold(tmp_path, what="report"),
    ):
        assert (tmp_path / ".lock").exists()


def test_a_lock_that_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", fail_with(errno.EIO))
    with (
        pytest.raises(ValueError, match=rf"^{tmp_path}: cannot lock \(Input/output error\)$"),
        hold(tmp_path, what="report"),
    ):
        pass


def test_a_link_to_itself_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ValueError, match="loop: cannot make the folder"), hold(tmp_path / "loop"):
        pass


def test_a_link_in_place_of_the_lock_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("untouched")
    (tmp_path / ".lock").symlink_to(tmp_path / "victim")
    with (
        pytest.raises(ValueError, match=r"cannot make its lock file \.lock"),
        hold(tmp_path, what="report"),
    ):
        pass
    assert (tmp_path / "victim").read_text() == "untouched"


def test_a_forked_child_does_not_hold_the_lock(tmp_path: Path) -> None:
    ends, go = os.pipe()
    with hold(tmp_path, what="report"):
        child = os.fork()
        if child == 0:  # it lives on until the parent has taken the lock again
            os.close(go)
            os.read(ends, 1)
            os._exit(0)
    with hold(tmp_path, what="report"):
        os.close(go)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    os.close(ends)
