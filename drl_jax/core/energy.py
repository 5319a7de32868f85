"""From a network f(y, t) to log-densities: the marginal model and the recovery posterior."""

import jax.numpy as jnp

from drl_jax.core.levels import Levels, extract
from drl_jax.core.types import Batch, Level, LogDensity, Network


def marginal(f: Network, levels: Levels, t: Level) -> LogDensity:
    """Makes the log-density F_t(y) = f(y, t) / temperature_t of y_t = scale_t x_t, up to a constant.

    In terms of x_t: log p(x_t) = F_t(scale_t x_t) + d log scale_t − log Z_t.

    Args:
      f: the network.
      levels: the noise levels.
      t: the level of each example [batch].

    Returns:
      y [batch, *shape] -> log-density [batch], in nats.

    Source: paper, section 3; the temperature from the authors' code.
    """

    def log_density(y):
        value = f(y, t)
        return value / extract(levels.temperature, t, value)

    return log_density


def recovery(f: Network, levels: Levels, t: Level, x_next: Batch) -> LogDensity:
    """Makes the log-density F_t(y) − ‖x_{t+1} − y‖² / 2σ²_{t+1} of the recovery posterior of y_t.

    Where the level has is_recovery = 0 it is the marginal model.

    Args:
      f: the network.
      levels: the noise levels.
      t: the level of each example [batch].
      x_next: x_{t+1}, [batch, *shape].

    Returns:
      y [batch, *shape] -> log-density [batch], in nats, up to a constant.

    Source: paper, eq. 4.
    """
    model = marginal(f, levels, t)
    precision = levels.is_recovery / levels.sigma[1:] ** 2

    def log_density(y):
        distance_squared = jnp.sum((x_next - y) ** 2, axis=range(1, y.ndim))
        return model(y) - 0.5 * extract(precision, t, distance_squared) * distance_squared

    return log_density
