"""Inpainting: draws the unknown numbers of examples, given the others (paper, section 4)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from drl_jax.core.levels import Levels, diffuse_to, extract, posterior
from drl_jax.core.randomness import fold_in, standard_normal
from drl_jax.core.transition import Transition
from drl_jax.core.types import Batch, Keys, Network

Known = Bool[Array, "batch *shape"]


def inpaint(keys: Keys, f: Network, levels: Levels, transition: Transition, x: Batch, known: Known) -> Batch:
    """Draws completions: the known numbers follow the forward chain from x, the others the model.

    At each level the known numbers of x_t are drawn given x and x_{t+1}, and stay fixed while the transition
    moves the others. With one level and a long chain the completions follow the model's conditional density.
    With several levels this is an approximation: the others are drawn before the known numbers of the levels
    below are seen.

    Args:
      keys: one per completion.
      f: the network.
      levels: the noise levels.
      transition: how x_t is drawn from x_{t+1}.
      x: the examples [batch, *shape]; where they are not known, any number.
      known: which numbers of them are known [batch, *shape].

    Returns:
      x_0 [batch, *shape], which is x where it is known.

    Source: paper, section 4.3; the joint law of the known numbers is ours.
    """
    num_levels = levels.num_levels
    top = jnp.full(keys.shape, num_levels)
    x_top = standard_normal(fold_in(keys, num_levels), x)
    x_top = jnp.where(known, diffuse_to(fold_in(keys, num_levels + 1), x, top, levels), x_top)

    def level(x_next: Batch, t: jax.Array) -> tuple[Batch, None]:
        every, own = jnp.full(keys.shape, t), fold_in(keys, t)
        x_known = posterior(fold_in(own, 0), x, x_next, every, levels)

        def f_given(y, t):
            return f(jnp.where(known, extract(levels.scale, t, y) * x_known, y), t)

        # The transition also moves the known numbers, which nothing depends on.
        x_t, _ = transition(fold_in(own, 1), f_given, levels, every, x_next)
        return jnp.where(known, x_known, x_t), None

    x_0, _ = jax.lax.scan(level, x_top, jnp.arange(num_levels)[::-1])
    return jnp.where(known, x, x_0)
