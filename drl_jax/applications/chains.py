"""Long runs of Markov chains on the densities of a trained model.

A chain runs at one level, on the recovery posterior or on the marginal model, or it descends through all
levels with many steps at each (paper, section 4.3). Memory does not grow with the number of steps: these run
in compiled parts, of which means are kept. Between two parts a chain is its position alone, so that a run can
stop after any part, and continues later with the same results.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from drl_jax.applications.diagnostics import mixing
from drl_jax.applications.kernels import Kernel, Point, Target, adapt, advance
from drl_jax.core.model import Model
from drl_jax.core.randomness import fold_in, standard_normal
from drl_jax.core.transition import Transition
from drl_jax.core.types import Batch, Keys
from drl_jax.errors import UserError

MAX_POINTS = 2000  # of the traces of all legs together, but each has one at least
PILOTS = 32  # chains of the warm-up
_WARMUP = 2**31 - 1  # what is folded into the keys of the pilots; chains fold in their level


@partial(jax.jit, static_argnames=("transition", "shape", "last"))
def synthesize_to(
    keys: Keys, model: Model, transition: Transition, shape: tuple[int, ...], last: int
) -> Batch:
    """Draws x_n by the model's own levels T − 1 … n, as `core.synthesis.synthesize` does on its way to x_0.

    Args:
      keys: one per chain.
      model: the trained model.
      transition: how x_t is drawn from x_{t+1}.
      shape: of one example.
      last: n, 0 … T; T gives white noise.

    Returns:
      x_n [batch, *shape].
    """
    f, levels = model.bind(), model.levels
    x = standard_normal(
        fold_in(keys, levels.num_levels), jax.ShapeDtypeStruct((len(keys), *shape), jnp.float32)
    )

    def level(x, t):
        return transition(fold_in(keys, t), f, levels, jnp.full(keys.shape, t), x)[0], None

    return jax.lax.scan(level, x, jnp.arange(last, levels.num_levels)[::-1])[0]


class Leg(NamedTuple):
    """Steps of one level, on the way to a snapshot.

    Attributes:
      snapshot: to which one they lead, 0, 1, …
      level: t.
      first: how many steps were made before at this level.
      num_steps: how many steps.
    """

    snapshot: int
    level: int
    first: int
    num_steps: int

    def parts(self, num_points: int) -> list[tuple[int, int]]:
        """Returns (first step, steps) of at most `num_points` parts, all of one length but for the first."""
        length = -(-self.num_steps // num_points)
        ends = range(self.first + self.num_steps, self.first, -length)
        return [(max(end - length, self.first), end - max(end - length, self.first)) for end in ends][::-1]


def one_level(level: int, snapshots: Sequence[int]) -> list[Leg]:
    """Plans chains at one level.

    Args:
      level: t.
      snapshots: after how many steps the chains are wanted.

    Returns:
      One leg for each.
    """
    return [
        Leg(i, level, first, last - first)
        for i, (first, last) in enumerate(zip((0, *snapshots), snapshots, strict=False))
    ]


def all_levels(num_levels: int, snapshots: Sequence[int]) -> list[Leg]:
    """Plans descents from x_T to x_0, whose steps are spread over the levels.

    Args:
      num_levels: T.
      snapshots: the total number of steps of each descent. What does not divide goes to the lowest levels.

    Returns:
      T legs for each descent.
    """
    return [
        Leg(i, t, 0, total // num_levels + (t < total % num_levels))
        for i, total in enumerate(snapshots)
        for t in reversed(range(num_levels))
    ]


@dataclass(frozen=True, eq=False)
class Run:
    """Everything that chains depend on.

    Attributes:
      keys: one per chain.
      model: the trained model.
      kernel: how they move.
      target: its density; on the way through all levels, the recovery posterior.
      start: x_{t+1} of the first leg [batch, *shape]; of the marginal model x_t.
      legs: of all steps.
      step_sizes: of each level, in units of s_t; of a level without a leg any number.
      num_chains: how many chains count; the others fill the devices.
      group: how many chains in succession have one target.
    """

    keys: Keys
    model: Model
    kernel: Kernel
    target: Target
    start: Batch
    legs: Sequence[Leg]
    step_sizes: np.ndarray
    num_chains: int
    group: int

    @property
    def num_points(self) -> int:
        """Points of the trace of a leg, at most."""
        return max(1, MAX_POINTS // len(self.legs))


class Position(NamedTuple):
    """Where chains are, between two parts of a run.

    Attributes:
      leg: the number of the leg.
      part: how many parts of it are done.
      x_next: x_{t+1} [batch, *shape].
      y: y_t [batch, *shape].
    """

    leg: int
    part: int
    x_next: Batch
    y: Batch


class Part(NamedTuple):
    """What a part of a run gives.

    Attributes:
      leg: the number of the leg to which it belongs.
      steps: how many steps are done at this level.
      point: of the trace; NumPy arrays.
      position: where the next part begins.
      x: x_t [batch, *shape] where the leg leads to its snapshot, else None.
    """

    leg: int
    steps: int
    point: Point
    position: Position
    x: Batch | None


def begin(run: Run, leg: int = 0, x_next: Batch | None = None) -> Position:
    """Makes the position before the first step of a level.

    Args:
      run: the chains.
      leg: the number of the leg.
      x_next: x_{t+1} of the leg. Default: the run's start.

    Returns:
      The position.
    """
    x_next = run.start if x_next is None else x_next
    is_marginal = run.target == "marginal"
    y = run.model.levels.scale[run.legs[leg].level] * x_next if is_marginal else x_next
    return Position(leg, 0, x_next, y)


def continue_run(run: Run, position: Position) -> Iterator[Part]:
    """Runs chains from a position on; `begin(run)` is the first.

    Args:
      run: the chains.
      position: where they are.

    Returns:
      An iterator that runs one part after the other, until the last leg ends.

    Raises:
      UserError: chains left the finite numbers.
    """
    while position.leg < len(run.legs):
        number, leg = position.leg, run.legs[position.leg]
        parts = leg.parts(run.num_points)
        first, count = parts[position.part]
        y, point = _advance(run, position, first, count)
        point = _fetch(run, point)
        if broken := int(np.sum(~_is_finite(point))):
            step = _first_not_finite(run, position, first, count)
            raise UserError(
                f"{broken} of {run.num_chains} chains left the finite numbers, at level {leg.level}, step "
                f"{step}: the model has diverged, or the step size is too large"
            )
        is_last = position.part + 1 == len(parts)
        x = y / np.float32(run.model.levels.scale[leg.level])
        if not is_last:
            position = position._replace(part=position.part + 1, y=y)
        else:
            position = _next_leg(run, number + 1, position.x_next, x, y)
        ends = is_last and leg.level == run.legs[-1].level
        yield Part(number, first + count, point, position, x if ends else None)


def _next_leg(run: Run, number: int, x_next: Batch, x: Batch, y: Batch) -> Position:
    """The position before a leg, given the end of the leg before it."""
    if number == len(run.legs) or run.legs[number].first:  # nothing is left, or the same chains go on
        return Position(number, 0, x_next, y)
    is_new = run.legs[number].snapshot > run.legs[number - 1].snapshot
    return begin(run, number, None if is_new else x)


def _advance(run: Run, position: Position, first: int, count: int) -> tuple[Batch, Point]:
    level = run.legs[position.leg].level
    return advance(
        run.keys,
        run.model,
        np.int32(level),
        position.x_next,
        position.y,
        np.float32(run.step_sizes[level]),
        np.int32(first),
        np.int32(count),
        kernel=run.kernel,
        target=run.target,
    )


def _fetch(run: Run, point: Point) -> Point:
    """The point as NumPy arrays, of the chains that count."""
    return jax.tree.map(lambda each: np.asarray(each)[: run.num_chains], point)


def _is_finite(point: Point) -> np.ndarray:
    return np.isfinite(point.log_density) & np.isfinite(point.projections).all(axis=1)


def _first_not_finite(run: Run, position: Position, first: int, count: int) -> int:
    """The step at which chains first leave the finite numbers, found by making the steps again one by one."""
    for step in range(first, first + count):
        y, point = _advance(run, position, step, 1)
        if not _is_finite(_fetch(run, point)).all():
            return step
        position = position._replace(y=y)
    return first + count - 1


class Trace(NamedTuple):
    """What the parts of a run gave, in their order.

    Attributes:
      leg: the number of the leg.
      step: how many steps of its level were done.
      energy: −log of the target's density at the position, in nats, up to a constant.
      acceptance, displacement: means over the steps of a part.
      projections: of the position.
    """

    leg: Int[np.ndarray, " points"]
    step: Int[np.ndarray, " points"]
    energy: Float[np.ndarray, "points chains"]
    acceptance: Float[np.ndarray, "points chains"]
    displacement: Float[np.ndarray, "points chains"]
    projections: Float[np.ndarray, "points chains directions"]

    def of_leg(self, number: int) -> "Trace":
        """Returns the points of one leg."""
        return Trace(*(each[self.leg == number] for each in self))


def join(parts: Sequence[tuple[int, int, Point]]) -> Trace:
    """Joins the points of a run.

    Args:
      parts: (number of the leg, steps that are done at its level, the point).

    Returns:
      The trace.
    """
    numbers, steps, points = zip(*parts, strict=True)
    log_density, acceptance, displacement, projections = map(np.stack, zip(*points, strict=True))
    return Trace(np.array(numbers), np.array(steps), -log_density, acceptance, displacement, projections)


class Diagnostics(NamedTuple):
    """What a leg tells of its chains.

    Attributes:
      snapshot: to which it leads, 0, 1, …
      level: t.
      steps: how many steps are done at this level when it ends.
      step_size: in units of s_t.
      energy: −log of the target's density at its end, in nats, up to a constant; mean over chains.
      acceptance, displacement: means over its steps and chains.
      ess: effective sample size of one chain, at most about the points of its trace.
      rhat: split R̂. Both are of the worst of the energy and the projections. Where chains start in this leg,
        its first half is left out.
    """

    snapshot: int
    level: int
    steps: int
    step_size: float
    energy: float
    acceptance: float
    displacement: float
    ess: float
    rhat: float


def diagnose(run: Run, trace: Trace) -> list[Diagnostics]:
    """Computes the diagnostics of each leg.

    Args:
      run: the chains.
      trace: all points of the legs.

    Returns:
      One for each leg that the trace has.
    """
    rows = []
    for number in np.unique(trace.leg).tolist():
        leg, part = run.legs[number], trace.of_leg(number)
        quantities = np.concatenate([part.energy[..., None], part.projections], axis=2)
        is_first = leg.first == 0  # its chains may come from far
        ess, rhat = mixing(quantities[len(part.step) // 2 if is_first else 0 :], run.group)
        weights = np.diff(part.step, prepend=leg.first)
        rows.append(
            Diagnostics(
                leg.snapshot,
                leg.level,
                int(part.step[-1]),
                float(run.step_sizes[leg.level]),
                float(part.energy[-1].mean()),
                float(np.average(part.acceptance.mean(axis=1), weights=weights)),
                float(np.average(part.displacement.mean(axis=1), weights=weights)),
                ess,
                rhat,
            )
        )
    return rows


def warm_up(
    keys: Keys,
    model: Model,
    transition: Transition,
    shape: tuple[int, ...],
    levels: Sequence[int],
    target_acceptance: float,
    *,
    kernel: Kernel,
    target: Target,
    num_steps: int,
) -> np.ndarray:
    """Adapts the step size of each level by chains of its own, so that no chain depends on another.

    Args:
      keys: one per chain of the warm-up.
      model: the trained model.
      transition: how x_t is drawn from x_{t+1}; gives the start at the highest level.
      shape: of one example.
      levels: from the highest to the lowest.
      target_acceptance: between 0 and 1.
      kernel: how the chains move.
      target: their density.
      num_steps: of the warm-up, at each level.

    Returns:
      Step sizes [T] in units of s_t; 1 at the other levels.

    Raises:
      UserError: the warm-up left the finite numbers.
    """
    sizes = np.ones(model.levels.num_levels)
    x = synthesize_to(keys, model, transition, shape, levels[0] + (target == "recovery"))
    for t in levels:
        scale = np.float32(model.levels.scale[t])
        y, size = adapt(
            keys,
            model,
            np.int32(t),
            x,
            scale * x if target == "marginal" else x,
            target_acceptance,
            kernel=kernel,
            target=target,
            num_steps=num_steps,
        )
        x, sizes[t] = y / scale, size
        if not np.isfinite(sizes[t]):
            raise UserError(f"the warm-up left the finite numbers at level {t}: the model has diverged")
    return sizes


def pilot_keys(keys: Keys) -> Keys:
    """Makes the keys of the warm-up.

    Args:
      keys: of chains.

    Returns:
      Keys [batch] that those chains do not use.
    """
    return fold_in(keys, _WARMUP)
