"""The compiled programs of a trained model, and how their rows are spread over devices."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from drl_jax.applications import detection, inpainting, interpolation
from drl_jax.applications.interpolation import Noise
from drl_jax.core import energy
from drl_jax.core.levels import extract
from drl_jax.core.mcmc.base import value_and_gradient
from drl_jax.core.model import Model
from drl_jax.core.randomness import DrawNoise
from drl_jax.core.synthesis import descend, synthesize
from drl_jax.core.transition import MakeTransition, Transition
from drl_jax.core.types import Tree
from drl_jax.parallel.mesh import place


def on_all_devices(rows: Tree) -> tuple[Tree, int]:
    """Puts arrays with the same rows on all devices, in equal parts.

    Args:
      rows: arrays [n, …].

    Returns:
      (The arrays, whose last row is repeated until the rows divide; n).
    """
    placement, n = place(), len(jax.tree.leaves(rows)[0])
    indices = jnp.minimum(jnp.arange(n + -n % placement.num_devices), n - 1)
    put = lambda array: jax.device_put(jnp.asarray(array)[indices], placement.batched)
    return jax.tree.map(put, rows), n


Watch = Callable[[Transition], Transition]
"""Makes a transition that does the same, and also something else."""


def unwatched(transition: Transition) -> Transition:
    """Returns the transition itself."""
    return transition


class WatchedMaking(NamedTuple):
    """Makes transitions with a source of noise, and watches them. Equal fields make equal static arguments.

    Attributes:
      make: makes the transitions.
      watch: what is made of each.
    """

    make: MakeTransition
    watch: Watch

    def __call__(self, draw_noise: DrawNoise) -> Transition:
        return self.watch(self.make(draw_noise))


def first_not_finite(again: Callable[[Watch], jax.Array]) -> tuple[int, int]:
    """Finds where chains first leave the finite numbers, by running them again.

    Args:
      again: runs the same chains, with the transition that `Watch` makes of their own.

    Returns:
      (level, step).
    """
    found: list[tuple[int, int]] = []

    def note(t, is_finite) -> None:
        if not is_finite.all():
            found.append((int(t), int(np.argmin(is_finite.all(axis=1)))))

    def watch(transition: Transition) -> Transition:
        def watched(keys, f, levels, t, x_next):
            x, info = transition(keys, f, levels, t, x_next)
            is_finite = jnp.isfinite(info.log_density) & jnp.isfinite(info.displacement)
            jax.debug.callback(note, t[0], is_finite)
            return x, info

        return watched

    again(watch).block_until_ready()
    jax.effects_barrier()
    return max(found, key=lambda each: (each[0], -each[1]), default=(-1, -1))


@jax.jit
def log_density_and_score(model: Model, x: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Computes F_t of x_t [n] and its gradient in x_t [n, *shape]."""
    every = jnp.full(len(x), t)
    log_density = energy.marginal(model.bind(), model.levels, every)
    return value_and_gradient(lambda x: log_density(extract(model.levels.scale, every, x) * x), x)


@jax.jit
def statistics(keys, model: Model, x: jax.Array, t, n) -> detection.Statistics:
    """Computes `detection.statistics`."""
    return detection.statistics(keys, model.bind(), model.levels, jnp.full(len(x), t), x, n)


@partial(jax.jit, static_argnames=("transition", "shape"))
def draw(keys, model: Model, transition: Transition, shape: tuple[int, ...]) -> jax.Array:
    """Draws x_0 from white noise: `core.synthesis.synthesize`."""
    return synthesize(keys, model.bind(), model.levels, transition, shape)[0]


@partial(jax.jit, static_argnames=("transition", "first"))
def draw_from(keys, model: Model, transition: Transition, x: jax.Array, first: int) -> jax.Array:
    """Draws x_0 from x_n: `core.synthesis.descend`."""
    return descend(keys, model.bind(), model.levels, transition, x, first)[0]


@partial(jax.jit, static_argnames=("make_transition", "shape", "noise"))
def between_samples(
    key, model: Model, make_transition: MakeTransition, shape: tuple[int, ...], w, noise: Noise
) -> jax.Array:
    """Runs `interpolation.between_samples`."""
    f = model.bind()
    return interpolation.between_samples(key, f, model.levels, make_transition, shape, w, noise)


@partial(jax.jit, static_argnames=("make_transition", "first", "noise"))
def between_examples(
    key, model: Model, make_transition: MakeTransition, x, y, w, first: int, noise: Noise
) -> jax.Array:
    """Runs `interpolation.between_examples`."""
    f = model.bind()
    return interpolation.between_examples(key, f, model.levels, make_transition, x, y, w, first, noise)


@partial(jax.jit, static_argnames=("transition",))
def inpaint(keys, model: Model, transition: Transition, x, known) -> jax.Array:
    """Runs `inpainting.inpaint`."""
    return inpainting.inpaint(keys, model.bind(), model.levels, transition, x, known)
