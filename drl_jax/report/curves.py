"""How a run went, as images: its loss and scores, and what the chains did at each level."""

import io
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
from etils import epath
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from drl_jax import files

_PANEL = (4.0, 2.6)  # inches
_COLUMNS = 3

_LEVEL = "loss/level_"
# What training itself records: `training.step.Totals`, and times.
_NO_SCORES = ("loss", "positive", "negative", "moved", "gradient", "steps_per_second", "evaluation_seconds")

Lines = Sequence[dict[str, Any]]  # of metrics.jsonl


def save_curves(lines: Lines, path: epath.Path) -> None:
    """The loss, and each score that evaluations gave, against the step."""
    names = dict.fromkeys(
        name
        for line in lines
        for name, value in line.items()
        if isinstance(value, float) and name.split("/")[0] not in _NO_SCORES
    )
    _save([_panel(lines, {"": name}, title=name) for name in ("loss", *names)], path)


def save_levels(lines: Lines, path: epath.Path) -> None:
    """Means over the examples of each level, against the step.

    The gap is f(samples) − f(data), which the objective pushes to 0; displacement is ‖x_t⁻ − x_{t+1} / scale‖
    over the chain; the gradient is that of the log-density at its last step.
    """
    levels = sorted({int(n.removeprefix(_LEVEL)) for line in lines for n in line if n.startswith(_LEVEL)})

    def of_levels(pattern: str) -> dict[str, str]:
        return {f"t = {t}": pattern.format(t) for t in levels}

    def gap(line: dict[str, Any], name: str) -> float | None:
        negative, positive = line.get(f"negative/{name}"), line.get(f"positive/{name}")
        return None if negative is None or positive is None else negative - positive

    panels = [
        _panel(lines, of_levels("level_{}"), title="f(samples) − f(data)", value=gap),
        _panel(lines, of_levels("moved/level_{}"), title="‖end − start‖ of the chain, in units of the data"),
        _panel(lines, of_levels("gradient/level_{}"), title="‖∇ log p‖ at the chain's last step", log=True),
    ]
    _save(panels, path)


def _panel(
    lines: Lines,
    names: dict[str, str],
    *,
    title: str,
    value: Callable[[dict[str, Any], str], float | None] = lambda line, name: line.get(name),
    log: bool = False,
) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        colors = matplotlib.colormaps["viridis"]
        for i, (label, name) in enumerate(names.items()):
            known = [(line["step"], value(line, name)) for line in lines]
            points = [(step, y) for step, y in known if y is not None]
            if points:
                few = {"marker": "o", "markersize": 3} if len(points) < 30 else {}
                axes.plot(
                    *zip(*points, strict=True), color=colors(i / max(len(names), 2)), label=label, **few
                )
        axes.set_title(title, fontsize=9)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
        if log:
            axes.set_yscale("log")
        if 1 < len(names) <= 12:
            axes.legend(fontsize=6)

    return draw


def _save(panels: Sequence[Callable[[Axes], None]], path: epath.Path) -> None:
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(columns * _PANEL[0], rows * _PANEL[1]), layout="constrained")
    for i, panel in enumerate(panels):
        axes = figure.add_subplot(rows, columns, i + 1)
        panel(axes)
        axes.set_xlabel("step", fontsize=7)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    files.write(path, file.getvalue())
