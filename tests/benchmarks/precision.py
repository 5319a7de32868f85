"""How far samples move when the network computes with fewer digits: the table of docs/scaling.md.

    python tests/benchmarks/precision.py --workdir=runs/digits [--config.evaluation.num_samples=512]

Takes a trained model, and draws the same samples (the same noise) with the network's products in

    float32            what a CPU computes, and a TPU or GPU with config.network.precision=highest
    rounded factors    on a CPU: float32 numbers, factors rounded to bfloat16, as a TPU does by default
    tf32               on a GPU: float32 numbers, factors rounded to 10 bits, as a GPU does by default
    bfloat16           config.network.dtype=bfloat16: activations are bfloat16 too

The table has, at the data and the first step of the chain at level 0: the error of the gradient of the
log-density, relative to its norm; the part of a Langevin step that this error makes up; the error of the
log-density itself in nats; the distance of the samples; and the Fréchet distance of the pixels of the samples
to the data.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from drl_jax.config.build import build, make_sampler, open_data
from drl_jax.config.overrides import parse
from drl_jax.config.restore import model_in
from drl_jax.core import energy
from drl_jax.core.levels import diffuse, extract
from drl_jax.core.mcmc.base import norm, value_and_gradient
from drl_jax.core.model import Model
from drl_jax.core.networks import convolution, layers
from drl_jax.core.randomness import example_keys
from drl_jax.data.stream import batches
from drl_jax.metrics.frechet import frechet_distance, moments
from drl_jax.parallel.mesh import place
from drl_jax.parallel.preemption import Stop
from drl_jax.parallel.startup import start_devices


def rounded(x: jax.Array) -> jax.Array:
    """The nearest bfloat16 numbers, as float32; gradients pass."""
    return x + jax.lax.stop_gradient(x.astype(jnp.bfloat16).astype(jnp.float32) - x)


@contextmanager
def rounded_factors() -> Iterator[None]:
    """Rounds the factors of convolutions and dense layers, forwards and backwards through images."""
    on_cpu, promote = convolution._on_cpu, layers.promote_dtype

    def convolve(x, kernel):
        return convolution._plain(rounded(x), rounded(kernel))

    def promoted(x, kernel, bias, *, dtype):
        x, kernel, bias = promote(x, kernel, bias, dtype=dtype)
        return rounded(x), rounded(kernel), bias

    convolution._on_cpu, layers.promote_dtype = convolve, promoted
    try:
        yield
    finally:
        convolution._on_cpu, layers.promote_dtype = on_cpu, promote


def first_step(model: Model, x: np.ndarray) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(log-density, its gradient, s²) at the start of the chain at level 0, for each example."""
    levels, keys = model.levels, example_keys(jax.random.key(1), len(x), 0)
    t = jnp.zeros(len(x), jnp.int32)

    @jax.jit
    def compute(model, x):
        _, x_next = diffuse(keys, x, t, levels)
        log_density = energy.recovery(model.bind(), levels, t, x_next)
        return value_and_gradient(log_density, x_next)

    value, gradient = compute(model, x)
    return value, gradient, extract(levels.step_squared, t, gradient)


def main() -> None:
    """Prints the table."""
    arguments = parse(sys.argv[1:])
    config, workdir = arguments.config, epath.Path(arguments.workdir or "").expanduser().absolute()
    start_devices()
    parts, placement = build(config), place()
    model = model_in(workdir, config).load(parts, placement).model
    model = jax.tree.map(np.asarray, model)
    source = open_data(config, "drl-jax prepare")
    count = config.evaluation.num_samples
    data = batches(source, seed=0, batch_size=count, flip=False, process_index=0, process_count=1)
    x, others = next(data), next(data)

    network = parts.network
    forms = {
        "float32": (network.clone(dtype=None), jax.default_matmul_precision("highest")),
        "bfloat16": (network.clone(dtype=jnp.bfloat16), nullcontext()),
    }
    if jax.devices()[0].platform == "gpu":
        forms["tf32"] = network.clone(dtype=None), jax.default_matmul_precision("tensorfloat32")
    else:
        forms["rounded factors"] = network.clone(dtype=None), rounded_factors()
    exact, rows = None, []
    for name, (form, context) in forms.items():
        jax.clear_caches()  # the same functions are traced again
        with context:
            own = Model(form, model.levels, model.params, model.spectral)
            value, gradient, step_squared = first_step(own, x)
            sampler = make_sampler(config, parts, placement, Stop())
            samples = np.concatenate([part for part, _ in sampler.sample(placement.replicate(own), count)])
        if exact is None:
            exact = value, gradient, samples
        error = norm(gradient - exact[1])
        noise = jnp.sqrt(step_squared.ravel() * gradient[0].size)
        rows.append(
            (
                name,
                float(jnp.median(error / norm(exact[1]))),
                float(jnp.median(0.5 * step_squared.ravel() * error / noise)),
                float(jnp.median(jnp.abs(value - exact[0]))),
                float(np.sqrt(np.mean((samples - exact[2]) ** 2))),
                frechet_distance(moments(flat(samples)), moments(flat(x))),
            )
        )
    print(f"{count} examples and samples; the data against other data: ", end="")
    print(f"{frechet_distance(moments(flat(others)), moments(flat(x))):.3f}")
    print(f"{'products':<18}{'gradient':>11}{'of a step':>11}{'nats':>11}{'samples':>11}{'Fréchet':>11}")
    for name, *numbers in rows:
        print(f"{name:<18}" + "".join(f"{number:>11.3g}" for number in numbers))


def flat(images: np.ndarray) -> np.ndarray:
    """Images as rows of pixels in [-1, 1]."""
    return images.reshape(len(images), -1).clip(-1, 1).astype(np.float64)


if __name__ == "__main__":
    main()
