"""The time that a run waits for data: of the host on a CPU, of the device on a GPU.

The host only queues work for a GPU. It may wait for a batch while the device still computes the
step before, which costs nothing, and the device may wait for a copy that the host has queued. So
two events go into the device's queue, one after the step before and one where the batch is there;
the time between them is what the device had nothing to do.
"""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch


class Waits:
    """Spans of waiting for data, recorded without waiting for the device."""

    def __init__(self, device: torch.device) -> None:
        self._mark: Callable[[], Any] = _event if device.type == "cuda" else time.monotonic
        self._spans: list[tuple[Any, Any]] = []

    @contextmanager
    def span(self) -> Generator[None]:
        """Record what the body takes; nothing if it raises."""
        begin = self._mark()
        yield
        self._spans.append((begin, self._mark()))

    def take(self) -> list[float]:
        """Return the seconds of each span since the last call. The device must be done with them,
        as it is once a number of a later step was read.
        """
        spans, self._spans = self._spans, []
        return [_seconds(begin, end) for begin, end in spans]


def _event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _seconds(begin: Any, end: Any) -> float:
    return end - begin if isinstance(begin, float) else begin.elapsed_time(end) / 1e3
