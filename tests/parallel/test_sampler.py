"""Sampling: sample i is the same to the last bit, however many are drawn, from where, and on what."""

import jax
import numpy as np
import pytest

from drl_jax.config.build import build
from drl_jax.config.overrides import parse
from drl_jax.core.model import Model
from drl_jax.parallel.mesh import place
from drl_jax.parallel.preemption import Stop
from drl_jax.parallel.sampler import NUM_RECORDED, ShardedSampler, count_not_finite
from tests.helpers import CONFIGS

# The networks, levels and chains of the real configs: rounding grows in them, and flips acceptances of the
# points' adjusted chain. Small ones would not show it.
SETTINGS = {"digits.py": (16, 48), "points.py:ring": (256, 1100)}


@pytest.fixture(scope="module", params=SETTINGS)
def draw(request):
    """draw(num_devices, count, start) -> (samples, process), of a model that is not the initial one."""
    config = parse([f"--config={CONFIGS}/{request.param}"]).config
    rows, count = SETTINGS[request.param]
    parts = build(config)
    initial = jax.jit(parts.init_state)(jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda p: p + 0.05 * rng.standard_normal(p.shape, np.float32), initial.params)
    model = jax.device_get(Model(parts.network, parts.levels, params, initial.spectral))

    def draw(num_devices, count=count, start=0):
        placement = place(devices=jax.devices()[:num_devices])
        sampler = ShardedSampler(
            parts.transition, parts.shape, placement, Stop(), samples_per_device=rows, seed=0
        )
        drawn = list(sampler.sample(placement.replicate(model), count, start=start))
        assert all(len(x) for x, _ in drawn)
        # The way from noise to data is given once, with sample 0.
        assert [process is not None for _, process in drawn] == [start == 0] + [False] * (len(drawn) - 1)
        return np.concatenate([x for x, _ in drawn]), drawn[0][1]

    return draw


def test_neither_devices_nor_parts_change_a_bit_of_a_sample(draw):
    whole, process = draw(1)
    assert count_not_finite(whole) == 0
    # The process ends in the samples.
    np.testing.assert_array_equal(process[-1], whole[:NUM_RECORDED])
    np.testing.assert_array_equal(draw(4)[0], whole)
    for num_devices, start in ((1, 7), (4, 21)):
        np.testing.assert_array_equal(draw(num_devices, start=start)[0], whole[start:])
    few, process = draw(2, count=7)
    np.testing.assert_array_equal(few, whole[:7])
    assert process.shape[1] == 7


def test_samples_that_are_not_finite_are_counted():
    assert count_not_finite(np.array([[0.0, np.nan], [1.0, 2.0], [np.inf, -np.inf]])) == 2


def test_no_sample_is_drawn_where_all_exist(monkeypatch):
    parts = build(parse([f"--config={CONFIGS}/points.py:ring"]).config)
    state = jax.eval_shape(parts.init_state, jax.random.key(0))
    model = state.averaged_model(parts.network, parts.levels)
    sampler = ShardedSampler(parts.transition, (2,), place(), Stop(), samples_per_device=4, seed=0)
    monkeypatch.setattr(sampler, "_draw", lambda *_: pytest.fail("samples were drawn"))
    for count in (0, 6, 16):
        assert list(sampler.sample(model, count, start=count)) == []
