"""Points in the plane with a known density.

    --config=points:ring

Others are checkerboard, spirals, moons and gaussian.

The paper has no such experiment: all settings are ours. They differ from those of images in two ways. f is
the log-density itself (temperature 1). The chain is Metropolis-adjusted (MALA), so that its finite steps do
not bias the learned density.
"""

from ml_collections import ConfigDict

from drl_jax.config.schema import Config, base
from drl_jax.data.densities import by_name


def get_config(density: str = "ring") -> Config:
    by_name(density)
    config = base()
    config.data.name = "points"
    config.data.density = density
    config.data.flip = False  # only images have a left and a right
    config.network = ConfigDict()
    config.network.name = "points"
    config.network.width = 128
    config.network.depth = 1  # hidden layers
    config.network.num_frequencies = 64  # sinusoids of the coordinates …
    config.network.min_frequency = 1.0  # … from this many radians per unit
    config.network.max_frequency = 20.0  # … to this many
    config.levels.temperature = "one"  # f is the log-density
    config.levels.step_growth = 0.0  # steps in proportion to each level's σ
    config.levels.b_squared = 4.0  # b²: the largest squared step, in σ²_{t+1}
    config.sampler.step_range = 400.0  # steps are drawn between b² / 400 and b²
    config.sampler.steps = 15  # K, per level
    config.sampler.noise_scale = 1.0  # an adjusted chain has no other
    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup_steps = 100
    config.optimizer.decay_steps = 12_000  # learning rate 0 at the end
    config.optimizer.clip_norm = 1.0  # of the gradient
    config.training.steps = 12_000
    if density == "ring":
        # At level 0 no chain crosses from one Gaussian to the next: nothing else holds them equally high.
        config.training.energy_penalty = 0.01  # c of c · mean(f²)
    config.training.log_every = 500  # steps
    config.checkpoint.every = 4000  # steps
    config.evaluation.every = 4000  # steps
    config.evaluation.num_samples = 20_000
    config.evaluation.samples_per_device = 1000  # at once on a device
    config.evaluation.save_every = 20_000
    config.evaluation.metrics = "total_variation"
    return config
