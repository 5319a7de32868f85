"""Detection: statistics of examples at a noise level, which tell other data from those of the model."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from drl_jax.core import energy
from drl_jax.core.levels import Levels, diffuse_to, extract
from drl_jax.core.mcmc.base import norm, value_and_gradient
from drl_jax.core.randomness import fold_in
from drl_jax.core.types import Batch, Keys, Level, Network

Values = Float[jax.Array | np.ndarray, " batch"]


class Statistics(NamedTuple):
    """What is measured of each example. Both are expected to be higher for other data.

    Attributes:
      energy: −log p_t(x_t) up to a constant of the level, in nats [batch].
      score_norm: ‖∇ log p_t(x_t)‖, in nats per unit of x_t [batch].
    """

    energy: Values
    score_norm: Values


def statistics(
    keys: Keys, f: Network, levels: Levels, t: Level, x: Batch, num_draws: int | jax.Array
) -> Statistics:
    """Computes the statistics of x_t = ā_t x + σ̄_t ε, as means over draws of the noise ε.

    Level t has learned the density of noisy examples. Of examples without noise it has learned nothing where
    t > 0, so each example gets the noise of the level first.

    Args:
      keys: one per example.
      f: the network.
      levels: the noise levels.
      t: the level of each example [batch].
      x: examples without noise [batch, *shape].
      num_draws: of the noise, at least 1.

    Returns:
      The statistics of each example.

    Source: ours.
    """
    log_density, scale = energy.marginal(f, levels, t), extract(levels.scale, t, x)

    def add(draw: jax.Array, sums: Statistics) -> Statistics:
        x_t = diffuse_to(fold_in(keys, draw), x, t, levels)
        value, gradient = value_and_gradient(lambda x: log_density(scale * x), x_t)
        return Statistics(sums.energy - value, sums.score_norm + norm(gradient))

    zeros = jnp.zeros(len(x), x.dtype)
    sums = jax.lax.fori_loop(0, num_draws, add, Statistics(zeros, zeros))
    return Statistics(sums.energy / num_draws, sums.score_norm / num_draws)
