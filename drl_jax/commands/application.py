"""What all applications share: how one is run on a trained model, and which examples an option names."""

import os
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module

import jax
import numpy as np
from etils import epath

from drl_jax.api import TrainedModel, open_model
from drl_jax.commands.job import check_output, start_job
from drl_jax.config.build import open_data
from drl_jax.config.options import Options
from drl_jax.config.restore import StoredModel, prepare_command
from drl_jax.config.schema import Config
from drl_jax.config.scoring import metric_names
from drl_jax.data.decoding import CropResize
from drl_jax.data.sources import Source
from drl_jax.errors import UserError
from drl_jax.evaluation import scores
from drl_jax.parallel.preemption import Stop
from drl_jax.parallel.sampler import recorded_states

Application = Callable[[TrainedModel, Options, epath.Path, Stop], None]
"""(model, options, the folder that it writes to, whether this process was asked to stop)."""


def run(command: str, stored: StoredModel, options: Options, output: epath.Path, stop: Stop) -> None:
    """Runs an application: the function NAME of drl_jax/commands/NAME.py.

    Args:
      command: its name.
      stored: the model.
      options: of the application.
      output: where its results are written.
      stop: whether this process was asked to stop.

    Raises:
      UserError: something that the user chose is not right, or there are several processes.
      Stopped: this process was asked to stop.
    """
    application: Application = getattr(import_module(f"drl_jax.commands.{command}"), command)
    with start_job(stop, command, stored.config):
        if jax.process_count() > 1:
            raise UserError(f"`{command}` runs in one process, and this job has {jax.process_count()}")
        check_output(output, stored)
        application(open_model(stored), options, output, stop)


def check_is_of_images(model: TrainedModel, command: str) -> None:
    """Checks that a model is one of images. Raises UserError if not."""
    if len(model.parts.shape) != 3:
        raise UserError(
            f"`{command}` is for models of images, and {model.source} is one of {model.config.data.name}"
        )


def some_levels(model: TrainedModel, given: tuple[int, ...] | None) -> list[int]:
    """Returns the levels that --levels names; without it all, or nine of many.

    Raises:
      UserError: there is no such level.
    """
    last = model.num_levels - 1
    if given is None:
        return recorded_states(last)
    if max(given) > last:
        raise UserError(f"--levels={','.join(map(str, given))} is not possible: the levels are 0 to {last}")
    return list(given)


def read_images(model: TrainedModel, flag: str, text: str) -> np.ndarray:
    """Reads the images that an option names, in the form of the model's data.

    Args:
      model: the model.
      flag: the option, for messages.
      text: files, and numbers of examples of the data set, with commas.

    Returns:
      Images [n, height, width, channels], uint8.

    Raises:
      UserError: one cannot be read.
    """
    names = [name.strip() for name in text.split(",")]
    data = model.config.data
    source = (
        open_data(model.config, prepare_command(model.source)) if any(map(str.isdecimal, names)) else None
    )
    crop_resize = CropResize(data.image_size, data.channels, data.crop, data.background)

    def read(name: str) -> np.ndarray:
        if source is None or not name.isdecimal():
            return crop_resize.decode(_content(flag, name), f"{flag}={name}")
        if int(name) >= len(source):
            raise UserError(f"{flag}={name} is not possible: the data have {len(source)} examples, from 0 on")
        return source.take(np.array([int(name)]))[0]

    return np.stack([read(name) for name in names])


def some_examples(source: Source, seed: int, count: int) -> np.ndarray:
    """Reads examples of the data in an order of chance; some come again if there are too few.

    Args:
      source: the data.
      seed: of the order.
      count: how many.
    """
    order = np.random.default_rng(seed).permutation(len(source))
    return source.take(order[np.arange(count) % len(source)])


def metrics_of_examples(config: Config, count: int) -> tuple[Config, list[str]]:
    """Returns a config that scores so many examples, and its metrics: those that compare them with the data.

    Args:
      config: of the model.
      count: how many examples are scored.

    Raises:
      UserError: as `metric_names`.
    """
    config = replace(config, evaluation=replace(config.evaluation, num_samples=count))
    # The total variation compares samples with a known density.
    return config, [name for name in metric_names(config) if name != scores.TOTAL_VARIATION]


def _content(flag: str, name: str) -> bytes:
    try:
        return epath.Path(name).expanduser().read_bytes()
    except OSError as error:
        reason = error.strerror or os.strerror(error.errno or 0)
        raise UserError(f"{flag}={name} cannot be read: {reason}") from None
