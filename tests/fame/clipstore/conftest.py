"""One finished store per codec for the whole folder; tests that damage one work on a copy."""

import dataclasses
import os
from pathlib import Path

import pytest

from tests.fame.clipstore import small


@pytest.fixture(autouse=True)
def syncing_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small stores are written thousands of times here; that syncs come in the right order has a
    test of its own.
    """
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished store per codec: five videos in three shards, the third video failed."""
    folder = tmp_path_factory.mktemp("stores")
    return {
        codec: small.make(folder / f"{codec}.zarr", dataclasses.replace(small.SPEC, codec=codec))
        for codec in ("jpeg", "lz4", "zstd")
    }


@pytest.fixture(params=["jpeg", "lz4", "zstd"])
def store(request: pytest.FixtureRequest, finished: dict[str, Path]) -> Path:
    """One finished store, each codec in turn; read only."""
    return finished[request.param]
