"""How fast the training step and sampling are, beside the network's own convolutions alone.

    python tests/benchmarks/step.py --config=configs/cifar10.py:t6 --config.network.width=32 \
        --config.network.blocks_per_resolution=1 --config.data.batch_size=8 [--transposes]

Prints a table: the ceiling (every 3x3 convolution of a step by itself, on all devices at once, summed), the
step, the share of the ceiling that it reaches, sampling, and with --transposes the same step with XLA's own
transposed convolutions, which takes minutes on a CPU. Data do not matter to speed and are noise. Medians; the
first calls are not counted.
"""

import argparse
import platform
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from drl_jax.config.build import Components, build
from drl_jax.config.overrides import parse
from drl_jax.core.networks import convolution, layers
from drl_jax.parallel.mesh import Placement, describe, place
from drl_jax.parallel.preemption import Stop
from drl_jax.parallel.sampler import ShardedSampler
from drl_jax.parallel.startup import start_devices
from drl_jax.training.step import TrainState

REPEATS, WARM_UP = 20, 3
COPIES = 8  # turns of a timed loop, so that dispatch does not count

Shape = tuple[int, int, int]  # side, inputs, outputs


def median(call: Callable[[], Any], repeats: int = REPEATS) -> float:
    """Seconds of a call, the median after warm-up."""
    seconds = []
    for i in range(WARM_UP + repeats):
        start = time.perf_counter()
        jax.block_until_ready(call())
        if i >= WARM_UP:
            seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def convolutions(parts: Components) -> list[Shape]:
    """The 3x3 convolutions of one call of the network."""
    found: list[Shape] = []

    def record(next_method, args, kwargs, context):
        out = next_method(*args, **kwargs)
        if isinstance(context.module, layers.Convolution) and context.method_name == "__call__":
            found.append((args[0].shape[1], args[0].shape[-1], out.shape[-1]))
        return out

    with nn.intercept_methods(record):
        x = jax.ShapeDtypeStruct((1, *parts.shape), np.float32)
        t = jax.ShapeDtypeStruct((1,), np.int32)
        jax.eval_shape(parts.network.init, jax.random.key(0), x, t)
    return found


def ceiling(shapes: list[Shape], placement: Placement, batch: int, steps: int) -> tuple[float, float]:
    """(GFLOP, seconds) of a step's convolutions: K chain gradients, two batches' training gradients."""
    rng, known = np.random.default_rng(0), {}

    def seconds(side: int, inputs: int, outputs: int) -> float:
        """Of a convolution and of its gradient in the images, in a loop as in a chain."""
        if (side, inputs, outputs) not in known:
            x = placement.shard_local(rng.standard_normal((batch, side, side, inputs), np.float32))
            forth, back = (
                placement.replicate(
                    rng.standard_normal((3, 3, *channels), np.float32) / (9 * channels[0]) ** 0.5
                )
                for channels in ((inputs, outputs), (outputs, inputs))
            )

            @jax.jit
            def call(x, forth, back):
                there_and_back = lambda x, _: (
                    convolution.convolve(convolution.convolve(x, forth), back),
                    None,
                )
                return jax.lax.scan(there_and_back, x, None, length=COPIES)[0]

            known[side, inputs, outputs] = median(lambda: call(x, forth, back)) / COPIES
        return known[side, inputs, outputs]

    flops = total = 0.0
    for side, inputs, outputs in shapes:
        # The gradient of the kernel takes as many operations as either; we count the mean of their speeds.
        total += (steps + 2 * 1.5) * seconds(side, inputs, outputs)
        flops += (2 * steps + 6) * 2 * 9 * inputs * outputs * side**2 * batch
    return flops / 1e9, total


def initial_state(parts: Components, placement: Placement) -> TrainState:
    init = jax.jit(parts.init_state, out_shardings=placement.replicated)
    return init(placement.replicate(jax.random.key(0)))


def step_seconds(parts: Components, placement: Placement, batch: int) -> tuple[float, float]:
    """(compile seconds, seconds of a step)."""
    state = initial_state(parts, placement)
    function = placement.data_parallel(parts.train_step())
    x = placement.shard_local(np.random.default_rng(0).standard_normal((batch, *parts.shape), np.float32))
    flags = placement.stop_flags(False)
    start = time.perf_counter()
    compiled = function.lower(state, x, flags).compile()
    compiling = time.perf_counter() - start

    def call():
        nonlocal state
        state, _, _ = compiled(state, x, flags)
        return state

    return compiling, median(call)


def main() -> None:
    flags = argparse.ArgumentParser(allow_abbrev=False, usage=__doc__)
    flags.add_argument("--transposes", action="store_true")
    own, rest = flags.parse_known_args()
    config = parse(rest).config
    parts, batch, steps = build(config), config.data.batch_size, config.sampler.steps
    start_devices(batch, threads_per_device=1)
    placement = place(batch)
    print(f"{describe()}, {platform.processor() or platform.machine()}, jax {jax.__version__}")

    gflop, best = ceiling(convolutions(parts), placement, batch, steps)
    compiling, seconds = step_seconds(parts, placement, batch)
    rows = [
        ("convolutions of a step", f"{gflop:.1f} GFLOP"),
        ("the convolutions alone", f"{best:.3f} s, {gflop / best:.0f} GFLOP/s (the ceiling)"),
        ("the whole step", f"{seconds:.3f} s, {gflop / seconds:.0f} GFLOP/s"),
        ("share of the ceiling", f"{best / seconds:.0%}"),
        ("compilation of the step", f"{compiling:.1f} s"),
    ]

    sampler = ShardedSampler(
        parts.transition,
        parts.shape,
        placement,
        Stop(),
        samples_per_device=batch // placement.num_devices,
        seed=0,
    )
    model = initial_state(parts, placement).averaged_model(parts.network, parts.levels)
    sampling = median(lambda: list(sampler.sample(model, batch)))
    rows.append((f"{batch} samples, {parts.levels.num_levels * steps} gradients", f"{sampling:.3f} s"))

    if own.transposes:
        layers.convolve = convolution._plain
        _, plain = step_seconds(parts, placement, batch)
        rows.append(("the step with XLA's transposes", f"{plain:.3f} s ({plain / seconds:.1f} times ours)"))
    for name, value in rows:
        print(f"{name:<34} {value}")


if __name__ == "__main__":
    main()
