"""Spectral normalisation (Miyato et al. 2018) as a pure map over parameter trees.

Weights do not move during a chain, so they are normalised once, before it, and not at every call of the
network as in the authors' code. Which kernels take part, and how, is declared by the network's layers:
each stores a vector beside its kernel in the collection "spectral", named `divide` or `cap`.

A matrix is a kernel with all its axes but the last made one: [inputs, outputs].
"""

from typing import cast

import jax
import jax.numpy as jnp
from flax import traverse_util

from drl_jax.core.types import Tree

DIVIDE = "divide"  # kernel / σ
CAP = "cap"  # kernel / max(σ, 1), nearly: zero-started kernels stay small


def normalize(params: Tree, vectors: Tree, *, iterations: int = 1) -> tuple[Tree, Tree]:
    """Normalises every kernel that has a vector; returns (normalised params, new vectors).

    The gradient flows through the kernel that is divided and through σ, not through the vectors.
    The weights and the stored vectors alone determine the result: evaluation makes its one iteration
    and forgets the new vectors. `iterations` >= 1.
    """
    new_params, new_vectors = _flat(params), {}
    for path, u in _flat(vectors).items():
        kernel = new_params[(*path[:-1], "kernel")]
        sigma, new_vectors[path] = spectral_norm(kernel, u, iterations=iterations)
        if path[-1] == CAP:
            # The authors' form: σ + 1e-6 is divided out, then multiplied back where it is below 1.
            sigma = sigma + 1e-6
            kernel = kernel / sigma * jnp.minimum(sigma, 1)
        else:
            kernel = kernel / sigma
        new_params[(*path[:-1], "kernel")] = kernel
    return traverse_util.unflatten_dict(new_params), traverse_util.unflatten_dict(new_vectors)


def warm_up(params: Tree, vectors: Tree, *, iterations: int) -> Tree:
    """The vectors after more power iterations, so that training starts from converged ones."""
    flat = _flat(params)

    def warm(path, u):
        matrix = _matrix(flat[(*path[:-1], "kernel")])
        return jax.lax.fori_loop(0, iterations, lambda _, u: _iterate(matrix, u)[1], u)

    return traverse_util.unflatten_dict({path: warm(path, u) for path, u in _flat(vectors).items()})


def spectral_norm(kernel: jax.Array, u: jax.Array, *, iterations: int = 1) -> tuple[jax.Array, jax.Array]:
    """σ = v M u′ᵀ after `iterations` power iterations from u [outputs]; returns (σ, u′)."""
    matrix = _matrix(kernel)
    fixed, u = jax.lax.stop_gradient((matrix, u))
    for _ in range(iterations - 1):
        _, u = _iterate(fixed, u)
    v, u = _iterate(fixed, u)
    return v @ matrix @ u, u


def _iterate(matrix: jax.Array, u: jax.Array) -> tuple[jax.Array, jax.Array]:
    v = _unit(matrix @ u)
    return v, _unit(v @ matrix)


def _unit(x: jax.Array) -> jax.Array:
    return x / jnp.sqrt(jnp.maximum(jnp.sum(x**2), 1e-12))


def _matrix(kernel: jax.Array) -> jax.Array:
    return kernel.reshape(-1, kernel.shape[-1])


def _flat(tree: Tree) -> dict[tuple[str, ...], jax.Array]:
    return cast(dict, traverse_util.flatten_dict(tree))
