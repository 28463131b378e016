"""matplotlib's figures, drawn by its own defaults and the person's settings.

When it is first imported, matplotlib obeys a file ``matplotlibrc`` of the current folder, whoever
put it there. So the import happens in our own folder, where there is none.
"""

import contextlib

from fame.beside import ROOT

with contextlib.chdir(ROOT):
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Axes", "Figure"]
