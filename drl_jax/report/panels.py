"""Small plots side by side in one image."""

import io
from collections.abc import Callable, Sequence

from drl_jax.report.plotting import Axes, Figure

_SIZE = (4.0, 2.6)  # inches, of a panel
_COLUMNS = 3

Panel = Callable[[Axes], None]
"""Draws on axes."""


def finish(axes: Axes, title: str, *, x: str, y: str) -> None:
    """Gives a panel its title, the names of its axes, and a grid."""
    axes.set_title(title, fontsize=9)
    axes.set_ylabel(y, fontsize=7)
    axes.set_xlabel(x, fontsize=7)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)


def to_png(panels: Sequence[Panel], *, dpi: int = 110) -> bytes:
    """Draws panels row by row.

    Args:
      panels: at least one.
      dpi: pixels per inch.

    Returns:
      The content of a PNG file.
    """
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(columns * _SIZE[0], rows * _SIZE[1]), layout="constrained")
    for i, panel in enumerate(panels):
        panel(figure.add_subplot(rows, columns, i + 1))
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi)
    return file.getvalue()
