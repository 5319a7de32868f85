"""The training step: what it adds to its parts, and that devices do not change it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from drl_jax.core import spectral
from drl_jax.core.levels import diffuse, make_levels
from drl_jax.core.networks import ResidualEnergy, bind
from drl_jax.core.objective import draw, objective
from drl_jax.core.randomness import example_keys, fold_in
from drl_jax.parallel.devices import AXIS, place
from drl_jax.training.step import Report, Settings, Totals, TrainState, init_state, make_train_step

LEVELS = make_levels(6)
NETWORK = ResidualEnergy(width=8, multipliers=(1, 2), blocks_per_resolution=1)
SGD = optax.sgd(1e-2)  # Adam's first steps turn rounding into changes of sign
SETTINGS = Settings(langevin_steps=3, ema_decay=0.9)
BATCH = np.random.default_rng(0).standard_normal((8, 8, 8, 1)).astype(np.float32)


def initial() -> TrainState:
    return init_state(jax.random.key(1), NETWORK, LEVELS, SGD, (8, 8, 1))


def run(num_devices: int, num_steps: int = 3) -> list[TrainState]:
    """The states after each step, with the batch on `num_devices` devices."""
    placement = place(8, devices=jax.devices()[:num_devices])
    step = placement.split(make_train_step(NETWORK, LEVELS, SGD, SETTINGS, axis=AXIS))
    state, states = placement.replicate(initial()), []
    for _ in range(num_steps):
        state, _ = step(state, placement.batch(BATCH), placement.votes(False))
        states.append(jax.tree.map(jnp.copy, state))  # the next step takes the state's own buffers
    return states


@pytest.fixture(scope="module")
def on_one_device() -> list[TrainState]:
    return run(1)


@pytest.mark.parametrize("num_devices", [2, 4])
def test_devices_share_the_batch_without_changing_the_run(num_devices, on_one_device):
    for one, several in zip(on_one_device, run(num_devices), strict=True):
        # Noise and levels are functions of the example's key: each level sees the same examples.
        np.testing.assert_array_equal(one.totals.count, several.totals.count)
        # Of sums over the batch only the order of addition differs: rounding.
        for name in ("loss", "positive", "negative"):
            a, b = getattr(one.totals, name), getattr(several.totals, name)
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one.params, several.params
        )


def test_ema_has_no_bias_correction_and_averages_the_vectors_too(on_one_device):
    start = initial()
    expected, vectors = start.params, start.vectors
    for state in on_one_device:
        average = lambda old, new: 0.9 * old + 0.1 * new
        expected = jax.tree.map(average, expected, state.params)
        vectors = jax.tree.map(average, vectors, state.vectors)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    jax.tree.map(close, on_one_device[-1].ema_params, expected)
    jax.tree.map(close, on_one_device[-1].ema_vectors, vectors)
    moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), start.vectors, on_one_device[-1].vectors)
    assert any(jax.tree.leaves(moved))


def test_totals_count_every_example_once(on_one_device):
    for steps, state in enumerate(on_one_device, start=1):
        assert state.totals.count.sum() == 8 * steps
        assert state.step == steps


def test_totals_are_sums_over_the_examples_of_a_level():
    # The first step, put together once more from the core's own functions.
    state = initial()
    keys = example_keys(jax.random.fold_in(state.key, 0), 8)
    t = jax.vmap(lambda key: jax.random.randint(key, (), 0, 6))(fold_in(keys, 0))
    x_t, x_next = diffuse(fold_in(keys, 1), jnp.asarray(BATCH), t, LEVELS)
    params, _ = spectral.normalize(state.params, state.vectors)
    f = bind(NETWORK, params)
    x_negative, info = draw(fold_in(keys, 2), f, LEVELS, t, x_next, num_steps=SETTINGS.langevin_steps)
    _, (positive, negative) = objective(f, LEVELS, t, x_t, x_negative)
    moved = np.asarray(x_negative) - np.asarray(x_next) / LEVELS.scale[t][:, None, None, None]
    expected = Totals(
        count=np.ones(8),
        loss=LEVELS.weight[t] * (negative - positive),
        positive=positive,
        negative=negative,
        moved=np.sqrt((moved**2).sum((1, 2, 3))),
        gradient=info.gradient_norm[-1],
    )
    (after,) = run(1, 1)
    for name in ("count", "loss", "positive", "negative", "moved", "gradient"):
        sums = np.zeros(6)
        np.add.at(sums, np.asarray(t), np.asarray(getattr(expected, name)))
        np.testing.assert_allclose(getattr(after.totals, name), sums, rtol=1e-4, atol=1e-5, err_msg=name)


def test_the_root_key_stays_and_the_noise_does_not():
    first, second = run(1, 2)
    assert jax.random.key_data(first.key).tolist() == jax.random.key_data(second.key).tolist()
    keys = [example_keys(jax.random.fold_in(first.key, n), 8) for n in (0, 1)]
    drawn = np.array([jax.vmap(jax.random.bits)(k) for k in keys]).ravel()
    assert len(set(drawn.tolist())) == 16


def test_vectors_are_warm_at_the_start():
    # After 100 iterations from a random vector, σ is the largest singular value of numpy.
    state = initial()
    kernel, u = state.params["input"]["kernel"], state.vectors["input"][spectral.DIVIDE]
    sigma, _ = spectral.spectral_norm(kernel, u)
    largest = np.linalg.svd(np.asarray(kernel, np.float64).reshape(-1, 8), compute_uv=False)[0]
    np.testing.assert_allclose(sigma, largest, rtol=1e-4)


def test_the_energy_penalty_draws_energies_to_zero():
    def size(penalty: float) -> float:
        settings = SETTINGS._replace(energy_penalty=penalty)
        step = jax.jit(make_train_step(NETWORK, LEVELS, optax.sgd(1e-3), settings))
        state = initial()
        for _ in range(20):
            state, _ = step(state, jnp.asarray(BATCH), jnp.zeros(1))
        return float(jnp.sum(jnp.abs(state.totals.positive)))

    assert size(10.0) < 0.8 * size(0.0)


def test_a_report_is_packed_and_unpacked():
    totals = Totals(*(np.arange(3.0) + 10 * i for i in range(6)))
    report = Report(seen=totals, gradient_norm=np.float32(7), votes=np.float32(2), reach=np.array([3.0, 4.0]))
    got = Report.unpacked(np.asarray(report.packed()), 3)
    jax.tree.map(np.testing.assert_array_equal, got, report)
