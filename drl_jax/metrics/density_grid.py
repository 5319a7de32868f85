"""A model's density in the plane, normalised on a grid, against the true one."""

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
MARGIN = 0.3  # of the data's box, on each side


class Maps(NamedTuple):
    """Probability masses of the grid's cells, [side, side], each summing to one."""

    true: Float[np.ndarray, "side side"]
    learned: Float[np.ndarray, "side side"]

    @property
    def total_variation(self) -> float:
        """½ ∫ |p − q|, between 0 and 1."""
        return float(0.5 * np.abs(self.true - self.learned).sum())


def level_maps(f: Network, levels: Levels, density: Density, t: int) -> Maps:
    """The true density of x_t and the model's, F_t(scale_t x), at the centres of a grid's cells.

    The grid covers the data's box and a margin around it: beyond it a model may do what it likes.
    """
    points = grid(density)
    score = jax.jit(lambda y: energy.marginal(f, levels, jnp.full(len(y), t))(y))
    learned = score(jnp.asarray(levels.scale[t] * points, jnp.float32))
    true = density.log_density(points, a=levels.a_cum[t], sigma=levels.sigma_cum[t])
    return Maps(_normalized(true), _normalized(np.asarray(learned, np.float64)))


def grid(density: Density) -> Float[np.ndarray, "cells 2"]:
    """The centres of the cells, first axis slowest."""
    low, high = density.box
    margin = MARGIN * (high - low)
    edges = np.linspace(low - margin, high + margin, SIDE + 1)
    centres = (edges[1:] + edges[:-1]) / 2
    return np.stack(np.meshgrid(centres, centres, indexing="ij"), axis=-1).reshape(-1, 2)


def _normalized(log_density: Float[np.ndarray, " cells"]) -> Float[np.ndarray, "side side"]:
    mass = np.exp(log_density - log_density.max())
    return (mass / mass.sum()).reshape(SIDE, SIDE)


def histogram(
    points: Float[np.ndarray, "n 2"], density: Density, bins: int
) -> Float[np.ndarray, "bins bins"]:
    """How many of the points are in each cell of a coarser grid over the same square."""
    low, high = density.box
    margin = MARGIN * (high - low)
    edges = np.linspace(low - margin, high + margin, bins + 1)
    return np.histogram2d(points[:, 0], points[:, 1], bins=(edges, edges))[0]
