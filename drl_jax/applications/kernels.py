"""How a Markov chain moves at one level of a trained model, and the programs that move many at once.

Our own kernels are those that the paper defines (Langevin) and its correction (MALA). HMC, NUTS and the
adaptation of step sizes are blackjax's.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from drl_jax.core import energy, mcmc
from drl_jax.core.levels import Levels, extract
from drl_jax.core.mcmc import Sampler
from drl_jax.core.model import Model
from drl_jax.core.randomness import fold_in
from drl_jax.core.types import Batch, Keys, Level, LogDensity, Network, PerExample

METHODS = ("langevin", "mala", "hmc", "nuts")
Target = Literal["recovery", "marginal"]

NUM_PROJECTIONS = 4  # of a position, on fixed random directions

Density = Callable[[Level, Batch], LogDensity]
"""(t, x_{t+1}) -> the log-density of y_t."""


class Kernel(NamedTuple):
    """How a chain moves.

    Attributes:
      method: one of `METHODS`: Langevin and MALA of `drl_jax.core.mcmc`, HMC and NUTS of blackjax with unit
        mass.
      noise_scale: η of Langevin.
      step_range: of MALA, the largest squared step divided by the smallest.
      leapfrog_steps: of a step of HMC.
      max_doublings: of NUTS, whose trajectories have fewer than 2^max_doublings leapfrog steps.
    """

    method: str
    noise_scale: float = 1.0
    step_range: float = 1.0
    leapfrog_steps: int = 5
    max_doublings: int = 6

    @property
    def is_adjusted(self) -> bool:
        """Whether proposals are accepted or rejected, so that a step size has an acceptance."""
        return self.method != "langevin"


class Info(NamedTuple):
    """What one step reports of each chain.

    Attributes:
      acceptance: of MALA 1 if the proposal was accepted and else 0; of HMC the probability; of NUTS its mean
        over the trajectory; of Langevin 1.
      displacement: Euclidean distance between the states before and after the step.
    """

    acceptance: PerExample
    displacement: PerExample


class Point(NamedTuple):
    """A point of a trace: the chains after a part of their steps.

    Attributes:
      log_density: of the target at the position, in nats, up to a constant.
      acceptance, displacement: as in `Info`, means over the steps of this part.
      projections: of the position, on `directions`.
    """

    log_density: PerExample
    acceptance: PerExample
    displacement: PerExample
    projections: Float[Array, "batch directions"]


def make_sampler(
    kernel: Kernel, density: Density, t: Level, x_next: Batch, step_size: jax.Array
) -> tuple[Callable[[Batch], Any], Callable[[Keys, Any], tuple[Any, Info]]]:
    """Makes `init` and `step` of a chain, as in `drl_jax.core.mcmc.Sampler`.

    Args:
      kernel: how the chain moves.
      density: of the target.
      t: the level of each chain [batch].
      x_next: x_{t+1} of each chain [batch, *shape].
      step_size: s of Langevin and MALA, the leapfrog step of HMC and NUTS; of each chain, [batch].

    Returns:
      position -> state, and (keys, state) -> (state, info). A state has a field `position`.
    """
    match kernel.method:
        case "langevin" | "mala":
            squared = jnp.reshape(step_size**2, step_size.shape + (1,) * (x_next.ndim - 1))
            log_density = density(t, x_next)
            if kernel.method == "langevin":
                sampler = mcmc.langevin(log_density, step_squared=squared, noise_scale=kernel.noise_scale)
            else:
                sampler = mcmc.mala(log_density, step_squared=squared, step_range=kernel.step_range)
            return sampler.init, _of_core(sampler)
        case _:
            return _of_blackjax(kernel, density, t, x_next, step_size)


def _of_core(sampler: Sampler):
    def step(keys, state):
        state, info = sampler.step(keys, state)
        return state, Info(info.accepted.astype(info.displacement.dtype), info.displacement)

    return step


def _of_blackjax(kernel: Kernel, density: Density, t: Level, x_next: Batch, step_size: jax.Array):
    """Blackjax moves one chain; this maps it over all."""
    import blackjax  # takes a second to import

    if kernel.method == "hmc":
        algorithm, settings = blackjax.hmc, {"num_integration_steps": kernel.leapfrog_steps}
    else:
        algorithm, settings = blackjax.nuts, {"max_num_doublings": kernel.max_doublings}
    move = algorithm.build_kernel()
    unit_mass = jnp.ones(math.prod(x_next.shape[1:]), x_next.dtype)

    def of_one(t, x_next):
        return lambda y: density(t[None], x_next[None])(y[None])[0]

    @jax.vmap
    def init(t, x_next, position):
        return algorithm.init(position, of_one(t, x_next))

    @jax.vmap
    def step(t, x_next, step_size, key, state):
        new, info = move(key, state, of_one(t, x_next), step_size, unit_mass, **settings)
        return new, Info(info.acceptance_rate, jnp.linalg.norm((new.position - state.position).ravel()))

    return partial(init, t, x_next), partial(step, t, x_next, step_size)


def make_density(f: Network, levels: Levels, target: Target) -> Density:
    """Makes the density of the recovery posterior, or of the marginal model, which needs no x_{t+1}.

    Args:
      f: the network.
      levels: the noise levels.
      target: which of the two.

    Returns:
      (t, x_{t+1}) -> the log-density of y_t.
    """
    if target == "recovery":
        return lambda t, x_next: energy.recovery(f, levels, t, x_next)
    return lambda t, x_next: energy.marginal(f, levels, t)


def directions(shape: tuple[int, ...]) -> np.ndarray:
    """Makes the fixed random directions on which positions are projected.

    Args:
      shape: of one position.

    Returns:
      Unit vectors [size, NUM_PROJECTIONS].
    """
    drawn = np.random.default_rng(0).standard_normal((math.prod(shape), NUM_PROJECTIONS))
    return (drawn / np.linalg.norm(drawn, axis=0)).astype(np.float32)


@partial(jax.jit, static_argnames=("kernel", "target"))
def advance(
    keys: Keys,
    model: Model,
    t: jax.Array,
    x_next: Batch,
    y: Batch,
    step_size: jax.Array,
    first: jax.Array,
    count: jax.Array,
    *,
    kernel: Kernel,
    target: Target,
) -> tuple[Batch, Point]:
    """Runs steps first … first + count − 1 of chains at level t.

    Level and steps are not static: one program serves all levels and all parts of a run.

    Args:
      keys: one per chain; step k draws from fold_in(fold_in(key, t), k), as in `core.synthesis`.
      model: the trained model.
      t: the level, the same for all.
      x_next: x_{t+1} [batch, *shape].
      y: the position y_t [batch, *shape].
      step_size: in units of s_t, the step of training.
      first: steps that were made before.
      count: how many steps.
      kernel: how the chain moves.
      target: which density the chains follow.

    Returns:
      The position [batch, *shape], and what is known of these steps.
    """
    every, keys = jnp.full(keys.shape, t), fold_in(keys, t)
    density = make_density(model.bind(), model.levels, target)
    size = jnp.full(keys.shape, step_size) * jnp.sqrt(extract(model.levels.step_squared, every, every * 1.0))
    init, step = make_sampler(kernel, density, every, x_next, size)

    def body(k, carry):
        state, total = carry
        state, info = step(fold_in(keys, k), state)
        return state, jax.tree.map(jnp.add, total, info)

    zeros = jnp.zeros(keys.shape, y.dtype)
    state, total = jax.lax.fori_loop(first, first + count, body, (init(y), Info(zeros, zeros)))
    y = state.position
    mean = jax.tree.map(lambda each: each / count, total)
    projections = y.reshape(len(y), -1) @ directions(y.shape[1:])
    return y, Point(density(every, x_next)(y), mean.acceptance, mean.displacement, projections)


@partial(jax.jit, static_argnames=("target_acceptance", "kernel", "target", "num_steps"))
def adapt(
    keys: Keys,
    model: Model,
    t: jax.Array,
    x_next: Batch,
    y: Batch,
    target_acceptance: float,
    *,
    kernel: Kernel,
    target: Target,
    num_steps: int,
) -> tuple[Batch, jax.Array]:
    """Runs a warm-up in which the step size moves until the mean acceptance of the chains is as wanted.

    Args:
      keys, model, t, x_next, y, kernel, target: as for `advance`.
      target_acceptance: between 0 and 1.
      num_steps: of the warm-up.

    Returns:
      The position, and the step size in units of s_t.

    Source: dual averaging, Hoffman & Gelman (2014), section 3.2, of blackjax.
    """
    from blackjax.adaptation.step_size import dual_averaging_adaptation

    every, keys = jnp.full(keys.shape, t), fold_in(keys, t)
    density = make_density(model.bind(), model.levels, target)
    own = jnp.sqrt(extract(model.levels.step_squared, every, every * 1.0))

    def parts(step_size):
        return make_sampler(kernel, density, every, x_next, step_size * own)

    start, update, final = dual_averaging_adaptation(target_acceptance)

    def body(carry, k):
        state, adaptation = carry
        _, step = parts(jnp.exp(adaptation.log_step_size))
        state, info = step(fold_in(keys, k), state)
        return (state, update(adaptation, jnp.mean(info.acceptance))), None

    as_arrays = jax.tree.map(jnp.asarray, start(jnp.ones((), y.dtype)))
    (state, adaptation), _ = jax.lax.scan(body, (parts(1.0)[0](y), as_arrays), jnp.arange(num_steps))
    return state.position, final(adaptation)
