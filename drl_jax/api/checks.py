"""What users give to a model: each wrong input is one clear error."""

import jax
import jax.numpy as jnp
import numpy as np

from drl_jax.errors import UserError
from drl_jax.pixels import to_unit

_MAX_ABS = 20.0  # of floats: noise stays far below, images of 0 to 255 do not

Array = np.ndarray | jax.Array

Key = int | jax.Array
"""A seed, or a key of `jax.random.key`."""


def examples(x: Array, shape: tuple[int, ...], name: str = "x") -> jax.Array:
    """Returns examples in units of the model.

    Args:
      x: examples [n, *shape].
      shape: of one example of the model.
      name: what a message calls them.

    Raises:
      UserError: the array has another shape or type, or numbers that cannot be data.
    """
    x = np.asarray(x)
    if x.shape[1:] != shape or not x.shape[0]:
        rows = ", ".join(map(str, shape))
        raise UserError(f"{name} has the shape {list(x.shape)}; right is [n, {rows}], n ≥ 1")
    return _numbers(x, len(shape) > 1, name)


def example(x: Array, shape: tuple[int, ...], name: str = "x") -> jax.Array:
    """Returns one example [1, *shape] in units of the model; for the rest see `examples`."""
    x = np.asarray(x)
    if x.shape != shape:
        raise UserError(f"{name} has the shape {list(x.shape)}; right is {list(shape)}")
    return _numbers(x[None], len(shape) > 1, name)


def _numbers(x: np.ndarray, is_image: bool, name: str) -> jax.Array:
    """Returns examples in units of the model. Raises UserError if they cannot be data."""
    if not np.issubdtype(x.dtype, np.floating) and not (is_image and x.dtype == np.uint8):
        right = "uint8, 0 to 255, or floats, where data are in [-1, 1]" if is_image else "floats"
        raise UserError(f"{name} is of type {x.dtype.name}; right is {right}")
    x = to_unit(x)
    if not np.isfinite(x).all():
        row = int(np.argmin(np.isfinite(x).reshape(len(x), -1).all(axis=1)))
        raise UserError(f"{name} has numbers that are not finite, the first in row {row}")
    if np.abs(x).max() > _MAX_ABS:
        raise UserError(
            f"{name} has floats up to {np.abs(x).max():g}: data are in [-1, 1], and with noise at most "
            f"{_MAX_ABS:g}; bytes are uint8"
        )
    return jnp.asarray(x)


def mask(known: Array, shape: tuple[int, ...]) -> np.ndarray:
    """Returns for each number of an example whether it is known [*shape].

    Args:
      known: [*shape], or [height, width] of an image.
      shape: of one example of the model.

    Raises:
      UserError: it has another shape or type, or all is known.
    """
    known = np.asarray(known)
    if known.dtype != bool:
        raise UserError(f"known is of {known.dtype}; right is bool, true where the example is known")
    if known.shape == shape[:-1] and len(shape) > 1:
        known = known[..., None]
    if known.shape not in (shape, (*shape[:-1], 1)):
        also = f" or {list(shape[:-1])}" if len(shape) > 1 else ""
        raise UserError(f"known has the shape {list(known.shape)}; right is {list(shape)}{also}")
    known = np.broadcast_to(known, shape)
    if known.all():
        raise UserError("known is true everywhere: nothing is left to draw; what is drawn is false")
    return known


def whole_level(level: int, low: int, high: int, name: str = "level") -> int:
    """Returns a level from `low` to `high`. Raises UserError, with its name, if it is something else."""
    if isinstance(level, bool) or not isinstance(level, int | np.integer) or not low <= level <= high:
        raise UserError(f"{name}={level} is not possible: it must be a whole number from {low} to {high}")
    return int(level)


def random_key(key: Key) -> jax.Array:
    """Returns the key of a seed, or the key itself. Raises UserError if it is neither."""
    if isinstance(key, jax.Array):
        if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key) or key.shape:
            raise UserError("key is an array; right is a seed, or one key of jax.random.key")
        return key
    if isinstance(key, bool) or not isinstance(key, int | np.integer) or not 0 <= key < 2**31:
        raise UserError(
            f"key={key} is not possible: it must be a seed from 0 to {2**31 - 1}, or a key of JAX"
        )
    return jax.random.key(int(key))


def check_count(n: int, low: int, name: str = "n") -> None:
    """Raises UserError if a count, which a message calls `name`, is no whole number of at least `low`."""
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < low:
        raise UserError(f"{name}={n} is not possible: it must be a whole number of at least {low}")
