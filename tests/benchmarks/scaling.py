"""Weak scaling on this machine: the same examples per device, on 1, 2, … devices.

    python tests/benchmarks/scaling.py --config=cifar10:t6 --config.network.width=32 \
        --config.network.blocks_per_resolution=1 --config.data.batch_size=8

The batch of the config is that of one device. Calls with few and many devices alternate, so that a change of
the machine's load meets all of them. Prints medians. Data do not matter to speed and are noise.
"""

import os
import sys
import time

# One thread per device: with more, one device would use the cores of the others.
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")

import jax
import numpy as np

from drl_jax.config.build import build
from drl_jax.config.overrides import parse
from drl_jax.machine import num_cores, processor
from drl_jax.parallel.mesh import place
from drl_jax.parallel.startup import start_devices

REPEATS, WARM_UP = 20, 2


def main() -> None:
    """Prints the table."""
    config = parse(sys.argv[1:]).config
    parts, rows = build(config), config.data.batch_size
    start_devices(threads_per_device=1)
    counts = [n for n in (1, 2, 4, 8, 16) if n <= len(jax.devices())]
    rng, calls, seconds = np.random.default_rng(0), {}, {n: [] for n in counts}
    for n in counts:
        placement = place(n * rows, devices=jax.devices()[:n])
        state = jax.jit(parts.init_state, out_shardings=placement.replicated)(
            placement.replicate(jax.random.key(0))
        )
        batch = placement.shard_local(rng.uniform(-1, 1, (n * rows, *parts.shape)).astype(np.float32))
        step, flags = placement.data_parallel(parts.train_step()), placement.stop_flags(False)
        calls[n] = [step, state, batch, flags]
    for i in range(WARM_UP + REPEATS):
        for n, (step, state, batch, flags) in calls.items():
            began = time.perf_counter()
            state, metrics, _ = step(state, batch, flags)
            jax.block_until_ready(metrics)
            calls[n][1] = state
            if i >= WARM_UP:
                seconds[n].append(time.perf_counter() - began)
    print(f"{processor()}, {num_cores()} cores, jax {jax.__version__}; {rows} examples per device")
    print(
        f"{'devices':>7}{'batch':>8}{'s per step':>12}{'quartiles':>18}{'examples/s':>12}{'efficiency':>12}"
    )
    one = float(np.median(seconds[1]))
    for n in counts:
        low, middle, high = np.quantile(seconds[n], (0.25, 0.5, 0.75))
        spread = f"{low:.4f} to {high:.4f}"
        print(
            f"{n:>7}{n * rows:>8}{middle:>12.4f}{spread:>18}{n * rows / middle:>12.1f}{one / middle:>12.0%}"
        )


if __name__ == "__main__":
    main()
