"""Annealed importance sampling of a level's marginal model on all devices, in parts that can be kept."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from drl_jax.applications import likelihood
from drl_jax.applications.likelihood import Chains, Explorer, Normal, Path, Sandwich
from drl_jax.core import energy
from drl_jax.core.levels import Levels
from drl_jax.core.model import Model
from drl_jax.core.randomness import example_keys
from drl_jax.core.synthesis import synthesize
from drl_jax.core.transition import Transition
from drl_jax.errors import UserError
from drl_jax.parallel.mesh import place
from drl_jax.parallel.sampler import count_not_finite

NOISE_IN_BOX = 6.0  # standard deviations of x_t's noise between the data's box and that of level t
_PART = 25  # steps of a part
_MAX_EXPLORED = 20_000  # steps of the search for a path
_DRAW, _BEGIN, _EXPLORE, _START, _FORWARD, _REVERSE = range(6)  # what a key is for


class Settings(NamedTuple):
    """What an estimate depends on, besides the model and the level.

    Attributes:
      chains: how many.
      steps: from the normal distribution to the density; the reverse run has half as many more, which stay at
        the density, because it begins with draws that follow it only approximately.
      leapfrog_steps: steps of a transition of HMC.
      reach: the data are in [-reach, reach].
    """

    chains: int = 64
    steps: int = 1000
    leapfrog_steps: int = 5
    reach: float = 1.0


class Side(NamedTuple):
    """The forward or the reverse run between two parts: arrays on the host.

    Attributes:
      position, log_weight: of the chains.
      step: the number of its next step.
      acceptance: the mean acceptance of the last part.
    """

    position: np.ndarray
    log_weight: np.ndarray
    step: np.ndarray
    acceptance: np.ndarray


class Progress(NamedTuple):
    """The state of a run between two parts: arrays on the host.

    Attributes:
      draws: of y_t by the model, in the box [chains, *shape].
      betas, step_sizes: what was found so far, from β = 0.
      position, log_step_size: of the chains that look for them.
      forward, reverse: the two runs.
    """

    draws: np.ndarray
    betas: np.ndarray
    step_sizes: np.ndarray
    position: np.ndarray
    log_step_size: np.ndarray
    forward: Side
    reverse: Side

    def named(self) -> dict[str, np.ndarray]:
        """Returns all arrays by name, to be kept in a file."""
        own = {name: value for name, value in self._asdict().items() if not isinstance(value, Side)}
        for name in ("forward", "reverse"):
            own |= {f"{name}/{field}": value for field, value in getattr(self, name)._asdict().items()}
        return own

    @classmethod
    def of_named(cls, arrays: Mapping[str, np.ndarray]) -> "Progress":
        """Makes the progress from what `named` has returned."""
        side = lambda name: Side(*(arrays[f"{name}/{field}"] for field in Side._fields))
        own = {name: arrays[name] for name in cls._fields if name in arrays}
        return cls(**own, forward=side("forward"), reverse=side("reverse"))


def bound_of(levels: Levels, t: int, reach: float) -> float:
    """Computes the bound of y_t: that of the data at this level, and six standard deviations of its noise.

    Args:
      levels: the noise levels.
      t: the level.
      reach: the data are in [-reach, reach].

    Returns:
      scale_t (a_cum_t reach + 6 sigma_cum_t).
    """
    return float(levels.scale[t] * (levels.a_cum[t] * reach + NOISE_IN_BOX * levels.sigma_cum[t]))


class Annealer:
    """Estimates log Z of levels of a model, in parts.

    The result is a function of (model, transition, key, level, settings, number of devices). Interruptions
    between parts do not change it. On another number of devices sums are rounded differently, and chains
    amplify this, so that results agree within their errors and not more.

    Args:
      model: the trained model.
      transition: how x_t is drawn from x_{t+1}: the reverse run begins with such draws.
      shape: of one example.
      key: of all chains.
      settings: chains, steps and so on.
      devices: to choose from; it uses as many as divide the chains.
    """

    def __init__(
        self,
        model: Model,
        transition: Transition,
        shape: tuple[int, ...],
        key: jax.Array,
        settings: Settings,
        *,
        devices: Sequence[Any] | None = None,
    ):
        devices = list(devices or jax.devices())
        count = next(n for n in range(len(devices), 0, -1) if settings.chains % n == 0)
        self._placement, self._settings = place(devices=devices[:count]), settings
        self._model, self._key = self._placement.replicate(model), key
        self._transition, self._shape = transition, shape
        self._make_keys = jax.jit(
            example_keys, static_argnames="count", out_shardings=self._placement.batched
        )

    def start(self, t: int) -> Progress:
        """Draws from the model, and from the normal distribution with the moments of these draws.

        Args:
          t: the level, 0 … T − 1.

        Returns:
          The progress before the first part.

        Raises:
          UserError: chains of the model left the finite numbers.
        """
        levels, bound = self._model.levels, bound_of(self._model.levels, t, self._settings.reach)
        x = np.asarray(_draw(self._keys(t, _DRAW), self._model, self._transition, self._shape, t))
        if broken := count_not_finite(x):
            raise UserError(
                f"{broken} of {len(x)} draws of level {t} are not finite: the model has diverged, or its "
                "step size is too large"
            )
        draws = np.clip(np.float32(levels.scale[t]) * x, -bound, bound)
        normal = likelihood.fit_normal(jnp.asarray(draws), bound)
        explorer = jax.jit(likelihood.begin)(self._keys(t, _BEGIN), normal)
        forward = jax.jit(normal.draw)(self._keys(t, _START))
        begin = lambda y: Side(np.asarray(y), np.zeros(len(y), np.float32), np.zeros((), int), np.ones(()))
        return Progress(
            draws=draws,
            betas=np.zeros(1, np.float32),
            step_sizes=np.exp(explorer.log_step_size)[None],
            position=np.asarray(explorer.position),
            log_step_size=np.asarray(explorer.log_step_size),
            forward=begin(forward),
            reverse=begin(draws),
        )

    def advance(self, t: int, progress: Progress) -> Progress | None:
        """Makes the next part: of the search for a path, then of the forward run, then of the reverse run.

        Args:
          t: the level.
          progress: so far.

        Returns:
          The progress after the part; None if there is nothing to do any more.
        """
        if not _is_explored(progress):
            return self._explore(t, progress)
        there, back = self._paths(progress)
        if progress.forward.step < len(there.betas) - 1:
            side = self._anneal(self._keys(t, _FORWARD), t, progress, progress.forward, there)
            return progress._replace(forward=side)
        if progress.reverse.step < len(back.betas) - 1:
            side = self._anneal(self._keys(t, _REVERSE), t, progress, progress.reverse, back)
            return progress._replace(reverse=side)
        return None

    def describe(self, progress: Progress) -> str:
        """Says in words how far a run is."""
        if not _is_explored(progress):
            return f"looking for a path, step {len(progress.betas) - 1}, beta {progress.betas[-1]:.2g} of 1"
        forward, reverse = (len(path.betas) - 1 for path in self._paths(progress))
        return f"forward {progress.forward.step}/{forward}, reverse {progress.reverse.step}/{reverse}"

    def length(self, progress: Progress) -> float:
        """Computes the length of the path in nats: the standard deviations of log-weights along it, added up.

        Log-weights of a run of N steps vary by at least length² / N, so it needs more than length² steps.
        """
        return likelihood.SPACING * (len(progress.betas[progress.betas < 1]))

    def result(self, progress: Progress) -> Sandwich:
        """Computes the two estimates of a finished run."""
        size = int(np.prod(self._shape))
        return likelihood.sandwich(progress.forward.log_weight, progress.reverse.log_weight, size)

    def run(self, t: int) -> Sandwich:
        """Makes all parts of a run at level t, and returns its estimates."""
        progress = self.start(t)
        while (after := self.advance(t, progress)) is not None:
            progress = after
        return self.result(progress)

    def _keys(self, t: int, purpose: int) -> jax.Array:
        """The keys of all chains, each on the device of its chain."""
        key = jax.random.fold_in(jax.random.fold_in(self._key, t), purpose)
        return self._make_keys(key, count=self._settings.chains)

    def _normal(self, t: int, progress: Progress) -> Normal:
        bound = bound_of(self._model.levels, t, self._settings.reach)
        normal = likelihood.fit_normal(jnp.asarray(progress.draws), bound)
        return self._placement.replicate(normal._replace(bound=np.float32(bound)))

    def _explore(self, t: int, progress: Progress) -> Progress:
        explorer = Explorer(
            self._placement.shard(progress.position),
            self._placement.replicate(progress.betas[-1]),
            self._placement.replicate(progress.log_step_size),
        )
        explorer, found = _explore(
            self._keys(t, _EXPLORE),
            self._model,
            np.int32(t),
            self._normal(t, progress),
            explorer,
            np.int32(len(progress.betas) - 1),
            leapfrog_steps=self._settings.leapfrog_steps,
        )
        return progress._replace(
            position=np.asarray(explorer.position),
            log_step_size=np.asarray(explorer.log_step_size),
            betas=np.append(progress.betas, found.betas),
            step_sizes=np.append(progress.step_sizes, found.step_sizes),
        )

    def _paths(self, progress: Progress) -> tuple[Path, Path]:
        """The way there and the way back. Each is as many steps longer as fill its last part."""
        last, steps = int(np.sum(progress.betas < 1)), self._settings.steps
        betas = jnp.append(jnp.asarray(progress.betas[:last]), 1.0)
        path = likelihood.refine(Path(betas, jnp.asarray(progress.step_sizes[: last + 1])), steps)
        fill = lambda values: jnp.pad(values, (0, -(len(values) - 1) % _PART), mode="edge")
        return jax.tree.map(fill, path), jax.tree.map(fill, path.back(stay=steps // 2))

    def _anneal(self, keys: jax.Array, t: int, progress: Progress, side: Side, path: Path) -> Side:
        first = int(side.step)
        chains, acceptance = _anneal(
            keys,
            self._model,
            np.int32(t),
            self._normal(t, progress),
            Chains(self._placement.shard(side.position), self._placement.shard(side.log_weight)),
            jax.tree.map(lambda values: values[first : first + _PART + 1], path),
            np.int32(first),
            leapfrog_steps=self._settings.leapfrog_steps,
        )
        position, log_weight = (np.asarray(array) for array in chains)
        return Side(position, log_weight, np.asarray(first + _PART), np.asarray(acceptance.mean()))


def _is_explored(progress: Progress) -> bool:
    beta = progress.betas[-1]
    # Where β is not a number, the run goes on from the last one that was, and says that it does not bracket.
    return bool(beta == 1 or not np.isfinite(beta) or len(progress.betas) > _MAX_EXPLORED)


def _log_density(model: Model, t: Any):
    f = model.bind()
    return lambda y: energy.marginal(f, model.levels, jnp.full(len(y), t))(y)


@partial(jax.jit, static_argnames=("transition", "shape", "t"))
def _draw(keys, model: Model, transition: Transition, shape: tuple[int, ...], t: int) -> jax.Array:
    return synthesize(keys, model.bind(), model.levels, transition, shape, record_at=[t])[1][0]


@partial(jax.jit, static_argnames="leapfrog_steps")
def _explore(keys, model: Model, t, normal: Normal, explorer: Explorer, first, *, leapfrog_steps: int):
    log_density = _log_density(model, t)
    return likelihood.explore(
        keys, log_density, normal, explorer, _PART, first=first, leapfrog_steps=leapfrog_steps
    )


@partial(jax.jit, static_argnames="leapfrog_steps")
def _anneal(keys, model: Model, t, normal: Normal, chains: Chains, path: Path, first, *, leapfrog_steps: int):
    log_density = _log_density(model, t)
    return likelihood.anneal(
        keys, log_density, normal, chains, path, first=first, leapfrog_steps=leapfrog_steps
    )
