"""The statistics of a model of which everything is known, and what they distinguish."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drl_jax.applications.detection import statistics
from drl_jax.core.randomness import example_keys
from tests.applications.helpers import LEVELS, marginals, network

F = network(LEVELS)
X = jnp.array([[0.4, -0.2], [1.5, 1.0], [-3.0, 0.5]])
DRAWS = 4000
MEASURE = jax.jit(lambda keys, t, x, draws: statistics(keys, F, LEVELS, jnp.full(3, t), x, draws))


@pytest.mark.parametrize("level", [0, 3, 5])
def test_the_energy_is_its_mean_over_the_noise(level, new_key):
    """Of a Gaussian: E ½ (y − m)ᵀ P (y − m) with y = scale (ā x + σ̄ ε) is that of the mean, and ½ tr(P Σ)."""
    found = MEASURE(example_keys(new_key(), 3), level, X, DRAWS)
    means, precisions = marginals(LEVELS)
    scale = LEVELS.scale[level]
    centred = scale * LEVELS.a_cum[level] * np.asarray(X, np.float64) - means[level]
    noise, precision = (scale * LEVELS.sigma_cum[level]) ** 2, precisions[level]
    expected = 0.5 * np.einsum("bi,ij,bj->b", centred, precision, centred) + 0.5 * noise * precision.trace()
    # The variance of the quadratic form: of its linear part and of its quadratic part.
    variance = noise * ((centred @ precision) ** 2).sum(1) + 0.5 * noise**2 * (precision @ precision).trace()
    error = np.abs(found.energy - expected)
    assert (error < 4 * np.sqrt(variance / DRAWS) + 1e-4 * np.abs(expected)).all()


def test_without_noise_the_statistics_are_those_of_the_examples(new_key):
    levels = replace(LEVELS, sigma_cum=np.zeros(7))
    found = statistics(example_keys(new_key(), 3), F, levels, jnp.full(3, 2), X, 3)
    means, precisions = marginals(LEVELS)
    centred = LEVELS.scale[2] * LEVELS.a_cum[2] * np.asarray(X, np.float64) - means[2]
    gradient = -LEVELS.scale[2] * centred @ precisions[2]
    energy = 0.5 * np.einsum("bi,ij,bj->b", centred, precisions[2], centred)
    np.testing.assert_allclose(found.energy, energy, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.score_norm, np.linalg.norm(gradient, axis=1), rtol=1e-4, atol=1e-6)


def test_an_example_depends_on_its_own_key_alone(new_key):
    keys, others = example_keys(new_key(), 3), example_keys(new_key(), 3)
    first, second = MEASURE(keys, 1, X, 2), MEASURE(keys.at[1:].set(others[1:]), 1, X.at[2].set(0.0), 2)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        assert (one[1:] != other[1:]).all()
