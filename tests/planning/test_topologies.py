"""Which topologies exist, and what their parts are called."""

import pytest
from jax.experimental.pallas import tpu as pltpu

from drl_jax.errors import UserError
from drl_jax.planning.topologies import GPUS, TPUS, parse, sizes


@pytest.mark.parametrize(
    ("name", "slices", "chips", "devices"),
    [
        ("v4:2x2x4", 1, 16, 16),
        ("v5e:1x1", 1, 1, 1),
        ("v5e:16x16", 1, 256, 256),
        ("v5e:4x4", 2, 32, 32),
        ("v5p:4x4x8", 1, 128, 128),
        ("v5p:16x16x24", 1, 6144, 6144),
        ("v6e:2x4", 1, 8, 8),
        ("tpu7x:2x2x2", 1, 8, 16),  # two devices in each chip
        ("gpu:h100:8", 1, 8, 8),
        ("cpu:4", 1, 4, 4),
    ],
)
def test_the_chips_and_devices_of_a_topology(name, slices, chips, devices):
    topology = parse(name, slices)
    assert (topology.num_chips, topology.num_devices) == (chips, devices)


@pytest.mark.parametrize(
    "name",
    [
        # The compiler would take these.
        *("v5e:32x32", "v6e:2x2x1", "v5p:4x4", "v6e:4x2", "v5p:8x4x4", "v5p:4x4x6", "v4:16x16x20"),
        *("v5e", "v5e:", "v5e:4", "v5e:0x4", "v5e:4x4x", "v5litepod-16", "v7x:2x2x1", "v3:2x2"),
        *("gpu:h100", "gpu:h100:0", "gpu:tpu:8", "cpu:0", "cpu", "", "h100:8"),
    ],
)
def test_a_topology_that_does_not_exist_is_refused(name):
    with pytest.raises(UserError) as error:
        parse(name)
    assert f"--topology={name}" in str(error.value)
    assert "\n" not in str(error.value)


def test_only_tpus_have_slices():
    with pytest.raises(UserError, match="--slices=2"):
        parse("gpu:h100:8", 2)


def test_what_the_compiler_needs_besides_the_name():
    assert parse("v4:2x2x2").options() == {"chip_config_name": "megacore"}
    assert parse("v5e:1x1").options() == {"chips_per_host_bounds": (1, 1, 1)}
    assert parse("v6e:4x4", 3).options() == {"num_slices": 3}


def test_published_peaks_are_those_that_jax_knows():
    # JAX's figures are per core; ours are Google's, per chip. They differ by 0.3 % at most.
    version = pltpu.ChipVersion
    for name, chip, cores in (
        ("v4", version.TPU_V4, 2),
        ("v5e", version.TPU_V5E, 1),
        ("v5p", version.TPU_V5P, 2),
        ("v6e", version.TPU_V6E, 1),
        ("tpu7x", version.TPU_7X, 2),
    ):
        known = pltpu.get_tpu_info_for_chip(chip, 1)
        assert TPUS[name].chip.peak["bfloat16"] == pytest.approx(cores * known.bf16_ops_per_second, rel=3e-3)
        assert TPUS[name].chip.memory == pytest.approx(cores * known.hbm_capacity_bytes, rel=0.011)


@pytest.mark.parametrize("name", ["v5e:4x4", "v5p:2x2x2", "tpu7x:2x2x1", "gpu:h200:8", "cpu:8"])
def test_sizes_of_the_same_hardware(name):
    found = sizes(parse(name), 64)
    chips = [size.num_chips for size in found]
    assert chips == sorted(chips)
    assert chips[-1] == 64
    assert parse(name) in found


def test_a_gpu_is_never_faster_with_more_digits():
    for chip in GPUS.values():
        assert chip.peak["bfloat16"] > chip.peak["tf32"] > chip.peak["float32"]
