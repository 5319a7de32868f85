"""A model of which everything is known: data N(MEAN, COVARIANCE) in the plane, so every level is Gaussian."""

from functools import partial

import jax.numpy as jnp
import numpy as np

from drl_jax.core.levels import Levels, make_levels
from drl_jax.core.mcmc import langevin
from drl_jax.core.transition import mcmc_transition

MEAN = np.array([0.4, -0.2])
COVARIANCE = np.array([[0.3, 0.2], [0.2, 0.25]])
LEVELS = make_levels(6, temperature="one", b_squared=0.02, step_growth=0.0)
TRANSITION = mcmc_transition(partial(langevin, noise_scale=1.0), num_steps=300)


def marginals(levels: Levels) -> tuple[np.ndarray, np.ndarray]:
    """Mean [T, 2] and precision [T, 2, 2] of y_t for every level."""
    a, sigma, scale = levels.a_cum[:-1], levels.sigma_cum[:-1], levels.scale
    covariance = (scale * a)[:, None, None] ** 2 * COVARIANCE
    covariance = covariance + ((scale * sigma) ** 2)[:, None, None] * np.eye(2)
    return (scale * a)[:, None] * MEAN, np.linalg.inv(covariance)


def network(levels: Levels):
    """f(y, t): the exact log-density, at temperature one."""
    means, precisions = (jnp.asarray(each, jnp.float32) for each in marginals(levels))

    def f(y, t):
        centred = y - means[t]
        return -0.5 * jnp.einsum("bi,bij,bj->b", centred, precisions[t], centred)

    return f
