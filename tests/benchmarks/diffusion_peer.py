"""A plain denoising diffusion model on the data of a config, for the same time: its scores beside ours.

    python tests/benchmarks/diffusion_peer.py --config=digits --seconds=140 [--seeds=0,1,2] [--width=32]
        [--output=FILE.json] [--samples=FILE.npz]

The model is "EDM" (Karras et al., 2022): its preconditioning, its distribution of noise levels and weights of
the loss, and its Heun sampler with 18 steps, which are 35 network calls. The network is a small U-net with
GroupNorm and SiLU: one block per resolution down, one in the middle, one up. Adam with a
cosine decay to 0, batches of the config's size, averaged weights with decay 0.999.

There are as many steps as the given seconds allow, without compilation; the first ones are timed for that.
Scores are those of the config, against the same half of the data. The samples of the last seed are written to
`--samples`, and 64 of them to a PNG beside it.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from accelerator import machine
from etils import epath
from flax import linen as nn

from drl_jax.config.build import open_data
from drl_jax.config.overrides import parse
from drl_jax.config.schema import Residual
from drl_jax.config.scoring import make_extractors, metric_names, read_reference, score_examples
from drl_jax.data.stream import batches
from drl_jax.parallel.mesh import Placement, describe, place
from drl_jax.parallel.startup import start_devices
from drl_jax.pixels import to_uint8
from drl_jax.report.images import save_grid

SIGMA_DATA = 0.5
P_MEAN, P_STD = -1.2, 1.2  # of log σ in training
SIGMA_MIN, SIGMA_MAX, RHO, STEPS = 0.002, 80.0, 7, 18  # of the sampler
LEARNING_RATE, EMA_DECAY = 2e-3, 0.999
TIMED = 50  # steps that are timed before training

convolution = partial(nn.Conv, kernel_size=(3, 3))
normalise = partial(nn.GroupNorm, num_groups=None, group_size=4)


class Block(nn.Module):
    """x + conv(act(norm(conv(act(norm(x))) + dense(level)))), where 1x1 changes the channels of x."""

    channels: int

    @nn.compact
    def __call__(self, x, level):
        h = convolution(self.channels)(nn.silu(normalise()(x)))
        h = h + nn.Dense(self.channels)(level)[:, None, None, :]
        h = convolution(self.channels, kernel_init=nn.initializers.zeros)(nn.silu(normalise()(h)))
        return h + (x if x.shape[-1] == self.channels else nn.Dense(self.channels)(x))


class UNet(nn.Module):
    """F(x, log σ / 4) for images [batch, side, side, channels].

    Attributes:
      width: channels of the first resolution.
      multipliers: of the width, one per resolution.
    """

    width: int
    multipliers: Sequence[int]

    @nn.compact
    def __call__(self, x, c_noise):
        frequencies = 2 * jnp.pi * jnp.exp(jnp.linspace(-2.0, 2.0, self.width))
        angles = c_noise[:, None] * frequencies
        level = nn.Dense(4 * self.width)(jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=1))
        level = nn.silu(nn.Dense(4 * self.width)(nn.silu(level)))
        h, kept = convolution(self.width)(x), []
        for i, multiplier in enumerate(self.multipliers):
            h = nn.avg_pool(h, (2, 2), (2, 2)) if i else h
            h = Block(multiplier * self.width)(h, level)
            kept.append(h)
        h = Block(self.multipliers[-1] * self.width)(h, level)
        for i, multiplier in reversed(list(enumerate(self.multipliers))):
            h = Block(multiplier * self.width)(jnp.concatenate([h, kept[i]], axis=-1), level)
            h = h.repeat(2, axis=1).repeat(2, axis=2) if i else h
        zeros = nn.initializers.zeros
        return convolution(x.shape[-1], kernel_init=zeros)(nn.silu(normalise()(h)))


def denoise(network: UNet, params: Any, x: jax.Array, sigma: jax.Array) -> jax.Array:
    """D(x, σ), with the preconditioning of EDM."""
    s = sigma[:, None, None, None]
    total = s**2 + SIGMA_DATA**2
    f: Any = network.apply({"params": params}, x / jnp.sqrt(total), jnp.log(sigma) / 4)
    return SIGMA_DATA**2 / total * x + s * SIGMA_DATA / jnp.sqrt(total) * f


def sample(network: UNet, params: Any, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Heun's method from σ_max to 0."""
    ramp = jnp.arange(STEPS) / (STEPS - 1)
    first, last = SIGMA_MAX ** (1 / RHO), SIGMA_MIN ** (1 / RHO)
    sigmas = jnp.append((first + ramp * (last - first)) ** RHO, 0.0)
    slope = lambda x, sigma: (x - denoise(network, params, x, jnp.full(len(x), sigma))) / sigma
    x = SIGMA_MAX * jax.random.normal(key, shape)
    for now, following in pairwise(sigmas):
        here = slope(x, now)
        there = x + (following - now) * here
        x = there if following == 0 else x + (following - now) * (here + slope(there, following)) / 2
    return x


def train(network: UNet, stream: Any, placement: Placement, shape: Any, seconds: float, seed: int) -> Any:
    """(averaged parameters, number of steps, seconds of training)."""
    _, timed = train_steps(network, stream, placement, shape, TIMED, seed)
    steps = max(round(seconds / timed * TIMED), 1)
    params, spent = train_steps(network, stream, placement, shape, steps, seed)
    return params, steps, spent


def train_steps(
    network: UNet, stream: Any, placement: Placement, shape: Any, steps: int, seed: int
) -> tuple[Any, float]:
    """(averaged parameters, seconds), after one step more that compiles and does not count."""
    key = jax.random.key(seed)
    optimizer = optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, steps))
    params = network.init(key, jnp.zeros((1, *shape)), jnp.zeros(1))["params"]
    state = placement.replicate((params, params, optimizer.init(params)))

    @partial(jax.jit, donate_argnums=0, out_shardings=placement.replicated)
    def step(state, x, key):
        params, averages, of_optimizer = state
        for_sigma, for_noise = jax.random.split(key)
        sigma = jnp.exp(P_MEAN + P_STD * jax.random.normal(for_sigma, (len(x),)))
        noise = sigma[:, None, None, None] * jax.random.normal(for_noise, x.shape)
        weight = (sigma**2 + SIGMA_DATA**2) / (sigma * SIGMA_DATA) ** 2

        def loss(params):
            error = denoise(network, params, x + noise, sigma) - x
            return jnp.mean(weight[:, None, None, None] * error**2)

        updates, of_optimizer = optimizer.update(jax.grad(loss)(params), of_optimizer)
        params = optax.apply_updates(params, updates)
        return params, optax.incremental_update(params, averages, 1 - EMA_DECAY), of_optimizer

    began = 0.0
    for i in range(steps + 1):
        state = step(state, placement.shard_local(next(stream)), jax.random.fold_in(key, i))
        if i == 0:
            jax.block_until_ready(state)
            began = time.perf_counter()
    jax.block_until_ready(state)
    return state[1], time.perf_counter() - began


def main() -> None:
    """Trains with each seed, prints the scores, and writes them."""
    parser = argparse.ArgumentParser(allow_abbrev=False, usage=__doc__)
    parser.add_argument("--seconds", required=True, type=float)
    parser.add_argument("--seeds", default=(0,), type=lambda text: tuple(map(int, text.split(","))))
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--samples", type=Path)
    own, rest = parser.parse_known_args()
    config = parse(rest).config
    start_devices(config.data.batch_size)
    placement, source = place(config.data.batch_size), open_data(config, "drl-jax prepare")
    metrics = metric_names(config)
    shape = (config.data.image_size, config.data.image_size, config.data.channels)
    extractors = make_extractors(config, metrics, shape, placement)
    reference = read_reference(config, source, metrics, extractors)
    if not isinstance(config.network, Residual):
        sys.exit(f"config.network.name={config.network.name}: a config of images is needed")
    network = UNet(own.width, config.network.multipliers)
    size = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, *shape)), jnp.zeros(1))
    count = sum(leaf.size for leaf in jax.tree.leaves(size))
    print(f"{describe()}, {count:,} parameters")
    runs = []
    for seed in own.seeds:
        stream = batches(
            source,
            seed=seed,
            batch_size=config.data.batch_size,
            flip=config.data.flip,
            process_index=0,
            process_count=1,
        )
        with closing(stream):
            params, steps, spent = train(network, stream, placement, shape, own.seconds, seed)
        of_samples = (config.evaluation.num_samples, *shape)
        x = to_uint8(np.asarray(sample(network, jax.device_get(params), jax.random.key(seed), of_samples)))
        run = {"seed": seed, "steps": steps, "seconds": spent}
        runs.append(run | {"scores": dict(score_examples(metrics, extractors, x, reference))})
        print(runs[-1], flush=True)
        if own.samples:
            np.savez(own.samples, x)
            save_grid(x[:64], epath.Path(own.samples).with_suffix(".png"))
    if own.output:
        report = {"machine": machine(), "config": rest, "parameters": count, "runs": runs}
        own.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
