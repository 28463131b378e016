"""JSON files of a run and of what was measured on it, read for pages and cards."""

from pathlib import Path
from typing import Any, TypeGuard

from fame.reading import read_json
from fame.settings import Settings
from train.config import FinetuneConfig, PretrainConfig

_MOST_FIGURES = 100_000


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object of bounded size. Raise ``ValueError`` naming the file."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds no JSON object")
    return content


def read_run(run: Path) -> dict[str, Any]:
    """Return the config of a run; a field that an older run lacks has its default. Raise
    ``ValueError`` for a folder that holds no run, and for a value that its field does not allow.
    """
    path = run / "config.json"
    if not path.is_file():
        raise ValueError(
            f"{run} is not the folder of a run: it holds no config.json; give the folder that "
            "--run-dir of `fame pretrain` or `fame finetune` named"
        )
    config = read_object(path)
    kind: type[Settings] = PretrainConfig if "queue" in config else FinetuneConfig
    try:
        kind.check(config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return kind().to_dict() | config


def read_results(path: Path) -> tuple[list[str], list[list[str]]]:
    """Return the names of the metrics of a file of `fame evaluate` or `fame bias`, and a row for
    each checkpoint: its name and its metrics.
    """
    rows = read_object(path).get("results")
    if not isinstance(rows, list):
        raise ValueError(f"{path}: no results; it must be written by fame evaluate or fame bias")
    shown = [row for row in rows if isinstance(row, dict) and isinstance(row.get("figures"), dict)]
    names = list(dict.fromkeys(name for row in shown for name in row["figures"]))
    if len(names) * len(shown) > _MOST_FIGURES:
        raise ValueError(f"{path}: holds more than {_MOST_FIGURES:,} figures, too many for a table")
    return names, [
        [str(row.get("checkpoint", "")), *(number(row["figures"].get(name)) for name in names)]
        for row in shown
    ]


def number(value: object) -> str:
    """Return a metric as it is shown; of one with an interval, its value."""
    if isinstance(value, dict):
        value = value.get("value")
    return f"{value:.4g}" if is_number(value) else "-"


def is_number(value: object) -> TypeGuard[float]:
    """Return whether a value of JSON is a number that a float can hold."""
    return isinstance(value, float) or (type(value) is int and abs(value) < 1 << 63)
