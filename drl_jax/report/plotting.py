"""Matplotlib, for files alone: whatever the user's MPLBACKEND is, it is not used.

Jupyter and Colab set that variable for all commands of a notebook, to a backend that the environment of the
command may lack. Matplotlib then refuses to be imported.
"""

import os
import sys

try:
    import matplotlib
except ValueError:
    _backend = os.environ.pop("MPLBACKEND")
    for _name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        del sys.modules[_name]  # half imported
    try:
        import matplotlib
    finally:
        os.environ["MPLBACKEND"] = _backend

from matplotlib.axes import Axes
from matplotlib.figure import Figure

colormaps = matplotlib.colormaps

__all__ = ["Axes", "Figure", "colormaps"]
