"""From a config to the parts of a run. What is built here takes plain arguments and knows no config."""

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import optax
from flax import linen as nn

from drl_jax.config import schema
from drl_jax.config.schema import Config
from drl_jax.core.levels import DDPM_COUNT, Levels, make_levels
from drl_jax.core.mcmc import langevin, mala
from drl_jax.core.networks import PointEnergy, ResidualEnergy
from drl_jax.core.networks.residual import check_side, leaky_relu, leaky_swish, smooth_abs
from drl_jax.core.objective import Objective, denoising_score_matching, recovery_likelihood
from drl_jax.core.pairs import coupled, independent
from drl_jax.core.randomness import DrawNoise, standard_normal
from drl_jax.core.transition import (
    MakeSampler,
    MakeTransition,
    Transition,
    mcmc_transition,
    normal_transition,
)
from drl_jax.data.sources import Opened, has_split, open_source
from drl_jax.errors import UserError
from drl_jax.parallel.mesh import Placement
from drl_jax.parallel.preemption import Stop
from drl_jax.parallel.sampler import ShardedSampler
from drl_jax.training.optimizer import make_optimizer
from drl_jax.training.step import TrainState, TrainStep, init_state, make_train_step


def _langevin(sampler: schema.Sampler, noise_scale: float) -> MakeSampler:
    del sampler
    return partial(langevin, noise_scale=noise_scale)


def _mala(sampler: schema.Sampler, noise_scale: float) -> MakeSampler:
    if noise_scale != 1:
        raise UserError(
            f"config.sampler.noise_scale={noise_scale} is not possible with config.sampler.name=mala: it "
            "must be 1, because mala corrects for the noise of its proposals"
        )
    return partial(mala, step_range=sampler.step_range)


# config.sampler.name -> (config.sampler, noise scale) -> what makes a sampler, also with `draw_noise`
SAMPLERS = {"langevin": _langevin, "mala": _mala, "normal": _langevin}


# config.network.activation -> attributes of ResidualEnergy
ACTIVATIONS = {
    "leaky_relu": {"activation": leaky_relu, "final_activation": nn.relu},
    "smooth": {"activation": leaky_swish, "final_activation": smooth_abs},
}


class Components(NamedTuple):
    """The parts that a config describes.

    Attributes:
      network: the Flax module f(y, t).
      gradient_network: the same function, in the form that suits the gradient in its parameters.
      levels: the noise levels.
      transition: x_{t+1} → x_t when sampling.
      make_transition: makes it with another source of noise.
      objective: what training minimises; its own transition has noise scale 1.
      optimizer: from Optax.
      shape: of one example.
      microbatches: parts of a device's rows, one after another.
      power_iterations: of spectral normalisation, per training step.
      init_iterations: power iterations before the first step.
      ema_decay: of the averaged weights.
    """

    network: nn.Module
    gradient_network: nn.Module
    levels: Levels
    transition: Transition
    make_transition: MakeTransition
    objective: Objective
    optimizer: optax.GradientTransformation
    shape: tuple[int, ...]
    microbatches: int
    power_iterations: int
    init_iterations: int
    ema_decay: float

    def init_state(self, key: jax.Array) -> TrainState:
        """Makes the state before the first step."""
        return init_state(
            key,
            self.network,
            self.levels,
            self.optimizer,
            self.shape,
            spectral_iterations=self.init_iterations,
        )

    def train_step(self) -> TrainStep:
        """Makes the training step."""
        return make_train_step(
            self.network,
            self.levels.num_levels,
            self.objective,
            self.optimizer,
            gradient_network=self.gradient_network,
            microbatches=self.microbatches,
            power_iterations=self.power_iterations,
            ema_decay=self.ema_decay,
        )


def build(config: Config) -> Components:
    """Checks a config and builds its parts; computes nothing yet.

    Raises:
      UserError: a value is not possible.
    """
    schema.check(config)
    rows, parts = config.data.batch_size, config.training.microbatches
    if rows % parts:
        raise UserError(
            f"config.data.batch_size={rows} does not divide by config.training.microbatches={parts}"
        )
    levels = _levels(config)
    network = _network(config)
    make_transition = _make_transition(config, levels)
    return Components(
        network=network,
        gradient_network=_gradient_network(config, network),
        levels=levels,
        transition=make_transition(standard_normal),
        make_transition=make_transition,
        objective=_objective(config, levels),
        optimizer=make_optimizer(**vars(config.optimizer)),
        shape=_shape(config),
        microbatches=config.training.microbatches,
        power_iterations=config.spectral.iterations,
        init_iterations=config.spectral.init_iterations,
        ema_decay=config.training.ema_decay,
    )


def make_sampler(config: Config, parts: Components, placement: Placement, stop: Stop) -> ShardedSampler:
    """Makes the sampler of `config.evaluation`, on all devices."""
    return ShardedSampler(
        parts.transition,
        parts.shape,
        placement,
        stop,
        samples_per_device=config.evaluation.samples_per_device,
        seed=config.evaluation.seed,
    )


def set_precision(config: Config) -> None:
    """Sets the precision of all products that this process computes, as `config.network.precision` says."""
    if config.network.precision != "default":
        jax.config.update("jax_default_matmul_precision", config.network.precision)


def with_split(config: Config, split: str) -> Config:
    """Returns the config with another split of its data."""
    return replace(config, data=replace(config.data, split=split))


def open_data(config: Config, prepare_command: str, *, for_check: bool = False) -> Opened:
    """Opens the examples of `config.data`.

    Args:
      config: the config.
      prepare_command: the command that a message names if the data are not prepared.
      for_check: every example is to be read once, to find the bad ones.

    Raises:
      UserError: the data cannot be opened.
    """
    data = config.data
    return open_source(
        data.name,
        split=data.split,
        image_size=data.image_size,
        channels=data.channels,
        data_dir=data.data_dir,
        path=data.path,
        crop=data.crop,
        background=data.background,
        skip_damaged=data.skip_damaged,
        for_check=for_check,
        density=data.density,
        timeout=data.timeout,
        prepare_command=prepare_command,
    )


def open_compared(config: Config, source: Opened, prepare_command: str) -> tuple[Config, Opened]:
    """Opens the data that samples are compared with, those of `config.evaluation.split`.

    Args:
      config: the config.
      source: the examples of `config.data`.
      prepare_command: the command that a message names if the data are not prepared.

    Returns:
      (The config in which this split is that of the data, its examples).

    Raises:
      UserError: the data have no such split, or cannot be opened.
    """
    data, split = config.data, config.evaluation.split
    if split is None or split == data.split:
        return config, source
    if not has_split(data.name, split, data_dir=data.data_dir):
        raise UserError(
            f"config.evaluation.split={split} is not possible: the data set {data.name} has no such split"
        )
    compared = with_split(config, split)
    return compared, open_data(compared, prepare_command)


def open_held_out(config: Config, prepare_command: str, split: str | None = None) -> tuple[Opened, str]:
    """Opens a split of `config.data`: the given one, or else the test split, or else that of training.

    After this call, problems of the examples are logged.

    Args:
      config: the config.
      prepare_command: the command that a message names if the data are not prepared.
      split: its name.

    Returns:
      (The examples, the name of their split).

    Raises:
      UserError: the data cannot be opened.
    """
    data = config.data
    source = open_data(config, prepare_command)
    if split is None:
        split = "test" if has_split(data.name, "test", data_dir=data.data_dir) else data.split
    if split != data.split:
        source = open_data(with_split(config, split), prepare_command)
    source.notes.listen()
    return source, split


def _levels(config: Config) -> Levels:
    proportions, count = config.training.level_proportions, config.levels.count
    if proportions is not None and len(proportions) != count:
        raise UserError(
            f"config.training.level_proportions={proportions} has {len(proportions)} numbers; "
            f"config.levels.count={count} needs {count}, or --config.training.level_proportions=None"
        )
    try:
        return make_levels(**vars(config.levels), proportions=proportions)
    except ValueError as error:
        raise UserError(f"config.levels: {error}") from None


def _objective(config: Config, levels: Levels) -> Objective:
    penalty = config.training.energy_penalty
    if config.training.objective == "score":
        if config.levels.count != DDPM_COUNT:
            raise UserError(
                f"config.training.objective=score is not possible with config.levels.count="
                f"{config.levels.count}; it needs {DDPM_COUNT}"
            )
        _check_uncoupled(config)
        return denoising_score_matching(levels, energy_penalty=penalty)
    in_training = replace(config.sampler, noise_scale=1.0, extra_steps=0)
    if config.sampler.name == "normal":
        in_training = replace(in_training, steps=0)
    transition = _make_transition(replace(config, sampler=in_training), levels)(standard_normal)
    if config.sampler.name != "langevin":
        _check_uncoupled(config)
    draw_pair = coupled(config.sampler.steps) if config.training.coupled else independent
    return recovery_likelihood(levels, transition, draw_pair=draw_pair, energy_penalty=penalty)


def _check_uncoupled(config: Config) -> None:
    if config.training.coupled:
        name, objective = config.sampler.name, config.training.objective
        raise UserError(
            f"config.training.coupled=True is not possible with config.sampler.name={name} and "
            f"config.training.objective={objective}; it needs langevin and recovery"
        )


def _make_transition(config: Config, levels: Levels) -> MakeTransition:
    sampler = config.sampler
    if sampler.name not in SAMPLERS:
        raise UserError(
            f"config.sampler.name={sampler.name!r} is not possible: it must be one of {', '.join(SAMPLERS)}"
        )
    make_sampler = SAMPLERS[sampler.name](sampler, sampler.noise_scale)
    num_steps = sampler.steps + sampler.extra_steps
    if sampler.name == "normal":
        if not levels.is_recovery.all():
            raise UserError(
                f"config.sampler.name=normal is not possible with config.levels.count={config.levels.count}: "
                f"it is an approximation for small noise; take config.levels.count={DDPM_COUNT}"
            )

        def make_normal(draw_noise: DrawNoise) -> Transition:
            return normal_transition(
                partial(make_sampler, draw_noise=draw_noise),
                noise_scale=sampler.noise_scale,
                num_steps=num_steps,
                draw_noise=draw_noise,
            )

        return make_normal
    if sampler.steps == 0:
        raise UserError(
            f"config.sampler.steps=0 is not possible with config.sampler.name={sampler.name}: it must be at "
            "least 1"
        )
    return lambda draw_noise: mcmc_transition(
        partial(make_sampler, draw_noise=draw_noise), num_steps=num_steps
    )


def _network(config: Config) -> nn.Module:
    match config.network:
        case schema.Residual():
            return _residual(config, config.network)
        case schema.Points():
            return _points(config, config.network)


def _residual(config: Config, network: schema.Residual) -> nn.Module:
    side, multipliers = config.data.image_size, network.multipliers
    try:
        check_side(side, side, len(multipliers))
    except ValueError as error:
        raise UserError(
            f"config.data.image_size={side} and config.network.multipliers={multipliers}: {error}"
        ) from None
    sides = [side >> i for i in range(len(multipliers))]
    if not set(network.attention) <= set(sides):
        raise UserError(
            f"config.network.attention={network.attention} is not possible: the feature maps have "
            f"the sides {', '.join(map(str, sides))}"
        )
    return ResidualEnergy(**_settings(network))


def _points(config: Config, network: schema.Points) -> nn.Module:
    if network.min_frequency > network.max_frequency:
        raise UserError(
            f"config.network.min_frequency={network.min_frequency} is above "
            f"config.network.max_frequency={network.max_frequency}"
        )
    return PointEnergy(num_levels=config.levels.count, **_settings(network))


def _gradient_network(config: Config, network: nn.Module) -> nn.Module:
    if isinstance(network, ResidualEnergy):
        return network.clone(scan_blocks=True, remat=config.training.remat)
    if config.training.remat:
        raise UserError(
            f"config.training.remat=True is not possible with config.network.name={config.network.name}; "
            "it must be False"
        )
    return network


def _settings(network: schema.Residual | schema.Points) -> dict[str, Any]:
    settings = {key: value for key, value in vars(network).items() if key not in ("name", "precision")}
    if "activation" in settings:
        settings |= ACTIVATIONS[settings["activation"]]
    return settings


def _shape(config: Config) -> tuple[int, ...]:
    is_points = config.data.name == "points"
    if is_points != (config.network.name == "points"):
        raise UserError(
            f"config.network.name={config.network.name!r} does not fit "
            f"config.data.name={config.data.name!r}: points need the network 'points', images 'residual'"
        )
    if is_points:
        if config.data.flip:
            raise UserError("config.data.flip=True is not possible with points; it must be False")
        return (2,)
    return (config.data.image_size, config.data.image_size, config.data.channels)
