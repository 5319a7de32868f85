"""Progressive synthesis: from white noise to data, level by level (paper, algorithm 2)."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
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
    record_at: Sequence[int] | None = None,
) -> tuple[Batch, Float[Array, "states rows *shape"], Info]:
    """Draws x_T ~ N(0, I), then x_{T−1} … x_0, each by a transition from the one before.

    Args:
      keys: one per example; example i depends on keys[i] alone.
      f: the network.
      levels: the noise levels.
      transition: how x_t is drawn from x_{t+1}.
      shape: of one example.
      record: which rows of a recorded x_i are kept. Default: all.
      record_at: the numbers i of the x_i that are recorded. Default: all, T … 0.

    Returns:
      x_0 [batch, *shape]; the recorded rows of the recorded states, the noisiest first
      [states, rows, *shape]; the info of every step, each leaf [T, K, batch]. Under `jax.jit`, results that
      are not used are not computed.

    Source: paper, algorithm 2.

    Example:
      Data N(0, 1) have the energy −f = ½ y² / scale² at every level, so the samples have a standard
      deviation near 1:

      >>> from functools import partial
      >>> import jax, jax.numpy as jnp
      >>> from drl_jax.core.levels import extract, make_levels
      >>> from drl_jax.core.mcmc import langevin
      >>> from drl_jax.core.synthesis import synthesize
      >>> from drl_jax.core.transition import mcmc_transition
      >>> levels = make_levels(6, temperature="one", b_squared=0.05, step_growth=0.0)
      >>> f = lambda y, t: -0.5 * jnp.sum((y / extract(levels.scale, t, y)) ** 2, axis=1)
      >>> transition = mcmc_transition(partial(langevin, noise_scale=1.0), num_steps=100)
      >>> keys = jax.random.split(jax.random.key(0), 4000)
      >>> x, process, info = synthesize(keys, f, levels, transition, (1,))
      >>> x.shape, process.shape, round(float(x.std()), 1)
      ((4000, 1), (7, 4000, 1), 1.0)
    """
    like = jax.ShapeDtypeStruct((len(keys), *shape), jnp.float32)
    x = standard_normal(fold_in(keys, levels.num_levels), like)
    return descend(keys, f, levels, transition, x, levels.num_levels, record=record, record_at=record_at)


def descend(
    keys: Keys,
    f: Network,
    levels: Levels,
    transition: Transition,
    x: Batch,
    first: int,
    *,
    record: Callable[[Batch], Batch] = lambda x: x,
    record_at: Sequence[int] | None = None,
) -> tuple[Batch, Float[Array, "states rows *shape"], Info]:
    """Draws x_{n−1} … x_0 from a given x_n, each by a transition from the one before.

    Args:
      keys, f, levels, transition, record: as for `synthesize`.
      x: x_n [batch, *shape].
      first: n, 1 … T.
      record_at: the numbers i of the x_i that are recorded. Default: all, n … 0.

    Returns:
      As `synthesize`; of the info each leaf is [n, K, batch].

    Source: paper, algorithm 2.
    """
    recorded = sorted(range(first + 1) if record_at is None else set(record_at), reverse=True)
    # The place of each x_i among the recorded ones. The others share one more place, which is cut off.
    place = np.full(first + 1, len(recorded))
    place[recorded] = np.arange(len(recorded))
    process = jnp.repeat(record(x)[None], len(recorded) + 1, axis=0)

    def level(state, t):
        x, process = state
        x, info = transition(fold_in(keys, t), f, levels, jnp.full(keys.shape, t), x)
        return (x, process.at[jnp.asarray(place)[t]].set(record(x))), info

    (x_0, process), info = jax.lax.scan(level, (x, process), jnp.arange(first)[::-1])
    return x_0, process[:-1], info
