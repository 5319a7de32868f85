"""Fashion-MNIST, 28x28 pixels, grey. Trains in 90 minutes on one CPU core.

    --config=fashion_mnist

The paper has no such experiment: all settings are ours.
"""

from ml_collections import ConfigDict

from drl_jax.config.schema import base


def get_config() -> ConfigDict:
    config = base()
    config.data.name = "fashion_mnist"
    config.data.image_size = 28  # pixels
    config.data.channels = 1  # grey
    config.data.flip = False  # nearly all shoes point to the left
    config.data.batch_size = 32  # images per step
    config.network.width = 16  # channels at 28x28
    config.network.multipliers = (1, 4, 8)  # of 16 channels, at 28, 14 and 7 pixels
    config.network.blocks_per_resolution = 1  # per resolution
    config.network.activation = "smooth"  # with training.coupled, as for digits: docs/quality.md
    config.levels.sigma_0 = 0.03  # 4 of 255; with 0.01 level 0 diverged: docs/divergence.md
    # With this b² and σ_0, levels 1 to 5 have 6.7 times the paper's s². They make a third of its steps, so a
    # training step takes less than half of the time: docs/quality.md.
    config.levels.b_squared = 4e-3
    config.sampler.steps = 10  # K, per level
    config.sampler.extra_steps = 1  # twice the precision, a fifth less recall: docs/quality.md
    config.optimizer.learning_rate = 2e-3  # twenty times the paper's, because the network is small
    config.optimizer.warmup_steps = 500
    config.optimizer.decay_steps = 14_000  # learning rate 0 at the end
    config.optimizer.clip_norm = 20.0  # about half of the usual norm
    config.training.steps = 14_000
    config.training.coupled = True
    config.training.ema_decay = 0.999
    config.checkpoint.every = 250  # steps
    config.evaluation.every = 2000  # steps
    config.evaluation.num_samples = 1000
    config.evaluation.samples_per_device = 50  # at once on a device
    config.evaluation.save_every = 500
    config.evaluation.metrics = "frechet_pixels,kid_pixels,precision_recall_pixels"
    return config
