"""Groups and commands: options derived from settings, help in panels, errors of one line.

Light to import: ``fame --help`` goes through here.
"""

import os
import select
import shlex
import signal
import sys
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import TyperException

from commands.options import expand
from commands.output import first_process
from commands.renamed import renamed
from fame.words import plain

_GIVEN = "commands.app.given"  # the words of the command, in the meta of its context
_MUST_BE = {  # pydantic's kinds of problems, in the words of the settings
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
}
_SEE_HELP = ("Got unexpected extra argument", "No such command")
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
    "Run",
    "Launch",
    "Options",
)


def _write_panels(command: Any, ctx: Any, formatter: Any) -> None:
    """Write arguments and options panel by panel; unlike typer's tables this cuts no name."""
    panels: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.get_params(ctx):
        if record := parameter.get_help_record(ctx):
            argument = parameter.param_type_name == "argument"
            panel = "Arguments" if argument else parameter.rich_help_panel or "Options"
            name = record[0].split(" <")[0] if argument else record[0]  # typer adds its type
            panels.setdefault(panel, []).append((name, record[1]))
    for panel in sorted(panels, key=PANELS.index):
        with formatter.section(panel):
            formatter.write_dl(panels[panel])


class Command(TyperCommand):
    """A command whose help has panels."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take the options of earlier versions too."""
        ctx.meta[_GIVEN] = shlex.join([*ctx.command_path.split(), *args])
        _refuse_empty(args)
        return super().parse_args(ctx, renamed(ctx.command_path, args))

    def invoke(self, ctx: Any) -> Any:
        """Print, after a run that a signal stopped, the command that continues it."""
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
        except (ValueError, OSError, MemoryError, ImportError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not _no_room(error):
                raise
            if isinstance(error, BrokenPipeError) and _nobody_reads():
                raise typer.Exit(_SIGNALLED + signal.SIGPIPE) from error
            if ctx.find_root().params["debug"]:
                raise
            raise TyperException(_in_words(error)) from error
        except KeyboardInterrupt as error:
            given = ctx.meta.get(_GIVEN, "fame")  # that of the innermost command
            print(plain(f"fame: interrupted; to go on: {given}"), file=sys.stderr)
            raise typer.Exit(_SIGNALLED + getattr(error, "number", signal.SIGINT)) from error

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().make_context(*args, **kwargs)
        except KeyboardInterrupt as error:  # typer would print nothing
            print("fame: interrupted; the same command goes on", file=sys.stderr)
            raise typer.Exit(_SIGNALLED + signal.SIGINT) from error

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            code = super().main(*args, **{**kwargs, "standalone_mode": False})
        except TyperException as error:
            print("fame:", plain(" ".join(_in_one_line(error).split())), file=sys.stderr)
            code = 2
        except OSError as error:  # of a help that cannot be printed
            code = _lost(error)
        try:
            sys.stdout.flush()
        except OSError as error:
            code = code or _lost(error)
            # Else the interpreter complains when it flushes for the last time.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(code or 0)


def _lost(error: OSError) -> int:
    """Return the exit code where nothing can be printed, as on a full disk; say so where that is no
    reader who left.
    """
    if isinstance(error, BrokenPipeError):
        return _SIGNALLED + signal.SIGPIPE
    print(f"fame: what was to be printed is lost: {error.strerror}", file=sys.stderr)
    return 2


def _refuse_empty(args: list[str]) -> None:
    """Raise for an empty argument, which would be taken for the current folder."""
    for before, word in zip(["", *args], args, strict=False):
        if not word or (word.startswith("--") and word.endswith("=") and word.count("=") == 1):
            name = word[:-1] or (before if before.startswith("-") else "an argument")
            raise TyperException(f"{name} is empty; is a variable of your shell not set?")


def _nobody_reads() -> bool:
    """Return whether the reader of what is printed has gone, as ``| head -1`` does; what is left to
    print goes nowhere then, in silence.
    """
    gone = False
    for number in (1, 2):
        asked = select.poll()
        asked.register(number, 0)
        if any(events & select.POLLERR for _, events in asked.poll(0)):
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)
            gone = True
    return gone


def _no_room(error: RuntimeError) -> bool:
    from train.run.memory import no_room

    return no_room(error)


def _in_words(error: BaseException) -> str:
    """Return what an error says: of the system, the file and the reason without its number; of a
    package, that it cannot be loaded, for instance since memory is short.
    """
    if isinstance(error, OSError) and error.strerror:
        name = error.filename
        return error.strerror if name is None else f"{name}: {error.strerror}"
    if isinstance(error, ImportError):
        return f"cannot load what this command needs: {error}"
    if isinstance(error, MemoryError | RuntimeError):
        (reason, *_) = str(error).splitlines() or [""]
        return f"out of memory; what was asked for needs more than there is ({reason})"
    return str(error) or type(error).__name__


def _in_one_line(error: TyperException) -> str:
    """Return an error as one line; that of a bad value names option, what it must be and value."""
    problems = getattr(error.__cause__, "errors", None)  # of pydantic, which typer reads values by
    option = getattr(error, "param", None)
    if problems is None or option is None:
        message, ctx = error.format_message(), getattr(error, "ctx", None)
        if ctx and message.startswith(_SEE_HELP) and "Did you mean" not in message:
            message = f"{message.rstrip('.')}; `{ctx.command_path} --help` shows what there is"
        return message
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
