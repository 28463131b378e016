"""The fields that a person chose: those of a config file, of options and of ``--set``."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from commands.options import Values, in_words
from commands.paths import existing
from fame.settings import Settings


def chosen(
    kind: type[Settings], given: Values, *, settings: list[str], file: Path | None
) -> Values:
    """Return the fields that a person chose: those of the file, then the options and ``--set``.

    Raise ``ValueError`` for a field to which options and ``--set`` give different values.
    """
    values = dict(given)
    for setting in settings:
        for name, value in kind.parse([setting]).items():
            if values.setdefault(name, value) != value:
                raise ValueError(
                    f"{name} is given twice, as {in_words(values[name])} and as {in_words(value)}"
                )
    return {**(_read_config(kind, file) if file else {}), **values}


def _read_config(kind: type[Settings], path: Path) -> Values:
    """Read the fields in a JSON or YAML file. Raise ``ValueError`` naming the file otherwise."""
    import yaml

    existing(path, made_by="name a JSON or YAML file with --config")
    text = path.read_text()
    try:
        data = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from error
    if not isinstance(data, Mapping):
        raise ValueError(f"{path}: must hold fields and their values")
    try:
        return {name: _read_value(kind, name, value) for name, value in data.items()}
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _read_value(kind: type[Settings], name: str, value: Any) -> Any:
    field = kind.field(name)  # YAML reads 1e-3 as text
    read = field.parse(value) if isinstance(value, str) else field.read(value)
    field.check(read)
    return read
