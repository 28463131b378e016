"""Where the console script ``fame`` enters: a name that no module of a person's own has.

``PYTHONPATH=.`` puts their modules before ours, a ``fame.py`` too. Here our package is found beside
this file; from then on its names are ours (:mod:`fame.beside`).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from fame.__main__ import main

del sys.path[0]
__all__ = ["main"]
