"""The notebook runs from its first cell to its last, with less training, and is committed as it was
run.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.markdown import ROOT

NOTEBOOK = ROOT / "docs" / "notebooks" / "fame_in_ten_minutes.ipynb"
# A process of its own: the libraries of notebooks warn of things that are not this suite's
# business.
EXECUTE = """
import sys, nbclient, nbformat
notebook = nbformat.read(sys.argv[1], as_version=4)
nbclient.NotebookClient(notebook, timeout=240, kernel_name="python3").execute()
nbformat.write(notebook, sys.argv[1])
"""


def code_cells(path: Path) -> list[dict]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_runs(tmp_path: Path) -> None:
    text = NOTEBOOK.read_text()
    assert text.count("epochs=60") == 1
    copy = tmp_path / "copy.ipynb"
    copy.write_text(text.replace("epochs=60", "epochs=2").replace("videos=192", "videos=24"))
    settings = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", EXECUTE, copy],
        cwd=tmp_path,
        env=os.environ | settings,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert all(cell["execution_count"] for cell in code_cells(copy))


def test_it_is_committed_as_it_was_run_and_small() -> None:
    assert [cell["execution_count"] for cell in code_cells(NOTEBOOK)] == list(
        range(1, len(code_cells(NOTEBOOK)) + 1)
    )
    assert NOTEBOOK.stat().st_size < 500_000
    for cell in code_cells(NOTEBOOK):
        assert all(output["output_type"] != "error" for output in cell["outputs"])
