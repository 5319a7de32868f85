"""The training step: one gradient of the objective, as a pure function of (state, batch)."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Shaped

from drl_jax.core import spectral
from drl_jax.core.levels import Levels
from drl_jax.core.model import Model, bind
from drl_jax.core.objective import Objective, Terms
from drl_jax.core.randomness import example_keys
from drl_jax.core.types import Batch, Keys, Leaf, Tree
from drl_jax.parallel.mesh import Shard

PerLevel = Shaped[Array, " levels"]


class LevelSums(NamedTuple):
    """Sums over examples, per level [T].

    Attributes:
      count: how many examples there were, an integer.
      loss, positive, negative, displacement, gradient_norm: see `objective.Terms`.
    """

    count: Leaf
    loss: Leaf
    positive: Leaf
    negative: Leaf
    displacement: Leaf
    gradient_norm: Leaf

    @classmethod
    def zeros(cls, num_levels: int) -> "LevelSums":
        """Makes sums over no example."""
        count = jnp.zeros(num_levels, jnp.int32)
        return cls(count, *(jnp.zeros(num_levels) for _ in cls._fields[1:]))


class StepMetrics(NamedTuple):
    """What one step reports, the same on every device.

    Attributes:
      sums: over the examples of this step.
      gradient_norm: norm of the whole gradient. If it is finite, Adam's moments and (with ε > 0) the
        parameters are finite too; `Guard.check_weights` verifies this before each save.
      max_abs: max |x⁻| over the samples of each device [devices].
    """

    sums: LevelSums
    gradient_norm: Leaf
    max_abs: Leaf


class TrainState(struct.PyTreeNode):
    """Everything that a checkpoint must hold so that the run continues bit for bit.

    Attributes:
      step: how many steps were made.
      key: the root key of the run. It never changes; each step folds in `rollbacks` and `step`.
      rollbacks: how often the run diverged and went back. Another number gives other noise.
      params, spectral: parameters and spectral vectors.
      opt_state: state of the optimizer.
      ema_params, ema_spectral: their exponential moving averages.
      sums: sums per level since the last record.
    """

    step: Leaf
    key: Leaf
    rollbacks: Leaf
    params: Tree
    spectral: Tree
    opt_state: Tree
    ema_params: Tree
    ema_spectral: Tree
    sums: LevelSums

    def averaged_model(self, network: nn.Module, levels: Levels) -> Model:
        """Makes the model that samples: the averaged parameters."""
        return Model(network, levels, self.ema_params, self.ema_spectral)


_ALONE = Shard()

TrainStep = Callable[[TrainState, Batch, Shard], tuple[TrainState, StepMetrics]]


def init_state(
    key: jax.Array,
    network: nn.Module,
    levels: Levels,
    optimizer: optax.GradientTransformation,
    shape: tuple[int, ...],
    *,
    spectral_iterations: int = 100,
) -> TrainState:
    """Makes the state before the first step.

    Args:
      key: the key of the run.
      network: the Flax module f(y, t).
      levels: the noise levels.
      optimizer: from Optax.
      shape: of one example.
      spectral_iterations: power iterations that converge the spectral vectors.

    Returns:
      The state.
    """
    init_key, root = jax.random.split(key)
    variables = network.init(init_key, jnp.zeros((1, *shape)), jnp.zeros(1, jnp.int32))
    params = variables["params"]
    vectors = spectral.converge(params, variables.get("spectral", {}), iterations=spectral_iterations)
    return TrainState(
        step=jnp.zeros([], jnp.int32),
        key=root,
        rollbacks=jnp.zeros([], jnp.int32),
        params=params,
        spectral=vectors,
        opt_state=optimizer.init(params),
        # Copies: donation refuses one buffer in two places.
        ema_params=jax.tree.map(jnp.copy, params),
        ema_spectral=jax.tree.map(jnp.copy, vectors),
        sums=LevelSums.zeros(levels.num_levels),
    )


def make_train_step(
    network: nn.Module,
    num_levels: int,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    *,
    gradient_network: nn.Module | None = None,
    microbatches: int = 1,
    power_iterations: int = 1,
    ema_decay: float = 0.999,
) -> TrainStep:
    """Makes the step (state, batch, shard) -> (state, metrics).

    Args:
      network: the Flax module f(y, t), for the chains.
      num_levels: T.
      objective: whose gradient the optimizer takes.
      optimizer: from Optax.
      gradient_network: the same function with the same parameters, in the form that suits the gradient in
        the parameters. Default: `network`.
      microbatches: parts of a device's rows that are computed one after another, to save memory. Levels,
        noise and the update are those of the whole batch, up to rounding.
      power_iterations: of spectral normalisation, per step.
      ema_decay: of the averages of parameters and spectral vectors, without bias correction.

    Returns:
      The step. `parallel.mesh.Placement.data_parallel` runs it on all devices, each with its shard.

    Source: paper, algorithm 1.
    """

    def train_step(state: TrainState, x: Batch, shard: Shard = _ALONE) -> tuple[TrainState, StepMetrics]:
        rows = x.shape[0]
        keys = example_keys(_step_key(state), rows, shard.index * rows)

        # Weights do not move during the chain, so one normalisation serves all its steps.
        fixed, vectors = spectral.normalize(state.params, state.spectral, iterations=power_iterations)

        f_fixed = bind(network, shard.local(fixed))

        def gradient_of(keys: Keys, x: Batch) -> tuple[Tree, Terms]:
            def loss(params: Tree) -> tuple[jax.Array, Terms]:
                params, _ = spectral.normalize(params, state.spectral, iterations=power_iterations)
                return objective(keys, x, bind(gradient_network or network, params), f_fixed)

            return jax.grad(loss, has_aux=True)(shard.local(state.params))

        zero = shard.local(jax.tree.map(jnp.zeros_like, state.params))
        gradient, terms = _accumulate(gradient_of, keys, x, zero, microbatches)
        gradient = jax.tree.map(lambda mean: mean / shard.count, gradient)
        max_abs = jnp.zeros(shard.count).at[shard.index].set(jnp.max(terms.max_abs))
        gradient, sums, max_abs = shard.sum((gradient, sum_by_level(terms, num_levels), max_abs))

        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        new_state = TrainState(
            step=state.step + 1,
            key=state.key,
            rollbacks=state.rollbacks,
            params=params,
            spectral=vectors,
            opt_state=opt_state,
            ema_params=optax.incremental_update(params, state.ema_params, 1 - ema_decay),
            ema_spectral=optax.incremental_update(vectors, state.ema_spectral, 1 - ema_decay),
            sums=jax.tree.map(jnp.add, state.sums, sums),
        )
        return new_state, StepMetrics(sums, optax.tree.norm(gradient), max_abs)

    return train_step


def _accumulate(
    gradient_of: Callable[[Keys, Batch], tuple[Tree, Terms]], keys: Keys, x: Batch, zero: Tree, parts: int
) -> tuple[Tree, Terms]:
    """The mean gradient over equal parts of the rows, one after another, and the terms of all rows."""
    if parts == 1:
        return gradient_of(keys, x)

    def add(total, rows):
        gradient, terms = gradient_of(*rows)
        return jax.tree.map(lambda total, part: total + part / parts, total, gradient), terms

    rows = jax.tree.map(lambda rows: rows.reshape(parts, -1, *rows.shape[1:]), (keys, x))
    gradient, terms = jax.lax.scan(add, zero, rows)
    return gradient, jax.tree.map(jnp.ravel, terms)


def sum_by_level(terms: Terms, num_levels: int) -> LevelSums:
    """Adds up the terms of the examples of each level."""
    of_level = jax.nn.one_hot(terms.t, num_levels, dtype=bool)

    def add(value: jax.Array) -> PerLevel:
        # Not a matrix product, in which a NaN of one level would reach all levels.
        return jnp.sum(jnp.where(of_level, value[:, None], jnp.zeros([], value.dtype)), axis=0)

    return LevelSums(
        count=add(jnp.ones_like(terms.t)),
        loss=add(terms.loss),
        positive=add(terms.positive),
        negative=add(terms.negative),
        displacement=add(terms.displacement),
        gradient_norm=add(terms.gradient_norm),
    )


def _step_key(state: TrainState) -> jax.Array:
    """The key of a step. After a rollback it is folded with a number that no step reaches: new noise."""
    retry = jax.random.fold_in(state.key, jnp.uint32(2**32 - 1) - state.rollbacks.astype(jnp.uint32))
    attempt = jnp.where(state.rollbacks == 0, state.key, retry)
    return jax.random.fold_in(attempt, state.step)
