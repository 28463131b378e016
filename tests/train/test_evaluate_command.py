"""``fame evaluate`` from the command line: what cannot be compared is one clear line and exit code
2.
"""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli import app
from tests.train.labelled import classifier, labelled_store

PAIR, SWAPPED = ("sit", "walk"), ("walk", "sit")


def stores(
    folder: Path, test_classes: tuple[str, ...], train: list[int], test: list[int]
) -> list[str]:
    """Options that name a training store of ``PAIR`` and a test store."""
    paths = [
        labelled_store(folder / "train.zarr", PAIR, train),
        labelled_store(folder / "test.zarr", test_classes, test),
    ]
    return ["--train-store", str(paths[0]), "--test-store", str(paths[1])]


@pytest.mark.parametrize(
    ("measure", "test_classes", "train", "test", "says"),
    [
        ("knn", SWAPPED, [0, 0, 1, 1], [0, 1], "class 0 is 'sit' in"),
        ("retrieval", ("sit", "walk", "lie"), [0, 0, 1, 1], [0, 2], "has 2 classes but"),
        ("linear", PAIR, [0, 0, 0, 1], [0, 1], "class walk has one training video"),
        ("knn", PAIR, [0, -1, 1, 1], [0, 1], "1 of its videos have no label"),
    ],
)
def test_stores_that_do_not_fit_are_one_line(
    tmp_path: Path,
    measure: str,
    test_classes: tuple[str, ...],
    train: list[int],
    test: list[int],
    says: str,
) -> None:
    where = [
        *stores(tmp_path, test_classes, train, test),
        "--root",
        str(tmp_path),
        "--device",
        "cpu",
    ]
    result = CliRunner().invoke(
        app, ["evaluate", measure, str(classifier(tmp_path / "encoder.pt", PAIR)), *where]
    )
    assert result.exit_code == 2, result.output
    *_, line = result.output.strip().splitlines()
    assert says in line
    assert "Traceback" not in result.output


def test_a_file_without_an_encoder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "notes.pt").write_text("not a checkpoint")
    where = [
        *stores(tmp_path, PAIR, [0, 0, 1, 1], [0, 1]),
        "--root",
        str(tmp_path),
        "--device",
        "cpu",
    ]
    result = CliRunner().invoke(app, ["evaluate", "knn", str(tmp_path / "notes.pt"), *where])
    assert result.exit_code == 2, result.output
    assert "notes.pt" in result.output.strip().splitlines()[-1]
