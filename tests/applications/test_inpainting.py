"""Inpainting of Gaussian data, for which every draw is linear: its moments follow by matrix algebra.

Number 1 is known, number 0 is not. The state s = (u, k) of each level is Gaussian:

    k_t = c_1 k_{t+1} + c_0 d + noise            the posterior of the forward chain given the datum d
    u_t | x_{t+1}, k_t                           the conditional of the recovery posterior N(m, Λ⁻¹):
                                                 m_0 − Λ_01 (k_t − m_1) / Λ_00, variance 1 / Λ_00,
    Λ = P + I/σ², m = Λ⁻¹ (P M + x_{t+1} / σ²)   of y_t, with its marginal N(M, P⁻¹).
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drl_jax.applications.inpainting import inpaint
from drl_jax.core.levels import extract, make_levels, posterior
from drl_jax.core.mcmc import langevin
from drl_jax.core.transition import mcmc_transition
from tests.applications.helpers import COVARIANCE, LEVELS, MEAN, TRANSITION, marginals, network

DATUM = 0.7
CONDITIONAL_MEAN = MEAN[0] + COVARIANCE[0, 1] / COVARIANCE[1, 1] * (DATUM - MEAN[1])


def moments_by_algebra(levels):
    """Mean and variance of the unknown number of x_0."""
    means, precisions = marginals(levels)
    mean = np.array([0.0, levels.a_cum[-1] * DATUM])
    covariance = np.diag([1.0, levels.sigma_cum[-1] ** 2])
    for t in reversed(range(levels.num_levels)):
        here, after = levels.sigma_cum[t] ** 2, levels.sigma_cum[t + 1] ** 2
        c1 = levels.a[t + 1] * here / after
        c0 = levels.sigma[t + 1] ** 2 * levels.a_cum[t] / after
        variance_k = here * levels.sigma[t + 1] ** 2 / after
        tether, scale = levels.is_recovery[t] / levels.sigma[t + 1] ** 2, levels.scale[t]
        full = precisions[t] + tether * np.eye(2)
        inverse = np.linalg.inv(full)
        # y_0 = (rows · x_{t+1}) + constant + slope · (scale k_t), with m linear in x_{t+1}.
        slope = -full[0, 1] / full[0, 0]
        to_m, at_zero = tether * inverse, inverse @ precisions[t] @ means[t]
        row = to_m[0] - slope * to_m[1]
        constant = at_zero[0] - slope * at_zero[1]
        # (u_t, k_t) = matrix (u, k)_{t+1} + shift + noise; u_t = y_0 / scale.
        k_row, k_shift = np.array([0.0, c1]), c0 * DATUM
        u_row = row / scale + slope * k_row
        matrix, shift = np.stack([u_row, k_row]), np.array([constant / scale + slope * k_shift, k_shift])
        noise = variance_k * np.outer([slope, 1.0], [slope, 1.0])
        noise[0, 0] += 1 / (full[0, 0] * scale**2)
        mean, covariance = matrix @ mean + shift, matrix @ covariance @ matrix.T + noise
    return mean[0], covariance[0, 0]


def complete(levels, transition, size, key):
    x = jnp.tile(jnp.array([[9.0, DATUM]], jnp.float32), (size, 1))  # 9: any number
    known = jnp.tile(jnp.array([[False, True]]), (size, 1))
    run = jax.jit(lambda keys: inpaint(keys, network(levels), levels, transition, x, known))
    return np.asarray(run(jax.random.split(key, size)), np.float64)


@pytest.mark.parametrize(
    ("levels", "transition"),
    [
        (LEVELS, TRANSITION),
        (
            make_levels(1, temperature="one", b_squared=0.02),
            mcmc_transition(partial(langevin, noise_scale=1.0), num_steps=2000),
        ),
    ],
    ids=["6 levels", "1 level"],
)
def test_the_moments_of_completions(levels, transition, new_key):
    size = 20_000
    x = complete(levels, transition, size, new_key())
    np.testing.assert_array_equal(x[:, 1], np.full(size, np.float32(DATUM)))
    mean, variance = moments_by_algebra(levels)
    # Five standard errors, and the bias of unadjusted steps of s² = 0.02 σ².
    assert abs(x[:, 0].mean() - mean) < 5 * np.sqrt(variance / size) + 0.005
    assert abs(x[:, 0].var() / variance - 1) < 5 * np.sqrt(2 / size) + 0.02


def test_one_level_is_exact_and_several_are_near():
    # x_0 has noise of variance σ_0² = 1e-4.
    exact = COVARIANCE[0, 0] - COVARIANCE[0, 1] ** 2 / COVARIANCE[1, 1]
    mean, variance = moments_by_algebra(make_levels(1, temperature="one"))
    assert mean == pytest.approx(CONDITIONAL_MEAN, abs=1e-3)
    assert variance == pytest.approx(exact, rel=5e-3)
    mean, variance = moments_by_algebra(LEVELS)
    assert MEAN[0] + 0.5 < mean < CONDITIONAL_MEAN  # of which the mean of all data knows nothing
    assert variance < 2 * exact < COVARIANCE[0, 0]


def test_the_posterior_of_the_forward_chain(new_key):
    # Draw x_t and x_{t+1}, then x_t anew given the data and x_{t+1}: the same joint moments.
    size, datum = 200_000, 0.8
    t = jnp.full(size, 2)
    a, a_next, sigma, sigma_next = (values[i] for values in (LEVELS.a_cum, LEVELS.sigma_cum) for i in (2, 3))
    x = jnp.full((size, 1), datum)
    x_next = a_next * x + sigma_next * jax.random.normal(new_key(), (size, 1))
    drawn = np.asarray(posterior(jax.random.split(new_key(), size), x, x_next, t, LEVELS), np.float64)
    assert abs(drawn.mean() - a * datum) < 5 * sigma / np.sqrt(size)
    assert abs(drawn.var() / sigma**2 - 1) < 5 * np.sqrt(2 / size)
    covariance = np.cov(drawn[:, 0], np.asarray(x_next, np.float64)[:, 0])[0, 1]
    # Of x_{t+1} = a_{t+1} x_t + noise.
    expected = LEVELS.a[3] * sigma**2
    assert abs(covariance - expected) < 5 * np.sqrt((sigma**2 * sigma_next**2 + expected**2) / size)
    assert float(extract(LEVELS.a, t, x)[0, 0]) == pytest.approx(LEVELS.a[2])
