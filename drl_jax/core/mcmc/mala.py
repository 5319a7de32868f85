"""The Metropolis-adjusted Langevin algorithm: steps of any size leave the density exactly invariant."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from drl_jax.core.mcmc.base import Info, Sampler, norm, value_and_gradient
from drl_jax.core.randomness import DrawNoise, fold_in, standard_normal
from drl_jax.core.types import Batch, Keys, LogDensity, PerExample


class MALAState(NamedTuple):
    """A position with its log-density and gradient, so that each step evaluates them only once."""

    position: Batch
    log_density: PerExample
    gradient: Batch


def mala(
    log_density: LogDensity,
    *,
    step_squared: jax.Array,
    step_range: float = 1.0,
    draw_noise: DrawNoise = standard_normal,
) -> Sampler:
    """Makes a sampler that proposes y′ = m(y) + r ξ with ξ ~ N(0, I) and accepts or rejects it.

    The mean is m(y) = y + ½ r² ∇log p(y), with the drift cut to length r so that a steep gradient cannot
    move the chain far. The acceptance probability is min(1, p(y′) N(y; m(y′), r²) / p(y) N(y′; m(y), r²)).

    Each step draws r² anew, log-uniformly between s² / `step_range` and s². Long steps cross between
    modes and short ones follow sharp edges. The chain stays exact because r² does not depend on the state.

    Args:
      log_density: log p of each example, in nats, up to a constant.
      step_squared: s², the largest squared step, [batch, 1, …], in squared units of the data.
      step_range: s² divided by the smallest squared step, at least 1.
      draw_noise: draws ξ.

    Returns:
      The sampler.

    Source: Roberts & Tweedie (1996), with their truncated drift; the random step size is ours.
    """

    def mean(y, gradient, r_squared):
        drift = 0.5 * r_squared * gradient
        length = jnp.sqrt(jnp.sum(drift**2, axis=range(1, y.ndim), keepdims=True))
        return y + drift * jnp.minimum(1.0, jnp.sqrt(r_squared) / jnp.maximum(length, 1e-12))

    def squared_norm(y):
        return jnp.sum(y**2, axis=range(1, y.ndim))

    def init(position: Batch) -> MALAState:
        return MALAState(position, *value_and_gradient(log_density, position))

    def step(keys: Keys, state: MALAState) -> tuple[MALAState, Info]:
        y, value, gradient = state
        noise = draw_noise(fold_in(keys, 0), y)
        u = jax.vmap(lambda key: jax.random.uniform(key, (2,)))(fold_in(keys, 1))
        r_squared = step_squared * step_range ** -u[:, 0].reshape(step_squared.shape)

        proposal = init(mean(y, gradient, r_squared) + jnp.sqrt(r_squared) * noise)
        back = (y - mean(proposal.position, proposal.gradient, r_squared)) / jnp.sqrt(r_squared)
        log_ratio = proposal.log_density - value + 0.5 * squared_norm(noise) - 0.5 * squared_norm(back)
        accepted = jnp.log(u[:, 1]) < log_ratio

        def choose(new, old):
            return jnp.where(accepted.reshape(accepted.shape + (1,) * (new.ndim - 1)), new, old)

        new = jax.tree.map(choose, proposal, state)
        return new, Info(value, norm(gradient), norm(new.position - y), accepted)

    return Sampler(init, step)
