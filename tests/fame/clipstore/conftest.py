"""One finished store per codec for the whole folder; tests that damage one work on a copy."""

import dataclasses
from pathlib import Path

import pytest

from tests.fame.clipstore import small


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
