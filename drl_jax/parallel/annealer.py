"""Annealed importance sampling of a level's marginal model on all devices, in parts that can be kept."""

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
from drl_jax.parallel.mesh import Placement
from drl_jax.parallel.sampler import count_not_finite

NOISE_IN_BOX = 6.0  # standard deviations of x_t's noise between the data's box and that of level t
_PART = 25  # steps of a part
_MAX_EXPLORED = 20_000  # steps of the search for a path
_DRAW, _BEGIN, _EXPLORE, _START, _FORWARD, _REVERSE = range(6)  # what a key is for


class Settings(NamedTuple):
    """What an estimate depends on, besides the model and the level.

    Attributes:
      seed: of all chains.
      chains: how many.
      steps: from the normal distribution to the density; the reverse run has half as many more, which stay at
        the density, because it begins with draws that follow it only approximately.
      leapfrog: steps of a transition of HMC.
      reach: the data are in [-reach, reach].
    """

    seed: int = 0
    chains: int = 64
    steps: int = 1000
    leapfrog: int = 5
    reach: float = 1.0


class Progress(NamedTuple):
    """The state of a run between two parts: arrays on the host.

    Attributes:
      draws: of y_t by the model, in the box [chains, *shape].
      betas, step_sizes: what was found so far, from β = 0.
      explorer_position, explorer_log_step_size: of the search for them.
      forward_position, forward_log_weight, forward_step: of the forward run; the number of its next step.
      reverse_position, reverse_log_weight, reverse_step: of the reverse run.
      acceptance: mean over the forward run so far.
    """

    draws: np.ndarray
    betas: np.ndarray
    step_sizes: np.ndarray
    explorer_position: np.ndarray
    explorer_log_step_size: np.ndarray
    forward_position: np.ndarray
    forward_log_weight: np.ndarray
    forward_step: np.ndarray
    reverse_position: np.ndarray
    reverse_log_weight: np.ndarray
    reverse_step: np.ndarray
    acceptance: np.ndarray


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

    The result is a function of (model, transition, level, settings), up to rounding: the number of devices and
    interruptions between parts do not change it.

    Args:
      model: the trained model.
      transition: how x_t is drawn from x_{t+1}: the reverse run begins with such draws.
      shape: of one example.
      placement: where arrays live.
      settings: chains, steps and so on.

    Raises:
      UserError: the chains do not divide over the devices.
    """

    def __init__(
        self,
        model: Model,
        transition: Transition,
        shape: tuple[int, ...],
        placement: Placement,
        settings: Settings,
    ):
        devices = placement.num_devices
        if settings.chains % devices:
            nearest = -(-settings.chains // devices) * devices
            raise UserError(
                f"{settings.chains} chains do not divide over {devices} devices; the next number that does is "
                f"{nearest}"
            )
        self._model, self._placement, self._settings = placement.replicate(model), placement, settings
        self._transition, self._shape = transition, shape
        self._make_keys = jax.jit(
            example_keys, static_argnames="count", out_shardings=placement.batched
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
                f"{broken} of {len(x)} draws of level {t} are not finite: the model has diverged, or its step "
                "size is too large"
            )
        draws = np.clip(np.float32(levels.scale[t]) * x, -bound, bound)
        normal = likelihood.fit_normal(jnp.asarray(draws), bound)
        explorer = jax.jit(likelihood.begin)(self._keys(t, _BEGIN), normal)
        zero, weights = np.zeros((), np.int32), np.zeros(len(x), np.float32)
        return Progress(
            draws=draws,
            betas=np.zeros(1, np.float32),
            step_sizes=np.exp(explorer.log_step_size)[None],
            explorer_position=np.asarray(explorer.position),
            explorer_log_step_size=np.asarray(explorer.log_step_size),
            forward_position=np.asarray(jax.jit(normal.draw)(self._keys(t, _START))),
            forward_log_weight=weights,
            forward_step=zero,
            reverse_position=draws,
            reverse_log_weight=weights,
            reverse_step=zero,
            acceptance=np.zeros((), np.float32),
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
        forward, reverse = self._paths(progress)
        if progress.forward_step < len(forward.betas) - 1:
            chains = Chains(progress.forward_position, progress.forward_log_weight)
            before = int(progress.forward_step)
            chains, acceptance = self._anneal(t, _FORWARD, progress, chains, forward, before)
            mean = (progress.acceptance * before + acceptance.sum()) / (before + _PART)
            return progress._replace(
                forward_position=chains.position,
                forward_log_weight=chains.log_weight,
                forward_step=np.int32(before + _PART)[()],
                acceptance=mean,
            )
        if progress.reverse_step < len(reverse.betas) - 1:
            chains = Chains(progress.reverse_position, progress.reverse_log_weight)
            before = int(progress.reverse_step)
            chains, _ = self._anneal(t, _REVERSE, progress, chains, reverse, before)
            return progress._replace(
                reverse_position=chains.position,
                reverse_log_weight=chains.log_weight,
                reverse_step=np.int32(before + _PART)[()],
            )
        return None

    def parts_left(self, progress: Progress) -> int:
        """Returns how many parts of the two runs are left, without those of the search for a path."""
        forward, reverse = self._paths(progress)
        steps = len(forward.betas) + len(reverse.betas) - 2
        return (steps - int(progress.forward_step) - int(progress.reverse_step)) // _PART

    def result(self, progress: Progress) -> Sandwich:
        """Computes the two estimates of a finished run."""
        size = int(np.prod(self._shape))
        return likelihood.sandwich(progress.forward_log_weight, progress.reverse_log_weight, size)

    def run(self, t: int) -> Sandwich:
        """Makes all parts of a run at level t, and returns its estimates."""
        progress = self.start(t)
        while (after := self.advance(t, progress)) is not None:
            progress = after
        return self.result(progress)

    def _keys(self, t: int, purpose: int) -> jax.Array:
        """The keys of all chains, each on the device of its chain."""
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(self._settings.seed), t), purpose)
        return self._make_keys(key, count=self._settings.chains)

    def _normal(self, t: int, progress: Progress) -> Normal:
        bound = bound_of(self._model.levels, t, self._settings.reach)
        normal = likelihood.fit_normal(jnp.asarray(progress.draws), bound)
        return self._placement.replicate(normal._replace(bound=np.float32(bound)))

    def _explore(self, t: int, progress: Progress) -> Progress:
        explorer = Explorer(
            self._placement.shard(progress.explorer_position),
            self._placement.replicate(progress.betas[-1]),
            self._placement.replicate(progress.explorer_log_step_size),
        )
        explorer, found = _explore(
            self._keys(t, _EXPLORE),
            self._model,
            np.int32(t),
            self._normal(t, progress),
            explorer,
            np.int32(len(progress.betas) - 1),
            num_leapfrog=self._settings.leapfrog,
        )
        return progress._replace(
            explorer_position=np.asarray(explorer.position),
            explorer_log_step_size=np.asarray(explorer.log_step_size),
            betas=np.append(progress.betas, found.betas),
            step_sizes=np.append(progress.step_sizes, found.step_sizes),
        )

    def _paths(self, progress: Progress) -> tuple[Path, Path]:
        """The way there and the way back. Each is as many steps longer as fill its last part."""
        last = int(np.sum(progress.betas < 1))
        found = Path(np.append(progress.betas[:last], 1.0), progress.step_sizes[: last + 1])
        path, steps = likelihood.refine(found, self._settings.steps), self._settings.steps
        back = path.back(stay=steps // 2)
        fill = lambda values: np.pad(values, (0, -(len(values) - 1) % _PART), mode="edge")
        return jax.tree.map(fill, path), jax.tree.map(fill, back)

    def _anneal(
        self, t: int, purpose: int, progress: Progress, chains: Chains, path: Path, first: int
    ) -> tuple[Chains, np.ndarray]:
        part = jax.tree.map(lambda values: np.asarray(values[first : first + _PART + 1]), path)
        chains, acceptance = _anneal(
            self._keys(t, purpose),
            self._model,
            np.int32(t),
            self._normal(t, progress),
            jax.tree.map(self._placement.shard, chains),
            part,
            np.int32(first),
            num_leapfrog=self._settings.leapfrog,
        )
        return jax.tree.map(np.asarray, chains), np.asarray(acceptance)


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


@partial(jax.jit, static_argnames="num_leapfrog")
def _explore(keys, model: Model, t, normal: Normal, explorer: Explorer, first, *, num_leapfrog: int):
    log_density = _log_density(model, t)
    return likelihood.explore(
        keys, log_density, normal, explorer, _PART, first=first, num_leapfrog=num_leapfrog
    )


@partial(jax.jit, static_argnames="num_leapfrog")
def _anneal(keys, model: Model, t, normal: Normal, chains: Chains, path: Path, first, *, num_leapfrog: int):
    log_density = _log_density(model, t)
    return likelihood.anneal(
        keys, log_density, normal, chains, path, first=first, num_leapfrog=num_leapfrog
    )
