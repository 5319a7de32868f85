"""The composition root: from a ConfigDict to the parts of a run. Below this, plain arguments."""

from typing import NamedTuple

import jax
import optax
from flax import linen as nn

from drl_jax.config import schema
from drl_jax.config.schema import Config
from drl_jax.core.levels import Levels, make_levels
from drl_jax.core.networks import PointEnergy, ResidualEnergy
from drl_jax.core.networks.residual import check_side
from drl_jax.data.sources import Source, open_source
from drl_jax.errors import UserError
from drl_jax.training.optimizer import make_optimizer
from drl_jax.training.step import Settings, TrainState, init_state

_NETWORKS = {"residual": ResidualEnergy, "points": PointEnergy}


class Experiment(NamedTuple):
    """What a config says, as things that compute. `shape` is that of one example."""

    network: nn.Module
    levels: Levels
    optimizer: optax.GradientTransformation
    settings: Settings
    shape: tuple[int, ...]
    warm_up_iterations: int

    def init_state(self, key: jax.Array) -> TrainState:
        """The state before the first step."""
        return init_state(
            key,
            self.network,
            self.levels,
            self.optimizer,
            self.shape,
            warm_up_iterations=self.warm_up_iterations,
        )


def build(config: Config) -> Experiment:
    """Checks a config and builds what it says; nothing is computed yet. Raises UserError."""
    schema.check(config)
    shape = _shape(config)
    network = {key: value for key, value in config.network.items() if key != "name"}
    if config.network.name == "residual":
        try:
            check_side(config.data.image_size, config.data.image_size, len(network["multipliers"]))
        except ValueError as error:
            raise UserError(
                f"config.data.image_size={config.data.image_size} and "
                f"config.network.multipliers={network['multipliers']}: {error}"
            ) from None
        sides = [config.data.image_size >> i for i in range(len(network["multipliers"]))]
        if not set(network["attention"]) <= set(sides):
            raise UserError(
                f"config.network.attention={network['attention']}: the network has the sides "
                f"{', '.join(map(str, sides))}"
            )
    elif network["min_frequency"] > network["max_frequency"]:
        raise UserError(
            f"config.network.min_frequency={network['min_frequency']} is above config.network.max_frequency={network['max_frequency']}"
        )
    if config.sampler.step_range is not None and config.sampler.noise_scale != 1:
        raise UserError(
            f"config.sampler.noise_scale={config.sampler.noise_scale} is not possible with "
            f"config.sampler.step_range={config.sampler.step_range}: an adjusted chain's is 1"
        )
    if config.network.name == "points":
        network["num_levels"] = config.levels.count
    try:
        levels = make_levels(**config.levels)
    except ValueError as error:
        raise UserError(f"config.levels: {error}") from None
    return Experiment(
        network=_NETWORKS[config.network.name](**network),
        levels=levels,
        optimizer=make_optimizer(**config.optimizer),
        settings=Settings(
            langevin_steps=config.sampler.steps,
            power_iterations=config.spectral.iterations,
            ema_decay=config.training.ema_decay,
            energy_penalty=config.training.energy_penalty,
            spread=config.sampler.step_range,
        ),
        shape=shape,
        warm_up_iterations=config.spectral.init_iterations,
    )


def open_data(config: Config, prepare_command: str) -> Source:
    """The examples of `config.data`. Raises UserError, naming `prepare_command` where it would help."""
    data = config.data
    return open_source(
        data.name,
        split=data.split,
        image_size=data.image_size,
        channels=data.channels,
        data_dir=data.data_dir,
        path=data.path,
        crop=data.crop,
        density=data.density,
        timeout=data.timeout,
        prepare_command=prepare_command,
    )


def _shape(config: Config) -> tuple[int, ...]:
    points = config.data.name == "points"
    if points != (config.network.name == "points"):
        raise UserError(
            f"config.network.name={config.network.name!r} does not fit "
            f"config.data.name={config.data.name!r}: points need the network 'points', images 'residual'"
        )
    if points:
        if config.data.flip:
            raise UserError("config.data.flip=True is not possible with points, which have no left and right")
        return (2,)
    return (config.data.image_size, config.data.image_size, config.data.channels)
