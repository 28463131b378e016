"""The command line: ``python -P -m fame`` enters here, the console script by ``fame_video``."""

import os
import sys

from fame.beside import install

install()


def main() -> None:
    """Run the command line. No process that it starts looks for modules in the current folder."""
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        import cli

        cli.app()
    except KeyboardInterrupt:
        print("fame: interrupted; the same command goes on", file=sys.stderr)  # noqa: T201
        sys.exit(130)


if __name__ == "__main__":
    main()
