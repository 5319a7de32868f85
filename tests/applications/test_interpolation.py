"""Interpolations: on the circle, and affine in their noise where the model is Gaussian."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drl_jax.applications.interpolation import between_examples, between_samples, mixed_noise, slerp
from drl_jax.core.mcmc import langevin
from drl_jax.core.randomness import standard_normal
from drl_jax.core.synthesis import descend, synthesize
from drl_jax.core.transition import mcmc_transition
from tests.applications.helpers import LEVELS, network

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


def remembers_its_start(draw_noise):
    """So few steps that the samples depend on where they began."""
    return mcmc_transition(partial(langevin, noise_scale=1.0, draw_noise=draw_noise), num_steps=10)


TRANSITION = remembers_its_start(standard_normal)
SAMPLES = partial(between_samples, f=F, levels=LEVELS, make_transition=remembers_its_start, shape=(2,))
EXAMPLES = partial(between_examples, f=F, levels=LEVELS, make_transition=remembers_its_start)


def assert_affine(key, start, rows, first, of_x, of_y):
    """Chains of a Gaussian model are affine in their start, with the same noise for every row."""
    shared = jnp.repeat(key[None], 3)
    x, _, _ = descend(shared, F, LEVELS, TRANSITION, jnp.concatenate([start, jnp.zeros((1, 2))]), first)
    at_x, at_y, at_zero = np.asarray(x, np.float64)
    expected = at_zero + of_x[:, None] * (at_x - at_zero) + of_y[:, None] * (at_y - at_zero)
    np.testing.assert_allclose(rows, expected, atol=2e-5)
    assert np.abs(rows[0] - rows[-1]).max() > 1e-3


def ends_of(key, shape):
    """The two draws between which `mixed_noise` lies."""
    draw = mixed_noise(jnp.array([0.0, 1.0]))
    return draw(jnp.repeat(key[None], 2), jax.ShapeDtypeStruct((2, *shape), jnp.float32))


def test_mixed_noise_is_normal_and_begins_at_the_noise_of_its_key(new_key):
    key, w = new_key(), jnp.array([0.0, 0.3, 1.0])
    keys = jax.random.split(key, 4000)
    drawn = jax.vmap(lambda key: mixed_noise(w)(jnp.repeat(key[None], 3), jnp.zeros((3, 2))))(keys)
    np.testing.assert_array_equal(drawn[:, 0], standard_normal(keys, jnp.zeros((4000, 2))))
    # Standard errors of moments of 4000 draws: 0.016 of a mean, 0.022 of a variance.
    np.testing.assert_allclose(drawn.mean(0), 0, atol=0.07)
    between = np.einsum("kri,ksi->rs", drawn, drawn) / 8000
    np.testing.assert_allclose(np.diag(between), 1, atol=0.07)
    assert abs(between[0, 2]) < 0.07  # the two ends are independent
    assert between[0, 1] > between[1, 2] > 0.3


@pytest.mark.parametrize("noise", ["mixed", "shared"])
def test_the_first_end_is_the_sample_of_the_key(noise, new_key):
    key = new_key()
    rows = SAMPLES(key, weights=WEIGHTS, noise=noise)
    sample, _, _ = synthesize(key[None], F, LEVELS, TRANSITION, (2,))
    np.testing.assert_allclose(rows[:1], sample, atol=1e-5)


def test_shared_noise_leaves_only_the_start(new_key):
    key = new_key()
    rows = SAMPLES(key, weights=WEIGHTS, noise="shared")
    ends = ends_of(jax.random.fold_in(key, LEVELS.num_levels), (2,))
    of_x, of_y = np.cos(np.pi / 2 * np.asarray(WEIGHTS)), np.sin(np.pi / 2 * np.asarray(WEIGHTS))
    assert_affine(key, ends, rows, 6, of_x, of_y)


def test_with_mixed_noise_the_ends_are_independent_samples(new_key):
    """Data are N(0, c I), so the correlation of the ends is 0 with mixed noise, but not with shared."""
    keys = jax.random.split(new_key(), 600)

    def correlation(noise):
        draw = jax.jit(jax.vmap(lambda key: SAMPLES(key, weights=jnp.array([0.0, 1.0]), noise=noise)))
        x, y = np.moveaxis(np.asarray(draw(keys)), 1, 0)
        return np.corrcoef(x.ravel(), y.ravel())[0, 1]

    assert abs(correlation("mixed")) < 0.12  # 4 standard errors of 1200 pairs
    assert correlation("shared") > 0.25


@pytest.mark.parametrize("first", [1, 3, 6])
@pytest.mark.parametrize("noise", ["mixed", "shared"])
def test_samples_between_examples(noise, first, new_key):
    key, ends = new_key(), np.array([[0.5, -0.3], [-0.4, 0.6]], np.float32)
    x, y = jnp.asarray(ends[:1]), jnp.asarray(ends[1:])
    rows = EXAMPLES(key, x=x, y=y, weights=WEIGHTS, first=first, noise=noise)
    eps = np.asarray(ends_of(jax.random.fold_in(key, LEVELS.num_levels), (2,)))
    eps = eps if noise == "mixed" else eps[[0, 0]]
    start = LEVELS.a_cum[first] * ends + LEVELS.sigma_cum[first] * eps
    if noise == "shared":
        of_x, of_y = coefficients(*start.astype(np.float64))
        assert_affine(key, jnp.asarray(start, jnp.float32), rows, first, of_x, of_y)
    else:
        alone, _, _ = descend(key[None], F, LEVELS, TRANSITION, jnp.asarray(start[:1], jnp.float32), first)
        np.testing.assert_allclose(rows[:1], alone, atol=1e-5)


def test_a_lower_level_stays_closer_to_the_examples(new_key):
    x, y = jnp.array([[0.9, 0.5]]), jnp.array([[-0.1, -0.7]])
    ends, far = jnp.array([0.0, 1.0]), []
    for first in (1, 6):
        draw = jax.jit(
            lambda key, first=first: EXAMPLES(key, x=x, y=y, weights=ends, first=first, noise="mixed")
        )
        rows = jnp.stack([draw(new_key()) for _ in range(20)])
        far.append(float(jnp.mean(jnp.abs(rows - jnp.concatenate([x, y])[None]))))
    assert far[0] < 0.6 * far[1]
