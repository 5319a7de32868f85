"""Interpolation: samples between two samples, or between two given examples (paper, section 4)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from drl_jax.core.levels import Levels, diffuse_to
from drl_jax.core.mcmc.base import norm
from drl_jax.core.randomness import standard_normal
from drl_jax.core.synthesis import descend
from drl_jax.core.transition import Transition
from drl_jax.core.types import Network

One = Float[Array, "1 *shape"]
Rows = Float[Array, "rows *shape"]
Weights = Float[Array, " rows"]


def slerp(x: One, y: One, weights: Weights) -> Rows:
    """Interpolates along a great circle, so that noise keeps its length on the way.

    Args:
      x: where weight 0 is [1, *shape].
      y: where weight 1 is [1, *shape].
      weights: between 0 and 1 [rows].

    Returns:
      sin((1 − w) θ) / sin θ · x + sin(w θ) / sin θ · y [rows, *shape], with θ the angle between x and y; on
      the straight line where they are parallel.

    Source: Shoemake (1985).
    """
    x_unit, y_unit = (each / norm(each).reshape(-1, *[1] * (x.ndim - 1)) for each in (x, y))
    angle = 2 * jnp.arctan2(norm(x_unit - y_unit), norm(x_unit + y_unit))[0]  # accurate for all angles
    is_line = jnp.abs(jnp.sin(angle)) < 1e-4
    safe = jnp.where(is_line, 1.0, jnp.sin(angle))
    w = weights.reshape(-1, *[1] * (x.ndim - 1))
    of_x = jnp.where(is_line, 1 - w, jnp.sin((1 - w) * angle) / safe)
    return of_x * x + jnp.where(is_line, w, jnp.sin(w * angle) / safe) * y


def between_samples(
    key: jax.Array,
    f: Network,
    levels: Levels,
    transition: Transition,
    shape: tuple[int, ...],
    weights: Weights,
) -> Rows:
    """Draws samples whose x_T lie on a great circle between two draws, with all other noise shared.

    Args:
      key: of both ends and of the shared noise.
      f: the network.
      levels: the noise levels.
      transition: how x_t is drawn from x_{t+1}.
      shape: of one example.
      weights: of the second end, between 0 and 1 [rows].

    Returns:
      x_0 [rows, *shape].

    Source: paper, section 4.2.
    """
    like = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    ends = standard_normal(jax.random.split(jax.random.fold_in(key, 0), 2), like)
    start = slerp(ends[:1], ends[1:], weights)
    return _from(key, f, levels, transition, start, levels.num_levels)


def between_examples(
    key: jax.Array,
    f: Network,
    levels: Levels,
    transition: Transition,
    x: One,
    y: One,
    weights: Weights,
    first: int,
) -> Rows:
    """Draws samples between two given examples: both are diffused to x_n, mixed there, and drawn from.

    Both get the same noise, and the samples the same noise of the chains. The higher n is, the freer are the
    samples, also at the ends.

    Args:
      key: of all noise.
      f: the network.
      levels: the noise levels.
      transition: how x_t is drawn from x_{t+1}.
      x: the example where weight 0 is [1, *shape].
      y: the example where weight 1 is [1, *shape].
      weights: between 0 and 1 [rows].
      first: n, 1 … T.

    Returns:
      x_0 [rows, *shape].

    Source: Ho et al. (2020), section 4.3, with the levels of this method.
    """
    keys = jax.random.fold_in(key, 0)[None]
    number = jnp.full(1, first)
    x_n, y_n = (diffuse_to(keys, each, number, levels) for each in (x, y))
    return _from(key, f, levels, transition, slerp(x_n, y_n, weights), first)


def _from(
    key: jax.Array, f: Network, levels: Levels, transition: Transition, start: Rows, first: int
) -> Rows:
    """Draws from each row of x_n, all with the same noise."""
    shared = jnp.repeat(jax.random.fold_in(key, 1)[None], len(start))
    return descend(shared, f, levels, transition, start, first)[0]
