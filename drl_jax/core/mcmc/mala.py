"""Metropolis-adjusted Langevin dynamics: steps of any size leave the density exactly as it is.

Reference: Roberts & Tweedie (1996), with their truncated drift, which a steep gradient cannot throw far.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from drl_jax.core.mcmc.langevin import Info, Kernel, norm, value_and_gradient
from drl_jax.core.randomness import fold_in, standard_normal
from drl_jax.core.types import Batch, Keys, LogDensity, PerExample


class State(NamedTuple):
    """A state with its log-density and gradient, so that each step evaluates them once."""

    y: Batch
    log_density: PerExample
    gradient: Batch


def start(log_density: LogDensity, y: Batch) -> State:
    """The state of a chain that begins at y."""
    return State(y, *value_and_gradient(log_density, y))


def mala(log_density: LogDensity, *, step_squared: jax.Array, spread: float) -> Kernel:
    """Proposes y′ = m(y) + r ξ, m(y) = y + ½ r² ∇log p(y) with the drift cut to length r, ξ ~ N(0, I);
    accepts with probability min(1, p(y′) N(y; m(y′), r²) / p(y) N(y′; m(y), r²)).

    The squared step r² is drawn anew each time, log-uniform between s² / `spread` and s²
    (`step_squared`, [batch, 1, …]): long steps cross between modes, short ones follow sharp edges, and
    a choice that does not look at the state keeps the chain exact.
    """

    def mean(y, gradient, squared):
        drift = 0.5 * squared * gradient
        length = jnp.sqrt(jnp.sum(drift**2, axis=range(1, y.ndim), keepdims=True))
        return y + drift * jnp.minimum(1.0, jnp.sqrt(squared) / jnp.maximum(length, 1e-12))

    def total(y):
        return jnp.sum(y**2, axis=range(1, y.ndim))

    def step(keys: Keys, state: State) -> tuple[State, Info]:
        y, value, gradient = state
        noise = standard_normal(fold_in(keys, 0), y)
        u = jax.vmap(lambda key: jax.random.uniform(key, (2,)))(fold_in(keys, 1))
        squared = step_squared * spread ** -u[:, 0].reshape(step_squared.shape)

        there = start(log_density, mean(y, gradient, squared) + jnp.sqrt(squared) * noise)
        back = (y - mean(there.y, there.gradient, squared)) / jnp.sqrt(squared)
        log_ratio = there.log_density - value + 0.5 * total(noise) - 0.5 * total(back)
        accepted = jnp.log(u[:, 1]) < log_ratio

        def chosen(new, old):
            return jnp.where(accepted.reshape(accepted.shape + (1,) * (new.ndim - 1)), new, old)

        new = jax.tree.map(chosen, there, state)
        return new, Info(value, norm(gradient), norm(new.y - y))

    return step
