"""Plots of a run: its loss and scores, and how its chains behave at each level."""

from collections.abc import Callable, Sequence
from typing import Any

from drl_jax.report.panels import Panel, finish, to_png
from drl_jax.report.plotting import Axes, colormaps

_LEVEL = "loss/level_"
# What training itself records (`training.step.LevelSums`, and times); every other float is a score.
_NO_SCORES = (
    "loss",
    "positive",
    "negative",
    "displacement",
    "gradient_norm",
    "steps_per_second",
    "evaluation_seconds",
)

Lines = Sequence[dict[str, Any]]
"""The lines of metrics.jsonl."""


def plot_curves(lines: Lines) -> bytes:
    """Plots the loss and each score against the step. Returns the content of a PNG file."""
    scores = dict.fromkeys(
        name
        for line in lines
        for name, value in line.items()
        if isinstance(value, float) and name.split("/")[0] not in _NO_SCORES
    )
    loss = _panel(lines, {"": "loss"}, title="loss", unit="weighted f(samples) − f(data)")
    return to_png([loss, *(_panel(lines, {"": name}, title=name, unit="score") for name in scores)])


def plot_levels(lines: Lines) -> bytes:
    """Plots means over the examples of each level against the step. Returns the content of a PNG file.

    The gap is f(samples) − f(data), which the objective drives to 0. The displacement is
    ‖x_t⁻ − x_{t+1} / scale‖ from the start to the end of a chain. The gradient is that of the log-density at
    the last step of a chain.
    """
    levels = sorted({int(n.removeprefix(_LEVEL)) for line in lines for n in line if n.startswith(_LEVEL)})

    def of_levels(pattern: str) -> dict[str, str]:
        return {f"t = {t}": pattern.format(t) for t in levels}

    def gap(line: dict[str, Any], level: str) -> float | None:
        negative, positive = line.get(f"negative/{level}"), line.get(f"positive/{level}")
        return None if negative is None or positive is None else negative - positive

    panels = [
        _panel(lines, of_levels("level_{}"), title="f(samples) − f(data)", unit="f (no unit)", value=gap),
        _panel(
            lines,
            of_levels("displacement/level_{}"),
            title="‖end − start‖ of a chain",
            unit="units of the data",
        ),
        _panel(
            lines,
            of_levels("gradient_norm/level_{}"),
            title="‖∇ log p‖ at the last step of a chain",
            unit="nats per unit of y",
            log=True,
        ),
    ]
    return to_png(panels)


def _panel(
    lines: Lines,
    names: dict[str, str],
    *,
    title: str,
    unit: str,
    value: Callable[[dict[str, Any], str], float | None] = lambda line, name: line.get(name),
    log: bool = False,
) -> Panel:
    """A function that draws one curve per name, by label, of `value(line, name)`."""

    def draw(axes: Axes) -> None:
        colors = colormaps["viridis"]
        for i, (label, name) in enumerate(names.items()):
            known = [(line["step"], value(line, name)) for line in lines]
            points = [(step, y) for step, y in known if y is not None]
            if points:
                marker = {"marker": "o", "markersize": 3} if len(points) < 30 else {}
                axes.plot(
                    *zip(*points, strict=True), color=colors(i / max(len(names), 2)), label=label, **marker
                )
        finish(axes, title, x="training step", y=unit)
        if log:
            axes.set_yscale("log")
        if 1 < len(names) <= 12:
            axes.legend(fontsize=6)

    return draw
