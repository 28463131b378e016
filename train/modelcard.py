"""The model card of a run: the first page of its encoder's repository, in Markdown.

Everything in it comes from the run folder and from files of results; nothing is claimed that was
not measured.
"""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from fame.archive import RUN_CHECKPOINT
from fame.checkpoint import open_checkpoint
from fame.files import whole
from fame.hub import without_folders
from fame.settings import Settings
from fame.words import plain
from train.config import FinetuneConfig, PretrainConfig
from train.evaluate.plots import read_metrics
from train.evaluate.results import number, read_object, read_results, read_run
from train.opening import nearest_recipe

CARD = "README.md"
_HIDDEN = {"lr", "momentum", "queue_norm", "skipped", "clips_per_second", "data_wait"}
# Settings that change no result; the folder of the cache would also name a person's machine.
_LOCAL = {
    *("cache", "cache_gb", "device", "workers", "prefetch", "logger", "log_every"),
    *("checkpoint_every", "keep", "save_seconds"),
}
_SPECIAL = str.maketrans({letter: f"\\{letter}" for letter in r"\`*_[]<>|#"})


def write_card(
    run: Path,
    folder: Path,
    *,
    name: str,
    results: Sequence[Path] = (),
    licence: str | None = None,
) -> Path:
    """Write the card of a run folder into ``folder`` and return its path. ``results`` are JSON
    files of `fame evaluate` and `fame bias`.
    """
    path = folder / CARD
    text = model_card(run, name=name, results=results, licence=licence)
    with whole(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return path


def model_card(
    run: Path, *, name: str, results: Sequence[Path] = (), licence: str | None = None
) -> str:
    """Return the card as Markdown. Raise ``ValueError`` for a folder that holds no run."""
    config = read_run(run)
    config["encoder"] = without_folders(str(config.get("encoder")))
    with open_checkpoint(run / RUN_CHECKPOINT) as saved:
        data = saved.progress.get("data", [])
    head: dict[str, Any] = {"library_name": "fame", "tags": ["video", "self-supervised", "fame"]}
    if licence:
        head["license"] = plain(licence)
    biased = [path for path in results if "bias" in path.stem]
    measured = [path for path in results if path not in biased]
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=True)}---",
        f"# {_text(name)}",
        _purpose(config),
        "## Use",
        _USE.format(name=name),
        _clips(config),
        "## Data",
        _data(config, data),
        "## Recipe",
        _recipe(config),
        "## Metrics",
        _table(("metric", "at the end of the run"), _metrics(run)),
        *(_results(path) for path in measured),
        "## Bias",
        _BIAS if biased else f"Not measured. {_BIAS}",
        *(_results(path) for path in biased),
        "## Environment",
        _table(("", ""), _rows(read_object(run / "environment.json"), without={"data"})),
    ]
    return "\n\n".join(parts) + "\n"


_USE = """```python
import fame

encoder = fame.load("hf://{name}")
features = encoder.features(clips)  # uint8 [batch, frames, height, width, 3]
```"""
_BIAS = "`fame bias` measures how much an encoder leans on the background of a video."


def _purpose(config: dict[str, Any]) -> str:
    """Return two sentences: what the network is, and what it was trained on."""
    network = f"This is a video encoder ({_text(config.get('encoder'))})"
    chosen = f"(mask {_text(config.get('mask'))}, beta {_text(config.get('beta'))})"
    pasted = f"foreground was pasted on the background of another clip {chosen}"
    if "queue" not in config:
        share = config.get("merge")
        merged = f"; a clip's {pasted} with probability {_text(share)}" if share else ""
        return f"{network} with a classifier. FAME fine-tuned it on labelled videos{merged}."
    merged = f"whose {pasted}" if config.get("background") != "none" else "that were not merged"
    return f"{network}. FAME pretrained it by momentum contrast on clips {merged}."


def _clips(config: dict[str, Any]) -> str:
    """Return a sentence about the clips that the encoder was trained on."""
    frames, step, span, crop = (
        _text(config.get(key)) for key in ("frames", "step", "span", "crop")
    )
    apart = f"spread over {span} of the video" if config.get("span") else f"with a step of {step}"
    return f"It was trained on clips of {frames} frames {apart}, cropped to {crop} x {crop} pixels."


def _data(config: dict[str, Any], data: Sequence[object]) -> str:
    """Return a list of the stores and the first weights; fine-tuning has exactly three entries."""
    roles = ("trained on", "tested on", "started from")
    named = "queue" not in config and len(data) == len(roles)
    words = [f"{role}: {line}" for role, line in zip(roles, data, strict=True)] if named else data
    return "\n".join(f"- {_text(line)}" for line in words)


def _recipe(config: dict[str, Any]) -> str:
    kind: type[Settings] = PretrainConfig if "queue" in config else FinetuneConfig
    settings = kind.from_dict({key: config[key] for key in config if key in kind.fields()})
    nearest = ""
    if isinstance(settings, PretrainConfig):
        recipe, changed = nearest_recipe(settings)
        nearest = f"The run used the recipe `{recipe}`{_text(changed)}.\n\n"
    return f"{nearest}{_table(('setting', 'value'), _rows(config, without=_LOCAL))}"


def _metrics(run: Path) -> Iterable[tuple[str, str]]:
    """Yield the last line of the run, the last of its epochs, and its test if it has one."""
    last = read_metrics(run / "metrics.jsonl")[-1]
    yield "steps", str(int(last["step"]) + 1)
    yield from ((key, number(last[key])) for key in sorted(last.keys() - _HIDDEN - {"step"}))
    if (run / "epochs.jsonl").is_file():
        epoch = read_metrics(run / "epochs.jsonl")[-1]
        yield from ((key, number(epoch[key])) for key in sorted(epoch.keys() - {"step"}))
    if (run / "report.json").is_file():
        report = read_object(run / "report.json")
        figures = report.get("figures")
        if isinstance(figures, dict):
            yield from ((f"test {key}, %", number(value)) for key, value in figures.items())
        yield "weights tested", str(report.get("selection", ""))


def _results(path: Path) -> str:
    """Return a table of a file of results: checkpoints beside each other, a row for each metric.

    Checkpoints are named without their folders, and numbered where that makes names equal.
    """
    names, rows = read_results(path)
    short = [without_folders(row[0]) for row in rows]
    head = [
        name if short.count(name) == 1 else f"{number}: {name}"
        for number, name in enumerate(short, 1)
    ]
    turned = list(zip(names, *(row[1:] for row in rows), strict=True))
    return f"### {_text(path.stem)}\n\n" + _table(("", *head), turned)


def _rows(values: dict[str, Any], *, without: Collection[str]) -> Iterable[tuple[str, str]]:
    return ((key, _value(values[key])) for key in sorted(values.keys() - set(without)))


def _value(value: object) -> str:
    """Return a setting in words: ``none`` for what is not set, a list by its items."""
    if value is None or value == []:
        return "none"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    cells = [[cell if cell == "---" else _text(cell) for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def _text(words: object) -> str:
    """Return words of others as text that Markdown does not read."""
    return plain(words).translate(_SPECIAL)
