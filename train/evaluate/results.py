"""JSON files of a run and of what was measured on it, read for pages and cards."""

import json
from pathlib import Path
from typing import Any

_LARGEST = 2**24  # bytes


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of bounded size. Raise ``ValueError`` naming the file."""
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"larger than {_LARGEST >> 20} MiB")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        why = (isinstance(error, OSError) and error.strerror) or error
        raise ValueError(f"{path}: cannot be read ({why})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds no JSON object")
    return content


def read_run(run: Path) -> dict[str, Any]:
    """Return the config of a run. Raise ``ValueError`` for a folder that holds no run."""
    if not (run / "config.json").is_file():
        raise ValueError(
            f"{run} is not the folder of a run: it holds no config.json; give the folder that "
            "--run-dir of `fame pretrain` or `fame finetune` named"
        )
    return read_json(run / "config.json")


def read_results(path: Path) -> tuple[list[str], list[list[str]]]:
    """Return the names of the metrics of a file of `fame evaluate` or `fame bias`, and a row for
    each checkpoint: its name and its metrics.
    """
    rows = read_json(path).get("results")
    if not isinstance(rows, list):
        raise ValueError(f"{path}: no results; it must be written by fame evaluate or fame bias")
    shown = [row for row in rows if isinstance(row, dict) and isinstance(row.get("figures"), dict)]
    names = list(dict.fromkeys(name for row in shown for name in row["figures"]))
    return names, [
        [str(row.get("checkpoint", "")), *(number(row["figures"].get(name)) for name in names)]
        for row in shown
    ]


def number(value: object) -> str:
    """Return a metric as it is shown; of one with an interval, its value."""
    if isinstance(value, dict):
        value = value.get("value")
    return f"{value:.4g}" if isinstance(value, int | float) else "-"
