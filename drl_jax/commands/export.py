"""`export`: the averaged weights of a checkpoint in one safetensors file."""

import logging
from dataclasses import replace

import jax
from etils import epath

from drl_jax import pretrained
from drl_jax.checkpoints import weights
from drl_jax.commands.job import check_output, start_job
from drl_jax.config import paths, schema
from drl_jax.config.build import build
from drl_jax.config.restore import StoredModel, training_seconds
from drl_jax.config.schema import Config
from drl_jax.parallel.preemption import Stop

_logger = logging.getLogger(__name__)


def export(stored: StoredModel, output: epath.Path, stop: Stop) -> None:
    """Writes the averaged weights of a checkpoint, with their config and origin, to model.safetensors.

    Args:
      stored: the model in the workdir of a run.
      output: where the file is written. If it is another folder, the workdir is only read.
      stop: gets the delay with which this process exits.

    Raises:
      UserError: there is no such checkpoint, or `output` cannot be written.
    """
    config = stored.config
    parts = build(config)
    with start_job(stop, "export", config, stored=stored) as placement:
        model, about = stored.load(parts, placement)
        check_output(output, stored)
        if jax.process_index() != 0:
            return
        kept = ("step", "data", "machine", "commit", "versions")
        about = {
            "config": schema.to_dict(_without_paths(config)),
            "weights": f"average with decay {config.training.ema_decay:g}",
            "seconds": training_seconds(stored, about),
            **{name: about[name] for name in kept},
        }
        file = output / pretrained.FILE
        weights.write(file, {"params": model.params, "spectral": model.spectral}, about)
        _logger.info("the averaged weights of step %d: %s", about["step"], file)


def _without_paths(config: Config) -> Config:
    """The config without the places on this machine, which mean nothing elsewhere."""
    for key in paths.KEYS:
        group, name = key.split(".")
        config = replace(config, **{group: replace(getattr(config, group), **{name: None})})
    return config
