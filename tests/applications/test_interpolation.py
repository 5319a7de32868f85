"""Interpolations: on the circle, and affine in the start where the model is Gaussian."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drl_jax.applications.interpolation import between_examples, between_samples, slerp
from drl_jax.core.levels import diffuse_to
from drl_jax.core.mcmc import langevin
from drl_jax.core.synthesis import descend
from drl_jax.core.transition import mcmc_transition
from tests.applications.helpers import LEVELS, network

# So few steps that the samples remember where they began.
TRANSITION = mcmc_transition(partial(langevin, noise_scale=1.0), num_steps=10)
WEIGHTS = jnp.array([0.0, 0.25, 0.5, 1.0])
F = network(LEVELS)


def coefficients(x, y):
    """Those of x and y on the great circle, computed by the tangent instead of the cosine."""
    across = y - (x @ y) / (x @ x) * x  # the part of y at a right angle to x
    angle = np.arctan2(np.linalg.norm(across) * np.linalg.norm(x), x @ y)
    w = np.asarray(WEIGHTS, np.float64)
    return np.sin((1 - w) * angle) / np.sin(angle), np.sin(w * angle) / np.sin(angle)


def test_the_ends_are_the_ends_and_the_length_is_kept():
    x, y = np.array([[3.0, 0, 0]]), np.array([[1.0, 2, 2]])  # both of length 3
    path = np.asarray(slerp(jnp.asarray(x), jnp.asarray(y), WEIGHTS))
    np.testing.assert_allclose(path[[0, -1]], np.concatenate([x, y]), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(path, axis=1), 3, rtol=1e-6)
    of_x, of_y = coefficients(x[0], y[0])
    np.testing.assert_allclose(path, of_x[:, None] * x + of_y[:, None] * y, rtol=1e-5, atol=1e-6)
    # Equal angles between equal weights.
    assert path[1] @ path[0] == pytest.approx(path[2] @ path[1], rel=1e-5)


def test_parallel_ends_have_a_line_between_them():
    x = jnp.array([[1.0, 2.0, 2.0]])
    np.testing.assert_allclose(slerp(x, 2 * x, WEIGHTS), (1 + WEIGHTS)[:, None] * x, rtol=1e-6)
    np.testing.assert_allclose(slerp(x, x, WEIGHTS), jnp.repeat(x, 4, axis=0), rtol=1e-6)


def assert_affine(key, start, rows, first, of_x, of_y):
    """Chains of a Gaussian model are affine in their start, with the same noise for every row."""
    shared = jnp.repeat(jax.random.fold_in(key, 1)[None], 3)
    x, _, _ = descend(shared, F, LEVELS, TRANSITION, jnp.concatenate([start, jnp.zeros((1, 2))]), first)
    at_x, at_y, at_zero = np.asarray(x, np.float64)
    expected = at_zero + of_x[:, None] * (at_x - at_zero) + of_y[:, None] * (at_y - at_zero)
    np.testing.assert_allclose(rows, expected, atol=2e-5)
    assert np.abs(rows[0] - rows[-1]).max() > 1e-3


def test_samples_between_samples_share_their_noise(new_key):
    key = new_key()
    rows = between_samples(key, F, LEVELS, TRANSITION, (2,), WEIGHTS)
    ends = jax.vmap(lambda key: jax.random.normal(key, (2,)))(jax.random.split(jax.random.fold_in(key, 0), 2))
    of_x, of_y = coefficients(*np.asarray(ends, np.float64))
    assert_affine(key, ends, rows, 6, of_x, of_y)


@pytest.mark.parametrize("first", [1, 3, 6])
def test_samples_between_examples_are_diffused_with_one_noise(first, new_key):
    key, ends = new_key(), np.array([[0.5, -0.3], [-0.4, 0.6]], np.float32)
    x, y = jnp.asarray(ends[:1]), jnp.asarray(ends[1:])
    rows = between_examples(key, F, LEVELS, TRANSITION, x, y, WEIGHTS, first)
    keys = jnp.repeat(jax.random.fold_in(key, 0)[None], 2)
    start = diffuse_to(keys, jnp.asarray(ends), jnp.full(2, first), LEVELS)
    a = np.float32(LEVELS.a_cum[first])
    np.testing.assert_allclose(start[0] - start[1], a * (ends[0] - ends[1]), atol=1e-5)  # one noise
    of_x, of_y = coefficients(*np.asarray(start, np.float64))
    assert_affine(key, start, rows, first, of_x, of_y)


def test_a_lower_level_stays_closer_to_the_examples(new_key):
    x, y = jnp.array([[0.9, 0.5]]), jnp.array([[-0.1, -0.7]])
    far = []
    for first in (1, 6):
        draw = jax.jit(
            lambda key, first=first: between_examples(
                key, F, LEVELS, TRANSITION, x, y, jnp.array([0.0, 1.0]), first
            )
        )
        rows = jnp.stack([draw(new_key()) for _ in range(20)])
        far.append(float(jnp.mean(jnp.abs(rows - jnp.concatenate([x, y])[None]))))
    assert far[0] < 0.6 * far[1]
