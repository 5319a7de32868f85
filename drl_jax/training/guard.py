"""Noticing that training diverges: from each step's report, on the host, while later steps run."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from drl_jax.core.types import Tree
from drl_jax.training.step import Report

_RATE = 0.05  # by which the typical size of a value follows it, per step
_FIRST = 50  # steps before a value's typical size is held against it
_NAMES = ("the loss", "the gradient norm", "the reach of the samples")  # then one energy per level


class Limits(NamedTuple):
    """What counts as divergence, besides NaN and infinity.

    spike:  a value (see `Guard`) above this multiple of its typical recent size.
    loss:   |loss| above this (the authors' code stops below −1e6).
    reach:  |x| of a sample above this, in the data's unit.
    """

    spike: float = 100.0
    loss: float = 1e6
    reach: float = 1e3


class Diverged(Exception):
    """A step that no further training can follow. `cause` is one line, `table` has a line per level."""

    def __init__(self, step: int, cause: str, table: str):
        super().__init__(f"step {step}: {cause}")
        self.step, self.cause, self.table = step, cause, table


class Guard:
    """Watches |loss|, the gradient's norm, the samples' reach max |x⁻|, and for each level |mean f|,
    the mean of that of the data and that of the samples.

    A value's typical size is a running median: at each step it moves by 5 % towards the value, up or
    down, so that one wild value moves it no further than a mild one (stochastic approximation,
    Robbins & Monro 1951). A value above `limits.spike` times that is a spike. The loss is a difference of
    energies and may be near zero for long: its size is its own and that of the energies together.
    """

    def __init__(self, num_levels: int, limits: Limits):
        self._limits = limits
        self._typical = np.ones(len(_NAMES) + num_levels)
        self._seen = np.zeros(len(_NAMES) + num_levels)

    def check(self, step: int, report: Report) -> None:
        """Raises Diverged if the step that this is the report of went astray."""
        values = _values(report)
        cause = self._cause(report, values)
        if cause is not None:
            raise Diverged(step, cause, self._table(report))

        there = np.isfinite(values)  # a level without examples has no energy
        size = np.maximum(values, 1e-12)
        first, typical = self._seen == 0, self._typical
        moved = typical * np.exp(_RATE * np.sign(size - typical))
        self._typical = np.where(there, np.where(first, size, moved), typical)
        self._seen = self._seen + there

    def check_weights(self, step: int, params: Tree) -> None:
        """Raises Diverged if a parameter is not finite: asked before a state is saved."""
        if not _all_finite(params):
            raise Diverged(step, "a parameter is not finite after the step", "")

    def get_state(self) -> dict[str, Any]:
        """As JSON, for a checkpoint: a run that goes on judges as one that was never stopped."""
        return {"typical": self._typical.tolist(), "seen": self._seen.tolist()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Back to what `get_state` gave."""
        self._typical = np.array(state["typical"], np.float64)
        self._seen = np.array(state["seen"], np.float64)

    def _cause(self, report: Report, values: Float[np.ndarray, " values"]) -> str | None:
        counted = np.append(np.ones(len(_NAMES), bool), report.seen.count > 0)
        broken = np.flatnonzero(counted & ~np.isfinite(values))
        if len(broken):
            # Of a NaN, the energies say where it began; loss and gradient are NaN in any case.
            name = _name(broken[-1])
            return f"{name} is {'NaN' if np.isnan(values[broken[-1]]) else 'infinite'}"
        for index, limit, key in ((0, self._limits.loss, "loss"), (2, self._limits.reach, "reach")):
            if values[index] > limit:
                return f"{_name(index)} is {values[index]:.3g}, above config.guard.{key}={limit:g}"

        size, known = self._typical.copy(), self._seen[len(_NAMES) :] > 0
        size[0] += np.sum(size[len(_NAMES) :], where=known) / max(np.sum(known), 1)
        ratio = values / size
        spikes = np.flatnonzero(counted & (self._seen >= _FIRST) & (ratio > self._limits.spike))
        if len(spikes):
            worst = spikes[np.argmax(ratio[spikes])]
            return (
                f"{_name(worst)} is {values[worst]:.3g}, {ratio[worst]:.3g} times its recent size "
                f"(config.guard.spike={self._limits.spike:g})"
            )
        return None

    def _table(self, report: Report) -> str:
        seen, count = report.seen, np.maximum(report.seen.count, 1)
        lines = ["level  examples     f of data  f of samples  chain moved     recent |f|"]
        for t in np.flatnonzero(seen.count):
            row = (seen.positive[t], seen.negative[t], seen.moved[t])
            numbers = "".join(f"{value / count[t]:>13.4g}" for value in row)
            lines.append(f"{t:>5}{seen.count[t]:>10.0f} {numbers}  {self._typical[len(_NAMES) + t]:>13.4g}")
        return "\n".join(lines)


@jax.jit
def _all_finite(tree: Tree) -> jax.Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def _values(report: Report) -> Float[np.ndarray, " values"]:
    """The watched values of a step, none below zero; NaN for levels without examples."""
    seen = report.seen
    with np.errstate(divide="ignore", invalid="ignore"):
        energies = (np.abs(seen.positive) + np.abs(seen.negative)) / (2 * seen.count)
    loss = np.abs(np.sum(seen.loss) / np.sum(seen.count))
    return np.concatenate([[loss, report.gradient_norm, np.max(report.reach)], energies]).astype(np.float64)


def _name(index: int | np.integer) -> str:
    return _NAMES[index] if index < len(_NAMES) else f"the energy of level {index - len(_NAMES)}"
