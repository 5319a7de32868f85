"""From a network's number f(y, t) to log-densities: the marginal model and the recovery posterior."""

import jax.numpy as jnp

from drl_jax.core.levels import Levels, at
from drl_jax.core.types import Batch, Level, LogDensity, Network


def marginal(f: Network, levels: Levels, t: Level) -> LogDensity:
    """y ↦ F_t(y) = f(y, t) / temperature_t: log-density of y_t = scale_t x_t, up to a constant.

    In terms of x_t:  log p(x_t) = F_t(scale_t x_t) + d log scale_t − log Z_t.
    """

    def log_density(y):
        value = f(y, t)
        return value / at(levels.temperature, t, value)

    return log_density


def recovery(f: Network, levels: Levels, t: Level, x_next: Batch) -> LogDensity:
    """y ↦ F_t(y) − ‖x_{t+1} − y‖² / 2σ²_{t+1}: the recovery posterior of y_t (paper, eq. 4).

    Where the level has no tether this is the marginal model.
    """
    model = marginal(f, levels, t)
    precision = levels.tether / levels.sigma[1:] ** 2

    def log_density(y):
        distance_squared = jnp.sum((x_next - y) ** 2, axis=range(1, y.ndim))
        return model(y) - 0.5 * at(precision, t, distance_squared) * distance_squared

    return log_density
