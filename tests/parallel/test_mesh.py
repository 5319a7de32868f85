"""The product's own compiled programs: which messages travel between devices, and which rows are whose."""

import re
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from drl_jax.config.build import build
from drl_jax.config.overrides import parse
from drl_jax.core.levels import make_levels
from drl_jax.core.mcmc import langevin
from drl_jax.core.model import Model
from drl_jax.core.transition import mcmc_transition
from drl_jax.parallel.mesh import place
from drl_jax.parallel.preemption import Stop
from drl_jax.parallel.sampler import ShardedSampler
from tests.helpers import CONFIGS, POINTS, last_of_each, small

COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter")


def collectives(text: str | None) -> list[tuple[str, str]]:
    """(name of the computation, collective) of every collective in a program."""
    found, computation = [], ""
    assert text is not None
    for line in text.splitlines():
        if line.endswith("{") and not line.startswith(" "):
            computation = line.split(" (")[0]
        here = [name for name in COLLECTIVES if re.search(rf"= \S+ {name}(-start)?\(", line)]
        found += [(computation, name) for name in here]
    return found


@pytest.fixture(scope="module", params=["digits.py", "points.py:ring"])
def parts(request):
    # More than one level: XLA dissolves a loop of one.
    overrides = small() if request.param == "digits.py" else [*POINTS, "--config.levels.count=2"]
    return build(parse(last_of_each([f"--config={CONFIGS}/{request.param}", *overrides])).config)


def test_the_training_step_has_one_all_reduce_and_none_in_the_chain(parts):
    placement = place(8)
    step = placement.data_parallel(parts.train_step())
    state = placement.abstract(jax.eval_shape(parts.init_state, jax.random.key(0)))
    batch = jax.ShapeDtypeStruct((8, *parts.shape), np.float32, sharding=placement.batched)
    text = step.lower(state, batch, placement.stop_flags(False)).compile().as_text()
    assert "while" in (text or "")
    ((computation, name),) = collectives(text)
    assert name == "all-reduce"
    assert "ENTRY" in computation  # not in the body of a loop


def test_sampling_has_one_all_gather_and_none_in_its_loops(parts):
    placement = place()
    sampler = ShardedSampler(parts.transition, parts.shape, placement, Stop(), samples_per_device=4, seed=0)
    state = jax.eval_shape(parts.init_state, jax.random.key(0))
    model = placement.abstract(state.averaged_model(parts.network, parts.levels))
    lowered = sampler._draw.lower(placement.replicate(jax.random.key(0)), model, np.int32(0))
    # Every process gets every sample, at the end. `provide_threads` counts on one collective.
    ((computation, name),) = collectives(lowered.compile().as_text())
    assert name == "all-gather"
    assert "ENTRY" in computation


class Quadratic(nn.Module):
    """f(y, t) = −½ ‖y‖², without parameters."""

    @nn.compact
    def __call__(self, y, t):
        return -0.5 * jnp.sum(y**2, axis=1)


def test_the_memory_of_sampling_does_not_grow_with_levels_and_samples():
    # All states of 4,096 points at 502 levels would be 16 MB on a device; 8 of them are recorded.
    rows, levels = 4096, make_levels(501)
    placement, transition = place(), mcmc_transition(langevin, num_steps=1)
    sampler = ShardedSampler(transition, (2,), placement, Stop(), samples_per_device=rows, seed=0)
    model = Model(Quadratic(), levels, {}, {})
    compiled = sampler._draw.lower(placement.replicate(jax.random.key(0)), model, np.int32(0)).compile()
    everything = 502 * rows * 2 * 4
    memory = compiled.memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < everything / 8


def test_a_step_whose_results_differ_between_devices_is_refused():
    placement = place(8)

    def step(state, batch, shard):
        return state + batch.sum(), shard.sum(batch.sum())

    with pytest.raises(ValueError, match="out_specs"):
        placement.data_parallel(step).lower(
            placement.replicate(np.float32(0)),
            placement.shard(np.ones(8, np.float32)),
            placement.stop_flags(False),
        )


def test_devices_are_in_the_order_of_their_processes():
    # As a v5e slice of 4x4 chips on 4 hosts lists them: the second index of a device is not in the order of
    # its process. The mesh must be, because process r reads rows r B / P … of a batch.
    real = jax.devices()
    processes = [0, 0, 1, 1]
    order = [2, 0, 3, 1]
    fake = [SimpleNamespace(process_index=processes[i], id=i) for i in order]
    ordered = sorted(fake, key=lambda d: (d.process_index, d.id))
    assert [d.process_index for d in ordered] == processes
    assert [d.id for d in place(devices=[real[i] for i in order]).mesh.devices.flat] == [0, 1, 2, 3]


def test_a_batch_that_does_not_divide_is_refused():
    place(8)
    with pytest.raises(
        Exception, match=r"config\.data\.batch_size=6 does not divide over 4 devices; nearest: 4 or 8"
    ):
        place(6)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_rows_stay_in_order(count):
    placement = place(8, devices=jax.devices()[:count])
    rows = np.arange(16, dtype=np.float32).reshape(8, 2)
    for make in (placement.shard_local, placement.shard):
        np.testing.assert_array_equal(make(rows), rows)
    shards = sorted(placement.shard(rows).addressable_shards, key=lambda s: s.device.id)
    np.testing.assert_array_equal(np.concatenate([s.data for s in shards]), rows)


def test_stop_flags_are_counted_once_per_device():
    placement = place(8)
    step = placement.data_parallel(lambda state, batch, shard: (state, shard.sum(batch.sum())))
    make = partial(placement.replicate, np.float32(1))
    for flag, expected in ((False, 0), (True, 4)):
        _, total, flags = step(make(), placement.shard(np.ones(8, np.float32)), placement.stop_flags(flag))
        assert float(flags) == expected
        assert float(total) == 8
