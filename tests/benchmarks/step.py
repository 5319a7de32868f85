"""How fast the training step and sampling are, beside the network's own convolutions alone.

    python tests/benchmarks/step.py --config=configs/cifar10.py:t6 --config.network.width=32 \
        --config.network.blocks_per_resolution=1 --config.data.batch_size=8 [--transposes] [--profile]
        [--output=FILE.json]

Prints a table: the ceiling (every 3x3 convolution of a step by itself, on all devices at once, summed), the
step, the share of the ceiling that it reaches, sampling, and with --transposes the same step with XLA's own
transposed convolutions, which takes minutes on a CPU. Data do not matter to speed and are noise. Medians; the
first calls are not counted.

With --profile, JAX's profiler says what the time of a step goes into. Each operation of the compiled program
is counted once, under the item of `ITEMS` whose pattern its origin in our code matches first. Recording costs
time of its own, so the items are also given as shares.
"""

import argparse
import json
import platform
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from accelerator import convolutions, machine

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

CHAINS = r"^((?!ResidualEnergy).)*while/body.*"  # the loss may have a loop too, inside the network
ITEMS = {  # patterns for where an operation is from, which JAX says, and PRODUCT if it has a product
    "random numbers": r"_normal|_uniform|threefry|_randint|example_keys",
    "sum over the devices, with the wait": r"psum",
    "chains: products of convolutions, and what XLA merges with them": CHAINS + r"ResidualEnergy.*PRODUCT",
    "chains: what prepares and collects products": CHAINS
    + r"ResidualEnergy.*/(input|shortcut|conv_\d)/.*branch",
    "chains: activations, sums, halving": CHAINS + r"ResidualEnergy",
    "chains: Langevin's update": CHAINS,
    "loss and its gradient: products of convolutions, and what XLA merges with them": (
        r"ResidualEnergy.*PRODUCT"
    ),
    "loss and its gradient: the rest": r"ResidualEnergy|jvp\(\)",
    "spectral normalisation, Adam, averages, metrics, copies": r"",
}
CONTAINERS = re.compile(r"(while|call|conditional)[.\d]*$")  # the operations inside are counted
PROFILED = 5  # steps


def median(call: Callable[[], Any], repeats: int = REPEATS) -> float:
    """Seconds of a call, the median after warm-up."""
    seconds = []
    for i in range(WARM_UP + repeats):
        start = time.perf_counter()
        jax.block_until_ready(call())
        if i >= WARM_UP:
            seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def ceiling(
    shapes: list[tuple[int, int, int]], placement: Placement, batch: int, steps: int
) -> tuple[float, float]:
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


def step_seconds(
    parts: Components, placement: Placement, batch: int, *, profiles: bool = False
) -> tuple[float, float, dict[str, float]]:
    """(compile seconds, seconds of a step, seconds of its items)."""
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

    seconds = median(call)
    return (
        compiling,
        seconds,
        profile(call, compiled.as_text() or "", placement.num_devices) if profiles else {},
    )


def origins_of(program: str) -> dict[str, str]:
    """Where each operation of a compiled program is from, with PRODUCT behind if it has a product."""
    products, origins, computation = set(), {}, ""
    for line in program.splitlines():
        if line.endswith("{") and (begin := re.match(r"(?:ENTRY )?%([\w.-]+) \(", line)):
            computation = begin[1]
        elif re.search(r" (convolution|dot)\(", line):
            products.add(computation)
        if found := re.match(r" *(?:ROOT )?%([\w.-]+) = ", line):
            of, calls = re.search(r'op_name="([^"]*)"', line), re.search(r"calls=%([\w.-]+)", line)
            has_product = (calls and calls[1] in products) or re.search(r" (convolution|dot)\(", line)
            origins[found[1]] = (of[1] if of else "") + (" PRODUCT" if has_product else "")
    return origins


def profile(call: Callable[[], Any], program: str, devices: int) -> dict[str, float]:
    """Seconds per step and device of each item; the last one is the time without any operation."""
    origins = origins_of(program)
    items = Counter(dict.fromkeys(ITEMS, 0.0))
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            start = time.perf_counter()
            for _ in range(PROFILED):
                jax.block_until_ready(call())
            whole = (time.perf_counter() - start) / PROFILED
        (file,) = Path(folder).rglob("*.xplane.pb")
        recorded = jax.profiler.ProfileData.from_file(str(file))
    for event in (event for plane in recorded.planes for line in plane.lines for event in line.events):
        name = next((value for key, value in event.stats if key == "hlo_op"), None)
        if name is None or CONTAINERS.match(str(name)):
            continue
        origin = origins.get(str(name), "")
        item = next(item for item, pattern in ITEMS.items() if re.search(pattern, origin))
        items[item] += event.duration_ns / 1e9 / PROFILED / devices
    return {**items, "between operations": whole - sum(items.values())}


def main() -> None:
    flags = argparse.ArgumentParser(allow_abbrev=False, usage=__doc__)
    flags.add_argument("--transposes", action="store_true")
    flags.add_argument("--profile", action="store_true")
    flags.add_argument("--output", type=Path)
    own, rest = flags.parse_known_args()
    config = parse(rest).config
    parts, batch, steps = build(config), config.data.batch_size, config.sampler.steps
    start_devices(batch, threads_per_device=1)
    placement = place(batch)
    print(f"{describe()}, {platform.processor() or platform.machine()}, jax {jax.__version__}")

    gflop, best = ceiling(convolutions(parts), placement, batch, steps)
    compiling, seconds, items = step_seconds(parts, placement, batch, profiles=own.profile)
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
        _, plain, _ = step_seconds(parts, placement, batch)
        rows.append(("the step with XLA's transposes", f"{plain:.3f} s ({plain / seconds:.1f} times ours)"))
    whole = sum(items.values())
    rows += [(item, f"{1e3 * value:6.2f} ms {value / whole:6.1%}") for item, value in items.items()]
    for name, value in rows:
        print(f"{name:<80} {value}")
    if own.output:
        report = {
            "machine": machine(),
            "config": rest,
            "gflop": gflop,
            "convolutions_seconds": best,
            "step_seconds": seconds,
            "compile_seconds": compiling,
            "sample_seconds": sampling,
            "items_seconds": items,
        }
        own.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
