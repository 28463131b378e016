"""What every command shares: options derived from settings, groups whose errors are one line, paths
below one root, tables.

A command takes the options of a settings class in one of the first two ways:

    launch: LaunchConfig                              # the command receives a LaunchConfig
    given: Annotated[Values, Options(StoreSpec)]      # it receives what was given, by field
    options: FinetuneOptions                          # a dataclass of typer's own options

Light to import: ``fame --help`` goes through here.
"""

import inspect
import json
import os
import shlex
import signal
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast, get_args, get_origin

import typer
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import TyperException

from commands.renamed import renamed
from fame.settings import Field, Settings
from fame.words import plain

if TYPE_CHECKING:
    from rich.console import Console

    from fame.progress import Progress

Values = dict[str, Any]
Root = Annotated[
    Path,
    typer.Option(
        envvar="FAME_ROOT",
        metavar="FOLDER",
        help="Data root: videos/, stores/ and runs/ live below it.",
        rich_help_panel="Data",
    ),
]
Checkpoints = Annotated[
    list[Path] | None,
    typer.Argument(
        help="Checkpoints to compare (default: ROOT/runs/pretrain/checkpoints/last.pt)."
    ),
]

_GIVEN = "commands.options.given"  # the words of the command, in the meta of its context
_MUST_BE = {  # pydantic's kinds of problems, in the words of the settings
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
}
_SIGNALLED = 128  # exit codes above it name a signal
PANELS = (
    "Arguments",
    "Data",
    "Frames",
    "Network",
    "Merging",
    "Contrast",
    "Optimiser",
    "Speed and memory",
    "Options",
    "Run",
    "Launch",
)


# Options of settings ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Options:
    """Which fields of a settings class a command has as options, and what it says of defaults.

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
    signature = inspect.signature(command, eval_str=True)
    groups = {
        name: options
        for name, parameter in signature.parameters.items()
        if (options := _options(parameter.annotation))
    }

    def run(**options: Any) -> Any:
        taken = {name: group.take(options) for name, group in groups.items()}
        return command(**options, **taken)

    parameters: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        if name in groups:
            parameters.extend(groups[name].parameters())
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
    run.__signature__ = signature.replace(parameters=parameters)  # pyright: ignore[reportFunctionMemberAccess]
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return run


@dataclass(frozen=True)
class _Group:
    """A dataclass of typer's own options, which several commands share."""

    kind: type[Any]

    def parameters(self) -> list[inspect.Parameter]:
        return [*inspect.signature(self.kind).parameters.values()]

    def take(self, options: Values) -> Any:
        return self.kind(**{field.name: options.pop(field.name) for field in fields(self.kind)})


def _options(annotation: Any) -> Options | _Group | None:
    if get_origin(annotation) is Annotated:
        return next((part for part in get_args(annotation) if isinstance(part, Options)), None)
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return Options(annotation, whole=True)
    return _Group(cast("type[Any]", annotation)) if is_dataclass(annotation) else None


# Config files ------------------------------------------------------------------------------------


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


# Groups and commands ------------------------------------------------------------------------------


def _write_panels(command: Any, ctx: Any, formatter: Any) -> None:
    """Write arguments and options panel by panel; unlike typer's tables this cuts no name."""
    panels: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.get_params(ctx):
        if record := parameter.get_help_record(ctx):
            argument = parameter.param_type_name == "argument"
            panel = "Arguments" if argument else parameter.rich_help_panel or "Options"
            panels.setdefault(panel, []).append(record)
    for panel in sorted(panels, key=PANELS.index):
        with formatter.section(panel):
            formatter.write_dl(panels[panel])


class Command(TyperCommand):
    """A command whose help stands in panels."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take the options of earlier versions too."""
        ctx.meta[_GIVEN] = shlex.join([*ctx.command_path.split(), *args])
        return super().parse_args(ctx, renamed(ctx.command_path, args))

    def invoke(self, ctx: Any) -> Any:
        """Say at the end of a run that a signal stopped which command goes on."""
        try:
            return super().invoke(ctx)
        except typer.Exit as end:
            if end.exit_code > _SIGNALLED and first_process():
                # Any other --resume would begin again, or refuse the folder.
                auto = "" if ctx.params.get("resume") == "auto" else " --resume auto"
                launcher = "torchrun ... -- " if "RANK" in os.environ else ""
                line = f"fame: to go on: {launcher}{ctx.meta[_GIVEN]}{auto}"
                print(plain(line), file=sys.stderr)
            raise

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _write_panels(self, ctx, formatter)


class Commands(TyperGroup):
    """A group whose user errors are one line and exit code 2; a traceback only with ``--debug``."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _write_panels(self, ctx, formatter)
        names = self.list_commands(ctx)
        with formatter.section("Commands"):
            formatter.write_dl([(name, self.commands[name].help or "") for name in names])

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args or ["--help"])

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (ValueError, OSError) as error:
            if ctx.find_root().params["debug"]:
                raise
            raise TyperException(str(error) or type(error).__name__) from error
        except KeyboardInterrupt as error:
            given = ctx.meta.get(_GIVEN, "fame")  # that of the innermost command
            print(plain(f"fame: interrupted; to go on: {given}"), file=sys.stderr)
            raise typer.Exit(_SIGNALLED + getattr(error, "number", signal.SIGINT)) from error

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            code = super().main(*args, **{**kwargs, "standalone_mode": False})
        except TyperException as error:
            print("fame:", plain(" ".join(_in_one_line(error).split())), file=sys.stderr)
            code = 2
        sys.exit(code or 0)


def _in_one_line(error: TyperException) -> str:
    """Return an error as one line; that of a bad value names option, what it must be and value."""
    problems = getattr(error.__cause__, "errors", None)  # of pydantic, which typer reads values by
    option = getattr(error, "param", None)
    if problems is None or option is None:
        return error.format_message()
    (problem, *_) = problems()
    words = _MUST_BE.get(problem["type"])
    if words is None:
        return error.format_message().replace("Value error, ", "")
    must_be = words.format(**problem.get("ctx", {}))
    return f"{option.opts[0]} must be {must_be}, got {problem['input']!r}"


class App(typer.Typer):
    """A group of commands that may take settings and whose help is plain text in panels."""

    def __init__(self, help: str, *, cls: type[Commands] = Commands) -> None:  # noqa: A002
        super().__init__(
            help=help,
            cls=cls,
            rich_markup_mode=None,
            context_settings={"help_option_names": ["-h", "--help"]},
            pretty_exceptions_enable=False,
        )

    def command(self, *args: Any, **kwargs: Any) -> Callable[[Callable[..., Any]], Any]:
        add = super().command(*args, cls=Command, **kwargs)
        return lambda function: add(expand(function))


# Paths, tables and progress -----------------------------------------------------------------------

AnyPath = TypeVar("AnyPath", Path, Path | str)


def existing(path: AnyPath, *, made_by: str) -> AnyPath:
    """``path`` itself; ``ValueError`` that says where was looked and what makes it when it is not
    there.

    Of a store at ``s3://`` nothing is asked here: opening it tells.
    """
    if not str(path).startswith("s3://") and not Path(path).exists():
        raise ValueError(f"{path} is not there; {made_by}")
    return path


def checkpoint_or_default(given: Path | None, root: Path) -> Path:
    """The checkpoint that was named, else the last one of the default run."""
    path = given or root / "runs" / "pretrain" / "checkpoints" / "last.pt"
    return existing(path, made_by="`fame pretrain` makes checkpoints")


def output() -> "Console":
    """Where tables go: as wide as the terminal, or wide enough for a file to hold unbroken
    lines. Brackets are brackets here, and no markup.
    """
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 200, markup=False, emoji=False)


def first_process() -> bool:
    """Return whether this is the process that speaks of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def say(text: object) -> None:
    """Print lines that hold words of strangers."""
    print("\n".join(plain(line) for line in str(text).split("\n")))


def table(rows: dict[str, str]) -> None:
    """Print named values in two columns."""
    from rich.table import Table

    grid = Table(show_header=False, box=None)
    for name, value in rows.items():
        grid.add_row(plain(name), plain(value))
    output().print(grid)


@contextmanager
def starting(phase: str) -> Generator["Progress"]:
    """Show the progress of a command from its first phase on.

    Elsewhere than on a terminal the first phase is no line: an error stays the only one.
    """
    from fame.progress import Progress

    with Progress(show=first_process()) as progress:
        progress.phase(phase, on_terminal_only=True)
        yield progress


@contextmanager
def watch(what: str, clips: int) -> Generator[Callable[[int], None]]:
    """Show how many clips are encoded; the context takes how many more were."""
    with starting("encoding") as progress:
        progress.say(f"encoding {clips} clips: {what}")
        progress.phase("encoding", total=clips)
        done = 0

        def on_clips(count: int) -> None:
            nonlocal done
            done += count
            progress.at(done, what)

        yield on_clips
