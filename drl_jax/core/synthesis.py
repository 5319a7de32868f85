"""Progressive synthesis: from white noise to data, level by level (paper, algorithm 2)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from drl_jax.core.levels import Levels
from drl_jax.core.mcmc import Info
from drl_jax.core.randomness import fold_in, standard_normal
from drl_jax.core.transition import Transition
from drl_jax.core.types import Batch, Keys, Network


def synthesize(
    keys: Keys,
    f: Network,
    levels: Levels,
    transition: Transition,
    shape: tuple[int, ...],
    *,
    record: Callable[[Batch], Batch] = lambda x: x,
) -> tuple[Batch, Float[Array, "states rows *shape"], Info]:
    """Draws x_T ~ N(0, I), then x_{T−1} … x_0, each by a transition from the one before.

    Args:
      keys: one per example; example i depends on keys[i] alone.
      f: the network.
      levels: the noise levels.
      transition: how x_t is drawn from x_{t+1}.
      shape: of one example.
      record: which rows of each x_t are kept in the second result. Default: all.

    Returns:
      x_0 [batch, *shape]; the recorded rows of x_T … x_0 [T + 1, rows, *shape]; the info of every step,
      each leaf [T, K, batch]. Under `jax.jit`, results that are not used are not computed.

    Source: paper, algorithm 2.
    """
    like = jax.ShapeDtypeStruct((len(keys), *shape), jnp.float32)
    x = standard_normal(fold_in(keys, levels.num_levels), like)

    def level(x, t):
        x, info = transition(fold_in(keys, t), f, levels, jnp.full(keys.shape, t), x)
        return x, (record(x), info)

    x_0, (process, info) = jax.lax.scan(level, x, jnp.arange(levels.num_levels)[::-1])
    return x_0, jnp.concatenate([record(x)[None], process]), info
