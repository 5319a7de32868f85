"""Drawing samples: sample i is the same to the last bit, however many are drawn, where and by what."""

import jax
import numpy as np
import pytest
from drl_jax.parallel.devices import place

from drl_jax.config.build import build
from drl_jax.main import parse
from drl_jax.parallel.preemption import Stop
from drl_jax.parallel.sampler import SHOWN, Sampler, Weights, not_finite
from drl_jax.training.loop import init_state
from tests.helpers import CONFIGS

# The networks, levels and chains of the configs as they are: rounding that small ones do not show grows in
# them, and turns acceptances of the points' adjusted chain around.
SETTINGS = {"digits.py": (16, 48), "points.py:ring": (256, 1100)}


@pytest.fixture(scope="module", params=SETTINGS)
def draw(request):
    """draw(num_devices, count, start) -> samples, of weights that are not those of the beginning."""
    config = parse([f"--config={CONFIGS}/{request.param}"]).config
    rows, count = SETTINGS[request.param]
    experiment = build(config)
    initial = init_state(experiment, place(0, devices=jax.devices()[:1]), 0)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda p: p + 0.05 * rng.standard_normal(p.shape, np.float32), initial.params)
    weights = jax.device_get(Weights(params, initial.vectors))

    def draw(num_devices, count=count, start=0):
        placement = place(0, devices=jax.devices()[:num_devices])
        sampler = Sampler(
            experiment,
            placement,
            Stop(),
            rows=rows,
            seed=0,
            num_steps=config.sampler.steps,
            noise_scale=config.sampler.noise_scale,
            spread=config.sampler.step_range,
        )
        drawn = list(sampler.draw(placement.replicate(weights), count, start=start))
        assert all(process.shape[1] <= SHOWN for _, process in drawn)
        return np.concatenate([x for x, _ in drawn]), drawn[0][1]

    return draw


def test_neither_devices_nor_parts_change_a_bit_of_a_sample(draw):
    whole, process = draw(1)
    assert not_finite(whole) == 0
    # The process ends in the samples.
    np.testing.assert_array_equal(process[-1], whole[:SHOWN])
    np.testing.assert_array_equal(draw(4)[0], whole)
    for num_devices, start in ((1, 7), (4, 21)):
        np.testing.assert_array_equal(draw(num_devices, start=start)[0], whole[start:])
    np.testing.assert_array_equal(draw(2, count=7)[0], whole[:7])


def test_samples_that_are_not_finite_are_counted():
    assert not_finite(np.array([[0.0, np.nan], [1.0, 2.0], [np.inf, -np.inf]])) == 2
