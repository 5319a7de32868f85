"""Long chains against closed forms, on a model whose levels are all Gaussian; and the promises of a run.

That MALA leaves a density invariant, and the stationary variance of Langevin, are proved in tests/core.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from drl_jax.applications import chains, kernels
from drl_jax.applications.chains import Leg, Run, all_levels, begin, continue_run, one_level
from drl_jax.applications.kernels import Kernel
from drl_jax.core import energy, mcmc
from drl_jax.core.mcmc import langevin
from drl_jax.core.model import Model
from drl_jax.core.synthesis import synthesize
from drl_jax.core.transition import mcmc_transition
from drl_jax.errors import UserError
from tests.applications.helpers import LEVELS, marginals, network


class Gaussian(nn.Module):
    @nn.compact
    def __call__(self, y, t):
        return network(LEVELS)(y, t)


class Standard(nn.Module):
    """N(0, I) at every level."""

    @nn.compact
    def __call__(self, y, t):
        return -0.5 * jnp.sum(y**2, axis=1)


class Unbounded(nn.Module):
    """A log-density that grows without end, at level 2 alone."""

    @nn.compact
    def __call__(self, y, t):
        return jnp.where(t == 2, 40.0, -0.5) * jnp.sum(y**2, axis=1)


MODEL = Model(Gaussian(), LEVELS, params={}, spectral={})
T = LEVELS.num_levels


def make_run(keys, kernel, target, start, legs, step_sizes: Any = 1.0, model=MODEL):
    sizes = np.broadcast_to(np.asarray(step_sizes, np.float64), (T,))
    return Run(keys, model, kernel, target, start, legs, sizes, len(keys), 1)


def num_programs() -> int:
    """Of `advance`, that are compiled."""
    return kernels.advance._cache_size()  # pyright: ignore[reportAttributeAccessIssue]


def last_states(run):
    return [np.asarray(part.x) for part in continue_run(run, begin(run)) if part.x is not None]


def assert_moments(draws, mean, covariance):
    # Within five standard errors: of a mean σ/√n, of a covariance c √((σ_i² σ_j² + c²)/n).
    draws = np.asarray(draws, np.float64)
    variance = np.diag(covariance)
    error = 5 / np.sqrt(len(draws))
    np.testing.assert_array_less(np.abs(draws.mean(0) - mean), error * np.sqrt(variance))
    np.testing.assert_array_less(
        np.abs(np.cov(draws.T) - covariance), error * np.sqrt(np.outer(variance, variance) + covariance**2)
    )


@pytest.mark.parametrize(("method", "steps", "target"), [("hmc", 30, "recovery"), ("nuts", 10, "marginal")])
def test_chains_of_blackjax_have_the_moments_of_the_density(method, steps, target, new_key):
    t, n, x = 3, 2000, np.array([0.9, -1.3], np.float32)
    means, precisions = marginals(LEVELS)
    tether = 1 / LEVELS.sigma[t + 1] ** 2 if target == "recovery" else 0.0
    precision = precisions[t] + tether * np.eye(2)
    mean = np.linalg.solve(precision, precisions[t] @ means[t] + tether * x)
    # The leapfrog step: 0.7 of the smallest standard deviation, in units of s_t.
    size = 0.7 * np.linalg.eigvalsh(precision).max() ** -0.5 / LEVELS.step_squared[t] ** 0.5
    kernel = Kernel(method, leapfrog_steps=2, max_doublings=4)
    start = jnp.broadcast_to(x, (n, 2))
    run = make_run(jax.random.split(new_key(), n), kernel, target, start, one_level(t, [steps]), size)
    (states,) = last_states(run)
    scale = LEVELS.scale[t]
    assert_moments(states, mean / scale, np.linalg.inv(precision) / scale**2)


def test_hmc_visits_both_modes_as_often_as_they_weigh(new_key):
    n, weight, std = 4000, 0.3, 0.5

    def density(t, x_next):
        def log_density(y):
            of_modes = [
                jnp.log(w) - (y[:, 0] - m) ** 2 / (2 * std**2) for w, m in ((weight, -1.0), (1 - weight, 1.0))
            ]
            return jnp.logaddexp(*of_modes)

        return log_density

    y, every = jnp.full((n, 1), -1.0), jnp.zeros(n, int)
    init, step = kernels.make_sampler(Kernel("hmc", leapfrog_steps=6), density, every, y, jnp.full(n, 0.3))

    @jax.jit
    def run(keys, y):
        body = lambda k, state: step(jax.vmap(jax.random.fold_in, (0, None))(keys, k), state)[0]
        return jax.lax.fori_loop(0, 60, body, init(y)).position[:, 0]

    y = np.asarray(run(jax.random.split(new_key(), n), y))
    mean = 1 - 2 * weight
    variance = std**2 + 1 - mean**2
    assert abs(y.mean() - mean) < 5 * np.sqrt(variance / n)
    assert abs((y < 0).mean() - (weight * 0.97725 + (1 - weight) * 0.02275)) < 5 * 0.5 / np.sqrt(n)


def test_as_many_langevin_steps_as_in_sampling_give_the_samples(new_key):
    num_steps, keys = 5, jax.random.split(new_key(), 7)
    transition = mcmc_transition(lambda *a, **k: langevin(*a, noise_scale=0.9, **k), num_steps=num_steps)
    expected, _, _ = jax.jit(lambda keys: synthesize(keys, network(LEVELS), LEVELS, transition, (2,)))(keys)
    start = chains.synthesize_to(keys, MODEL, transition, (2,), T)
    run = make_run(keys, Kernel("langevin", 0.9), "recovery", start, all_levels(T, [num_steps * T]))
    np.testing.assert_allclose(last_states(run)[0], expected, rtol=1e-4, atol=1e-5)
    # On the way down lies x_2, from which the lower levels would go on.
    x_2 = chains.synthesize_to(keys, MODEL, transition, (2,), 2)
    run = make_run(keys, Kernel("langevin", 0.9), "recovery", start, all_levels(T, [num_steps * T])[: T - 2])
    np.testing.assert_allclose(last_states(run)[0], x_2, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("method", "wanted"), [("hmc", 0.8), ("mala", 0.6)])
def test_the_step_size_is_adapted_to_the_wanted_acceptance(method, wanted, new_key):
    # In 30 dimensions: in two the acceptance of HMC does not fall steadily with the step.
    model = Model(Standard(), LEVELS, params={}, spectral={})
    kernel, shape, levels = Kernel(method, leapfrog_steps=3), (30,), [5, 2]
    transition, keys = mcmc_transition(langevin, num_steps=2), jax.random.split(new_key(), 200)
    pilots = chains.pilot_keys(keys[:32])
    adapt = partial(chains.warm_up, pilots, model, transition, shape, levels, wanted)
    sizes = adapt(kernel=kernel, target="recovery", num_steps=300)
    assert (sizes[[0, 1, 3, 4]] == 1).all()
    for t in levels:
        start = chains.synthesize_to(keys, model, transition, shape, t + 1)
        run = make_run(keys, kernel, "recovery", start, one_level(t, [60]), sizes, model)
        acceptance = np.stack([part.point.acceptance for part in continue_run(run, begin(run))])
        assert abs(acceptance[20:].mean() - wanted) < 0.05


def test_legs_cover_all_steps():
    assert one_level(3, [10, 25]) == [Leg(0, 3, 0, 10), Leg(1, 3, 10, 15)]
    legs = all_levels(6, [14, 600])
    assert [leg.num_steps for leg in legs if leg.snapshot == 0] == [2, 2, 2, 2, 3, 3]
    assert [leg.level for leg in legs if leg.snapshot == 1] == [5, 4, 3, 2, 1, 0]
    for leg, points in ((Leg(0, 0, 7, 100_000), 333), (Leg(0, 0, 0, 5), 100), (Leg(0, 0, 0, 10), 1)):
        parts = leg.parts(points)
        assert len(parts) <= points
        assert [first for first, _ in parts] == [
            leg.first + sum(n for _, n in parts[:i]) for i in range(len(parts))
        ]
        assert sum(count for _, count in parts) == leg.num_steps
        assert len({count for _, count in parts[1:]}) <= 1
        assert parts[0][1] <= parts[-1][1]


def test_a_run_stops_and_goes_on_after_any_part_and_is_one_program(new_key):
    keys = jax.random.split(new_key(), 5)
    kernel = Kernel("hmc", leapfrog_steps=2)
    start = jax.random.normal(new_key(), (5, 2))
    before = num_programs()
    for legs in (all_levels(T, [6, 31]), one_level(1, [4, 23])):
        run = make_run(keys, kernel, "recovery", start, legs)
        whole = list(continue_run(run, begin(run)))
        for stopped in (0, len(whole) // 2, len(whole) - 2):
            rest = list(continue_run(run, whole[stopped].position))
            assert len(rest) == len(whole) - stopped - 1
            for part, expected in zip(rest, whole[stopped + 1 :], strict=True):
                jax.tree.map(np.testing.assert_array_equal, part, expected)
    assert num_programs() == before + 1
    # A chain is a function of its own key.
    few = make_run(keys[:2], kernel, "recovery", start[:2], one_level(1, [4, 23]))
    for some, every in zip(last_states(few), last_states(run), strict=True):
        np.testing.assert_allclose(some, every[:2], rtol=1e-4, atol=1e-5)


def test_a_trace_has_means_over_all_steps_and_is_bounded(new_key, monkeypatch):
    monkeypatch.setattr(chains, "MAX_POINTS", 20)
    keys, start, steps = jax.random.split(new_key(), 3), jnp.zeros((3, 2)), 41
    run = make_run(keys, Kernel("langevin"), "marginal", start, one_level(2, [steps]))
    parts = list(continue_run(run, begin(run)))
    trace = chains.join([(part.leg, part.steps, part.point) for part in parts])
    assert len(trace.energy) <= chains.MAX_POINTS
    every = jnp.full(3, 2)
    sampler = langevin(
        energy.marginal(network(LEVELS), LEVELS, every), step_squared=jnp.float32(LEVELS.step_squared[2])
    )
    own = jax.vmap(jax.random.fold_in, (0, None))(keys, 2)
    _, info = jax.jit(lambda keys: mcmc.run(keys, sampler, start, steps))(own)
    (row,) = chains.diagnose(run, trace)
    assert (row.snapshot, row.level, row.steps, row.step_size, row.acceptance) == (0, 2, steps, 1, 1)
    np.testing.assert_allclose(row.displacement, np.mean(info.displacement), rtol=1e-4)
    # The energy of a point is that at the end of its part.
    np.testing.assert_allclose(trace.energy[:-1], -info.log_density[trace.step[:-1]], rtol=1e-2, atol=1e-2)


def test_chains_that_leave_the_finite_numbers_are_reported_with_level_and_step(new_key):
    model = Model(Unbounded(), LEVELS, params={}, spectral={})
    keys, start = jax.random.split(new_key(), 4), jnp.ones((4, 2))
    run = make_run(keys, Kernel("langevin"), "marginal", start, one_level(2, [300, 900]), 8.0, model)
    every, own = jnp.full(4, 2), jax.vmap(jax.random.fold_in, (0, None))(keys, 2)
    sampler = langevin(
        energy.marginal(model.bind(), LEVELS, every), step_squared=jnp.float32(64 * LEVELS.step_squared[2])
    )
    scale = jnp.float32(LEVELS.scale[2])
    _, info = jax.jit(lambda keys: mcmc.run(keys, sampler, scale * start, 300))(own)
    first = int(np.argmin(np.isfinite(info.log_density).all(axis=1))) - 1  # the step that led there
    assert 3 < first < 290
    with pytest.raises(UserError, match=f"of 4 chains left the finite numbers, at level 2, step {first}:"):
        list(continue_run(run, begin(run)))
