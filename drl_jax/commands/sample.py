"""`sample`: draws from a trained model."""

import io
import time

import jax
import numpy as np
from etils import epath

from drl_jax import files
from drl_jax.commands.common import load_weights, make_domain, make_sampler, voices
from drl_jax.config.build import build
from drl_jax.config.schema import Config
from drl_jax.evaluation.evaluator import Gallery
from drl_jax.parallel import devices
from drl_jax.parallel.preemption import Stop
from drl_jax.parallel.sampler import not_finite


def sample(config: Config, workdir: epath.Path, stop: Stop) -> None:
    """Draws from the averaged weights of a checkpoint: samples.npz and images, in the workdir."""
    experiment = build(config)
    devices.start()
    stop.linger = devices.linger()
    placement, (say, warn) = devices.place(), voices()
    checkpoint, weights = load_weights(workdir, config, experiment, placement, warn)
    sampler, domain = make_sampler(config, experiment, placement, stop), make_domain(config, experiment)

    began = time.monotonic()
    parts, gallery, broken = [], Gallery(domain), 0
    for x, process in sampler.draw(weights, config.evaluation.num_samples):
        parts.append(domain.examples(x))
        gallery.add(parts[-1], process)
        broken += not_finite(x)
    samples = np.concatenate(parts)
    seconds = time.monotonic() - began
    if broken:
        warn(f"{broken} of {len(samples)} samples are not finite: their chains diverged")
    if jax.process_index() != 0:
        return
    gallery.show(workdir / "samples")
    file = io.BytesIO()
    np.savez(file, arr_0=samples)
    files.write(workdir / "samples.npz", file.getvalue())
    say(
        f"{len(samples)} samples of step {checkpoint.step} in {seconds:.1f} s: {workdir / 'samples.npz'}, "
        f"{workdir / 'samples.png'}"
    )
