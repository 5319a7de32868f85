"""Detects divergence on the host, from the metrics of each step, while later steps run."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from drl_jax.core.types import Tree
from drl_jax.training.step import StepMetrics

_RATE = 0.05  # how far the typical size of a value moves towards it, per step
_MAX_STEPS = 20  # moves at most so many steps' way, where a level had no examples for longer
_FIRST_STEPS = 50  # before a value is compared with its typical size
_NAMES = ("the loss", "the gradient norm", "the largest |x| of a sample")  # then one energy per level


class Thresholds(NamedTuple):
    """What counts as divergence, besides NaN and infinity.

    Attributes:
      spike: a value (see `Guard`) above this multiple of its typical recent size.
      loss: |loss| above this (the authors' code stops below −1e6).
      max_abs: |x| of a sample above this, in units of the data.
    """

    spike: float = 100.0
    loss: float = 1e6
    max_abs: float = 1e3


class Diverged(Exception):
    """A step diverged.

    Attributes:
      step: which one.
      cause: one line.
      table: one line per level.
    """

    def __init__(self, step: int, cause: str, table: str):
        super().__init__(f"step {step}: {cause}")
        self.step, self.cause, self.table = step, cause, table


class Guard:
    """Watches |loss|, the gradient norm, max |x⁻| of the samples and, for each level, the mean |f|.

    The last is the mean of |mean f| of the data and of the samples.

    The typical size of a value is a running median: it moves by 5 % per step towards the value, up or down,
    so that an extreme value moves it no further than a mild one (stochastic approximation, Robbins & Monro
    1951). Of many levels few have examples in a step; each then makes up for the steps without. A value
    above `thresholds.spike` times its typical size is a spike. The loss is a difference of energies and may
    be near zero for long: its typical size is its own plus that of the energies.
    """

    def __init__(self, num_levels: int, thresholds: Thresholds):
        self._thresholds = thresholds
        self._typical = np.ones(len(_NAMES) + num_levels)
        self._seen = np.zeros(len(_NAMES) + num_levels)
        self._steps = np.ones(len(_NAMES) + num_levels)  # since the last value, with this step

    def check(self, step: int, metrics: StepMetrics) -> None:
        """Raises Diverged if these are the metrics of a step that diverged."""
        values = _values(metrics)
        cause = self._cause(metrics, values)
        if cause is not None:
            raise Diverged(step, cause, self._table(metrics))

        is_known = np.isfinite(values)  # a level without examples has no energy
        size = np.maximum(values, 1e-12)
        first, typical = self._seen == 0, self._typical
        moved = typical * np.exp(_RATE * np.minimum(self._steps, _MAX_STEPS) * np.sign(size - typical))
        self._typical = np.where(is_known, np.where(first, size, moved), typical)
        self._seen = self._seen + is_known
        self._steps = np.where(is_known, 1, self._steps + 1)

    def check_weights(self, step: int, params: Tree) -> None:
        """Raises Diverged if a parameter is not finite. Call it before a state is saved."""
        if not _all_finite(params):
            raise Diverged(step, "a parameter is not finite after the step", "")

    def get_state(self) -> dict[str, Any]:
        """Returns the state as JSON for a checkpoint: a resumed run judges as one that was never stopped."""
        return {
            "typical": self._typical.tolist(),
            "seen": self._seen.tolist(),
            "steps": self._steps.tolist(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores what `get_state` returned."""
        self._typical = np.array(state["typical"], np.float64)
        self._seen = np.array(state["seen"], np.float64)
        self._steps = np.array(state["steps"], np.float64)

    def _cause(self, metrics: StepMetrics, values: Float[np.ndarray, " values"]) -> str | None:
        counted = np.append(np.ones(len(_NAMES), bool), metrics.sums.count > 0)
        broken = np.flatnonzero(counted & ~np.isfinite(values))
        if len(broken):
            # The energies show where a NaN began; loss and gradient are then NaN in any case.
            name = _name(broken[-1])
            return f"{name} is {'NaN' if np.isnan(values[broken[-1]]) else 'infinite'}"
        limits = ((0, self._thresholds.loss, "loss"), (2, self._thresholds.max_abs, "max_abs"))
        for index, limit, key in limits:
            if values[index] > limit:
                return f"{_name(index)} is {values[index]:.3g}, above config.guard.{key}={limit:g}"

        size, known = self._typical.copy(), self._seen[len(_NAMES) :] > 0
        size[0] += np.sum(size[len(_NAMES) :], where=known) / max(np.sum(known), 1)
        ratio = values / size
        spikes = np.flatnonzero(counted & (self._seen >= _FIRST_STEPS) & (ratio > self._thresholds.spike))
        if len(spikes):
            worst = spikes[np.argmax(ratio[spikes])]
            return (
                f"{_name(worst)} is {values[worst]:.3g}, {ratio[worst]:.3g} times its recent size "
                f"(config.guard.spike={self._thresholds.spike:g})"
            )
        return None

    def _table(self, metrics: StepMetrics) -> str:
        sums, count = metrics.sums, np.maximum(metrics.sums.count, 1)
        lines = ["level  examples     f of data  f of samples  displacement     recent |f|"]
        for t in np.flatnonzero(sums.count):
            row = (sums.positive[t], sums.negative[t], sums.displacement[t])
            numbers = "".join(f"{value / count[t]:>13.4g}" for value in row)
            lines.append(f"{t:>5}{sums.count[t]:>10.0f} {numbers}  {self._typical[len(_NAMES) + t]:>13.4g}")
        return "\n".join(lines)


@jax.jit
def _all_finite(tree: Tree) -> jax.Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def _values(metrics: StepMetrics) -> Float[np.ndarray, " values"]:
    """The watched values of a step, none below zero; NaN for levels without examples."""
    sums = metrics.sums
    with np.errstate(divide="ignore", invalid="ignore"):
        energies = (np.abs(sums.positive) + np.abs(sums.negative)) / (2 * sums.count)
    loss = np.abs(np.sum(sums.loss) / np.sum(sums.count))
    return np.concatenate([[loss, metrics.gradient_norm, np.max(metrics.max_abs)], energies]).astype(
        np.float64
    )


def _name(index: int | np.integer) -> str:
    return _NAMES[index] if index < len(_NAMES) else f"the energy of level {index - len(_NAMES)}"
