"""Bits per dimension of points by annealed importance sampling, beside integration on a grid.

    python tests/benchmarks/likelihood.py runs/ring runs/checkerboard

Each argument is the workdir of a run of points. Every level is estimated with 1024 chains, and the density of
20,000 points that were drawn anew is normalised in both ways. Prints a table.
"""

import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

import drl_jax
from drl_jax.core.levels import diffuse_to
from drl_jax.core.randomness import example_keys
from drl_jax.data import densities
from drl_jax.machine import num_cores, processor
from tests.helpers import log_z_on_grid

CHAINS, STEPS, NUM_POINTS = 1024, 500, 20_000


def main() -> None:
    """Prints the table."""
    print(f"{processor()}, {num_cores()} cores, jax {jax.__version__}; {CHAINS} chains, {STEPS} steps")
    print(
        f"{'run':<16}{'level':>6}{'log Z forward':>18}{'log Z reverse':>18}{'effective sizes':>16}"
        f"{'on a grid':>11}{'bits, AIS':>11}{'bits, grid':>11}{'difference':>11}{'seconds':>9}"
    )
    for workdir in sys.argv[1:]:
        model = drl_jax.load(workdir)
        points = densities.by_name(model.config.data.density).sample(np.random.default_rng(1), NUM_POINTS)
        keys = example_keys(jax.random.key(1), NUM_POINTS)
        for t in range(model.num_levels):
            began = time.monotonic()
            sides = model.estimate_log_z(0, t, chains=CHAINS, steps=STEPS)
            seconds = time.monotonic() - began
            x = np.asarray(diffuse_to(keys, jnp.asarray(points), jnp.full(NUM_POINTS, t), model.parts.levels))
            on_grid = log_z_on_grid(model, t)
            bits = [
                -model.log_density(x, t, log_z=log_z).mean() / (2 * np.log(2))
                for log_z in (sides.forward.log_z, on_grid)
            ]
            name = workdir.rstrip("/").rpartition("/")[2]
            shown = [f"{side.log_z:.4f} ± {side.standard_error:.4f}" for side in sides[:2]]
            sizes = f"{sides.forward.effective_size:.0f}, {sides.reverse.effective_size:.0f}"
            print(
                f"{name:<16}{t:>6}{shown[0]:>18}{shown[1]:>18}{sizes:>16}{on_grid:>11.4f}{bits[0]:>11.4f}"
                f"{bits[1]:>11.4f}{bits[0] - bits[1]:>11.4f}{seconds:>9.1f}  {sides.doubt}"
            )


if __name__ == "__main__":
    main()
