"""Settings: a field is declared once, and everything else is derived from the declaration.

A settings class is a frozen dataclass of annotated fields:

    @dataclass(frozen=True, kw_only=True)
    class BlurConfig(Settings):
        size: Annotated[int, DATA("Side of the kernel, pixels.", low=1)] = 23
        kind: Annotated[Literal["box", "gauss"], Setting("Shape of the kernel.")] = "gauss"
        sigma: Annotated[float | None, Setting("Width (default: from size).", above=0)] = None

From it come the check on construction, ``--set`` and JSON (here), the options and their help
(``commands/options.py``) and the tables of ``docs/settings.md``:

    BlurConfig(size=0)                # ValueError: size must be a whole number of at least 1, got 0
    BlurConfig().override(["size=5"])      # values are read by the type of the field
    BlurConfig.from_dict({"size": 5})      # what to_dict gave, or a JSON file

A check of several fields together belongs in ``__post_init__``, after ``super().__post_init__()``.
A subclass that only changes a default repeats the annotation, which therefore gets a name:
``Epochs = Annotated[int, Setting("Passes over the videos.", low=1)]``.

Types: ``int``, ``float`` (finite), ``bool``, ``str``, ``Path``, ``Path | str``, ``Literal`` of
strings, ``tuple[int, ...]``, ``tuple[Path, ...]``, another settings class, and each of them
``| None``.
This module imports nothing heavy, and a module of settings should import nothing heavy either.
"""

import dataclasses
import difflib
import math
import os
import types
from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass
from functools import cache, partial
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Literal,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from fame.words import quoted, shown

# The tests check annotations at run time, which take neither ``Self`` here nor an int for a float.
S = TypeVar("S", bound="Settings")
SEED = {"seed": "difference"}  # what the frame difference was called, after the paper's figure
Number = int | float
# The largest clips: for settings, and for checkpoints that say which clips they take.
MOST_FRAMES = MOST_APART = 1 << 16
LARGEST_CROP = 8192
MOST_CLIPS = 10_000  # of a video, in a test
MOST_WORKERS = 1024  # processes that a loader starts


@dataclass(frozen=True)
class Setting:
    """What a field means and which values it takes.

    Args:
        help: one sentence for a person.
        low: the smallest value.
        high: the largest value.
        above: the value must be larger than this.
        below: the value must be smaller than this.
        panel: heading of the help under which the option is listed.
        option: name of the option, where it is not that of the field; "" for no option.
        metavar: placeholder of the value in the help, where it is not the type.
        formerly: names that a value had in earlier versions, with the name that it has now.
    """

    help: str
    _: KW_ONLY
    low: Number | None = None
    high: Number | None = None
    above: Number | None = None
    below: Number | None = None
    panel: str = "Options"
    option: str | None = None
    metavar: str | None = None
    formerly: Mapping[str, str] | None = None

    def contains(self, value: Number) -> bool:
        """Return whether a number is finite, or of 64 bits, and lies in the range."""
        return (
            # A larger whole number is too large for torch and, from 10^309 on, for a float.
            (abs(value) < 1 << 63 if isinstance(value, int) else math.isfinite(value))
            and (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    @property
    def range(self) -> str:
        """Return the range in words: ``of at least 1``, ``above 0 and at most 1``; "" for any
        number.
        """
        if self.low is not None and self.high is not None:
            return f"from {self.low:g} to {self.high:g}"
        bounds = [
            f"{words} {bound:g}"
            for words, bound in (
                ("at least", self.low),
                ("above", self.above),
                ("at most", self.high),
                ("below", self.below),
            )
            if bound is not None
        ]
        text = " and ".join(bounds)
        return f"of {text}" if text.startswith("at ") else text


# The panels of the help, in their order there: each makes settings under its heading.
DATA = partial(Setting, panel="Data")
FRAMES = partial(Setting, panel="Frames")
NETWORK = partial(Setting, panel="Network")
MERGING = partial(Setting, panel="Merging")
CONTRAST = partial(Setting, panel="Contrast")
OPTIMISER = partial(Setting, panel="Optimiser")
SPEED = partial(Setting, panel="Speed and memory")
RUN = partial(Setting, panel="Run")
LAUNCH = partial(Setting, panel="Launch")


@dataclass(frozen=True)
class Field:
    """One field of a settings class: its name, the types of its value and its declaration."""

    name: str
    kinds: tuple[Any, ...]  # (float,) of ``float | None``, (Path, str) of ``Path | str``
    optional: bool  # whether None is allowed
    default: Any  # dataclasses.MISSING where a value must be given
    setting: Setting

    @property
    def kind(self) -> Any:
        """Return the type that text is parsed as: an address of ``Path | str`` stays text."""
        return str if str in self.kinds else self.kinds[0]

    @property
    def of_paths(self) -> bool:
        """Return whether the value is several paths: an option that may be repeated."""
        return self.kind == tuple[Path, ...]

    @property
    def choices(self) -> tuple[str, ...]:
        """Return the values of a ``Literal``, nothing for other types."""
        return get_args(self.kind) if get_origin(self.kind) is Literal else ()

    @property
    def allowed(self) -> str:
        """Return the values that are allowed, in words: ``a number from 0 to 1``."""
        kind = self.kind
        if self.choices:
            words = f"one of {', '.join(self.choices)}"
        elif get_origin(kind) is tuple:
            words = "paths" if self.of_paths else f"whole numbers {self.setting.range}".rstrip()
        elif kind in _NUMBERS:
            words = f"{_NUMBERS[kind]} {self.setting.range}".rstrip()
        else:
            words = _WORDS.get(kind, f"a {kind.__name__}")
        return f"{words}, or none" if self.optional else words

    def check(self, value: Any) -> None:
        """Raise ``ValueError`` naming the field, the value and what is allowed."""
        if not (value is None and self.optional) and not self._allows(value):
            raise ValueError(f"{self.name} must be {self.allowed}, got {quoted(value)}")

    def _allows(self, value: Any) -> bool:
        kind = self.kind
        if self.choices:
            return value in self.choices
        if get_origin(kind) is tuple:
            return isinstance(value, tuple) and all(
                isinstance(part, Path)
                if self.of_paths
                else type(part) is int and self.setting.contains(part)
                for part in cast("tuple[object, ...]", value)
            )
        if kind in _NUMBERS:  # bool is a subclass of int, but True is no number here
            allowed = (int, float) if kind is float else (int,)
            return type(value) in allowed and self.setting.contains(value)
        return isinstance(value, self.kinds)

    def parse(self, text: str) -> Any:
        """Read a value from text: ``none``, ``true``, ``1e-3``, ``60,120``."""
        if self.optional and text.lower() == "none":
            return None
        kind = self.kind
        try:
            if kind is bool:
                return {"true": True, "false": False, "1": True, "0": False}[text.lower()]
            if self.of_paths:
                return tuple(Path(part) for part in text.split(os.pathsep) if part)
            if get_origin(kind) is tuple:
                return tuple(int(part) for part in text.split(",") if part)
            return kind(text) if kind is Path or kind in _NUMBERS else text
        except (ValueError, KeyError):
            raise ValueError(f"{self.name} must be {self.allowed}, got {quoted(text)}") from None

    def read(self, value: Any) -> Any:
        """Turn a value from JSON, which has no tuples and no settings, into that of the field."""
        kind = self.kind
        if get_origin(kind) is tuple and isinstance(value, list):
            parts = tuple(cast("list[Any]", value))
            return tuple(map(Path, parts)) if self.of_paths else parts
        if isinstance(value, dict) and isinstance(kind, type) and issubclass(kind, Settings):
            return kind.from_dict(cast("dict[str, Any]", value))
        return Path(value) if kind is Path and isinstance(value, str) else value


_NUMBERS: dict[Any, str] = {int: "a whole number", float: "a number"}
_WORDS: dict[Any, str] = {bool: "true or false", str: "text", Path: "a path"}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Base of all settings classes; the module's docstring shows how to write one."""

    def __post_init__(self) -> None:
        """Raise ``ValueError`` for a value that its field does not allow."""
        for field in self.fields().values():
            value, names = getattr(self, field.name), field.setting.formerly
            if names and isinstance(value, str) and value in names:
                # The class is frozen, and this is still its construction.
                object.__setattr__(self, field.name, names[value])
            field.check(getattr(self, field.name))

    @classmethod
    def fields(cls) -> dict[str, Field]:
        """Return the fields by name, in order of declaration."""
        return _fields(cls)

    @classmethod
    def field(cls, name: str) -> Field:
        """Return a field. Raise ``ValueError`` naming the nearest one if there is none."""
        fields = cls.fields()
        if name not in fields:
            # With a cutoff of 0 there is always one.
            (near,) = difflib.get_close_matches(shown(name), fields, n=1, cutoff=0.0)
            raise ValueError(f"{cls.__name__} has no field {quoted(name)}; did you mean {near!r}?")
        return fields[name]

    @classmethod
    def check(cls, data: Mapping[str, Any]) -> None:
        """Raise ``ValueError`` for a value that its field does not allow. Fields of other versions
        may be there, and values may not fit together.
        """
        for name, field in cls.fields().items():
            value = data.get(name, field.default)
            if not (isinstance(value, str) and value in (field.setting.formerly or {})):
                field.check(field.read(value))

    @classmethod
    def from_dict(cls: type[S], data: Mapping[str, Any]) -> S:
        """Make one of what :meth:`to_dict` gave. Raise ``ValueError`` for an unknown field."""
        return cls(**{name: cls.field(name).read(value) for name, value in data.items()})

    @classmethod
    def parse(cls, settings: Iterable[str]) -> dict[str, Any]:
        """Read ``key=value`` settings. Raise ``ValueError`` for an unknown or unreadable one."""
        values: dict[str, Any] = {}
        for setting in settings:
            name, equals, text = setting.partition("=")
            if not equals:
                raise ValueError(f"a setting is key=value, got {setting!r}")
            values[name] = cls.field(name).parse(text)
        return values

    def override(self: S, settings: Iterable[str]) -> S:
        """Return a copy with ``key=value`` settings applied."""
        return dataclasses.replace(self, **self.parse(settings))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as JSON and a weights-only checkpoint can hold them."""
        return {name: _plain(getattr(self, name)) for name in self.fields()}


def _plain(value: Any) -> Any:
    if isinstance(value, Settings):
        return value.to_dict()
    if isinstance(value, tuple):
        return [_plain(part) for part in cast("tuple[object, ...]", value)]
    return str(value) if isinstance(value, Path) else value


@cache
def _fields(cls: type[Settings]) -> dict[str, Field]:
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: _field(field, hints[field.name]) for field in dataclasses.fields(cls)}


def _field(field: dataclasses.Field[Any], hint: Any) -> Field:
    if get_origin(hint) is not Annotated:
        raise TypeError(f"{field.name} is not declared by Annotated[type, Setting(...)]")
    kind, setting = get_args(hint)[:2]
    # `float | None` has the origin UnionType, `Optional[float]` has Union.
    members = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    default = field.default
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    return Field(
        name=field.name,
        kinds=tuple(member for member in members if member is not types.NoneType),
        optional=types.NoneType in members,
        default=default,
        setting=setting,
    )
