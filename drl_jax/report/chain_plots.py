"""Plots of long Markov chains: their scores, and how they move and mix at each level."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from etils import epath

from drl_jax import files
from drl_jax.applications.chains import Leg, Trace
from drl_jax.applications.diagnostics import autocorrelation
from drl_jax.report.panels import Panel, finish, to_png
from drl_jax.report.plotting import Axes, colormaps

_Curve = Callable[[Leg, Trace], tuple[np.ndarray, np.ndarray]]


def save_chain_plots(
    scores: Mapping[str, Sequence[float]],
    of_samples: Mapping[str, float],
    limits: Mapping[str, float],
    steps: Sequence[int],
    legs: Sequence[Leg],
    trace: Trace,
    path: epath.Path,
) -> None:
    """Plots scores against the number of steps, and the trace of each level.

    Args:
      scores: after each number of steps, by name.
      of_samples: those of fresh samples.
      limits: what some scores must not exceed, by name.
      steps: the numbers of steps.
      legs: of the run. Of several legs at a level, those of the last number of steps are shown.
      trace: of the run.
      path: of the PNG file.
    """
    shown = {leg.level: (number, leg) for number, leg in enumerate(legs)}
    curves = {level: (leg, trace.of_leg(number)) for level, (number, leg) in shown.items()}
    panels: list[Panel] = [
        *(
            _score_panel(name, steps, values, of_samples[name], limits.get(name))
            for name, values in scores.items()
        ),
        _trace_panel("energy − its end", "nats", curves, lambda leg, part: _energy(part), scale="symlog"),
        _trace_panel("acceptance", "", curves, lambda leg, part: _mean(part, part.acceptance)),
        _trace_panel(
            "displacement of a step", "units of y", curves, lambda leg, part: _mean(part, part.displacement)
        ),
        _trace_panel("autocorrelation of the energy", "", curves, _autocorrelation, x="steps apart"),
    ]
    files.write(path, to_png(panels, dpi=80))


def _energy(part: Trace) -> tuple[np.ndarray, np.ndarray]:
    mean = part.energy.mean(axis=1)
    return part.step, mean - mean[-1]


def _mean(part: Trace, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return part.step, values.mean(axis=1)


def _autocorrelation(leg: Leg, part: Trace) -> tuple[np.ndarray, np.ndarray]:
    half = part.energy[len(part.energy) // 2 if leg.first == 0 else 0 :]
    correlation = autocorrelation(half, len(half) // 2)
    distance = part.step[-1] - part.step[-2] if len(part.step) > 1 else 1
    return distance * np.arange(len(correlation)), correlation


def _score_panel(
    name: str, steps: Sequence[int], values: Sequence[float], of_samples: float, limit: float | None
) -> Panel:
    def draw(axes: Axes) -> None:
        axes.plot(steps, values, marker="o", markersize=3, color="black", label="chains")
        axes.axhline(of_samples, color="tab:blue", label="fresh samples")
        if limit is not None:
            axes.axhline(limit, color="tab:blue", linestyle=":", label="limit")
        axes.set_xscale("log")
        axes.set_xticks(steps, [f"{each:,}" for each in steps])
        axes.minorticks_off()
        axes.legend(fontsize=6)
        finish(axes, name, x="steps", y="score")

    return draw


def _trace_panel(
    title: str,
    unit: str,
    curves: Mapping[int, tuple[Leg, Trace]],
    curve: _Curve,
    *,
    x: str = "steps",
    scale: str = "linear",
) -> Panel:
    def draw(axes: Axes) -> None:
        colors = colormaps["viridis"]
        for i, level in enumerate(sorted(curves)):
            axes.plot(*curve(*curves[level]), color=colors(i / max(len(curves), 2)), label=f"t = {level}")
        axes.set_yscale(scale)
        if 1 < len(curves) <= 12:
            axes.legend(fontsize=6)
        finish(axes, title, x=f"{x} at a level" if len(curves) > 1 else x, y=unit)

    return draw
