"""Options derived from settings. A command takes those of a settings class in one of three ways:

launch: LaunchConfig                              # the command receives a LaunchConfig
given: Annotated[Values, Options(StoreSpec)]      # it receives what was given, by field
options: RunOptions                               # a dataclass of options, also of these kinds
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer

from fame.settings import Field, Settings

Values = dict[str, Any]


def option(text: str, *names: str, panel: str = "Data", **more: Any) -> Any:
    """Declare an option that is no setting: its help, and its names where they are not that of the
    parameter.
    """
    return typer.Option(*names, help=text, rich_help_panel=panel, **more)


@dataclass(frozen=True)
class Options:
    """Which fields of a settings class a command has as options, and the words for its defaults.

    Args:
        kind: the settings class.
        without: fields that the command decides itself.
        only: the only fields that are options, if there are any here.
        defaults: the default of a field in words, where it is not that of the class.
        whole: whether the command receives a settings object instead of the given values.
    """

    kind: type[Settings]
    without: Sequence[str] = ()
    only: Sequence[str] = ()
    defaults: Mapping[str, str] | None = None
    whole: bool = False

    def fields(self) -> list[Field]:
        """Return the fields that are options."""
        return [
            field
            for field in self.kind.fields().values()
            if field.setting.option != "" and field.name not in self.without
            if not self.only or field.name in self.only
        ]

    def parameters(self) -> list[inspect.Parameter]:
        """Return one keyword parameter for each option, as typer reads them."""
        words = self.defaults or {}
        return [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=_option(field, default=words.get(field.name, _default(field))),
            )
            for field in self.fields()
        ]

    def take(self, options: Values) -> Any:
        """Move the options of this class out of ``options``: those given, or a settings object."""
        given: Values = {}
        for field in self.fields():
            value = options.pop(field.name)
            if field.of_paths:  # typer gives a list, an empty one where nothing was given
                given |= {field.name: tuple(value)} if value else {}
            elif value is not None:
                given[field.name] = field.parse(value) if isinstance(value, str) else value
                field.check(given[field.name])
        return self.kind.from_dict(given) if self.whole else given


def _option(field: Field, *, default: str) -> Any:
    """Return the annotation of an option: its type, name, help, panel and default."""
    setting, kind = field.setting, field.kind
    notes = [setting.range.removeprefix("of ")] if setting.range else []
    notes += [f"default: {default}"] if default else []
    help_ = f"{setting.help} [{'; '.join(notes)}]" if notes else setting.help
    name = "--" + (setting.option or field.name).replace("_", "-")
    if field.of_paths:
        kind = list[Path]
    as_text = get_origin(kind) is tuple or (field.optional and kind in (int, float))
    return Annotated[
        (str if as_text else kind) | None,  # take() reads it, and none
        typer.Option(
            f"{name}/--no-{name[2:]}" if kind is bool else name,
            help=help_,
            metavar=setting.metavar or (f"<{kind.__name__}|none>" if as_text else None),
            rich_help_panel=setting.panel,
            show_default=False,
        ),
    ]


def _default(field: Field) -> str:
    """Return the default of a field in words; "" where there is none to show."""
    if field.default in (None, ()) or not isinstance(field.default, str | int | float | tuple):
        return ""
    return in_words(field.default)


def in_words(value: object) -> str:
    """Return a value as a person writes it on the command line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def expand(command: Callable[..., Any]) -> Callable[..., Any]:
    """Let a command take the options of settings classes, as the module's docstring shows."""
    group = _Group(command)

    def run(**options: Any) -> Any:
        return group.take(options)

    run.__signature__ = inspect.Signature(group.parameters())  # pyright: ignore[reportFunctionMemberAccess]
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return run


@dataclass(frozen=True)
class _Group:
    """The function of a command or a dataclass of options, with the options and groups that it
    takes.
    """

    call: Callable[..., Any]

    def parameters(self) -> list[inspect.Parameter]:
        found: list[inspect.Parameter] = []
        for parameter, group in self._parts():
            keyword = parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            found += group.parameters() if group else [keyword]
        return found

    def take(self, options: Values) -> Any:
        values = {
            parameter.name: group.take(options) if group else options.pop(parameter.name)
            for parameter, group in self._parts()
        }
        return self.call(**values)

    def _parts(self) -> "list[tuple[inspect.Parameter, Options | _Group | None]]":
        parameters = inspect.signature(self.call, eval_str=True).parameters.values()
        return [(parameter, _options(parameter.annotation)) for parameter in parameters]


def _options(annotation: Any) -> Options | _Group | None:
    if get_origin(annotation) is Annotated:
        return next((part for part in get_args(annotation) if isinstance(part, Options)), None)
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return Options(annotation, whole=True)
    return _Group(annotation) if isinstance(annotation, type) and is_dataclass(annotation) else None
