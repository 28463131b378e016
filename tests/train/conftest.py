"""One tiny store for the whole folder; tests that damage it work on a copy."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.stores import make_store


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 videos of two classes, 3 clips each, two of them failed."""
    return make_store(tmp_path_factory.mktemp("stores") / "tiny", videos=20, failed=(3, 11))


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """Tiny networks gain nothing from threads, and bitwise comparisons with other processes need
    their number fixed.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def no_flushing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed process loses nothing that the system holds; waiting for a busy disk would only cost
    time.
    """
    monkeypatch.setattr(os, "fsync", lambda _: None)
