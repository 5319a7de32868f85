"""Chains against closed forms.

On a Gaussian of precision Λ and mean m a step of the unadjusted chain is linear,
y − m ← (I − A)(y − m) + η s ξ with A = ½ s² Λ. So after K steps from y_0

    mean        m + (I − A)^K (y_0 − m)
    covariance  η² Σ (I − (I − A)^{2K}),   Σ = (Λ (I − s² Λ / 4))⁻¹ the stationary one (η = 1).

Of data N(m, S) all marginals and recovery posteriors are Gaussian, so that every chain of this
package has exact moments. Sample moments must lie within five standard errors: σ/√n of a mean,
√((σ_i² σ_j² + c²)/n) of a covariance c.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drl_jax.core import energy, synthesis
from drl_jax.core.levels import make_levels
from drl_jax.core.mcmc import langevin, run
from drl_jax.core.mcmc.base import value_and_gradient
from drl_jax.core.randomness import fold_in
from drl_jax.core.transition import mcmc_transition

MEAN = np.array([0.4, -0.2])
COVARIANCE = np.array([[0.3, 0.12], [0.12, 0.2]])
EYE = np.eye(2)
LEVELS = make_levels(6, temperature="one", b_squared=0.1, step_growth=0.0)


class Gaussians(NamedTuple):
    """N(mean, precision⁻¹) of y_t = scale_t x_t for every level t, for data N(MEAN, COVARIANCE)."""

    mean: np.ndarray
    precision: np.ndarray

    def f(self, y, t):
        centred = y - jnp.asarray(self.mean, y.dtype)[t]
        precision = jnp.asarray(self.precision, y.dtype)[t]
        return -0.5 * jnp.einsum("bi,bij,bj->b", centred, precision, centred)


def exact(levels):
    a, sigma = levels.a_cum[:-1], levels.sigma_cum[:-1]
    covariance = [
        scale**2 * (a**2 * COVARIANCE + sigma**2 * EYE)
        for scale, a, sigma in zip(levels.scale, a, sigma, strict=True)
    ]
    return Gaussians((levels.scale * a)[:, None] * MEAN, np.linalg.inv(covariance))


MODEL = exact(LEVELS)


def posterior(levels, model, t, x_next):
    """(Λ, m) of y_t given x_{t+1} = y_t + σ_{t+1} ε: precisions add, means are weighed by them."""
    tether = levels.is_recovery[t] / levels.sigma[t + 1] ** 2
    precision = model.precision[t] + tether * EYE
    return precision, np.linalg.solve(precision, model.precision[t] @ model.mean[t] + tether * x_next)


def transition(num_steps, noise_scale):
    return mcmc_transition(partial(langevin, noise_scale=noise_scale), num_steps=num_steps)


def after(num_steps, precision, step_squared):
    """((I − A)^K, covariance) of the chain, by the closed form above with η = 1."""
    shrink = np.linalg.matrix_power(EYE - 0.5 * step_squared * precision, num_steps)
    stationary = np.linalg.inv(precision @ (EYE - 0.25 * step_squared * precision))
    return shrink, stationary @ (EYE - shrink @ shrink)


def assert_moments(draws, mean, covariance):
    draws = np.asarray(draws, np.float64)
    variance = np.diag(covariance)
    error = 5 / np.sqrt(len(draws))
    np.testing.assert_array_less(np.abs(draws.mean(0) - mean), error * np.sqrt(variance))
    np.testing.assert_array_less(
        np.abs(np.cov(draws.T) - covariance),
        error * np.sqrt(np.outer(variance, variance) + covariance**2),
    )


def test_stationary_variance_of_the_standard_normal(new_key):
    # Λ = 1: variance 1 / (1 − s²/4). After 100 steps of s = 1 the start is forgotten:
    # (1 − s²/2)^200 = 6e-61. The answer, 4/3, is far from the 1 of an exact sampler.
    size = 20_000
    sampler = langevin(lambda y: -0.5 * jnp.sum(y**2, axis=1), step_squared=jnp.ones((1, 1)))
    y, _ = run(jax.random.split(new_key(), size), sampler, jnp.full((size, 2), 3.0), 100)
    assert_moments(y, np.zeros(2), EYE / (1 - 1 / 4))


@pytest.mark.parametrize("t", [0, 3, 5])
def test_recovery_posterior_in_closed_form(t, new_key):
    # −½ (y − m)ᵀ Λ (y − m) up to a constant that does not depend on y; gradient −Λ (y − m). In
    # double precision.
    with jax.enable_x64(True):
        x_next = np.array([0.9, -1.3])
        precision, mean = posterior(LEVELS, MODEL, t, x_next)
        y = jax.random.normal(new_key(), (16, 2), jnp.float64)
        every, tethers = jnp.full(16, t), jnp.broadcast_to(x_next, (16, 2))
        log_density = energy.recovery(MODEL.f, LEVELS, every, tethers)
        value, gradient = value_and_gradient(log_density, y)
        centred = np.asarray(y) - mean
        expected = -0.5 * np.einsum("bi,ij,bj->b", centred, precision, centred)
        np.testing.assert_allclose(value - value[0], expected - expected[0], rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(gradient, -centred @ precision, rtol=1e-10, atol=1e-10)

        # Without the tether, the marginal model.
        value, gradient = value_and_gradient(energy.marginal(MODEL.f, LEVELS, every), y)
        np.testing.assert_allclose(value, MODEL.f(y, every), rtol=1e-12)
        centred = np.asarray(y) - MODEL.mean[t]
        np.testing.assert_allclose(gradient, -centred @ MODEL.precision[t], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("temperature", ["step", "noise"])
def test_temperature_divides_the_network_and_not_the_tether(temperature, new_key):
    # F = f / temperature: f multiplied by the temperature is the model at temperature 1.
    levels = make_levels(6, temperature=temperature)
    t = jnp.arange(6)
    y, x_next = jax.random.normal(new_key(), (2, 6, 2))
    hot = lambda y, t: MODEL.f(y, t) * jnp.asarray(levels.temperature, jnp.float32)[t]
    for make in (
        energy.marginal,
        lambda f, levels, t: energy.recovery(f, levels, t, x_next),
    ):
        expected = make(MODEL.f, LEVELS, t)(y)
        np.testing.assert_allclose(make(hot, levels, t)(y), expected, rtol=1e-5)


def test_drift_alone(new_key):
    # η = 0 leaves (I − A)^K, of every row at its own level and divided by its scale, to float32
    # rounding.
    t = jnp.arange(6)
    x_next = np.asarray(jax.random.normal(new_key(), (6, 2)))
    keys = jax.random.split(new_key(), 6)
    x, info = transition(7, 0.0)(keys, MODEL.f, LEVELS, t, jnp.asarray(x_next))
    for i in range(6):
        precision, mean = posterior(LEVELS, MODEL, i, x_next[i])
        shrink, _ = after(7, precision, LEVELS.step_squared[i])
        expected = (mean + shrink @ (x_next[i] - mean)) / LEVELS.scale[i]
        np.testing.assert_allclose(x[i], expected, rtol=2e-6, atol=2e-6)
        # The first gradient is −Λ (x_{t+1} − m), and the first move ½ s² of it.
        norm = np.linalg.norm(precision @ (x_next[i] - mean))
        np.testing.assert_allclose(info.gradient_norm[0, i], norm, rtol=1e-5)
        displacement = 0.5 * LEVELS.step_squared[i] * norm
        np.testing.assert_allclose(info.displacement[0, i], displacement, rtol=1e-5)


@pytest.mark.parametrize(("t", "noise_scale"), [(0, 1.0), (3, 0.5), (5, 1.0)])
def test_moments_of_a_recovery_chain(t, noise_scale, new_key):
    # A short chain, not yet stationary: K enters the expected moments.
    size, x_next = 50_000, np.array([0.9, -1.3])
    x, _ = transition(10, noise_scale)(
        jax.random.split(new_key(), size),
        MODEL.f,
        LEVELS,
        jnp.full(size, t),
        jnp.broadcast_to(jnp.asarray(x_next, jnp.float32), (size, 2)),
    )
    precision, mean = posterior(LEVELS, MODEL, t, x_next)
    shrink, covariance = after(10, precision, LEVELS.step_squared[t])
    scale = LEVELS.scale[t]
    assert_moments(
        x,
        (mean + shrink @ (x_next - mean)) / scale,
        noise_scale**2 * covariance / scale**2,
    )


def moments_of_synthesis(levels, model, num_steps, noise_scale):
    """The exact mean and covariance of x_0: each level is a linear map of x_{t+1} plus noise."""
    mean, covariance = np.zeros(2), EYE
    for t in reversed(range(levels.num_levels)):
        precision, at_zero = posterior(levels, model, t, np.zeros(2))
        shrink, added = after(num_steps, precision, levels.step_squared[t])
        tether = levels.is_recovery[t] / levels.sigma[t + 1] ** 2
        # y_K = (I − shrink) m(x) + shrink x, and m(x) = m(0) + tether Λ⁻¹ x.
        matrix = (EYE - shrink) @ (tether * np.linalg.inv(precision)) + shrink
        mean = ((EYE - shrink) @ at_zero + matrix @ mean) / levels.scale[t]
        covariance = (matrix @ covariance @ matrix.T + noise_scale**2 * added) / levels.scale[t] ** 2
    return mean, covariance


def test_synthesis_from_white_noise_gives_the_data_again(new_key):
    size, num_steps = 10_000, 200
    levels = make_levels(6, temperature="one", b_squared=0.05, step_growth=0.0)
    x_0, process, info = jax.jit(
        lambda keys: synthesis.synthesize(keys, MODEL.f, levels, transition(num_steps, 1.0), (2,))
    )(jax.random.split(new_key(), size))
    mean, covariance = moments_of_synthesis(levels, MODEL, num_steps, 1.0)
    assert_moments(x_0, mean, covariance)
    # That is the data, but for the bias of unadjusted steps, b²/4 (1 + σ²Λ) of the variance at
    # every level, part of which the next levels forget. By the closed form it is 2.7 % here, and
    # none of the mean.
    np.testing.assert_allclose(mean, MEAN, atol=0.001)
    np.testing.assert_allclose(covariance, COVARIANCE, rtol=0.03)

    assert process.shape == (7, size, 2)
    np.testing.assert_array_equal(process[-1], x_0)
    assert_moments(process[0], np.zeros(2), EYE)
    # Every level on the way is the diffused data at that level, with the same bias.
    for i in range(6):
        expected = LEVELS.a_cum[i] ** 2 * COVARIANCE + LEVELS.sigma_cum[i] ** 2 * EYE
        found = np.cov(np.asarray(process[6 - i], np.float64).T)
        np.testing.assert_allclose(found, expected, atol=0.08 * expected.max())
    assert all(leaf.shape == (6, num_steps, size) for leaf in info)


def test_less_noise_than_the_step_gives_less_variance(new_key):
    # η = .99, the authors' evaluation.
    size = 20_000
    keys = jax.random.split(new_key(), size)
    x_0, _, _ = synthesis.synthesize(keys, MODEL.f, LEVELS, transition(20, 0.99), (2,))
    assert_moments(x_0, *moments_of_synthesis(LEVELS, MODEL, 20, 0.99))


def test_only_the_recorded_rows_are_returned(new_key):
    keys = jax.random.split(new_key(), 5)
    whole = synthesis.synthesize(keys, MODEL.f, LEVELS, transition(2, 1.0), (2,))
    few = synthesis.synthesize(keys, MODEL.f, LEVELS, transition(2, 1.0), (2,), record=lambda x: x[:3])
    np.testing.assert_array_equal(few[0], whole[0])
    np.testing.assert_array_equal(few[1], whole[1][:, :3])


def test_a_sample_is_a_function_of_its_key_alone(new_key):
    keys = jax.random.split(new_key(), 6)
    f = lambda y, t: -0.5 * jnp.sum(y**2, axis=1) * (1 + t)
    draw = jax.jit(lambda keys: synthesis.synthesize(keys, f, LEVELS, transition(4, 0.99), (3,))[0])
    whole = draw(keys)
    np.testing.assert_array_equal(draw(keys[4:]), whole[4:])
    np.testing.assert_array_equal(draw(keys[::-1]), whole[::-1])


def test_run_folds_the_step_into_the_keys(new_key):
    keys = jax.random.split(new_key(), 3)
    start = jax.random.normal(new_key(), (3, 2))
    log_density = lambda y: -0.25 * jnp.sum(y**4, axis=1)
    sampler = langevin(log_density, step_squared=jnp.array([[0.1], [0.2], [0.3]]))
    y, info = run(keys, sampler, start, 3)
    state = start
    for k in range(3):
        (new,), one = sampler.step(fold_in(keys, k), sampler.init(state))
        # What is reported is of the state that was left: −¼ Σ y⁴, its gradient −y³, the way to the
        # new one.
        np.testing.assert_allclose(info.log_density[k], log_density(state), rtol=1e-5)
        norm = np.linalg.norm(np.asarray(state) ** 3, axis=1)
        np.testing.assert_allclose(info.gradient_norm[k], norm, rtol=1e-5)
        np.testing.assert_allclose(info.displacement[k], np.linalg.norm(new - state, axis=1), rtol=1e-5)
        np.testing.assert_allclose(one.displacement, info.displacement[k], rtol=1e-5)
        state = new
    np.testing.assert_allclose(y, state, rtol=1e-5)


def test_the_log_density_is_traced_once(new_key):
    traces = []

    def log_density(y):
        traces.append(y.shape)
        return -0.5 * jnp.sum(y**2, axis=1)

    @jax.jit
    def chain(keys, y):
        sampler = langevin(log_density, step_squared=jnp.full((1, 1), 0.1))
        return run(keys, sampler, y, 30)[0]

    keys = jax.random.split(new_key(), 4)
    y = chain(keys, jnp.zeros((4, 2)))
    chain(keys, y)
    assert traces == [(4, 2)]
