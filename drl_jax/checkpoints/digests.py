"""Digests of arrays: a fast one on the device for checkpoints, and SHA-256 for the weights of a result."""

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from drl_jax.core.types import Leaf, Tree

_WORDS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint64}


def describe(tree: Tree) -> dict[str, dict[str, Any]]:
    """Lists what each array of a tree must look like.

    Args:
      tree: arrays, which may be abstract.

    Returns:
      By path in the tree: {"dtype", "shape"}, as JSON.
    """
    return {
        name: {"dtype": leaf.dtype.name, "shape": list(leaf.shape)}
        for name, leaf in named_leaves(tree).items()
    }


def digest(tree: Tree) -> dict[str, str]:
    """Computes a digest of each array, 64 bits in hex, by path in the tree.

    Two sums of the array's words modulo 2³², each with its own odd weights, so that any single changed
    word changes both. They do not depend on how the array is sharded, and only the sums leave the device.

    Args:
      tree: arrays on devices or hosts.
    """
    named = named_leaves(tree)
    sums = jax.device_get([_sums(_one_copy(leaf)) for leaf in named.values()])
    return {name: f"{int(a):08x}{int(b):08x}" for name, (a, b) in zip(named, sums, strict=True)}


def sha256(tree: Tree) -> str:
    """Computes the SHA-256 of the names, types, shapes and bytes of all arrays of a tree."""
    total = hashlib.sha256()
    for name, leaf in named_leaves(tree).items():
        array = np.asarray(_one_copy(leaf))
        total.update(f"{name} {array.dtype} {array.shape}".encode())
        total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()


def named_leaves(tree: Tree) -> dict[str, Leaf]:
    """Returns the arrays of a tree by path, as 'params/input/kernel'."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _one_copy(leaf: Leaf) -> Leaf:
    """Of an array that every device holds, the copy of one device of this process."""
    is_copied = isinstance(leaf, jax.Array) and leaf.is_fully_replicated
    return leaf.addressable_data(0) if is_copied else leaf


@jax.jit
def _sums(x: jax.Array) -> jax.Array:
    if x.dtype == bool:
        x = x.astype(jnp.uint8)
    words = lax.bitcast_convert_type(x, _WORDS[x.dtype.itemsize])
    index = jnp.zeros(words.shape, jnp.uint32)
    for axis, size in enumerate(words.shape):  # elementwise, so that a sharded array stays where it is
        index = index * jnp.uint32(size) + lax.broadcasted_iota(jnp.uint32, words.shape, axis)
    words = words.astype(jnp.uint32)
    return jnp.stack(
        [jnp.sum(words * _odd(index, seed), dtype=jnp.uint32) for seed in (0x9E3779B9, 0x7F4A7C15)]
    )


def _odd(index: jax.Array, seed: int) -> jax.Array:
    """An odd weight for each index, made by mixing its bits (the finalizer of MurmurHash3)."""
    h = index + jnp.uint32(seed)
    h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
    h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
    return (h ^ (h >> 16)) | jnp.uint32(1)
