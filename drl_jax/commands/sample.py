"""`sample`: draws samples from a trained model."""

import logging
import time

import jax
import numpy as np
from etils import epath

from drl_jax import arrays
from drl_jax.commands.job import check_output, start_job
from drl_jax.config.build import build, make_sampler
from drl_jax.config.restore import StoredModel
from drl_jax.config.scoring import data_kind
from drl_jax.evaluation.preview import Preview
from drl_jax.parallel.preemption import Stop
from drl_jax.parallel.sampler import count_not_finite

_logger = logging.getLogger(__name__)


def sample(stored: StoredModel, output: epath.Path, stop: Stop) -> None:
    """Draws samples from a trained model: samples.npz and images.

    Args:
      stored: the model.
      output: where the files are written. If it is not the workdir of the run, that is only read.
      stop: whether this process was asked to stop.

    Raises:
      UserError: the model cannot be read, or `output` cannot be written.
      Stopped: this process was asked to stop.
    """
    config = stored.config
    parts = build(config)
    with start_job(stop, "sample", config, stored=stored) as placement:
        model, about = stored.load(parts, placement)
        check_output(output, stored)
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
            about["step"],
            seconds,
            output / "samples.npz",
            output / "samples.png",
        )
