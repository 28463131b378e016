"""Our modules under their plain names, whatever else on the path is called so.

``preprocess``, ``train``, ``commands`` and ``cli`` lie beside the package ``fame``. A person may
have a ``train.py`` of their own in a folder that ``PYTHONPATH`` names; in our program, and in the
processes that it starts, these names are ours. A program that only uses the library keeps its own.
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
OURS = ("cli", "commands", "fame", "preprocess", "train")


def install() -> None:
    """Make imports of the names in ``OURS`` find this project in this process."""
    if not installed():
        sys.meta_path.insert(0, _Beside())


def installed() -> bool:
    """Return whether :func:`install` has run."""
    return any(isinstance(finder, _Beside) for finder in sys.meta_path)


class _Beside(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return PathFinder.find_spec(fullname, [str(ROOT)]) if fullname in OURS else None


def command(module: str) -> tuple[str, ...]:
    """Return the command that runs ``module`` of ours: no code from the current folder, nor from a
    module that only has its name.
    """
    return (sys.executable, "-P", __file__, module)


if __name__ == "__main__":
    import runpy

    install()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
