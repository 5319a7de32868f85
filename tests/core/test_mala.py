"""Metropolis-adjusted chains: exact whatever the steps."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drl_jax.core.levels import make_levels
from drl_jax.core.mcmc import langevin, mala, run
from drl_jax.core.mcmc.base import value_and_gradient
from drl_jax.core.randomness import fold_in
from drl_jax.core.transition import mcmc_transition

MEAN = np.array([0.4, -0.2])
COVARIANCE = np.array([[0.3, 0.12], [0.12, 0.2]])
PRECISION = np.linalg.inv(COVARIANCE)


def gaussian(y):
    centred = y - jnp.asarray(MEAN[None], y.dtype)
    return -0.5 * jnp.einsum("bi,ij,bj->b", centred, jnp.asarray(PRECISION, y.dtype), centred)


@partial(jax.jit, static_argnames=("step_range", "num_steps", "log_density"))
def chain(keys, y, *, step_squared, step_range, num_steps=10, log_density=gaussian):
    """(last position, the info of every step)."""
    every = jnp.full((len(y),) + (1,) * (y.ndim - 1), step_squared)
    sampler = mala(log_density, step_squared=every, step_range=step_range)
    return run(keys, sampler, y, num_steps)


def exact_draws(key, n):
    factor = jnp.asarray(np.linalg.cholesky(COVARIANCE).T, jnp.float32)
    return jnp.asarray(MEAN[None], jnp.float32) + jax.random.normal(key, (n, 2)) @ factor


# The unadjusted chain is unstable from s² = 4 / (largest precision) = 0.48 on.
@pytest.mark.parametrize(("step_squared", "step_range"), [(0.2, 1.0), (1.0, 1.0), (1.0, 100.0)])
def test_the_chain_forgets_its_start_and_its_moments_are_those_of_the_density(
    new_key, step_squared, step_range
):
    n = 20_000
    keys, y = jax.random.split(new_key(), n), jnp.full((n, 2), 1.5)
    y, _ = chain(keys, y, step_squared=step_squared, step_range=step_range, num_steps=300)
    assert_gaussian(y)


def assert_gaussian(draws):
    # Within five standard errors: of a mean σ/√n, of a covariance c √((σ_i² σ_j² + c²)/n).
    draws = np.asarray(draws, np.float64)
    variance = np.diag(COVARIANCE)
    error = 5 / np.sqrt(len(draws))
    np.testing.assert_array_less(np.abs(draws.mean(0) - MEAN), error * np.sqrt(variance))
    np.testing.assert_array_less(
        np.abs(np.cov(draws.T) - COVARIANCE),
        error * np.sqrt(np.outer(variance, variance) + COVARIANCE**2),
    )


def test_one_step_leaves_the_density_as_it_is(new_key):
    # Not only in the limit: exact draws stay exact draws after a single, large, truncated step, and
    # the pair (before, after) has the same law in both orders (detailed balance).
    n = 400_000
    before = exact_draws(new_key(), n)
    keys = jax.random.split(new_key(), n)
    after, info = chain(keys, before, step_squared=2.0, step_range=400.0, num_steps=1)
    assert 0.2 < np.mean(info.accepted) < 0.9  # both outcomes take part
    assert_gaussian(after)

    u, v = np.asarray(before, np.float64), np.asarray(after, np.float64)
    antisymmetric = [
        u[:, 0] * v[:, 1] - v[:, 0] * u[:, 1],
        u[:, 0] ** 2 * v[:, 0] - v[:, 0] ** 2 * u[:, 0],
        np.tanh(3 * u[:, 0]) * v[:, 1] ** 2 - np.tanh(3 * v[:, 0]) * u[:, 1] ** 2,
    ]
    for values in antisymmetric:
        assert abs(values.mean()) < 5 * values.std() / np.sqrt(n)


def test_tiny_steps_are_always_accepted_and_large_ones_hardly_ever(new_key):
    keys, y = jax.random.split(new_key(), 256), exact_draws(new_key(), 256)
    for step_squared, low, high in [(1e-6, 0.999, 1.0), (0.1, 0.8, 0.99), (1e4, 0.0, 0.01)]:
        _, info = chain(keys, y, step_squared=step_squared, step_range=1.0)
        assert low <= np.mean(info.accepted) <= high


def test_an_accepted_step_is_the_unadjusted_one(new_key):
    # So small that the drift is not truncated and all is accepted; `mala` splits its keys in two.
    keys, y = jax.random.split(new_key(), 64), exact_draws(new_key(), 64)
    step_squared = jnp.full((64, 1), 1e-6)
    adjusted = mala(gaussian, step_squared=step_squared, step_range=1.0)
    unadjusted = langevin(gaussian, step_squared=step_squared)
    state, info = jax.jit(lambda keys, y: adjusted.step(keys, adjusted.init(y)))(keys, y)
    expected, expected_info = jax.jit(lambda keys, y: unadjusted.step(fold_in(keys, 0), unadjusted.init(y)))(
        keys, y
    )
    np.testing.assert_allclose(state.position, expected.position, atol=1e-6)
    np.testing.assert_allclose(info.log_density, expected_info.log_density, rtol=1e-6)
    np.testing.assert_allclose(info.gradient_norm, expected_info.gradient_norm, rtol=1e-6)
    np.testing.assert_allclose(info.displacement, expected_info.displacement, atol=1e-6)


def test_the_state_carries_the_density_and_gradient_of_its_point(new_key):
    keys, y = jax.random.split(new_key(), 256), exact_draws(new_key(), 256)
    sampler = mala(gaussian, step_squared=jnp.full((256, 1), 0.5), step_range=4.0)
    state, info = jax.jit(lambda keys, y: sampler.step(keys, sampler.init(y)))(keys, y)
    assert 0 < np.mean(info.accepted) < 1
    np.testing.assert_array_equal(info.accepted, info.displacement > 0)
    value, gradient = value_and_gradient(gaussian, state.position)
    np.testing.assert_allclose(state.log_density, value, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(state.gradient, gradient, rtol=1e-5, atol=1e-5)


def test_an_example_is_a_function_of_its_own_key(new_key):
    keys, y = jax.random.split(new_key(), 256), exact_draws(new_key(), 256)

    def last(keys, y):
        return chain(keys, y, step_squared=0.5, step_range=4.0)[0]

    whole = last(keys, y)
    np.testing.assert_array_equal(last(keys, y), whole)
    np.testing.assert_allclose(last(keys[3:5], y[3:5]), whole[3:5], rtol=1e-5, atol=1e-6)
    assert not np.array_equal(last(keys[::-1], y)[3], whole[3])


def test_a_step_to_where_the_density_is_not_a_number_is_refused(new_key):
    def broken(y):
        return jnp.where(y[:, 0] > 0.5, jnp.nan, gaussian(y))

    y = jnp.zeros((256, 2))
    position, info = chain(
        jax.random.split(new_key(), 256), y, step_squared=0.5, step_range=1.0, log_density=broken
    )
    assert np.all(np.asarray(position[:, 0]) <= 0.5)
    assert np.all(np.isfinite(position))
    assert np.mean(info.accepted) > 0.2


def test_examples_of_any_rank(new_key):
    y = jnp.zeros((3, 4, 4, 2))

    def log_density(y):
        return -0.5 * jnp.sum(y**2, axis=(1, 2, 3))

    position, info = chain(
        jax.random.split(new_key(), 3),
        y,
        step_squared=0.01,
        step_range=2.0,
        num_steps=4,
        log_density=log_density,
    )
    assert position.shape == y.shape
    assert info.displacement.shape == (4, 3)
    assert np.all(info.accepted)


def test_a_level_is_drawn_from_its_posterior_exactly(new_key):
    # Data N(0, 1) per coordinate: y_t | x_{t+1} is Gaussian with precision 1/a² + 1/σ².
    levels = make_levels(6, temperature="one", b_squared=2.0, step_growth=0.0)
    n, t = 20_000, 2
    every = jnp.full(n, t)
    scale, sigma = levels.scale[t], levels.sigma[t + 1]
    x_next = jnp.full((n, 2), 0.7)
    transition = mcmc_transition(partial(mala, step_range=20.0), num_steps=60)
    f = lambda y, t: -0.5 * jnp.sum(y**2, axis=1) / scale**2
    draw = jax.jit(lambda keys: transition(keys, f, levels, every, x_next))
    x, _ = draw(jax.random.split(new_key(), n))
    precision = 1 / scale**2 + 1 / sigma**2
    mean, std = 0.7 / sigma**2 / precision / scale, precision**-0.5 / scale
    assert np.all(np.abs(np.mean(x, axis=0) - mean) < 5 * std / np.sqrt(n))
    assert np.all(np.abs(np.std(x, axis=0) / std - 1) < 5 / np.sqrt(2 * n))
