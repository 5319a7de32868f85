"""One random key per example: the noise of an example depends on its own key alone.

Then neither the batch size nor the number of devices or processes changes it.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from drl_jax.core.types import Batch, Keys

DrawNoise = Callable[[Keys, Batch | jax.ShapeDtypeStruct], Batch]
"""(keys, like) -> N(0, I) noise of the shape and dtype of `like`, as `standard_normal` draws it."""


def example_keys(key: jax.Array, count: int, first: int | jax.Array = 0) -> Keys:
    """Makes one key for each of examples first … first + count − 1.

    Args:
      key: the key of all examples.
      count: how many keys.
      first: index of the first example.

    Returns:
      Keys [count]. That of example i is fold_in(key, i).
    """
    return jax.vmap(jax.random.fold_in, (None, 0))(key, first + jnp.arange(count))


def fold_in(keys: Keys, data: int | jax.Array) -> Keys:
    """Applies `jax.random.fold_in` to each key.

    Args:
      keys: one per example.
      data: what to fold in, the same for all.

    Returns:
      New keys [batch].
    """
    return jax.vmap(jax.random.fold_in, (0, None))(keys, data)


def standard_normal(keys: Keys, like: Batch | jax.ShapeDtypeStruct) -> Batch:
    """Draws N(0, I) noise; row i depends on keys[i] alone.

    Args:
      keys: one per example.
      like: gives shape and dtype.

    Returns:
      Noise [batch, *shape].
    """
    return jax.vmap(lambda key: jax.random.normal(key, like.shape[1:], like.dtype))(keys)
