"""The command line: ``python -P -m fame`` enters here, the console script by ``fame_video``."""

import os
import signal
import sys
from typing import NoReturn

from fame.beside import install

install()


def main() -> None:
    """Run the command line. No process that it starts looks for modules in the current folder."""
    os.environ["PYTHONSAFEPATH"] = "1"
    _open_closed()
    came: list[int] = []

    def interrupt(number: int, frame: object) -> None:
        came.append(number)
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    try:
        import cli

        cli.app()
    except Exception:
        # A module that caught the interrupt while it was imported is half there from then on.
        if not came:
            raise
        _say_interrupted()
    except KeyboardInterrupt:
        _say_interrupted()


def _open_closed() -> None:
    """Let closed standard streams (``>&-``) lead nowhere. The next file that is opened would take
    the place of one, and get what is printed.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r"))


def _say_interrupted() -> NoReturn:
    print("fame: interrupted; the same command goes on", file=sys.stderr)  # noqa: T201
    sys.exit(130)


if __name__ == "__main__":
    main()
