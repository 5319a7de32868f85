"""Interpolation: samples between two samples, or between two given examples (paper, section 4)."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from drl_jax.core.levels import Levels, diffuse_to
from drl_jax.core.mcmc.base import norm
from drl_jax.core.randomness import DrawNoise, fold_in, standard_normal
from drl_jax.core.synthesis import descend
from drl_jax.core.transition import MakeTransition
from drl_jax.core.types import Network

One = Float[Array, "1 *shape"]
Rows = Float[Array, "rows *shape"]
Weights = Float[Array, " rows"]

Noise = Literal["mixed", "shared"]
"""Of the steps of chains. "mixed": each end has its own, mixed between them. "shared": all have the same."""

_SECOND = 2**31 - 3  # what is folded into the keys of the first end for the noise of the second


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
    per_row = lambda values: values.reshape(-1, *[1] * (x.ndim - 1))
    x_unit, y_unit = (each / per_row(norm(each)) for each in (x, y))
    angle = 2 * jnp.arctan2(norm(x_unit - y_unit), norm(x_unit + y_unit))  # accurate for all angles
    is_line = jnp.abs(jnp.sin(angle)) < 1e-4
    safe = jnp.where(is_line, 1.0, jnp.sin(angle))
    of_x = jnp.where(is_line, 1 - weights, jnp.sin((1 - weights) * angle) / safe)
    of_y = jnp.where(is_line, weights, jnp.sin(weights * angle) / safe)
    return per_row(of_x) * x + per_row(of_y) * y


def mixed_noise(weights: Weights) -> DrawNoise:
    """Makes noise that lies on an ellipse through two independent draws ξ and ξ′: nearly a great circle.

    Args:
      weights: w of the second draw, between 0 and 1 [rows].

    Returns:
      (keys, like) -> cos(w π / 2) ξ + sin(w π / 2) ξ′, which is N(0, I) for each w. ξ is
      `standard_normal(keys, like)`.
    """

    def draw(keys, like):
        first, second = standard_normal(keys, like), standard_normal(fold_in(keys, _SECOND), like)
        angle = 0.5 * jnp.pi * weights.reshape(-1, *[1] * (first.ndim - 1))
        return jnp.cos(angle) * first + jnp.sin(angle) * second

    return draw


def between_samples(
    key: jax.Array,
    f: Network,
    levels: Levels,
    make_transition: MakeTransition,
    shape: tuple[int, ...],
    weights: Weights,
    noise: Noise,
) -> Rows:
    """Draws samples whose x_T lie between two draws of white noise. Each is a sample of the model.

    Args:
      key: of all noise; with weight 0, the sample is that which `core.synthesis.synthesize` draws with it.
      f: the network.
      levels: the noise levels.
      make_transition: makes how x_t is drawn from x_{t+1}, with a source of noise.
      shape: of one example.
      weights: of the second end, between 0 and 1 [rows].
      noise: of the chains.

    Returns:
      x_0 [rows, *shape].

    Source: paper, section 4.
    """
    keys, draw = jnp.repeat(key[None], len(weights)), mixed_noise(weights)
    like = jax.ShapeDtypeStruct((len(weights), *shape), jnp.float32)
    start = draw(fold_in(keys, levels.num_levels), like)
    transition = make_transition(draw if noise == "mixed" else standard_normal)
    return descend(keys, f, levels, transition, start, levels.num_levels)[0]


def between_examples(
    key: jax.Array,
    f: Network,
    levels: Levels,
    make_transition: MakeTransition,
    x: One,
    y: One,
    weights: Weights,
    first: int,
    noise: Noise,
) -> Rows:
    """Draws samples between two given examples: both are diffused to x_n, mixed there, and drawn from.

    The higher n is, the freer are the samples, also at the ends.

    Args:
      key: of all noise.
      f: the network.
      levels: the noise levels.
      make_transition: makes how x_t is drawn from x_{t+1}, with a source of noise.
      x: the example where weight 0 is [1, *shape].
      y: the example where weight 1 is [1, *shape].
      weights: between 0 and 1 [rows].
      first: n, 1 … T.
      noise: of the diffusion and of the chains.

    Returns:
      x_0 [rows, *shape].

    Source: Ho et al. (2020), section 4.3, with the levels of this method.
    """
    keys, draw = jnp.repeat(key[None], len(weights)), mixed_noise(weights)
    of_x = fold_in(keys[:1], levels.num_levels)
    of_y, number = fold_in(of_x, _SECOND) if noise == "mixed" else of_x, jnp.full(1, first)
    x_n, y_n = diffuse_to(of_x, x, number, levels), diffuse_to(of_y, y, number, levels)
    transition = make_transition(draw if noise == "mixed" else standard_normal)
    return descend(keys, f, levels, transition, slerp(x_n, y_n, weights), first)[0]
