"""The training step: its update is the gradient of the objective, and devices do not change it."""

import warnings
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from drl_jax.core import spectral
from drl_jax.core.levels import diffuse, draw_levels, make_levels
from drl_jax.core.mcmc import langevin, mala
from drl_jax.core.model import bind
from drl_jax.core.networks import ResidualEnergy
from drl_jax.core.objective import contrast, recovery_likelihood
from drl_jax.core.randomness import example_keys, fold_in
from drl_jax.core.transition import mcmc_transition
from drl_jax.parallel.mesh import place
from drl_jax.training.optimizer import make_optimizer
from drl_jax.training.step import TrainState, init_state, make_train_step

LEVELS = make_levels(6)
NETWORK = ResidualEnergy(width=8, multipliers=(1,), blocks_per_resolution=1)
RATE = 0.1
SGD = optax.sgd(RATE)  # Adam's first steps turn rounding into changes of sign
TRANSITION = mcmc_transition(langevin, num_steps=3)
BATCH = np.random.default_rng(0).standard_normal((8, 8, 8, 1)).astype(np.float32)


@cache
def initial() -> TrainState:
    return jax.jit(lambda key: init_state(key, NETWORK, LEVELS, SGD, (8, 8, 1)))(jax.random.key(1))


def make_step(*, microbatches: int = 1, **settings):
    objective = recovery_likelihood(LEVELS, TRANSITION, **settings)
    return make_train_step(
        NETWORK, LEVELS.num_levels, objective, SGD, microbatches=microbatches, ema_decay=0.9
    )


def run(
    num_devices: int, num_steps: int = 3, state: TrainState | None = None, *, microbatches: int = 1
) -> list[TrainState]:
    """The states after each step from `state` or the initial one, with the batch on `num_devices` devices."""
    placement = place(8, devices=jax.devices()[:num_devices])
    step = placement.data_parallel(make_step(microbatches=microbatches))
    state, states = placement.replicate(initial() if state is None else state), []
    for _ in range(num_steps):
        state, _, _ = step(state, placement.shard_local(BATCH), placement.stop_flags(False))
        states.append(jax.tree.map(jnp.copy, state))  # the next step donates the buffers of the state
    return states


@pytest.fixture(scope="module")
def on_one_device() -> list[TrainState]:
    return run(1)


@pytest.mark.parametrize(("num_devices", "microbatches"), [(4, 1), (1, 4), (2, 2)])
def test_parts_of_the_batch_do_not_change_the_run(on_one_device, num_devices, microbatches):
    for one, several in zip(on_one_device, run(num_devices, microbatches=microbatches), strict=True):
        # Noise and levels depend on the key of the example: each level gets the same examples.
        np.testing.assert_array_equal(one.sums.count, several.sums.count)
        # Only the order in which sums over the batch are added differs: rounding.
        for name in ("loss", "positive", "negative"):
            a, b = getattr(one.sums, name), getattr(several.sums, name)
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one.params, several.params
        )


@jax.jit
def first_step(state: TrainState):
    """(levels, x_t, x_next, x_negative, info) of the first step, from the functions of the core."""
    keys = example_keys(jax.random.fold_in(state.key, 0), 8)
    t = draw_levels(fold_in(keys, 0), LEVELS)
    x_t, x_next = diffuse(fold_in(keys, 1), jnp.asarray(BATCH), t, LEVELS)
    params, _ = spectral.normalize(state.params, state.spectral)
    x_negative, info = TRANSITION(fold_in(keys, 2), bind(NETWORK, params), LEVELS, t, x_next)
    return t, x_t, x_next, x_negative, info


@pytest.mark.parametrize("num_devices", [1, 4])
def test_one_update_is_the_gradient_of_the_objective(num_devices):
    # SGD: (params − new) / rate = ∂/∂θ mean w (f(y⁻) − f(y⁺)), normalised with the stored vectors,
    # the gradient flowing through σ. A gradient summed twice over devices would be 4 times that.
    state = initial()
    t, x_t, _, x_negative, _ = first_step(state)

    def objective(params):
        params, _ = spectral.normalize(params, state.spectral)
        return jnp.mean(contrast(bind(NETWORK, params), LEVELS, t, x_t, x_negative)[0])

    expected = jax.jit(jax.grad(objective))(state.params)
    (after,) = run(num_devices, 1)
    update = jax.tree.map(lambda old, new: (old - new) / RATE, state.params, after.params)
    scale = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(expected))
    close = partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5 * scale)
    jax.tree.map(close, update, expected)
    # The new vectors are those after one iteration from the old weights.
    _, vectors = spectral.normalize(state.params, state.spectral)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), after.spectral, vectors)


def test_the_sums_are_over_the_examples_of_a_level():
    state = initial()
    t, x_t, x_next, x_negative, info = first_step(state)

    @jax.jit
    def energies(state, t, x_t, x_negative):
        f = bind(NETWORK, spectral.normalize(state.params, state.spectral)[0])
        return contrast(f, LEVELS, t, x_t, x_negative)

    loss, positive, negative = energies(state, t, x_t, x_negative)
    displacement = np.asarray(x_negative) - np.asarray(x_next) / LEVELS.scale[t][:, None, None, None]
    expected = {
        "count": np.ones(8),
        "loss": loss,
        "positive": positive,
        "negative": negative,
        "displacement": np.sqrt((displacement**2).sum((1, 2, 3))),
        "gradient_norm": info.gradient_norm[-1],
    }
    (after,) = run(1, 1)
    for name, values in expected.items():
        sums = np.zeros(6)
        np.add.at(sums, np.asarray(t), np.asarray(values))
        np.testing.assert_allclose(getattr(after.sums, name), sums, rtol=1e-4, atol=1e-5, err_msg=name)


def test_the_averages_have_no_bias_correction_and_include_the_vectors(on_one_device):
    start = initial()
    expected, vectors = start.params, start.spectral
    for state in on_one_device:
        average = lambda old, new: 0.9 * old + 0.1 * new
        expected = jax.tree.map(average, expected, state.params)
        vectors = jax.tree.map(average, vectors, state.spectral)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    jax.tree.map(close, on_one_device[-1].ema_params, expected)
    jax.tree.map(close, on_one_device[-1].ema_spectral, vectors)
    changed = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), start.spectral, on_one_device[-1].spectral)
    assert any(jax.tree.leaves(changed))


def test_every_example_is_counted_once(on_one_device):
    for steps, state in enumerate(on_one_device, start=1):
        assert state.sums.count.sum() == 8 * steps
        assert state.step == steps


def test_counts_stay_exact_beyond_the_integers_of_float32():
    state = initial()
    state = state.replace(sums=state.sums._replace(count=jnp.full(6, 2**24, jnp.int32)))
    (state,) = run(1, 1, state)
    assert int(np.asarray(state.sums.count, np.int64).sum()) == 6 * 2**24 + 8


def test_the_root_key_stays_and_the_noise_changes():
    first, second = run(1, 2)
    assert jax.random.key_data(first.key).tolist() == jax.random.key_data(second.key).tolist()
    keys = [example_keys(jax.random.fold_in(first.key, n), 8) for n in (0, 1)]
    drawn = np.array([jax.vmap(jax.random.bits)(k) for k in keys]).ravel()
    assert len(set(drawn.tolist())) == 16


def test_spectral_vectors_are_converged_at_the_start():
    # After 100 iterations from a random vector, σ is the largest singular value of NumPy.
    state = initial()
    kernel, u = state.params["input"]["kernel"], state.spectral["input"][spectral.DIVIDE]
    sigma, _ = spectral.spectral_norm(kernel, u)
    largest = np.linalg.svd(np.asarray(kernel, np.float64).reshape(-1, 8), compute_uv=False)[0]
    np.testing.assert_allclose(sigma, largest, rtol=1e-4)


def test_the_energy_penalty_reduces_energies():
    step, state, num_steps = jax.jit(make_step(energy_penalty=0.03)), initial(), 60
    for _ in range(num_steps):
        state, _ = step(state, jnp.asarray(BATCH))
    size = lambda state: float(jnp.sum(jnp.abs(state.sums.positive)))
    assert size(state) < 0.8 * size(run(1, num_steps)[-1])


class Quadratic(nn.Module):
    """f(y, t) = −½ λ_t ‖y − m_t‖²."""

    @nn.compact
    def __call__(self, y, t):
        log_precision = self.param("log_precision", nn.initializers.zeros, (6,))[t]
        mean = self.param("mean", nn.initializers.zeros, (6,))[t]
        return -0.5 * jnp.exp(log_precision) * jnp.sum((y - mean[:, None]) ** 2, axis=1)


@pytest.mark.parametrize("make_sampler", [langevin, mala])
def test_the_step_does_not_use_a_key_twice(make_sampler):
    objective = recovery_likelihood(LEVELS, mcmc_transition(make_sampler, num_steps=3))
    state = init_state(jax.random.key(0), Quadratic(), LEVELS, SGD, (2,))
    with jax.debug_key_reuse(True):
        jax.jit(make_train_step(Quadratic(), 6, objective, SGD))(state, jnp.ones((8, 2)))


def test_training_learns_the_mean_and_precision_of_a_gaussian():
    # Data N(m, s²) in two dimensions. The marginal of y_t = scale_t x_t is Gaussian with mean scale a_cum m
    # and variance scale² (a_cum² s² + σ_cum²): the maximum of the recovery likelihood, at which an exact
    # sampler (MALA) leaves the gradient zero on average.
    mean, std = 0.5, 0.3
    levels = make_levels(6, temperature="one", b_squared=1.0, step_growth=0.0)
    transition = mcmc_transition(partial(mala, step_range=4.0), num_steps=8)
    optimizer = make_optimizer(learning_rate=0.05, warmup_steps=0, decay_steps=400)
    objective = recovery_likelihood(levels, transition)
    step = jax.jit(make_train_step(Quadratic(), 6, objective, optimizer, ema_decay=0.95))
    state = init_state(jax.random.key(0), Quadratic(), levels, optimizer, (2,))
    rng = np.random.default_rng(0)
    for _ in range(400):
        x = mean + std * rng.standard_normal((512, 2))
        state, _ = step(state, jnp.asarray(x, jnp.float32))
    a, sigma = levels.a_cum[:-1], levels.sigma_cum[:-1]
    variance = levels.scale**2 * (a**2 * std**2 + sigma**2)
    learned = state.ema_params
    np.testing.assert_allclose(learned["mean"], levels.scale * a * mean, atol=0.05)
    np.testing.assert_allclose(np.exp(-learned["log_precision"]), variance, rtol=0.1)


def test_nothing_is_compiled_after_the_first_step(caplog):
    placement = place(8)
    step = placement.data_parallel(make_step())
    state = placement.replicate(initial())
    flags = [placement.stop_flags(flag) for flag in (False, True)]
    state, _, _ = step(state, placement.shard_local(BATCH), flags[0])
    with jax.log_compiles(), caplog.at_level("WARNING"), warnings.catch_warnings():
        warnings.simplefilter("error")  # a donated buffer that cannot be used would warn
        before, batch = jax.tree.leaves(state), placement.shard_local(BATCH)
        with jax.transfer_guard("disallow"):
            state, _, votes = step(state, batch, flags[1])
    assert [r.getMessage() for r in caplog.records if "Compiling" in r.getMessage()] == []
    assert float(votes) == placement.num_devices
    assert all(leaf.is_deleted() for leaf in before)  # donated
