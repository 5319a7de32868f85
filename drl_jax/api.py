"""A trained model in Python: `drl_jax.load` gives it, its methods take and give arrays of the data's kind.

Images are uint8 arrays [n, height, width, channels], 0 to 255. Floats are taken in the units of the model:
data are in [-1, 1], and noisy examples go beyond. Points are floats [n, 2].
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from drl_jax import files, pretrained
from drl_jax.applications import chains, detection, inpainting, interpolation, likelihood
from drl_jax.applications.likelihood import Sandwich
from drl_jax.checkpoints import weights
from drl_jax.checkpoints.digests import sha256
from drl_jax.checkpoints.quiet import silence_orbax
from drl_jax.config import resume, schema
from drl_jax.config.build import Components, build, make_sampler
from drl_jax.config.overrides import override
from drl_jax.config.restore import load_model
from drl_jax.config.schema import Config
from drl_jax.config.scoring import data_kind
from drl_jax.core import energy
from drl_jax.core.levels import extract
from drl_jax.core.mcmc.base import value_and_gradient
from drl_jax.core.model import Model
from drl_jax.core.randomness import example_keys
from drl_jax.core.synthesis import descend, synthesize
from drl_jax.core.transition import Transition
from drl_jax.errors import UserError
from drl_jax.parallel.annealer import Annealer, Settings, bound_of
from drl_jax.parallel.mesh import place
from drl_jax.parallel.preemption import Stop
from drl_jax.parallel.sampler import ShardedSampler, count_not_finite, is_finite
from drl_jax.pixels import to_unit

LIKELIHOOD_FILE = "likelihood.json"  # what `likelihood` writes beside a model
_COUNTS = ("group", "warmup", "leapfrog_steps")  # of ChainSettings
_MAX_ABS = 20.0  # of floats: noise stays far below, images of 0 to 255 do not

Array = np.ndarray | jax.Array

Key = int | jax.Array
"""A seed, or a key of `jax.random.key`."""


def load(
    source: str | epath.PathLike, *, step: int | None = None, overrides: Mapping[str, str] | None = None
) -> "TrainedModel":
    """Loads a trained model.

    Args:
      source: the name of a model that ships ("digits"), the workdir of a run, or a file that `export` wrote.
      step: the step of the checkpoint in a workdir. Default: the newest.
      overrides: texts by key of the config, as on the command line: {"sampler.noise_scale": "1"}. What the
        model was trained with cannot be changed.

    Returns:
      The model.

    Raises:
      UserError: there is no such model.

    Example:
      >>> import drl_jax
      >>> model = drl_jax.load("digits")
      >>> images = model.sample(0, 4)
      >>> images.shape, images.dtype.name
      ((4, 8, 8, 1), 'uint8')
    """
    texts = dict(overrides or {})
    if step is not None:
        texts["evaluation.step"] = str(step)
    return find(str(source), texts).load()


class Found(NamedTuple):
    """A model that was found, before its weights are read.

    Attributes:
      config: how it was trained, with overrides.
      workdir: of its run, if it is one.
      load: reads the weights.
    """

    config: Config
    workdir: epath.Path | None
    load: Callable[[], "TrainedModel"]


def find(source: str, overrides: Mapping[str, str]) -> Found:
    """Finds a trained model. Uses no device yet.

    Args:
      source, overrides: as for `load`.

    Raises:
      UserError: there is no such model, or an override is not possible.
    """
    workdir = epath.Path(source).expanduser()
    if files.exists(workdir / schema.FILE):
        return _find_run(workdir.absolute(), overrides)
    if "evaluation.step" in overrides:
        raise UserError(
            f"config.evaluation.step={overrides['evaluation.step']} is of a workdir, and {source} is none; "
            "leave it out"
        )
    if workdir.is_dir():
        raise UserError(f"{source!r} is no model: the folder holds no run, for it has no {schema.FILE}")
    tree, about = weights.find(source)
    values = schema.complete(about["config"], source)
    config = schema.from_values(override(values, overrides, source), source)
    resume.check_unchanged(about["config"], config, source)

    def load() -> TrainedModel:
        parts, arrays = build(config), jax.tree.map(jnp.asarray, tree)
        model = Model(parts.network, parts.levels, arrays["params"], arrays["spectral"])
        return TrainedModel(source, config, parts, model, about)

    return Found(config, None, load)


def _find_run(workdir: epath.Path, overrides: Mapping[str, str]) -> Found:
    file = workdir / schema.FILE
    values = override(schema.load_values(file), overrides, str(file))
    config = schema.from_values(values, str(file))

    def load() -> TrainedModel:
        silence_orbax()
        parts = build(config)
        checkpoint, model = load_model(workdir, config, parts, place())
        about = {"step": checkpoint.step, **checkpoint.record}
        return TrainedModel(str(workdir), config, parts, model, about)

    return Found(config, workdir, load)


@dataclass(frozen=True)
class ChainSettings:
    """What `TrainedModel.run_chain` is asked for; see there."""

    steps: tuple[int, ...]
    method: str
    target: str
    level: int | None
    group: int
    step_size: float | None
    acceptance: float
    warmup: int
    leapfrog_steps: int

    def check(self, n: int, num_levels: int) -> None:
        """Raises UserError if the settings are not possible for n chains on a model of so many levels."""
        for name, value, possible in (
            ("method", self.method, chains.METHODS),
            ("target", self.target, ("levels", *get_args(chains.Target))),
        ):
            if value not in possible:
                raise UserError(f"{name}={value!r} is not possible: it must be one of {', '.join(possible)}")
        for name, count in (("n", n), *((name, getattr(self, name)) for name in _COUNTS)):
            _check_count(count, 1, name)
        least = num_levels if self.target == "levels" else 1
        for before, count in zip((0, *self.steps), self.steps, strict=False):
            _check_count(count, max(least, before + 1), "steps")
        if not self.steps:
            raise UserError("steps has no number; name one or more, which increase")
        if n % self.group:
            raise UserError(f"group={self.group} does not divide n={n} chains")
        if self.step_size is not None and not 0 < self.step_size < np.inf:
            raise UserError(f"step_size={self.step_size} is not possible: it must be above 0")
        if not 0 < self.acceptance < 1:
            raise UserError(f"acceptance={self.acceptance} is not possible: it must be between 0 and 1")
        if self.target == "levels":
            if self.level is not None or self.group > 1:
                raise UserError("level and group are of target='recovery' or 'marginal'; leave them out")
        elif self.level is None:
            raise UserError(f"target={self.target!r} needs level=t, from 0 to {num_levels - 1}")


class LongRun(NamedTuple):
    """What `TrainedModel.run_chain` returns.

    Attributes:
      examples: x_0 after each number of steps [numbers, n, *shape], of the data's type. Chains at a level t
        above 0 have states x_t, from which the levels below draw x_0.
      states: x_t [numbers, n, *shape], floats in units of the model; t = 0 for all levels.
      trace: energy, acceptance, displacement and projections of each chain against its steps.
      diagnostics: for each leg: the way to the next number of steps, at one level.
    """

    examples: np.ndarray
    states: np.ndarray
    trace: chains.Trace
    diagnostics: list[chains.Diagnostics]


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A trained model.

    Level t, 0 … T − 1, is the energy of x_t; x_T is white noise.

    Attributes:
      source: what it was loaded from.
      config: how it was trained.
      parts: what the config describes: the network, the levels and how samples are drawn.
      model: its arrays, for the functions of `drl_jax.core`.
      about: where it is from: the step, the data, the commit and so on.
    """

    source: str
    config: Config
    parts: Components
    model: Model
    about: Mapping[str, Any]

    def __repr__(self) -> str:
        shape, step = list(self.parts.shape), self.about["step"]
        return f"TrainedModel({self.config.data.name} {shape}, {self.num_levels} levels, step {step})"

    @property
    def num_levels(self) -> int:
        """T."""
        return self.parts.levels.num_levels

    def sample(self, key: Key, n: int = 16) -> np.ndarray:
        """Draws samples on all devices. Sample i depends on (key, i) and not on n.

        Args:
          key: a seed, or a key.
          n: how many.

        Returns:
          Samples [n, *shape], of the data's type.

        Raises:
          UserError: n is not possible, or chains left the finite numbers.

        Example:
          >>> import drl_jax
          >>> model = drl_jax.load("digits")
          >>> (model.sample(0, 2) == model.sample(0, 4)[:2]).all()
          np.True_
        """
        _check_count(n, 1)
        root = _key(key)
        x = np.concatenate([x for x, _ in self._sampler.sample(self.model, n, key=root)])

        def again(transition: Transition) -> jax.Array:
            keys = example_keys(root, 1, int(np.argmin(is_finite(x))))
            return _synthesize(keys, self.model, transition, self.parts.shape)

        return self._output(x, again)

    def energy(self, x: Array, level: int) -> np.ndarray:
        """Computes −log p_t(x) of examples at a level, in nats, up to a constant of the level.

        Args:
          x: examples [n, *shape].
          level: t, 0 … T − 1.

        Returns:
          Energies [n].

        Raises:
          UserError: the input is not right.

        Example:
          >>> import drl_jax
          >>> model = drl_jax.load("digits")
          >>> model.energy(model.sample(0, 4), level=0).shape
          (4,)
        """
        return -self._log_density_and_score(x, level)[0]

    def log_density(self, x: Array, level: int = 0, *, log_z: float | None = None) -> np.ndarray:
        """Computes log p_t(x) of examples, in nats: of numbers in units of the model, inside of a box.

        The density is normalised inside of |x_i| ≤ `bound(level)`, and is 0 outside. At level 0 it is that of
        data with a little noise, which is not added here: x_0 = ā_0 x + σ̄_0 ε.

        Args:
          x: examples [n, *shape].
          level: t, 0 … T − 1.
          log_z: log Z of the level in nats, as `estimate_log_z` gives it. Default: that of likelihood.json,
            which `drl-jax likelihood` has written in the workdir, or beside the file of the model.

        Returns:
          Log-densities [n]; −∞ outside of the box.

        Raises:
          UserError: the input is not right, or log Z is not known.

        Example:
          >>> import drl_jax
          >>> model = drl_jax.load("digits")
          >>> images = model.sample(0, 4)
          >>> log_z = 3.0  # any number here
          >>> bool((model.log_density(images, 5, log_z=log_z) == -model.energy(images, 5) - log_z).all())
          True
        """
        value, _ = self._log_density_and_score(x, level)
        log_z = self._stored_log_z(level) if log_z is None else log_z
        size, scale = np.prod(self.parts.shape), self.parts.levels.scale[level]
        is_inside = np.asarray(likelihood.inside(self._input(x), self.bound(level)))
        return np.where(is_inside, value + size * np.log(scale) - log_z, -np.inf)

    def bound(self, level: int = 0) -> float:
        """Computes the box of `log_density`: a_cum_t r + 6 sigma_cum_t, where data are in [-r, r].

        Args:
          level: t, 0 … T − 1.

        Returns:
          The largest |x_i|, in units of the model.

        Raises:
          UserError: there is no such level.
        """
        t = self._level(level, 0, self.num_levels - 1)
        return bound_of(self.parts.levels, t, self.reach) / float(self.parts.levels.scale[t])

    @property
    def reach(self) -> float:
        """r: data are in [-r, r] in units of the model."""
        density = data_kind(self.config).density
        return 1.0 if density is None else max(map(abs, density.box))

    def estimate_log_z(
        self, key: Key, level: int = 0, *, chains: int = 64, steps: int = 1000, leapfrog_steps: int = 5
    ) -> Sandwich:
        """Estimates log Z of a level by annealed importance sampling, from both sides, on all devices.

        The command `likelihood` does the same, and can be interrupted.

        Args:
          key: a seed, or a key.
          level: t, 0 … T − 1.
          chains: how many, at least 16.
          steps: from a normal distribution to the density; the reverse run has half as many more.
          leapfrog_steps: steps of a transition of HMC.

        Returns:
          Both estimates. Its `log_z` is None if they do not bracket log Z, and `doubt` says why.

        Raises:
          UserError: the input is not right, or the model's chains left the finite numbers.
        """
        t = self._level(level, 0, self.num_levels - 1)
        for name, value, low in (
            ("chains", chains, 16),
            ("steps", steps, 1),
            ("leapfrog_steps", leapfrog_steps, 1),
        ):
            _check_count(value, low, name)
        return self.annealer(key, chains=chains, steps=steps, leapfrog_steps=leapfrog_steps).run(t)

    def annealer(self, key: Key, *, chains: int, steps: int, leapfrog_steps: int) -> Annealer:
        """Makes what `estimate_log_z` runs, for runs in parts; the arguments are the same."""
        settings = Settings(chains=chains, steps=steps, leapfrog_steps=leapfrog_steps, reach=self.reach)
        return Annealer(self.model, self.parts.transition, self.parts.shape, _key(key), settings)

    def score(self, x: Array, level: int) -> np.ndarray:
        """Computes the gradient of log p_t(x) in x, in units of the model.

        Args:
          x: examples [n, *shape].
          level: t, 0 … T − 1.

        Returns:
          Gradients [n, *shape], float32.

        Raises:
          UserError: the input is not right.

        Example:
          >>> import drl_jax
          >>> model = drl_jax.load("digits")
          >>> model.score(model.sample(0, 4), level=0).shape
          (4, 8, 8, 1)
        """
        return self._log_density_and_score(x, level)[1]

    def statistics(self, key: Key, x: Array, level: int, n: int = 1) -> detection.Statistics:
        """Computes what tells other data from those of the model: both are expected to be higher for others.

        Examples get the noise of the level first. That of example i depends on (key, i).

        Args:
          key: a seed, or a key, of the noise.
          x: examples without noise [rows, *shape].
          level: t, 0 … T − 1.
          n: draws of the noise, over which the statistics are means.

        Returns:
          `energy`, −log p_t(x_t) in nats up to a constant of the level, and `score_norm`, ‖∇ log p_t(x_t)‖ in
          nats per unit of x_t: each [rows].

        Raises:
          UserError: the input is not right.

        Example:
          >>> import drl_jax
          >>> model = drl_jax.load("digits")
          >>> digits = model.sample(0, 4)
          >>> own, others = (model.statistics(0, x, level=1) for x in (digits, 255 - digits))
          >>> bool(own.energy.max() < others.energy.min())
          True
        """
        given, t = self._input(x), self._level(level, 0, self.num_levels - 1)
        _check_count(n, 1)
        root, parts = _key(key), []
        rows = min(len(given), self.config.evaluation.samples_per_device * jax.device_count())
        for first in range(0, len(given), rows):
            indices = jnp.minimum(first + jnp.arange(rows), len(given) - 1)  # the last row again and again
            keys = jax.vmap(jax.random.fold_in, (None, 0))(root, indices)
            (keys, part), _ = _on_all_devices((keys, given[indices]))
            parts.append(_statistics(keys, self.model, part, t, n))
        whole = (np.concatenate(field)[: len(given)] for field in zip(*parts, strict=True))
        return detection.Statistics(*whole)

    def denoise(self, key: Key, x: Array, level: int) -> np.ndarray:
        """Draws x_0 given noisy examples x_n, by the model's levels n − 1 … 0.

        Args:
          key: a seed, or a key.
          x: x_n = ā_n x + σ̄_n ε [rows, *shape]; floats.
          level: n, 1 … T.

        Returns:
          Examples [rows, *shape], of the data's type.

        Raises:
          UserError: the input is not right, or chains left the finite numbers.

        Example:
          At level 1 there is little noise, and an image stays what it is:

          >>> import drl_jax
          >>> from drl_jax.core.levels import diffuse_to
          >>> from drl_jax.core.randomness import example_keys
          >>> from drl_jax.pixels import to_unit
          >>> import jax, jax.numpy as jnp
          >>> model = drl_jax.load("digits")
          >>> images, keys = model.sample(0, 4), example_keys(jax.random.key(1), 4)
          >>> noisy = diffuse_to(keys, jnp.asarray(to_unit(images)), jnp.full(4, 1), model.parts.levels)
          >>> denoised = model.denoise(2, noisy, level=1)
          >>> bool(abs(to_unit(denoised) - to_unit(images)).mean() < 0.2)
          True
        """
        given, first = self._input(x), self._level(level, 1, self.num_levels)
        rows, n = _on_all_devices((example_keys(_key(key), len(given)), given))
        run = lambda transition: _descend(rows[0], self.model, transition, rows[1], first)[:n]
        return self._output(np.asarray(run(self.parts.transition)), run)

    def interpolate(
        self,
        key: Key,
        n: int = 8,
        *,
        between: tuple[Array, Array] | None = None,
        level: int | None = None,
    ) -> np.ndarray:
        """Draws examples on the way between two draws, or between two given examples.

        Args:
          key: a seed, or a key: of the ends, if they are drawn, and of all other noise, which is shared.
          n: how many, with both ends.
          between: two examples [*shape]. Default: two draws.
          level: given examples are diffused to x_level and mixed there, 1 … T. The higher, the freer are the
            results. Default: T / 2.

        Returns:
          Examples [n, *shape], of the data's type.

        Raises:
          UserError: the input is not right, or chains left the finite numbers.

        Example:
          >>> import drl_jax
          >>> model = drl_jax.load("digits")
          >>> zero, one = model.sample(0, 2)
          >>> model.interpolate(0, 3, between=(zero, one), level=2).shape
          (3, 8, 8, 1)
        """
        _check_count(n, 2)
        root, (weights_of_y, _) = _key(key), _on_all_devices(jnp.linspace(0.0, 1.0, n))
        if between is None:
            if level is not None:
                raise UserError(f"level={level} is for given examples; give between=(x, y) too")
            run = lambda transition: _between_samples(
                root, self.model, transition, self.parts.shape, weights_of_y
            )[:n]
        else:
            x, y = (self._input(np.asarray(each)[None]) for each in between)
            default = max(1, self.num_levels // 2)
            first = self._level(default if level is None else level, 1, self.num_levels)
            run = lambda transition: _between_examples(
                root, self.model, transition, x, y, weights_of_y, first
            )[:n]
        return self._output(np.asarray(run(self.parts.transition)), run)

    def inpaint(self, key: Key, x: Array, known: Array, n: int = 4) -> np.ndarray:
        """Draws completions of an example of which a part is known.

        Args:
          key: a seed, or a key.
          x: the example [*shape].
          known: true where it is known: [*shape], or [height, width] of an image.
          n: how many completions.

        Returns:
          Completions [n, *shape], of the data's type. They are x where it is known.

        Raises:
          UserError: the input is not right, or chains left the finite numbers.

        Example:
          >>> import drl_jax
          >>> import numpy as np
          >>> model = drl_jax.load("digits")
          >>> (digit,), known = model.sample(0, 1), np.ones((8, 8), bool)
          >>> known[4:] = False
          >>> completions = model.inpaint(0, digit, known, n=3)
          >>> completions.shape, (completions[:, :4] == digit[:4]).all()
          ((3, 8, 8, 1), np.True_)
        """
        _check_count(n, 1)
        x = np.asarray(x)
        given, mask = self._input(x[None]), self._known(known)
        keys = example_keys(_key(key), n)
        masks = jnp.repeat(jnp.asarray(mask)[None], n, axis=0)
        rows, _ = _on_all_devices((keys, jnp.repeat(given, n, axis=0), masks))
        run = lambda transition: _inpaint(rows[0], self.model, transition, *rows[1:])[:n]
        completed = self._output(np.asarray(run(self.parts.transition)), run)
        if x.dtype != completed.dtype:
            return completed
        return np.where(mask[None], x[None], completed)  # bytes to floats and back may lose one

    def run_chain(
        self,
        key: Key,
        n: int = 16,
        *,
        steps: int | Sequence[int] = 1000,
        method: str = "langevin",
        target: str = "levels",
        level: int | None = None,
        x: Array | None = None,
        group: int = 1,
        step_size: float | None = None,
        acceptance: float = 0.65,
        warmup: int = 200,
        leapfrog_steps: int = 5,
    ) -> "LongRun":
        """Runs long chains on the densities of the model, and measures how they mix.

        The target "levels" descends through all levels: a total number of steps is spread over them, so each
        number of `steps` is a descent of its own. "recovery" and "marginal" stay at one level. The step size
        of MALA, HMC and NUTS is adapted in a warm-up, by chains of its own, and then fixed.

        Args:
          key: a seed, or a key. Chain i depends on (key, i) and its start.
          n: how many chains.
          steps: after how many steps the chains are wanted; increasing numbers, the last is the length.
          method: "langevin", with the noise scale of the config, "mala", "hmc" or "nuts".
          target: what the chains follow.
          level: t, 0 … T − 1, of "recovery" or "marginal".
          x: where chains at one level begin: x_{t+1} of "recovery", x_t of "marginal", [n / group, *shape].
            Default: drawn by the model's levels above.
          group: how many chains in succession have one x. R̂ compares those of a group, and those of
            "marginal" all.
          step_size: in units of s_t, the Langevin step of training. Default: 1 for Langevin, else adapted.
          acceptance: to which step sizes are adapted, between 0 and 1.
          warmup: steps of the adaptation, at each level.
          leapfrog_steps: in a step of HMC.

        Returns:
          The chains after these numbers of steps, their trace and diagnostics.

        Raises:
          UserError: the input is not right, or chains left the finite numbers.

        Example:
          >>> import drl_jax
          >>> model = drl_jax.load("digits")
          >>> run = model.run_chain(0, 2, steps=(3, 9), target="marginal", level=3)
          >>> run.examples.shape, run.trace.energy.shape, run.diagnostics[-1].steps
          ((2, 2, 8, 8, 1), (9, 2), 9)
        """
        settings = ChainSettings(
            steps=(steps,) if isinstance(steps, int | np.integer) else tuple(steps),
            method=method,
            target=target,
            level=level,
            group=group,
            step_size=step_size,
            acceptance=acceptance,
            warmup=warmup,
            leapfrog_steps=leapfrog_steps,
        )
        run = self.prepare_chain(key, n, settings, x)
        parts = list(chains.continue_run(run, chains.begin(run)))
        states = [np.asarray(part.x)[:n] for part in parts if part.x is not None]
        trace = chains.join([(part.leg, part.steps, part.point) for part in parts])
        examples = np.stack([self.finish_chain(run, x) for x in states])
        return LongRun(examples, np.stack(states), trace, chains.diagnose(run, trace))

    def prepare_chain(
        self,
        key: Key,
        n: int,
        settings: "ChainSettings",
        x: Array | None = None,
        step_sizes: np.ndarray | None = None,
    ) -> chains.Run:
        """Makes the chains of `run_chain`, for the functions of `drl_jax.applications.chains`.

        Args:
          key, n, x: as for `run_chain`.
          settings: its other arguments.
          step_sizes: of each level, from an earlier warm-up of the same chains. Default: adapted now.

        Returns:
          The chains, with adapted step sizes.

        Raises:
          UserError: the input is not right.
        """
        num_levels, parts = self.num_levels, self.parts
        settings.check(n, num_levels)
        root = _key(key)
        keys, group = example_keys(root, n), settings.group
        if settings.level is None:
            if x is not None:
                raise UserError("x is of target='recovery' or 'marginal'; leave it out")
            target, first = "recovery", num_levels
            legs = chains.all_levels(num_levels, settings.steps)
        else:
            target = "marginal" if settings.target == "marginal" else "recovery"
            level = self._level(settings.level, 0, num_levels - 1)
            first = level + (target == "recovery")
            legs = chains.one_level(level, settings.steps)
        owners, _ = _on_all_devices(keys[::group])
        if x is None:
            draw = lambda transition: chains.synthesize_to(
                owners, self.model, transition, parts.shape, first
            )[: n // group]
            given = draw(parts.transition)
            self._check_finite(np.asarray(given), draw)
        else:
            given = self._input(x)
            if len(given) != n // group:
                raise UserError(f"x has {len(given)} rows; right is one for each of {n // group} groups")
        start = jnp.repeat(given, group, axis=0)
        (keys, start), _ = _on_all_devices((keys, start))
        kernel = chains.Kernel(
            settings.method,
            noise_scale=self.config.sampler.noise_scale,
            step_range=self.config.sampler.step_range,
            leapfrog_steps=settings.leapfrog_steps,
        )
        if step_sizes is None and (settings.step_size or not kernel.is_adjusted):
            step_sizes = np.full(num_levels, settings.step_size or 1.0)
        if step_sizes is None:
            step_sizes = chains.warm_up(
                chains.pilot_keys(example_keys(root, chains.PILOTS)),
                self.model,
                parts.transition,
                parts.shape,
                sorted({leg.level for leg in legs}, reverse=True),
                settings.acceptance,
                kernel=kernel,
                target=target,
                num_steps=settings.warmup,
            )
        one_target = n if target == "marginal" else group
        return chains.Run(keys, self.model, kernel, target, start, legs, step_sizes, n, one_target)

    def finish_chain(self, run: chains.Run, x: np.ndarray) -> np.ndarray:
        """Draws examples x_0 from the states x_t of chains, by the model's levels below t.

        Args:
          run: the chains.
          x: x_t, where t is the lowest level of the run [n, *shape].

        Returns:
          Examples [n, *shape], of the data's type.

        Raises:
          UserError: chains left the finite numbers.
        """
        level = run.legs[-1].level
        if level == 0:
            return data_kind(self.config).to_examples(x)
        (rows, _), n = _on_all_devices(jnp.asarray(x)), len(x)
        again = lambda transition: _descend(run.keys, self.model, transition, rows, level)[:n]
        return self._output(np.asarray(again(self.parts.transition)), again)

    def _log_density_and_score(self, x: Array, level: int) -> tuple[np.ndarray, np.ndarray]:
        t = self._level(level, 0, self.num_levels - 1)
        rows, n = _on_all_devices(self._input(x))
        log_density, score = _log_density_and_score(self.model, rows, t)
        return np.asarray(log_density)[:n], np.asarray(score)[:n]

    def _stored_log_z(self, level: int) -> float:
        folder = epath.Path(self.source).expanduser()
        if self.source in pretrained.names():
            folder = epath.Path(pretrained.weights_of(self.source)).parent
        elif not folder.is_dir():
            folder = folder.parent
        command = f"drl-jax likelihood --model={self.source} --levels={level}"
        unknown = f"log Z of level {level} is not known: run `{command}`, or give log_z"
        try:
            stored = json.loads((folder / LIKELIHOOD_FILE).read_text())
            if stored["weights_sha256"] != sha256(self.model):
                raise UserError(f"{folder / LIKELIHOOD_FILE} is of other weights, and {unknown}")
            found = stored["levels"][str(level)]
            log_z, doubt = found["log_z"], found["doubt"]
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(unknown) from None
        if log_z is None:
            raise UserError(f"log Z of level {level} is not known: {doubt} (from `{command}`)")
        return log_z

    @cached_property
    def _sampler(self) -> ShardedSampler:
        return make_sampler(self.config, self.parts, place(), Stop())

    def _input(self, x: Array) -> jax.Array:
        """Examples in units of the model."""
        x, shape = np.asarray(x), self.parts.shape
        if x.shape[1:] != shape or not len(x):
            rows = ", ".join(map(str, shape))
            raise UserError(f"an array of shape {list(x.shape)} is not possible; right is [n, {rows}], n ≥ 1")
        is_image = len(shape) > 1
        if not np.issubdtype(x.dtype, np.floating) and not (is_image and x.dtype == np.uint8):
            right = "uint8, 0 to 255, or floats, where data are in [-1, 1]" if is_image else "floats"
            raise UserError(f"an array of {x.dtype} is not possible; right is {right}")
        x = to_unit(x)
        if not np.isfinite(x).all():
            raise UserError("the array has numbers that are not finite")
        if np.abs(x).max() > _MAX_ABS:
            raise UserError(
                f"floats up to {np.abs(x).max():g} are not possible: data are in [-1, 1]; bytes are uint8"
            )
        return jnp.asarray(x)

    def _known(self, known: Array) -> np.ndarray:
        known, shape = np.asarray(known), self.parts.shape
        if known.dtype != bool:
            raise UserError(f"known is of {known.dtype}; right is bool, true where the example is known")
        if known.shape == shape[:-1] and len(shape) > 1:
            known = known[..., None]
        if known.shape not in (shape, (*shape[:-1], 1)):
            raise UserError(f"known has the shape {list(known.shape)}; right is {list(shape)}")
        known = np.broadcast_to(known, shape)
        if known.all():
            raise UserError("known is true everywhere: there is nothing to complete")
        return known

    def _level(self, level: int, low: int, high: int) -> int:
        if isinstance(level, bool) or not isinstance(level, int | np.integer) or not low <= level <= high:
            raise UserError(f"level={level} is not possible: it must be a whole number from {low} to {high}")
        return int(level)

    def _output(self, x: np.ndarray, again: Callable[[Transition], jax.Array]) -> np.ndarray:
        """Examples of the data's type. Raises UserError if chains left the finite numbers, and says where."""
        self._check_finite(x, again)
        return data_kind(self.config).to_examples(x)

    def _check_finite(self, x: np.ndarray, again: Callable[[Transition], jax.Array]) -> None:
        if broken := count_not_finite(x):
            level, step = _first_not_finite(self.parts.transition, again)
            raise UserError(
                f"{broken} of {len(x)} chains left the finite numbers, at level {level}, step {step}: the "
                "model has diverged, or its step size is too large"
            )


def _on_all_devices(rows: Any) -> tuple[Any, int]:
    """(Arrays with the same rows, in equal parts on all devices; the number of rows).

    The last row is repeated until the rows divide.
    """
    placement, n = place(), len(jax.tree.leaves(rows)[0])
    indices = jnp.minimum(jnp.arange(n + -n % placement.num_devices), n - 1)
    put = lambda array: jax.device_put(jnp.asarray(array)[indices], placement.batched)
    return jax.tree.map(put, rows), n


def _key(key: Key) -> jax.Array:
    if isinstance(key, jax.Array):
        if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key) or key.shape:
            raise UserError("key is an array; right is a seed, or one key of jax.random.key")
        return key
    if isinstance(key, bool) or not isinstance(key, int | np.integer) or not 0 <= key < 2**31:
        raise UserError(
            f"key={key} is not possible: it must be a seed from 0 to {2**31 - 1}, or a key of JAX"
        )
    return jax.random.key(int(key))


def _check_count(n: int, low: int, name: str = "n") -> None:
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < low:
        raise UserError(f"{name}={n} is not possible: it must be a whole number of at least {low}")


def _first_not_finite(transition: Transition, again: Callable[[Transition], jax.Array]) -> tuple[int, int]:
    """(level, step) at which chains first leave the finite numbers, found by running them again."""
    found: list[tuple[int, int]] = []

    def note(t, is_finite) -> None:
        if not is_finite.all():
            found.append((int(t), int(np.argmin(is_finite.all(axis=1)))))

    def watched(keys, f, levels, t, x_next):
        x, info = transition(keys, f, levels, t, x_next)
        is_finite = jnp.isfinite(info.log_density) & jnp.isfinite(info.displacement)
        jax.debug.callback(note, t[0], is_finite)
        return x, info

    again(watched).block_until_ready()
    jax.effects_barrier()
    return max(found, key=lambda each: (each[0], -each[1]), default=(-1, -1))


@jax.jit
def _log_density_and_score(model: Model, x: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
    every = jnp.full(len(x), t)
    log_density = energy.marginal(model.bind(), model.levels, every)
    return value_and_gradient(lambda x: log_density(extract(model.levels.scale, every, x) * x), x)


@jax.jit
def _statistics(keys, model: Model, x: jax.Array, t, n) -> detection.Statistics:
    return detection.statistics(keys, model.bind(), model.levels, jnp.full(len(x), t), x, n)


@partial(jax.jit, static_argnames=("transition", "shape"))
def _synthesize(keys, model: Model, transition: Transition, shape: tuple[int, ...]) -> jax.Array:
    return synthesize(keys, model.bind(), model.levels, transition, shape)[0]


@partial(jax.jit, static_argnames=("transition", "first"))
def _descend(keys, model: Model, transition: Transition, x: jax.Array, first: int) -> jax.Array:
    return descend(keys, model.bind(), model.levels, transition, x, first)[0]


@partial(jax.jit, static_argnames=("transition", "shape"))
def _between_samples(key, model: Model, transition: Transition, shape: tuple[int, ...], w) -> jax.Array:
    return interpolation.between_samples(key, model.bind(), model.levels, transition, shape, w)


@partial(jax.jit, static_argnames=("transition", "first"))
def _between_examples(key, model: Model, transition: Transition, x, y, w, first: int) -> jax.Array:
    return interpolation.between_examples(key, model.bind(), model.levels, transition, x, y, w, first)


@partial(jax.jit, static_argnames=("transition",))
def _inpaint(keys, model: Model, transition: Transition, x, known) -> jax.Array:
    return inpainting.inpaint(keys, model.bind(), model.levels, transition, x, known)
