"""The training step: a pure function of (state, batch)."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import struct
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from drl_jax.core import spectral
from drl_jax.core.levels import Levels, at, diffuse
from drl_jax.core.mcmc.langevin import norm
from drl_jax.core.networks import bind
from drl_jax.core.objective import draw, objective
from drl_jax.core.randomness import example_keys, fold_in
from drl_jax.core.types import Batch, Leaf, Tree

Votes = Float[Array, "1"]


class Totals(struct.PyTreeNode):
    """Sums over the examples since the last record, per level [T]; `count` is how many there were.

    loss:       weight (f⁻ − f⁺).         positive, negative:  f at the data and at the samples.
    moved:      ‖x_t⁻ − x_{t+1}⁄scale‖, from the chain's start to its end.
    gradient:   ‖∇ log p‖ at its last step.
    """

    count: Leaf
    loss: Leaf
    positive: Leaf
    negative: Leaf
    moved: Leaf
    gradient: Leaf

    @classmethod
    def zeros(cls, num_levels: int) -> "Totals":
        return cls(*(jnp.zeros(num_levels) for _ in dataclasses.fields(cls)))


class Report(struct.PyTreeNode):
    """What a step tells the host, the same on every device.

    seen:           the step's own sums, before they are added to the state's.
    gradient_norm:  of the whole gradient. While it is finite, no moment of Adam overflows, and with ε > 0
                    the parameters stay finite; that they are is tested before a state is saved.
    votes:          how many devices were told that the run shall stop.
    reach:          max |x⁻| over each device's samples, [devices].
    """

    seen: Totals
    gradient_norm: Leaf
    votes: Leaf
    reach: Leaf

    def packed(self) -> Float[Array, " size"]:
        """As one vector: the host fetches one array a step instead of ten."""
        return ravel_pytree(self)[0]

    @classmethod
    def unpacked(cls, vector: Float[np.ndarray, " size"], num_levels: int) -> "Report":
        """What `packed` gave."""
        size = num_levels * len(dataclasses.fields(Totals))
        seen, rest = vector[:size].reshape(-1, num_levels), vector[size:]
        return cls(seen=Totals(*seen), gradient_norm=rest[0], votes=rest[1], reach=rest[2:])


class TrainState(struct.PyTreeNode):
    """Everything that a checkpoint must hold to continue the run bit for bit."""

    step: Leaf
    key: Leaf  # the run's one root key: never replaced; each step folds in `rollbacks` and `step`
    rollbacks: Leaf  # how often the run has diverged and gone back: another number, other noise
    params: Tree
    vectors: Tree  # of spectral normalisation
    opt_state: Tree
    ema_params: Tree
    ema_vectors: Tree
    totals: Totals


class Settings(NamedTuple):
    """What the step needs besides the network, the levels and the optimizer.

    langevin_steps:   K.
    power_iterations: of spectral normalisation, per training step.
    ema_decay:        of weights and spectral vectors, without bias correction.
    spread:           of the steps of adjusted chains; None for the paper's unadjusted ones.
    energy_penalty:   c of  c mean(f⁺² + f⁻²) / 2, added to the loss; 0 in the paper.
    """

    langevin_steps: int = 30
    power_iterations: int = 1
    ema_decay: float = 0.999
    energy_penalty: float = 0.0
    spread: float | None = None


def init_state(
    key: jax.Array,
    network: nn.Module,
    levels: Levels,
    optimizer: optax.GradientTransformation,
    shape: tuple[int, ...],
    *,
    warm_up_iterations: int = 100,
) -> TrainState:
    """The state before the first step; `shape` is that of one example."""
    init_key, root = jax.random.split(key)
    variables = network.init(init_key, jnp.zeros((1, *shape)), jnp.zeros(1, jnp.int32))
    params = variables["params"]
    vectors = spectral.warm_up(params, variables.get("spectral", {}), iterations=warm_up_iterations)
    return TrainState(
        step=jnp.zeros([], jnp.int32),
        key=root,
        rollbacks=jnp.zeros([], jnp.int32),
        params=params,
        vectors=vectors,
        opt_state=optimizer.init(params),
        # Copies: donation refuses one buffer in two places.
        ema_params=jax.tree.map(jnp.copy, params),
        ema_vectors=jax.tree.map(jnp.copy, vectors),
        totals=Totals.zeros(levels.num_levels),
    )


def make_train_step(
    network: nn.Module,
    levels: Levels,
    optimizer: optax.GradientTransformation,
    settings: Settings,
    *,
    axis: str | None = None,
) -> Callable[[TrainState, Batch, Votes], tuple[TrainState, Report]]:
    """Returns step(state, x [batch, *shape], votes [1]) -> (state, report). Algorithm 1 of the paper.

    Under `jax.shard_map` over a mesh's `axis`, x is this device's part of the batch, and the parts follow
    each other in the order of the axis; without, x is the whole batch. `votes` is 1 where the process was
    told to stop: the report's sum tells all processes alike.
    """

    def train_step(state: TrainState, x: Batch, votes: Votes) -> tuple[TrainState, Report]:
        parts, part = (1, 0) if axis is None else (jax.lax.axis_size(axis), jax.lax.axis_index(axis))
        rows = x.shape[0]
        # Noise of its own after each rollback; steps count up from 0 and never meet these.
        other = jax.random.fold_in(state.key, jnp.uint32(2**32 - 1) - state.rollbacks.astype(jnp.uint32))
        attempt = jnp.where(state.rollbacks == 0, state.key, other)
        keys = example_keys(jax.random.fold_in(attempt, state.step), rows, part * rows)
        t = jax.vmap(lambda key: jax.random.randint(key, (), 0, levels.num_levels))(fold_in(keys, 0))
        x_t, x_next = diffuse(fold_in(keys, 1), x, t, levels)

        # Weights do not move during the chain, so one normalisation serves all its steps.
        frozen, vectors = normalized(state.params, state.vectors)
        x_negative, info = draw(
            fold_in(keys, 2),
            bind(network, frozen),
            levels,
            t,
            x_next,
            num_steps=settings.langevin_steps,
            spread=settings.spread,
        )

        def loss(params):
            f = bind(network, normalized(params, state.vectors)[0])
            value, (positive, negative) = objective(f, levels, t, x_t, x_negative)
            penalty = jnp.mean(positive**2 + negative**2) / 2
            return value + settings.energy_penalty * penalty, (positive, negative)

        gradients, (positive, negative) = jax.grad(loss, has_aux=True)(state.params)
        weight = jnp.asarray(levels.weight, positive.dtype)[t]
        of_level = jax.nn.one_hot(t, levels.num_levels, dtype=bool)
        seen = Totals(
            count=jnp.ones_like(positive),
            loss=weight * (negative - positive),
            positive=positive,
            negative=negative,
            moved=norm(x_negative - x_next / at(levels.scale, t, x_next)),
            gradient=info.gradient_norm[-1],
        )
        # No matrix product: a NaN of one level would be one of all.
        per_level = lambda value: jnp.sum(jnp.where(of_level, value[:, None], 0), axis=0)
        seen = jax.tree.map(per_level, seen)
        gradients = jax.tree.map(lambda mean: mean / parts, gradients)
        reach = jnp.zeros(parts).at[part].set(jnp.max(jnp.abs(x_negative)))
        (gradients, seen, reach, votes), gradient_norm = summed(gradients, (seen, reach, votes[0]))

        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        report = Report(
            seen=seen,
            gradient_norm=gradient_norm,
            reach=reach,
            votes=votes,
        )
        state = TrainState(
            step=state.step + 1,
            key=state.key,
            rollbacks=state.rollbacks,
            params=params,
            vectors=vectors,
            opt_state=opt_state,
            ema_params=averaged(state.ema_params, params),
            ema_vectors=averaged(state.ema_vectors, vectors),
            totals=jax.tree.map(jnp.add, state.totals, seen),
        )
        return state, report

    def summed(gradients, rest):
        # As one vector: one wait for the other devices, and one norm, instead of one per parameter.
        flat, unravel = ravel_pytree((gradients, *rest))
        flat = flat if axis is None else jax.lax.psum(flat, axis)
        size = sum(leaf.size for leaf in jax.tree.leaves(gradients))
        return unravel(flat), jnp.linalg.norm(flat[:size])

    def normalized(params, vectors):
        return spectral.normalize(params, vectors, iterations=settings.power_iterations)

    def averaged(average, new):
        return optax.incremental_update(new, average, 1 - settings.ema_decay)

    return train_step
