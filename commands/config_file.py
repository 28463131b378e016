"""The fields that a person chose: those of a config file, of options and of ``--set``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from commands.options import Values, in_words
from commands.paths import existing
from fame.reading import read_json, read_text
from fame.settings import Settings
from fame.words import quoted


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
    existing(path, made_by="name a JSON or YAML file with --config")
    data = read_json(path) if path.suffix == ".json" else _read_yaml(path)
    if not isinstance(data, Mapping):
        raise ValueError(f"{path}: must hold fields and their values")
    try:
        return {str(name): _read_value(kind, name, value) for name, value in data.items()}
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _read_yaml(path: Path) -> Any:
    import yaml

    text = read_text(path)
    try:
        # A key that is there twice would lose one of its values in silence.
        if double := _doubled(yaml.compose(text, yaml.SafeLoader)):
            raise ValueError(f"{quoted(double)} is there twice")
        return yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from error
    except RecursionError:
        raise ValueError(f"{path}: nested too deeply") from None


def _doubled(top: Any) -> str | None:
    """Return a key that a mapping of a YAML document has twice, however deep it lies."""
    waiting, met = [top], set[int]()  # an alias leads to a node a second time, or for ever
    while waiting:
        node = waiting.pop()
        if id(node) in met or not isinstance(getattr(node, "value", None), list):
            continue
        met.add(id(node))
        if node.id == "mapping":
            names = [key.value for key, _ in node.value if isinstance(key.value, str)]
            if len(set(names)) < len(names):
                return next(name for name in names if names.count(name) > 1)
            waiting += [value for _, value in node.value]
        else:
            waiting += node.value
    return None


def _read_value(kind: type[Settings], name: object, value: Any) -> Any:
    field = kind.field(str(name))  # YAML reads `on` as true and 1e-3 as text
    read = field.parse(value) if isinstance(value, str) else field.read(value)
    field.check(read)
    return read
