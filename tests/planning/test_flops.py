"""Operations, counted in a traced program, beside a count made by hand from the shapes of the layers."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from drl_jax.config.build import build
from drl_jax.config.overrides import parse
from drl_jax.parallel.mesh import place
from drl_jax.planning.flops import count
from drl_jax.planning.worker import trace_sampler, trace_step


def convolution(x, kernel, stride=(1, 1), padding="SAME", **options):
    return lax.conv_general_dilated(
        x, kernel, stride, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options
    )


def met_by_numpy(side, window, stride, padding, spread=1, dilation=1):
    """(pairs of output and kernel elements, those that meet a pixel) along one axis."""
    row = np.zeros((side - 1) * spread + 1)
    row[::spread] = 1
    row = np.pad(row, padding)
    reach = dilation * (window - 1) + 1
    places = [row[i : i + reach : dilation] for i in range(0, len(row) - reach + 1, stride)]
    return len(places) * window, np.sum(places)


@pytest.mark.parametrize(
    ("stride", "padding", "options"),
    [
        ((1, 1), [(1, 1), (1, 1)], {}),
        ((2, 1), [(0, 1), (2, 2)], {}),
        ((1, 1), [(1, 1), (0, 0)], {"lhs_dilation": (2, 1)}),
        ((1, 2), [(2, 2), (1, 1)], {"rhs_dilation": (2, 1)}),
    ],
)
def test_a_convolution(stride, padding, options):
    x, kernel = jnp.ones((2, 8, 6, 4)), jnp.ones((3, 3, 4, 5))
    found = count(
        jax.jit(partial(convolution, stride=stride, padding=padding, **options)).trace(x, kernel), "cpu"
    )
    lhs, rhs = options.get("lhs_dilation", (1, 1)), options.get("rhs_dilation", (1, 1))
    axes = [met_by_numpy(x.shape[1 + i], 3, stride[i], padding[i], lhs[i], rhs[i]) for i in range(2)]
    each = 2 * 2 * 4 * 5
    assert found.total == each * axes[0][0] * axes[1][0]
    assert found.useful == each * axes[0][1] * axes[1][1]


def test_loops_branches_and_what_is_not_used():
    a = jnp.ones((4, 8))
    b = jnp.ones((8, 4))
    product = 2 * 4 * 8 * 4

    def of(function):
        return count(jax.jit(function).trace(a, b), "cpu").total

    assert of(lambda a, b: lax.scan(lambda c, _: (c @ b @ a, None), a, None, length=7)[0]) == 7 * 2 * product
    assert of(lambda a, b: (a @ b, a)[1]) == 0
    assert of(lambda a, b: lax.cond(a[0, 0] > 0, lambda: a @ b, lambda: a @ b + b.T @ a.T)) == 2 * product
    branches = {"cpu": lambda a, b: a @ b, "default": lambda a, b: a @ b + b.T @ a.T}
    choose = jax.jit(lambda a, b: lax.platform_dependent(a, b, **branches)).trace(a, b)
    assert count(choose, "cpu").total == product
    assert count(choose, "tpu").total == 2 * product
    assert of(jax.checkpoint(lambda a, b: a @ b)) == product
    assert of(jax.vmap(lambda a, b: a * b, in_axes=(0, 1))) == 0


def test_a_loop_whose_trips_are_not_known_is_refused():
    def function(a):
        return lax.while_loop(lambda x: x[0, 0] < 9, lambda x: x @ x, a)

    with pytest.raises(ValueError, match="number of trips"):
        count(jax.jit(function).trace(jnp.ones((2, 2))), "cpu")


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize("microbatches", [1, 2])
def test_a_training_step_agrees_with_a_count_by_hand(platform, microbatches):
    # With 64 channels and more, a CPU has Winograd's convolution.
    width = 24 if platform == "cpu" else 64
    side, batch, steps, levels = 16, 4, 5, 3
    flags = {
        "data.image_size": side, "data.batch_size": batch, "network.width": width, "levels.count": levels,
        "network.multipliers": "(1,2)", "network.blocks_per_resolution": 3, "sampler.steps": steps,
        "evaluation.samples_per_device": 2, "training.microbatches": microbatches,
    }  # fmt: skip
    config = parse(["--config=cifar10", *(f"--config.{key}={value}" for key, value in flags.items())]).config
    parts, placement = build(config), place(batch, devices=jax.devices()[:1])

    # One call: an input convolution; 3 blocks at 16x16; at 8x8 a change to 2 width with a 3x3 shortcut, and
    # 2 blocks.
    def convolutions(inputs, outputs, side):
        return 18 * side**2 * inputs * outputs

    call = (
        convolutions(3, width, side)
        + 6 * convolutions(width, width, side)
        + 2 * convolutions(width, 2 * width, side // 2)
        + 5 * convolutions(2 * width, 2 * width, side // 2)
    )
    # A chain of K gradients: forward and backward. Then data and samples: forward, and backward for the
    # kernels and for what is inside; the input convolution needs no gradient in the image.
    by_hand = batch * call * (2 * steps + 2 * 3) - 2 * batch * convolutions(3, width, side)
    step = count(trace_step(config, parts, placement), platform)
    assert step.total == pytest.approx(by_hand, rel=0.01)
    assert 0.8 < step.useful / step.total < 0.97
    sampler = count(trace_sampler(config, parts, placement), platform)
    assert sampler.total == pytest.approx(2 * levels * steps * 2 * call, rel=0.01)
