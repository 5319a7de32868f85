"""Pairs (x_t, x_{t+1}) that share the noise of the chain."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drl_jax.core.levels import extract, make_levels
from drl_jax.core.mcmc import langevin
from drl_jax.core.model import bind
from drl_jax.core.networks import ResidualEnergy
from drl_jax.core.objective import recovery_likelihood
from drl_jax.core.pairs import coupled, independent, noise_weights
from drl_jax.core.randomness import example_keys
from drl_jax.core.transition import mcmc_transition

STEPS = 15
LEVELS = make_levels(6, sigma_0=0.02, b_squared=2e-3)


@pytest.mark.parametrize("num_steps", [1, 15, 40])
@pytest.mark.parametrize(
    ("count", "settings"),
    [(6, {}), (6, {"sigma_0": 0.02, "b_squared": 2e-3}), (6, {"b_squared": 0.1}), (1, {}), (1000, {})],
)
def test_the_noise_has_variance_one(num_steps, count, settings):
    of_start, of_steps = noise_weights(make_levels(count, **settings), num_steps)
    assert of_steps.shape == (count, num_steps)
    np.testing.assert_allclose(of_start**2 + np.sum(of_steps**2, axis=1), 1, rtol=1e-14)
    assert (of_start >= 0).all()
    assert (of_steps >= 0).all()


@pytest.mark.parametrize("t", range(6))
def test_for_one_image_the_chain_ends_at_the_data_up_to_a_factor(t):
    # The exact energy of one image, so that only the noise tells samples from data. It is 0 at the last
    # level, which starts at x_T without a term that knows x_{t+1}.
    batch, shape = 4, (2, 2, 1)
    image = np.zeros(shape) if t == 5 else np.random.default_rng(0).uniform(-1, 1, shape)
    level = jnp.full(batch, t)
    mean = LEVELS.scale[t] * LEVELS.a_cum[t] * image
    variance = (LEVELS.scale[t] * LEVELS.sigma_cum[t]) ** 2

    def f(y, t):
        distance_squared = jnp.sum((y - mean[None]) ** 2, axis=(1, 2, 3))
        return -extract(LEVELS.temperature, t, distance_squared) * distance_squared / (2 * variance)

    with jax.enable_x64(True):
        x = jnp.broadcast_to(jnp.asarray(image), (batch, *shape))
        keys, chain = (example_keys(jax.random.key(seed), batch) for seed in (0, 1))
        x_t, x_next = coupled(STEPS)(keys, chain, x, level, LEVELS)
        x_negative, _ = mcmc_transition(langevin, num_steps=STEPS)(chain, f, LEVELS, level, x_next)
    of_data, of_sample = (LEVELS.scale[t] * np.asarray(each) - mean for each in (x_t, x_negative))
    factor = of_sample / of_data
    np.testing.assert_allclose(factor, factor.mean(), rtol=1e-9)
    assert factor.mean() > 0


@pytest.mark.parametrize("t", [0, 2, 5])
def test_each_of_the_pair_has_the_distribution_of_the_paper(t):
    count = 20_000
    x = jnp.full((count, 1), 0.5)
    keys, chain = (example_keys(jax.random.key(seed), count) for seed in (0, 1))
    pair = coupled(STEPS)(keys, chain, x, jnp.full(count, t), LEVELS)
    for i, drawn in zip((t, t + 1), pair, strict=True):
        noise = (np.asarray(drawn) - 0.5 * LEVELS.a_cum[i]) / LEVELS.sigma_cum[i]
        # Five standard errors of the mean and of the variance of normal noise.
        assert abs(noise.mean()) < 5 / count**0.5
        assert abs(noise.var() - 1) < 5 * (2 / count) ** 0.5


def test_the_gradient_has_the_same_mean_and_varies_less():
    network, count, draws = ResidualEnergy(width=4, multipliers=(1,), blocks_per_resolution=1), 16, 400
    x = jax.random.uniform(jax.random.key(0), (count, 4, 4, 1), minval=-1)
    params = network.init(jax.random.key(1), x, jnp.zeros(count, jnp.int32))["params"]
    transition = mcmc_transition(langevin, num_steps=5)

    def gradients(draw_pair):
        objective = recovery_likelihood(LEVELS, transition, draw_pair=draw_pair)

        def loss(params, key):
            f = bind(network, params)
            return objective(example_keys(key, count), x, f, f)[0]

        each = jax.lax.map(
            lambda key: jax.grad(loss)(params, key), jax.random.split(jax.random.key(2), draws)
        )
        return jnp.concatenate([leaf.reshape(draws, -1) for leaf in jax.tree.leaves(each)], axis=1)

    alone, together = (np.asarray(gradients(draw_pair)) for draw_pair in (independent, coupled(5)))
    error = np.sqrt((alone.var(axis=0) + together.var(axis=0)) / draws) + 1e-12
    assert np.abs((alone.mean(axis=0) - together.mean(axis=0)) / error).max() < 5
    # 0.62 here, where most of the variance is that of an untrained network between levels.
    assert together.var(axis=0).sum() < 0.75 * alone.var(axis=0).sum()
