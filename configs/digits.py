"""The 1,797 handwritten digits of scikit-learn, 8x8 pixels. Trains in minutes on two CPU cores.

    --config=digits          six levels
    --config=digits:t1k      1000 levels, each one draw from a normal approximation
    --config=digits:t1k_dsm  the same, trained by denoising score matching

The paper has no such experiment: all settings are ours.
"""

from ml_collections import ConfigDict

from drl_jax.config.schema import base

# No chain is drawn in training, so a step costs less than that of six levels.
T1K = {
    "levels.count": 1000,
    "levels.b_squared": 0.1,  # of steps after a draw, if sampler.steps asks for them
    "sampler.name": "normal",
    "sampler.steps": 0,
    "sampler.noise_scale": 1.0,
    "optimizer.learning_rate": 1e-3,
    "optimizer.decay_steps": 16_000,
    "training.steps": 16_000,
    "training.ema_decay": 0.999,
    "checkpoint.every": 4000,
    "evaluation.every": 4000,
}
T6 = {
    # Twice the paper's, because the background of the digits is the same in all images: docs/divergence.md.
    "levels.sigma_0": 0.02,
    # Ten times the paper's, and levels 1 to 5 have ten to thirteen times its s², because they
    # make about a quarter of its steps. More at level 0 can diverge: docs/divergence.md. In the same time,
    # more training with 8 steps is better than less with 15: docs/quality.md.
    "levels.b_squared": 2e-3,
    "levels.step_growth": 1.25,
    "sampler.steps": 8,  # K, per level
    "sampler.extra_steps": 1,  # more precision for less recall: docs/quality.md
    # These two make the energy smooth, and its gradient less noisy: docs/quality.md.
    "network.activation": "smooth",
    "training.coupled": True,
    # Levels 1 to 3, where digits take shape, get three quarters of the examples: docs/quality.md.
    "training.level_proportions": (1, 3, 3, 3, 1, 1),
}
SETTINGS = {"t6": T6, "t1k": T1K, "t1k_dsm": {**T1K, "training.objective": "score"}}


def get_config(setting: str = "t6") -> ConfigDict:
    if setting not in SETTINGS:
        raise ValueError(f"setting {setting!r} is unknown; settings are {', '.join(SETTINGS)}")
    config = base()
    config.data.name = "digits"
    config.data.image_size = 8  # pixels
    config.data.channels = 1  # grey
    config.data.flip = False  # a mirrored digit is not a digit
    config.data.batch_size = 64  # images per step
    config.network.width = 32  # channels at 8x8
    config.network.multipliers = (1, 2)  # of 32 channels, at 8 and 4 pixels
    config.network.blocks_per_resolution = 1  # per resolution
    config.optimizer.learning_rate = 3e-3  # thirty times the paper's, because the network is small
    config.optimizer.warmup_steps = 100
    config.optimizer.decay_steps = 14_000  # learning rate 0 at the end
    config.training.steps = 14_000
    config.training.ema_decay = 0.99  # for a run this short
    config.checkpoint.every = 1750  # steps
    config.evaluation.every = 3500  # steps
    config.evaluation.num_samples = 898  # half of the data
    config.evaluation.samples_per_device = 64  # at once on a device
    config.evaluation.save_every = 898
    config.evaluation.score_untrained = True
    config.evaluation.metrics = "frechet_pixels,kid_pixels,precision_recall_pixels"
    config.update_from_flattened_dict(SETTINGS[setting])
    return config
