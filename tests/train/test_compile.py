"""A run compiled by the real compiler, in a process of its own: the type-checking hook cannot be
traced.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.train.tiny import TINY, figures
from train.pretrain import pretrain

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = ["encoder=c3d_small", "epochs=1", "batch=8"]


VIEWS = """
import functools, torch, train.views as views
from benchmarks.plain_step import synthetic_pairs
from fame.clipstore import StoreSpec
from tests.train.tiny import TINY

views._compiled = functools.cache(
    lambda function: torch.compile(function, dynamic=False, fullgraph=True, backend="aot_eager")
)
spec = StoreSpec(height=36, width=48, foreground_height=9, foreground_width=12)
for settings in (["views=both", "mask=frames"], ["jitter_kind=paper", "views=single"]):
    config = TINY.override([*settings, "gray=0.5", "crop=32"])
    pairs = synthetic_pairs(config, spec, torch.device("cpu"))
    for step in range(3):  # with another order of the jitter each
        plain, compiled = (
            views.make_views(pairs, one, epoch=0, step=step)
            for one in (config, config.override(["compile=true"]))
        )
        torch.testing.assert_close(compiled, plain, atol=2e-5, rtol=1e-4)
print("same")
"""


@pytest.mark.slow
def test_compiled_views_are_the_eager_ones():
    """Traced whole, with the order of the jitter as data; by which code is the other test's."""
    command = [sys.executable, "-W", "error::UserWarning", "-c", VIEWS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.stdout == "same\n", done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.skipif(
    "FAME_TEST_COMPILER" not in os.environ, reason="a minute of compiling: set FAME_TEST_COMPILER=1"
)
@pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++"))), reason="no C++ compiler is there"
)
def test_a_compiled_run_is_the_eager_one(store: Path, tmp_path: Path):
    command = [
        sys.executable,
        "-m",
        "tests.train.tiny",
        str(store),
        str(tmp_path / "compiled"),
        *SETTINGS,
    ]
    caches = {
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
    }
    done = subprocess.run(
        [*command, "compile=true"],
        cwd=ROOT,
        env=os.environ | caches,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert list((tmp_path / "cache").rglob("*.cpp")), "nothing was compiled"
    pretrain(TINY.override(SETTINGS), stores=[store], run_dir=tmp_path / "eager")
    assert figures(tmp_path / "compiled") == pytest.approx(figures(tmp_path / "eager"), abs=1e-3)
