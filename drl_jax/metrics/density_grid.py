"""A model's density in the plane, normalised on a grid, beside the true density."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from drl_jax.core import energy
from drl_jax.core.levels import Levels
from drl_jax.core.types import Network
from drl_jax.data.densities import Density

SIDE = 200  # cells along each axis
MARGIN = 0.3  # on each side of the data's box, as a fraction of its width


class GridDensities(NamedTuple):
    """Two densities on a grid, as probability masses of its cells, which sum to 1.

    Attributes:
      true: of the data.
      learned: of the model.
    """

    true: Float[np.ndarray, "side side"]
    learned: Float[np.ndarray, "side side"]

    @property
    def total_variation(self) -> float:
        """½ ∫ |p − q|, between 0 and 1."""
        return float(0.5 * np.abs(self.true - self.learned).sum())


def level_densities(f: Network, levels: Levels, density: Density, t: int) -> GridDensities:
    """Computes the true density of x_t and the model's, exp F_t(scale_t x), on a grid.

    The grid covers the data's box and a margin around it; beyond it the model is not compared.

    Args:
      f: the network.
      levels: the noise levels.
      density: of the data.
      t: the level, 0 <= t < T.

    Returns:
      Both densities.
    """
    points = grid(density)
    log_density = jax.jit(lambda y: energy.marginal(f, levels, jnp.full(len(y), t))(y))
    learned = log_density(jnp.asarray(levels.scale[t] * points, jnp.float32))
    true = density.log_density(points, a=levels.a_cum[t], sigma=levels.sigma_cum[t])
    return GridDensities(_normalized(true), _normalized(np.asarray(learned, np.float64)))


def grid(density: Density) -> Float[np.ndarray, "cells 2"]:
    """Computes the centres of the cells; the first axis changes slowest."""
    edges = _edges(density, SIDE)
    centres = (edges[1:] + edges[:-1]) / 2
    return np.stack(np.meshgrid(centres, centres, indexing="ij"), axis=-1).reshape(-1, 2)


def histogram(
    points: Float[np.ndarray, "n 2"], density: Density, bins: int
) -> Float[np.ndarray, "bins bins"]:
    """Counts the points in each cell of a grid of bins × bins cells over the same square."""
    edges = _edges(density, bins)
    return np.histogram2d(points[:, 0], points[:, 1], bins=(edges, edges))[0]


def _edges(density: Density, cells: int) -> Float[np.ndarray, " edges"]:
    low, high = density.box
    margin = MARGIN * (high - low)
    return np.linspace(low - margin, high + margin, cells + 1)


def _normalized(log_density: Float[np.ndarray, " cells"]) -> Float[np.ndarray, "side side"]:
    mass = np.exp(log_density - log_density.max())
    return (mass / mass.sum()).reshape(SIDE, SIDE)
