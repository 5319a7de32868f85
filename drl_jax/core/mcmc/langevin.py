"""Unadjusted Langevin dynamics (paper, eq. 6)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from drl_jax.core.mcmc.base import Info, Sampler, norm, value_and_gradient
from drl_jax.core.randomness import DrawNoise, standard_normal
from drl_jax.core.types import Batch, Keys, LogDensity


class LangevinState(NamedTuple):
    """The position y is the whole state."""

    position: Batch


def langevin(
    log_density: LogDensity,
    *,
    step_squared: jax.Array,
    noise_scale: float = 1.0,
    draw_noise: DrawNoise = standard_normal,
) -> Sampler:
    """Makes the sampler y ← y + ½ s² ∇log p(y) + η s ξ with ξ ~ N(0, I), without an accept/reject step.

    Args:
      log_density: log p of each example, in nats, up to a constant.
      step_squared: s², broadcast against the position, in squared units of the data.
      noise_scale: η; 1 in training, 0.99 in the authors' evaluation, 0 for gradient ascent.
      draw_noise: draws ξ.

    Returns:
      The sampler.

    Source: paper, eq. 6; η from the authors' code.

    Example:
      One step with η = 0 from y = 1 on N(0, 1) is y − ½ s² y:

      >>> import jax, jax.numpy as jnp
      >>> from drl_jax.core.mcmc import langevin, run
      >>> log_density = lambda y: -0.5 * jnp.sum(y**2, axis=-1)
      >>> sampler = langevin(log_density, step_squared=jnp.array(0.5), noise_scale=0.0)
      >>> position, info = run(jax.random.split(jax.random.key(0), 1), sampler, jnp.ones((1, 1)), num_steps=1)
      >>> float(position[0, 0])
      0.75
    """

    def init(position: Batch) -> LangevinState:
        return LangevinState(position)

    def step(keys: Keys, state: LangevinState) -> tuple[LangevinState, Info]:
        y = state.position
        value, gradient = value_and_gradient(log_density, y)
        noise = noise_scale * draw_noise(keys, y)
        move = displacement(gradient, noise, step_squared=step_squared)
        accepted = jnp.ones(value.shape, bool)
        return LangevinState(y + move), Info(value, norm(gradient), norm(move), accepted)

    return Sampler(init, step)


def displacement(gradient: Batch, noise: Batch, *, step_squared: jax.Array) -> Batch:
    """Computes ½ s² ∇log p + s ξ, what one step adds to the position.

    Args:
      gradient: ∇log p at the position [batch, *shape].
      noise: ξ [batch, *shape].
      step_squared: s², broadcast against them.

    Returns:
      [batch, *shape], in units of the data.

    Source: paper, eq. 6.
    """
    return 0.5 * step_squared * gradient + jnp.sqrt(step_squared) * noise
