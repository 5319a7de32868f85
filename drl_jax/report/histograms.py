"""Histograms of a statistic of several data sets."""

import io
from collections.abc import Mapping

import numpy as np
from etils import epath
from jaxtyping import Float

from drl_jax import files
from drl_jax.report.plotting import Axes, Figure, colormaps

_PANEL = (5.0, 3.2)  # inches
_BINS = 60
_SHOWN = 0.5, 99.5  # percentiles; what is beyond is in the outer bins


def save_histograms(
    panels: Mapping[str, Mapping[str, Float[np.ndarray, " n"]]], path: epath.Path, *, title: str
) -> None:
    """Writes one panel of histograms for each statistic. The first data set is filled, the others are lines.

    Args:
      panels: by the name of the statistic, with its unit, the values of each data set, by its name.
      path: of the PNG file.
      title: of the whole.
    """
    size = (_PANEL[0] * len(panels), _PANEL[1] + 0.3 * (max(map(len, panels.values())) // 4 + 1))
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title, fontsize=10)
    axes = [figure.add_subplot(1, len(panels), i + 1) for i in range(len(panels))]
    for each, (name, sets) in zip(axes, panels.items(), strict=True):
        _draw(each, sets)
        each.set_xlabel(name, fontsize=8)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    files.write(path, file.getvalue())


def _draw(axes: Axes, sets: Mapping[str, np.ndarray]) -> None:
    low, high = np.percentile(np.concatenate(list(sets.values())), _SHOWN)
    high = high if high > low else low + 1
    colors = [colormaps["tab10"](i) for i in range(1, 10)]
    for i, (name, values) in enumerate(sets.items()):
        axes.hist(
            np.clip(values, low, high),
            _BINS,
            range=(low, high),
            weights=np.full(len(values), 1 / len(values)),
            label=name,
            color="0.8" if i == 0 else colors[(i - 1) % len(colors)],
            histtype="step" if i else "stepfilled",
        )
    axes.set_ylabel("part of the examples", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)
