"""Rules of the whole suite: executed shape annotations, untouched global random state, honest CUDA
skips.
"""

import importlib
import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rich.progress  # noqa: F401 (draws from the global generator when it is first imported)
import torch
from hypothesis import settings
from jaxtyping import install_import_hook


def _import_beartype_with_a_generator_of_its_own() -> None:
    """Beartype checks a random item of a container: let it not draw from the generator that the
    suite guards.
    """
    public = random.getrandbits
    random.getrandbits = random.Random(0).getrandbits
    importlib.import_module("beartype")
    random.getrandbits = public


_import_beartype_with_a_generator_of_its_own()
install_import_hook("fame", "beartype.beartype")

SHARED = Path(__file__).resolve().parents[2] / "shared"
torch.set_num_threads(
    1
)  # the suite runs in two processes on two cores: threads would wait for each other
# Hypothesis fails a slow example by default; nothing here may depend on how busy the machine is.
settings.register_profile("busy", deadline=None)
settings.load_profile("busy")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="rewrite golden files from this run"
    )
    parser.addoption(
        "--update-pages",
        metavar="FOLDER",
        help="write what the commands of the guides print into the pages, after a whole `fame demo` "
        "that is in FOLDER (demo/, and what it printed as demo.txt)",
    )


@pytest.fixture(autouse=True)
def global_random_state_is_left_alone() -> Iterator[None]:
    """Fail a test that draws from a global generator: randomness is addressed, never ambient."""
    before = (random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state())  # noqa: NPY002
    yield
    assert random.getstate() == before[0], "the test drew from Python's global random state"
    now = np.random.get_state()[1]  # noqa: NPY002
    assert np.array_equal(now, before[1]), "the test drew from NumPy's global state"
    assert torch.equal(torch.get_rng_state(), before[2]), (
        "the test drew from torch's global generator"
    )


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Run the test on the CPU and, where there is one, on CUDA."""
    return torch.device(request.param)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        if os.environ.get("FAME_REQUIRE_CUDA") == "1":
            pytest.fail("FAME_REQUIRE_CUDA=1 but torch sees no CUDA device")
        pytest.skip("no CUDA device")


def _shared(folder: str) -> Path:
    path = SHARED / folder
    if not path.is_dir():
        pytest.skip(
            f"{folder} not found beside the checkout: real footage is not shipped with the project"
        )
    return path


@pytest.fixture
def golden() -> Path:
    """Golden outputs of the reference implementation."""
    return _shared("golden")


@pytest.fixture
def footage() -> Path:
    """Real footage (tests that need it skip where it is absent)."""
    return _shared("data")
