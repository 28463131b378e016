"""Loader workers that die, cannot hand their batches over or cannot be started: one line, no hang."""

import os
import resource
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from fame.clipstore import ClipStore
from tests.stores import WINDOW
from tests.train.tiny import TINY, figures
from train.data import PairDataset, Pairs, stream
from train.pretrain import PretrainTask, pretrain
from train.run.loading import LoaderError
from train.run.loop import train
from train.run.peers import Alone

CPU = torch.device("cpu")


def workers_of_this_process() -> list[psutil.Process]:
    """Processes that were forked from the server of this one."""
    return [
        worker
        for server in psutil.Process().children()
        for worker in server.children()
        if "forkserver" in " ".join(server.cmdline())
    ]


class Killed(PretrainTask):
    """A run whose loader worker is killed after three steps."""

    def step(self, step: int, batch: Pairs) -> Any:
        if step == 2:
            for worker in workers_of_this_process():
                os.kill(worker.pid, signal.SIGKILL)
        return super().step(step, batch)


def test_a_killed_worker_ends_the_run_in_one_line_after_saving(store: Path, tmp_path: Path):
    config = TINY.override(["workers=1", "epochs=40", "prefetch=1"])
    task = Killed(config, stores=[ClipStore.open(store)], device=CPU)
    with pytest.raises(LoaderError, match=r"SIGKILL.*--workers.*stands at step \d+ of") as raised:
        train(task, tmp_path / "run", peers=Alone())
    assert "\n" not in str(raised.value)
    done = len(figures(tmp_path / "run"))
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)
    assert saved["progress"]["step"] == done >= 3


class Unshared(PairDataset):
    """Parts that do not fit into shared memory."""

    def __getitems__(self, addresses: Any) -> Pairs:
        raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")


def test_a_batch_that_cannot_be_handed_over_is_told(store: Path):
    data = Unshared([ClipStore.open(store)], seed=0, window=WINDOW, maps=True)
    config = TINY.override(["workers=1"])
    with pytest.raises(LoaderError, match=r"/dev/shm .* is full; make it larger"):
        next(stream(data, config, start=0, stop=2, device=CPU))


def test_an_error_of_another_kind_stays_what_it_is(store: Path):
    class Wrong(PairDataset):
        def __getitems__(self, addresses: Any) -> Pairs:
            raise RuntimeError("a shape")

    data = Wrong([ClipStore.open(store)], seed=0, window=WINDOW, maps=True)
    with pytest.raises(RuntimeError, match="a shape"):
        next(stream(data, TINY, start=0, stop=2, device=CPU))


def test_few_files_are_told_before_anything_starts(store: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (64, 64))
    data = PairDataset([ClipStore.open(store)], seed=0, window=WINDOW, maps=True)
    config = TINY.override(["workers=2"])
    with pytest.raises(LoaderError, match=r"only 64 files .*ulimit -n"):
        next(stream(data, config, start=0, stop=2, device=CPU))


def test_a_second_run_in_one_folder_is_refused(store: Path, tmp_path: Path):
    class Meanwhile(PretrainTask):
        def step(self, step: int, batch: Pairs) -> Any:
            with pytest.raises(ValueError, match="another run is writing this run folder"):
                pretrain(TINY, stores=[store], run_dir=tmp_path / "run")
            return super().step(step, batch)

    from train.run.log import one_writer

    config = TINY.override(["epochs=1"])
    task = Meanwhile(config, stores=[ClipStore.open(store)], device=CPU)
    with one_writer(tmp_path / "run", Alone()):
        assert train(task, tmp_path / "run", peers=Alone()).status == "finished"
