"""Diagnostics of autoregressive chains, whose autocorrelation φ^k and effective sample size are known."""

import numpy as np
import pytest

from drl_jax.applications.diagnostics import MIN_POINTS, autocorrelation, mixing

PHI = 0.8


def autoregressive(points, chains, quantities=1):
    """x_k = φ x_{k−1} + √(1 − φ²) ξ, from its stationary law N(0, 1)."""
    stream = np.random.default_rng(0)
    noise = stream.standard_normal((points, chains, quantities))
    x = np.empty_like(noise)
    x[0] = noise[0]
    for k in range(1, points):
        x[k] = PHI * x[k - 1] + np.sqrt(1 - PHI**2) * noise[k]
    return x.astype(np.float32)


def test_autocorrelation():
    x = autoregressive(4000, 100)[..., 0]
    found = autocorrelation(x, 20)
    np.testing.assert_allclose(found, PHI ** np.arange(21), atol=0.01)
    assert found[0] == 1
    # Of every second point; a shift and a scale change nothing.
    np.testing.assert_allclose(autocorrelation(7 - 3 * x[::2], 5), PHI ** (2 * np.arange(6)), atol=0.01)
    assert np.isnan(autocorrelation(np.ones((30, 2)), 3)).all()


def test_effective_sample_size_and_rhat():
    # All of one shape, which is compiled once: two quantities of two groups of three chains.
    points, group = 1000, 3
    x = autoregressive(points, 2 * group, 2)
    x[..., 1] = np.random.default_rng(1).standard_normal((points, 2 * group))
    ess, rhat = mixing(x, group)
    # N (1 − φ) / (1 + φ) of each chain; the slower quantity counts.
    assert ess == pytest.approx(points * (1 - PHI) / (1 + PHI), rel=0.15)
    assert 0.99 < rhat < 1.02
    # Only the chains of a group are compared.
    x[:, group:] += 4
    assert mixing(x, group).rhat < 1.02
    assert mixing(x[:, [0, 3, 1, 4, 2, 5]], group).rhat > 1.4
    # Each chain is split: a trend that all share is seen.
    trend = x + np.linspace(0, 8, points)[:, None, None]
    assert mixing(trend.astype(np.float32), group).rhat > 1.4


def test_a_few_points_say_nothing():
    assert np.isnan(mixing(autoregressive(MIN_POINTS - 1, 3))).all()
