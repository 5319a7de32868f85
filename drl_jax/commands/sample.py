"""`sample`: draws samples from a trained model."""

import logging
import time

import jax
import numpy as np
from etils import epath

from drl_jax import arrays
from drl_jax.commands.job import check_output, start_job
from drl_jax.config.build import build, make_sampler
from drl_jax.config.restore import load_model
from drl_jax.config.schema import Config
from drl_jax.config.scoring import data_kind
from drl_jax.evaluation.preview import Preview
from drl_jax.parallel.preemption import Stop
from drl_jax.parallel.sampler import count_not_finite

_logger = logging.getLogger(__name__)


def sample(config: Config, workdir: epath.Path, output: epath.Path, stop: Stop) -> None:
    """Draws samples from the averaged weights of a checkpoint: samples.npz and images.

    Args:
      config: the config.
      workdir: the folder of the run.
      output: where the files are written. If it is another folder, the workdir is only read.
      stop: whether this process was asked to stop.

    Raises:
      UserError: there is no such checkpoint, or `output` cannot be written.
      Stopped: this process was asked to stop.
    """
    parts = build(config)
    with start_job(stop, "sample", config, workdir=workdir) as placement:
        checkpoint, model = load_model(workdir, config, parts, placement)
        check_output(output, workdir, config)
        sampler, kind = make_sampler(config, parts, placement, stop), data_kind(config)

        began = time.monotonic()
        drawn, preview, broken = [], Preview(kind), 0
        for x, process in sampler.sample(model, config.evaluation.num_samples):
            drawn.append(kind.to_examples(x))
            preview.add(drawn[-1], process)
            broken += count_not_finite(x)
        samples = np.concatenate(drawn)
        seconds = time.monotonic() - began
        if broken:
            _logger.warning("%d of %d samples are not finite: their chains diverged", broken, len(samples))
        if jax.process_index() != 0:
            return
        preview.save(output / "samples")
        arrays.save(output / "samples.npz", arr_0=samples)
        _logger.info(
            "%d samples of step %d in %.1f s: %s, %s",
            len(samples),
            checkpoint.step,
            seconds,
            output / "samples.npz",
            output / "samples.png",
        )
