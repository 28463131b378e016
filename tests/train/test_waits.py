"""Waiting for data: the host's clock on a CPU, the device's on a GPU, whose queue is acted here."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from train.run.log import DATA_WAIT, RunLog
from train.run.peers import Alone
from train.run.waiting import Waits

CPU = torch.device("cpu")


class Gpu:
    """A device with one queue: what is queued at a time of the host runs when all before it has."""

    def __init__(self) -> None:
        self.host = self.free = 0.0  # seconds

    def queue(self, seconds: float) -> None:
        self.free = max(self.host, self.free) + seconds

    def event(self, enable_timing: bool) -> "Event":
        assert enable_timing
        return Event(self)


class Event:
    def __init__(self, gpu: Gpu) -> None:
        self.gpu, self.at = gpu, -1.0

    def record(self) -> None:
        self.gpu.queue(0.0)
        self.at = self.gpu.free

    def elapsed_time(self, end: "Event") -> float:
        assert self.gpu.host >= end.at, "the device has not come so far"
        return (end.at - self.at) * 1e3


def test_the_host_counts_on_a_cpu(monkeypatch: pytest.MonkeyPatch):
    clock = iter([10.0, 12.5, 20.0, 21.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    waits = Waits(CPU)
    for _ in range(2):
        with waits.span():
            pass
    assert waits.take() == [2.5, 1.0]
    assert waits.take() == []


def test_a_wait_that_fails_is_none():
    waits = Waits(CPU)
    with pytest.raises(LookupError), waits.span():
        raise LookupError
    assert waits.take() == []


@pytest.mark.parametrize(
    ("compute", "host", "copy", "waited"),
    [
        (5.0, 3.0, 0.0, 0.0),  # the host waits while the device still computes
        (5.0, 7.0, 0.0, 2.0),  # the device is done earlier than the host has a batch
        (5.0, 0.0, 1.5, 1.5),  # the host goes on at once, and the device waits for a copy
        (0.0, 3.0, 1.0, 4.0),
    ],
)
def test_the_device_counts_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch, compute: float, host: float, copy: float, waited: float
):
    gpu = Gpu()
    monkeypatch.setattr(torch.cuda, "Event", gpu.event)
    waits = Waits(torch.device("cuda", 0))
    for _ in range(3):
        gpu.queue(compute)
        with waits.span():
            gpu.host += host
            gpu.queue(copy)
        gpu.host = max(gpu.host, gpu.free)  # a number of the step is read
    assert waits.take() == pytest.approx([waited] * 3)


def test_a_log_has_the_waits_of_its_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The first wait is for workers that start: it is in the metric and no part of training."""

    class Read:
        def take(self) -> list[float]:
            return [2.0, 3.0]

    named: list[Any] = []
    with RunLog(tmp_path, first=5, total=9, per_epoch=2, clips=2, peers=Alone(), device=CPU) as log:
        monkeypatch.setattr(log, "waits", Read())
        monkeypatch.setattr(log.progress, "waited", lambda *about: named.append(about))
        for steps in ((5, 6), (7, 8)):
            monkeypatch.setattr(log, "_since", time.monotonic() - 50.0)
            for step in steps:
                log.record(step, {"loss": 1.0})
            log.flush()
    assert named == [(3.0, DATA_WAIT), (5.0, DATA_WAIT)]
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        assert 0 < json.loads(line)["data_wait"] <= 0.1
