"""One random key per example: its noise depends on nothing but its own key."""

import jax
import jax.numpy as jnp

from drl_jax.core.types import Batch, Keys


def example_keys(key: jax.Array, count: int, first: int | jax.Array = 0) -> Keys:
    """One key for each of examples first … first + count − 1."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, first + jnp.arange(count))


def standard_normal(keys: Keys, like: Batch | jax.ShapeDtypeStruct) -> Batch:
    """Noise of the shape of `like`: row i is a function of keys[i] alone, so it is the same for every
    batch size and every number of devices and processes."""
    return jax.vmap(lambda key: jax.random.normal(key, like.shape[1:], like.dtype))(keys)


def fold_in(keys: Keys, data: int | jax.Array) -> Keys:
    """`jax.random.fold_in` for a row of keys."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, data)
