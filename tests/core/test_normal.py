"""The setting of a thousand levels: the normal approximation of the posterior, and score matching.

Of data N(m, v) in one dimension every marginal is Gaussian: y_t = a x_t has the variance
V = a² (ā² v + σ̄²) with the numbers of level t, and with x̃ = y_t + σ ε

    exact posterior        mean x̃ − σ² (x̃ − M) / (V + σ²),   variance σ² V / (V + σ²)
    normal approximation   mean x̃ − σ² (x̃ − M) / V,          variance σ².

They differ by σ⁴ (x̃ − M) / V (V + σ²) in the mean, and by σ⁴ / (V + σ²) in the variance.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drl_jax.core import synthesis
from drl_jax.core.levels import Levels, extract, make_levels
from drl_jax.core.mcmc import langevin
from drl_jax.core.objective import denoising_score_matching
from drl_jax.core.transition import mcmc_transition, normal_transition

MEAN, VARIANCE = 0.4, 0.3
LEVELS = make_levels(1000, temperature="one")


def marginals(levels: Levels):
    """(M, V) of y_t for every level."""
    a, sigma = levels.a_cum[:-1], levels.sigma_cum[:-1]
    return levels.scale * a * MEAN, levels.scale**2 * (a**2 * VARIANCE + sigma**2)


def exact(y, t):
    """The log-density of y_t."""
    mean, variance = (extract(values, t, y) for values in marginals(LEVELS))
    return jnp.sum(-0.5 * (y - mean) ** 2 / variance, axis=-1)


def draw(keys, t, x_next, **settings):
    transition = normal_transition(partial(langevin, noise_scale=1.0), **settings)
    x, info = transition(keys, exact, LEVELS, t, x_next)
    return np.asarray(x * extract(LEVELS.scale, t, x), np.float64)[:, 0], info


@pytest.mark.parametrize("t", [0, 10, 500, 999])
def test_the_draw_has_the_moments_of_the_approximation(t, new_key):
    size, x_next = 200_000, 1.3
    every = jnp.full(size, t)
    y, info = draw(jax.random.split(new_key(), size), every, jnp.full((size, 1), x_next))
    mean, variance = (values[t] for values in marginals(LEVELS))
    sigma = LEVELS.sigma[t + 1]
    expected = x_next - sigma**2 * (x_next - mean) / variance
    assert abs(y.mean() - expected) < 5 * sigma / np.sqrt(size)
    assert abs(y.var() / sigma**2 - 1) < 5 * np.sqrt(2 / size)
    assert info.gradient_norm.shape == (1, size)
    np.testing.assert_allclose(info.gradient_norm[0], abs(x_next - mean) / variance, rtol=1e-4)
    np.testing.assert_allclose(info.displacement[0], np.abs(y - x_next), atol=1e-5)


def test_the_approximation_is_exact_for_small_noise():
    # Without the noise of the draw, the mean alone. Its error falls as σ⁴, and the posterior's own
    # shift as σ².
    with jax.enable_x64(True):
        x_next, levels = 1.3, [0, 9, 99]
        t = jnp.array(levels)
        keys = jax.random.split(jax.random.key(0), 3)
        y, _ = draw(keys, t, jnp.full((3, 1), x_next, jnp.float64), noise_scale=0.0)
    mean, variance = (values[levels] for values in marginals(LEVELS))
    squared = LEVELS.sigma[[1, 10, 100]] ** 2
    posterior = x_next - squared * (x_next - mean) / (variance + squared)
    np.testing.assert_allclose(
        posterior - y, squared**2 * (x_next - mean) / (variance * (variance + squared)), rtol=1e-6
    )
    assert (np.abs(posterior - y) < 0.02 * np.abs(posterior - x_next)).all()


def test_steps_after_the_draw_lead_to_the_exact_posterior(new_key):
    # At level 999 (σ² = 0.02) the variance of the draw is too large by σ²/V = 2 %. Steps of squared size
    # 0.02 · σ² converge to the posterior, up to a bias of s²/4 of the precision, 0.5 %.
    size, t, x_next = 400_000, 999, 1.3
    levels = make_levels(1000, temperature="one", b_squared=0.02)
    transition = normal_transition(partial(langevin, noise_scale=1.0), num_steps=400)

    @jax.jit
    def run(keys):
        return transition(keys, exact, levels, jnp.full(size, t), jnp.full((size, 1), x_next))[0]

    y = np.asarray(run(jax.random.split(new_key(), size)), np.float64) * levels.scale[t]
    mean, variance = (values[t] for values in marginals(levels))
    squared = levels.sigma[t + 1] ** 2
    precision = 1 / variance + 1 / squared
    posterior = x_next - squared * (x_next - mean) / (variance + squared)
    assert abs(y.mean() - posterior) < 5 * np.sqrt(squared / size)
    stationary = 1 / (precision * (1 - 0.25 * levels.step_squared[t] * precision))
    assert abs(y.var() / stationary - 1) < 5 * np.sqrt(2 / size)
    # The draw alone would fail that.
    assert abs(squared / stationary - 1) > 5 * np.sqrt(2 / size)


def test_a_thousand_levels_give_the_data_again(new_key):
    size = 20_000
    transition = normal_transition(langevin)

    @jax.jit
    def generate(keys):
        return synthesis.synthesize(
            keys, exact, LEVELS, transition, (1,), record=lambda x: x[:2], record_at=[0, 500, 1000]
        )[:2]

    x, process = generate(jax.random.split(new_key(), size))
    # The approximation adds σ⁴/V per level; over the 1000 levels this is below 2 % of the variance.
    assert abs(float(x.mean()) - MEAN) < 5 * np.sqrt(VARIANCE / size) + 0.005
    assert abs(float(x.var()) / VARIANCE - 1) < 5 * np.sqrt(2 / size) + 0.02
    assert process.shape == (3, 2, 1)
    np.testing.assert_array_equal(process[-1], x[:2])


def test_what_is_recorded_does_not_change_the_samples(new_key):
    keys = jax.random.split(new_key(), 4)
    levels = make_levels(5, temperature="one", b_squared=0.1, step_growth=0.0)
    f = lambda y, t: -0.5 * jnp.sum(y**2, axis=-1)
    transition = mcmc_transition(langevin, num_steps=2)
    x, every, _ = synthesis.synthesize(keys, f, levels, transition, (2,))
    assert every.shape == (6, 4, 2)
    np.testing.assert_array_equal(every[-1], x)
    other, some, _ = synthesis.synthesize(keys, f, levels, transition, (2,), record_at=[2, 5])
    np.testing.assert_array_equal(other, x)
    np.testing.assert_array_equal(some, every[jnp.array([0, 3])])


def loss_of(factor, shift, keys, x, levels):
    """The loss of the Gaussian score ∂F = −factor · (x − shift · its mean) / its variance of x_{t+1}."""
    mean = levels.a_cum[1:] * MEAN
    variance = levels.a_cum[1:] ** 2 * VARIANCE + levels.sigma_cum[1:] ** 2

    def f(y, t):
        centred = y - shift * extract(mean, t, y)
        energy = 0.5 * jnp.sum(centred**2 / extract(variance, t, y), axis=-1)
        return -factor * energy * extract(levels.temperature, t, energy)

    return denoising_score_matching(levels)(keys, x, f, f)


@pytest.mark.parametrize("temperature", ["one", "noise"])
def test_the_minimum_of_score_matching_is_the_score(temperature, new_key):
    # At the true score the gradient in any parameter is 0 in expectation: within five standard errors of
    # its mean over examples. Ten per cent away from it, it is not.
    levels = make_levels(1000, temperature=temperature)
    size = 400_000
    x = MEAN + np.sqrt(VARIANCE) * jax.random.normal(new_key(), (size, 1))
    keys = jax.random.split(new_key(), size)

    @jax.jit
    def gradients(factor, shift):
        each = lambda key, x: jax.grad(
            lambda factor, shift: loss_of(factor, shift, key[None], x[None], levels)[0], (0, 1)
        )(factor, shift)
        return jnp.stack(jax.vmap(each)(keys, x))

    def standard_errors_from_zero(factor, shift):
        gradient = np.asarray(gradients(factor, shift), np.float64)
        return np.abs(gradient.mean(1)) / (gradient.std(1) / np.sqrt(size))

    assert (standard_errors_from_zero(1.0, 1.0) < 5).all()
    assert standard_errors_from_zero(1.1, 1.0)[0] > 20
    assert standard_errors_from_zero(1.0, 1.1)[1] > 5


def test_what_score_matching_reports(new_key):
    levels, size = make_levels(1000), 8
    x = jax.random.normal(new_key(), (size, 1))
    keys = jax.random.split(new_key(), size)
    loss, terms = loss_of(1.0, 1.0, keys, x, levels)
    np.testing.assert_allclose(loss, terms.loss.mean(), rtol=1e-6)
    zero, terms_of_zero = denoising_score_matching(levels)(keys, x, *[lambda y, t: 0.0 * y[:, 0]] * 2)
    np.testing.assert_array_equal(terms_of_zero.gradient_norm, np.zeros(size))
    np.testing.assert_array_equal(terms_of_zero.displacement, np.zeros(size))
    assert float(zero) > 0
    # The mean of the draw: x_{t+1} + σ² ∂F, in units of x_t.
    sigma = jnp.asarray(levels.sigma, jnp.float32)[terms.t + 1]
    scale = jnp.asarray(levels.scale, jnp.float32)[terms.t]
    np.testing.assert_allclose(terms.displacement, sigma**2 * terms.gradient_norm / scale, rtol=2e-3)
    assert (terms.negative >= terms.positive).all()  # it is uphill
