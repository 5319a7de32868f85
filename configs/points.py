"""Points in the plane with a known density.

    --config=points:ring

Others are checkerboard, spirals, moons and gaussian.

The paper has no such experiment: all settings are ours. They differ from those of images in two ways. f is
the log-density itself (temperature 1). The chain is Metropolis-adjusted (MALA), so that its finite steps do
not bias the learned density.
"""

from ml_collections import ConfigDict

from drl_jax.config.schema import base
from drl_jax.data.densities import by_name


def get_config(density: str = "ring") -> ConfigDict:
    by_name(density)
    config = base("points")
    config.data.name = "points"
    config.data.density = density
    config.data.flip = False  # points have no left and right
    config.network.width = 128
    config.network.depth = 1  # hidden layers
    config.network.num_frequencies = 64  # sinusoids of the coordinates …
    config.network.min_frequency = 1.0  # … from this many radians per unit
    config.network.max_frequency = 20.0  # … to this many
    config.levels.temperature = "one"  # f is the log-density
    config.levels.step_growth = 0.0  # step sizes are proportional to σ_{t+1}
    config.levels.b_squared = 4.0  # b²: the largest squared step, in units of σ²_{t+1}
    config.sampler.name = "mala"
    config.sampler.step_range = 400.0  # squared steps are drawn from b² / 400 … b²
    config.sampler.steps = 15  # K, per level
    config.sampler.noise_scale = 1.0  # mala has no other
    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup_steps = 100
    config.optimizer.decay_steps = 12_000  # learning rate 0 at the end
    config.optimizer.clip_norm = 1.0  # of the whole gradient
    config.training.steps = 12_000
    if density == "ring":
        # At level 0 no chain crosses from one Gaussian to the next, so only this keeps their heights equal.
        config.training.energy_penalty = 0.01  # c of c · mean(f²)
    config.training.log_every = 500  # steps
    config.checkpoint.every = 4000  # steps
    config.evaluation.every = 4000  # steps
    config.evaluation.num_samples = 20_000
    config.evaluation.samples_per_device = 1000  # at once on a device
    config.evaluation.save_every = 20_000
    config.evaluation.metrics = "total_variation"
    return config
