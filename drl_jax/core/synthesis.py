"""Progressive synthesis: from white noise to data, level by level (paper, algorithm 2)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from drl_jax.core.levels import Levels
from drl_jax.core.mcmc.langevin import Info
from drl_jax.core.objective import draw
from drl_jax.core.randomness import fold_in, standard_normal
from drl_jax.core.types import Batch, Keys, Network


def synthesize(
    keys: Keys,
    f: Network,
    levels: Levels,
    shape: tuple[int, ...],
    *,
    num_steps: int,
    noise_scale: float = 0.99,
    spread: float | None = None,
) -> tuple[Batch, Float[Array, "states batch *shape"], Info]:
    """Draws x_T ~ N(0, I), then x_{T-1} … x_0, each by K Langevin steps from the one before
    (Metropolis-adjusted with a `spread`, see `recovery.draw`).

    `shape` is that of one example. Example i is a function of keys[i] alone. Takes T K gradients.

    Returns (x_0 [batch, *shape], the process x_T … x_0 [T + 1, batch, *shape], and the info of every
    step [T, K, batch]). What a caller under jit does not use is not computed.
    """
    like = jax.ShapeDtypeStruct((len(keys), *shape), jnp.float32)
    x = standard_normal(fold_in(keys, levels.num_levels), like)

    def level(x, t):
        every = jnp.full(keys.shape, t)
        x, info = draw(
            fold_in(keys, t),
            f,
            levels,
            every,
            x,
            num_steps=num_steps,
            noise_scale=noise_scale,
            spread=spread,
        )
        return x, (x, info)

    x_0, (process, info) = jax.lax.scan(level, x, jnp.arange(levels.num_levels)[::-1])
    return x_0, jnp.concatenate([x[None], process]), info
