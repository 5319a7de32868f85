"""A trained model: its methods take and give arrays of the data's kind."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from drl_jax.api import checks, programs
from drl_jax.api.checks import Array, Key, check_count, random_key, whole_level
from drl_jax.api.long_runs import ChainSettings, LongRun
from drl_jax.api.programs import Watch, WatchedMaking, first_not_finite, on_all_devices, unwatched
from drl_jax.api.stored import stored_log_z
from drl_jax.applications import chains, detection, likelihood
from drl_jax.applications.kernels import Kernel
from drl_jax.applications.likelihood import Sandwich
from drl_jax.config.build import Components, make_sampler
from drl_jax.config.schema import Config
from drl_jax.config.scoring import data_kind
from drl_jax.core.levels import diffuse_to
from drl_jax.core.model import Model
from drl_jax.core.randomness import example_keys
from drl_jax.errors import UserError
from drl_jax.parallel.annealer import Annealer, Settings, bound_of
from drl_jax.parallel.mesh import place
from drl_jax.parallel.preemption import Stop
from drl_jax.parallel.sampler import ShardedSampler, count_not_finite, is_finite


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

    @property
    def middle_level(self) -> int:
        """T / 2, at least 1: the t of x_t if none is named."""
        return max(1, self.num_levels // 2)

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
        check_count(n, 1)
        root = random_key(key)
        x = np.concatenate([x for x, _ in self._sampler.sample(self.model, n, key=root)])

        def again(watch: Watch) -> jax.Array:
            keys = example_keys(root, 1, int(np.argmin(is_finite(x))))
            return programs.draw(keys, self.model, watch(self.parts.transition), self.parts.shape)

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
        return self.energy_and_score(x, level)[0]

    def log_density(self, x: Array, level: int = 0, *, log_z: float | None = None) -> np.ndarray:
        """Computes log p_t(x) of examples, in nats: of numbers in units of the model, inside of a box.

        The density is normalised inside of |x_i| ≤ `bound(level)`, and is 0 outside. At level 0 it is that of
        data with a little noise, which is not added here: x_0 = ā_0 x + σ̄_0 ε.

        Args:
          x: examples [n, *shape].
          level: t, 0 … T − 1.
          log_z: log Z of the level in nats, as `estimate_log_z` gives it. Default: that of likelihood.json,
            which `drl-jax likelihood` has written in the workdir, or beside the exported file.

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
        energy = self.energy(x, level)
        log_z = stored_log_z(self.source, self.model, level) if log_z is None else log_z
        size, scale = np.prod(self.parts.shape), self.parts.levels.scale[level]
        is_inside = np.asarray(likelihood.inside(checks.examples(x, self.parts.shape), self.bound(level)))
        return np.where(is_inside, -energy + size * np.log(scale) - log_z, -np.inf)

    def bound(self, level: int = 0) -> float:
        """Computes the box of `log_density`: a_cum_t r + 6 sigma_cum_t, where data are in [-r, r].

        Args:
          level: t, 0 … T − 1.

        Returns:
          The largest |x_i|, in units of the model.

        Raises:
          UserError: there is no such level.
        """
        t = whole_level(level, 0, self.num_levels - 1)
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
        t = whole_level(level, 0, self.num_levels - 1)
        for name, value, low in (
            ("chains", chains, 16),
            ("steps", steps, 1),
            ("leapfrog_steps", leapfrog_steps, 1),
        ):
            check_count(value, low, name)
        return self.annealer(key, chains=chains, steps=steps, leapfrog_steps=leapfrog_steps).run(t)

    def annealer(self, key: Key, *, chains: int, steps: int, leapfrog_steps: int) -> Annealer:
        """Makes what `estimate_log_z` runs, for runs in parts; the arguments are the same."""
        settings = Settings(chains=chains, steps=steps, leapfrog_steps=leapfrog_steps, reach=self.reach)
        return Annealer(self.model, self.parts.transition, self.parts.shape, random_key(key), settings)

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
        return self.energy_and_score(x, level)[1]

    def statistics(self, key: Key, x: Array, level: int, n: int = 1) -> detection.Statistics:
        """Computes two statistics of examples, which are expected to be higher for data of another kind.

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
        given, t = checks.examples(x, self.parts.shape), whole_level(level, 0, self.num_levels - 1)
        check_count(n, 1)
        root, parts = random_key(key), []
        rows = min(len(given), self.config.evaluation.samples_per_device * jax.device_count())
        for first in range(0, len(given), rows):
            indices = jnp.minimum(first + jnp.arange(rows), len(given) - 1)  # the last row again and again
            keys = jax.vmap(jax.random.fold_in, (None, 0))(root, indices)
            (keys, part), _ = on_all_devices((keys, given[indices]))
            parts.append(programs.statistics(keys, self.model, part, t, n))
        whole = (np.concatenate(field)[: len(given)] for field in zip(*parts, strict=True))
        return detection.Statistics(*whole)

    def diffuse(self, key: Key, x: Array, level: int) -> np.ndarray:
        """Adds the noise of a level to examples. The noise of row i depends on (key, i).

        Args:
          key: a seed, or a key.
          x: examples [rows, *shape].
          level: n, 0 … T.

        Returns:
          x_n = ā_n x + σ̄_n ε [rows, *shape], floats in units of the model.

        Raises:
          UserError: the input is not right.

        Example:
          At level 0 there is nearly no noise:

          >>> import drl_jax
          >>> model = drl_jax.load("digits")
          >>> images = model.sample(0, 4)
          >>> bool(abs(model.diffuse(1, images, level=0) - (images / 127.5 - 1)).max() < 0.1)
          True
        """
        given, t = checks.examples(x, self.parts.shape), whole_level(level, 0, self.num_levels)
        keys = example_keys(random_key(key), len(given))
        return np.asarray(diffuse_to(keys, given, jnp.full(len(given), t), self.parts.levels))

    def denoise(self, key: Key, x: Array, level: int) -> np.ndarray:
        """Draws x_0 given noisy examples x_n, by the model's levels n − 1 … 0.

        Args:
          key: a seed, or a key.
          x: x_n [rows, *shape], as `diffuse` makes it; floats.
          level: n, 1 … T.

        Returns:
          Examples [rows, *shape], of the data's type.

        Raises:
          UserError: the input is not right, or chains left the finite numbers.

        Example:
          At level 1 there is little noise, and an image stays what it is:

          >>> import drl_jax
          >>> model = drl_jax.load("digits")
          >>> images = model.sample(0, 4)
          >>> denoised = model.denoise(2, model.diffuse(1, images, level=1), level=1)
          >>> bool(abs(denoised.astype(float) - images).mean() < 25)
          True
        """
        given, first = checks.examples(x, self.parts.shape), whole_level(level, 1, self.num_levels)
        rows, n = on_all_devices((example_keys(random_key(key), len(given)), given))
        run = lambda watch: programs.draw_from(
            rows[0], self.model, watch(self.parts.transition), rows[1], first
        )[:n]
        return self._run(run)

    def interpolate(
        self,
        key: Key,
        n: int = 8,
        *,
        between: tuple[Array, Array] | None = None,
        level: int | None = None,
        noise: str = "mixed",
    ) -> np.ndarray:
        """Draws examples on the way between two draws, or between two given examples.

        Args:
          key: a seed, or a key, of all noise. If the ends are drawn, the first is that of `sample(key)`.
          n: how many, with both ends.
          between: two examples [*shape]. Default: two draws.
          level: given examples are diffused to x_level and mixed there, 1 … T. The higher, the freer are the
            results. Default: T / 2.
          noise: "mixed": each end has noise of its own in all steps of its chain, which is mixed between the
            ends. "shared": all chains have the same noise, and only x_T or x_level differs. After many steps
            it is the noise alone that decides what is drawn, and all results look alike.

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
        check_count(n, 2)
        if noise not in ("mixed", "shared"):
            raise UserError(f"noise={noise!r} is not possible: it must be mixed or shared")
        first_key = example_keys(random_key(key), 1)[0]
        weights_of_y, _ = on_all_devices(jnp.linspace(0.0, 1.0, n))
        make = partial(WatchedMaking, self.parts.make_transition)
        if between is None:
            if level is not None:
                raise UserError(f"level={level} is for given examples; give between=(x, y) too")
            run = lambda watch: programs.between_samples(
                first_key, self.model, make(watch), self.parts.shape, weights_of_y, noise
            )[:n]
        else:
            x, y = (checks.example(each, self.parts.shape, "an end of between") for each in between)
            first = self.middle_level if level is None else whole_level(level, 1, self.num_levels)
            run = lambda watch: programs.between_examples(
                first_key, self.model, make(watch), x, y, weights_of_y, first, noise
            )[:n]
        return self._run(run)

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
        check_count(n, 1)
        x = np.asarray(x)
        given, mask = checks.example(x, self.parts.shape), checks.mask(known, self.parts.shape)
        keys = example_keys(random_key(key), n)
        masks = jnp.repeat(jnp.asarray(mask)[None], n, axis=0)
        rows, _ = on_all_devices((keys, jnp.repeat(given, n, axis=0), masks))
        run = lambda watch: programs.inpaint(rows[0], self.model, watch(self.parts.transition), *rows[1:])[:n]
        completed = self._run(run)
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
    ) -> LongRun:
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
        settings: ChainSettings,
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
        root = random_key(key)
        keys, group = example_keys(root, n), settings.group
        if settings.level is None:
            if x is not None:
                raise UserError("x is of target='recovery' or 'marginal'; leave it out")
            target, first = "recovery", num_levels
            legs = chains.all_levels(num_levels, settings.steps)
        else:
            target = "marginal" if settings.target == "marginal" else "recovery"
            level = int(settings.level)
            first = level + (target == "recovery")
            legs = chains.one_level(level, settings.steps)
        owners, _ = on_all_devices(keys[::group])
        if x is None:
            draw = lambda watch: chains.synthesize_to(
                owners, self.model, watch(parts.transition), parts.shape, first
            )[: n // group]
            given = draw(unwatched)
            self._check_finite(np.asarray(given), draw)
        else:
            given = checks.examples(x, self.parts.shape)
            if len(given) != n // group:
                raise UserError(f"x has {len(given)} rows; right is one for each of {n // group} groups")
        start = jnp.repeat(given, group, axis=0)
        (keys, start), _ = on_all_devices((keys, start))
        kernel = Kernel(
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
        (rows, _), n = on_all_devices(jnp.asarray(x)), len(x)
        again = lambda watch: programs.draw_from(
            run.keys, self.model, watch(self.parts.transition), rows, level
        )[:n]
        return self._run(again)

    def energy_and_score(self, x: Array, level: int) -> tuple[np.ndarray, np.ndarray]:
        """Computes what `energy` and `score` return, in one pass.

        Args:
          x: examples [n, *shape].
          level: t, 0 … T − 1.

        Returns:
          Energies [n], and gradients of log p_t(x) [n, *shape].

        Raises:
          UserError: the input is not right.
        """
        t = whole_level(level, 0, self.num_levels - 1)
        rows, n = on_all_devices(checks.examples(x, self.parts.shape))
        log_density, score = programs.log_density_and_score(self.model, rows, t)
        return -np.asarray(log_density)[:n], np.asarray(score)[:n]

    @cached_property
    def _sampler(self) -> ShardedSampler:
        return make_sampler(self.config, self.parts, place(), Stop())

    def _run(self, run: Callable[[Watch], jax.Array]) -> np.ndarray:
        """Runs chains once, and again if they left the finite numbers, to say where: see `_output`."""
        return self._output(np.asarray(run(unwatched)), run)

    def _output(self, x: np.ndarray, again: Callable[[Watch], jax.Array]) -> np.ndarray:
        """Examples of the data's type. Raises UserError if chains left the finite numbers, and says where."""
        self._check_finite(x, again)
        return data_kind(self.config).to_examples(x)

    def _check_finite(self, x: np.ndarray, again: Callable[[Watch], jax.Array]) -> None:
        if broken := count_not_finite(x):
            level, step = first_not_finite(again)
            raise UserError(
                f"{broken} of {len(x)} chains left the finite numbers, at level {level}, step {step}: the "
                "model has diverged, or its step size is too large"
            )
