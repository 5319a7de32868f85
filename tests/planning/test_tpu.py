"""Real programs for devices that are not here: one message per step, none in the chain."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from drl_jax.config.overrides import parse as parse_flags
from drl_jax.planning.compiler import open_compiler
from drl_jax.planning.plan import make_plan
from drl_jax.planning.topologies import parse
from tests.helpers import small

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed (pip install -e '.[tpu]')"
)


def plan(flags, topology, slices=1, **how):
    hardware = parse(topology, slices)
    with open_compiler(needs_tpu=True) as compiler:
        return make_plan(parse_flags(flags).config, hardware, compiler, **how)


def one_sum_outside_loops(collectives):
    (message,) = collectives
    return message.kind == "all-reduce" and not message.in_loop


@needs_libtpu
def test_a_small_step_for_a_slice():
    made = plan(
        ["--config=digits", *small(data__batch_size=16)], "v5e:4x4", is_full=False, finds_largest=False
    )
    assert one_sum_outside_loops(made.collectives)
    assert made.collectives is not None
    # The sum has the gradient, the sums per level, one value and one flag.
    assert 4 * made.counts.parameters < made.collectives[0].bytes < 4 * made.counts.parameters + 4096
    assert made.available == 15.75 * 2**30
    assert made.counts.state < made.peak < 2**30


@needs_libtpu
@pytest.mark.slow
def test_the_full_step_of_cifar10_for_a_slice():
    made = plan(["--config=cifar10:t6"], "v5e:4x4", is_full=True, finds_largest=False)
    assert one_sum_outside_loops(made.collectives)
    assert made.counts.parameters == 34_833_408
    assert made.fits
    assert made.sampler is not None
    assert not any(message.in_loop for message in made.sampler.collectives)


@needs_libtpu
@pytest.mark.slow
def test_a_batch_that_does_not_fit_and_the_one_that_does():
    flags = ["--config=cifar10:small", "--config.network.dtype=bfloat16"]
    made = plan([*flags, "--config.data.batch_size=32768"], "v5e:2x2", is_full=False, finds_largest=False)
    assert not made.fits
    assert made.largest is not None
    largest = 4 * made.largest
    assert 4096 < largest < 32768
    again = plan(
        [*flags, f"--config.data.batch_size={largest}"], "v5e:2x2", is_full=False, finds_largest=False
    )
    assert again.fits


PROGRAM = """
import json
import jax
from drl_jax.config.build import build
from drl_jax.config.overrides import parse
from drl_jax.parallel.mesh import place
from drl_jax.planning.program import collectives
from drl_jax.planning.worker import trace_step

config = parse(["--config=cifar10:t6"]).config
step = trace_step(config, build(config), place(config.data.batch_size)).lower().compile()
print(json.dumps([jax.device_count(), collectives(step.as_text())]))
"""


@pytest.mark.slow
def test_the_full_step_of_cifar10_on_eight_cpu_devices():
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
    )
    devices, ((kind, size, in_loop),) = json.loads(done.stdout)
    assert (devices, kind, in_loop) == (8, "all-reduce", False)
    assert size > 4 * 34_833_408
