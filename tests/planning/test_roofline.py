"""Times at the published peaks, in closed form."""

from dataclasses import replace

import pytest

from drl_jax.config.overrides import parse as parse_flags
from drl_jax.planning.roofline import all_reduce_seconds, peak, step_times
from drl_jax.planning.topologies import parse

CONFIG = parse_flags(["--config=cifar10"]).config


def with_precision(dtype, precision):
    return replace(CONFIG, network=replace(CONFIG.network, dtype=dtype, precision=precision))


@pytest.mark.parametrize(
    ("topology", "dtype", "precision", "tera"),
    [
        ("v5e:2x2", "bfloat16", "default", 197),
        ("v5e:2x2", "float32", "default", 197),  # a TPU rounds the factors
        ("v5e:2x2", "float32", "high", 197 / 3),
        ("v5e:2x2", "float32", "highest", 197 / 6),
        ("v5e:2x2", "bfloat16", "highest", 197),
        ("gpu:h100:8", "bfloat16", "default", 989),
        ("gpu:h100:8", "float32", "default", 494),
        ("gpu:h100:8", "float32", "highest", 67),
    ],
)
def test_the_peak_of_a_type(topology, dtype, precision, tera):
    assert peak(with_precision(dtype, precision), parse(topology)) == pytest.approx(tera * 1e12)


@pytest.mark.parametrize(
    ("topology", "slices", "seconds"),
    [
        ("v5e:1x1", 1, 0),
        ("v5e:4x4", 1, 2 * 15 / 16 / 90),  # two axes, one link each: 90 GB/s
        ("v5e:16x16", 1, 2 * 255 / 256 / 180),  # rings: both directions
        ("v5p:4x4x4", 1, 2 * 63 / 64 / 540),
        ("v5e:4x4", 2, 2 * 15 / 16 / 90 + 2 / 16 / 2 / 6.25),
        ("gpu:h100:8", 1, 2 * 7 / 8 / 450),
        ("gpu:h100:16", 1, 2 * 7 / 8 / 450 + 2 / 8 / 2 / 50),
    ],
)
def test_the_time_of_an_all_reduce_of_a_gigabyte(topology, slices, seconds):
    assert all_reduce_seconds(1e9, parse(topology, slices)) == pytest.approx(seconds)


def test_a_step_is_bound_by_operations_or_by_memory():
    topology = parse("v5e:1x1")
    large = step_times(CONFIG, topology, flops_per_row=197e9, rows=100, parameters=1)
    assert large.step == pytest.approx(0.1)
    # 64 passes over a million weights in bfloat16, and 40 bytes for each in the update.
    small = step_times(CONFIG, topology, flops_per_row=1.0, rows=1, parameters=10**6)
    assert small.step == pytest.approx(1e6 * (64 * 2 + 40) / 819e9)
    # Two devices share the figures of a chip of tpu7x.
    twin = step_times(CONFIG, parse("tpu7x:2x2x1"), flops_per_row=2307e9, rows=100, parameters=1)
    assert twin.compute == pytest.approx(0.2)
