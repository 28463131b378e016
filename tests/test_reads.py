"""A command reads each checkpoint from disk once, whatever it does with it."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import fame.archive
from cli import app
from fame.archive import RUN_CHECKPOINT
from tests.stores import CLASSES, make_store
from tests.train.labelled import checkpoint, classifier

HEAD = {"kind": "projection", "dim": 8}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reads")
    make_store(folder / "train.zarr", videos=8)
    make_store(folder / "test.zarr", videos=6, seed=1)
    checkpoint(folder / "encoder.pt", head=HEAD, part="encoder_q")
    checkpoint(folder / "other.pt", head=HEAD, part="encoder_q", seed=1)
    classifier(folder / "classifier.pt", CLASSES)
    run = folder / "run"
    (run / "checkpoints").mkdir(parents=True)
    checkpoint(run / RUN_CHECKPOINT, head=HEAD, part="encoder_q")
    for name in ("config", "environment"):
        (run / f"{name}.json").write_text("{}")
    (run / "metrics.jsonl").write_text('{"step": 0, "loss": 1.0}\n')
    return folder


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each checkpoint was opened, by its name."""
    counted: Counter[str] = Counter()
    opened = fame.archive._open

    def count(path: Path, *rest: Any) -> Any:
        counted[Path(path).name] += 1
        return opened(path, *rest)

    monkeypatch.setattr(fame.archive, "_open", count)
    return counted


STORES = "--train-store train.zarr --test-store test.zarr"
SMALL = "--clips 1 --frames 8 --crop 32 --device cpu"
COMMANDS = {
    f"bias encoder.pt other.pt classifier.pt --store test.zarr {SMALL} --out b": (
        "encoder.pt",
        "other.pt",
        "classifier.pt",
    ),
    f"evaluate knn encoder.pt other.pt {STORES} {SMALL}": ("encoder.pt", "other.pt"),
    f"evaluate test classifier.pt --store test.zarr {SMALL} --out t": ("classifier.pt",),
    "activate encoder.pt other.pt --store test.zarr --clips 2 --rows 1 --crop 32 --device cpu --out a": (
        "encoder.pt",
        "other.pt",
    ),
    "export encoder.pt --frames 8 --crop 32 --out e": ("encoder.pt",),
    f"finetune folder --pretrained encoder.pt {STORES} --set epochs=1 --set batch=4 --set workers=0 "
    "--set device=cpu --set clips=1 --run-dir f": ("encoder.pt",),
    "report run --store test.zarr --device cpu --out page.html": ("last.pt",),
}


@pytest.mark.filterwarnings("ignore")  # of torch.export and of plots; their own tests mind them
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command.split()[:2]))
def test_a_checkpoint_is_read_once(
    command: str, place: Path, reads: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    done = CliRunner().invoke(app, command.split())
    assert done.exit_code == 0, done.output
    assert dict(reads) == dict.fromkeys(COMMANDS[command], 1)
