"""CIFAR-10, 32x32 pixels, unconditional.

--config=cifar10:t6       six levels and the network of the published results, 34.8 M parameters
--config=cifar10:small    2 blocks per resolution instead of 8, 9.06 M parameters, for one GPU
--config=cifar10:light    64 channels as well, 2.27 M parameters, bfloat16, for minutes on one GPU
--config=cifar10:k10      the paper's ablation: 10 steps of Langevin instead of 30 at each level
--config=cifar10:k50      50 steps
--config=cifar10:t1       one level with 180 steps
--config=cifar10:t1k      1000 levels, each one draw from a normal approximation
--config=cifar10:t1k_dsm  the same, trained by denoising score matching
"""

from ml_collections import ConfigDict

from drl_jax.config.schema import base

T1K = {"levels.count": 1000, "sampler.name": "normal", "sampler.steps": 0, "sampler.noise_scale": 1.0}
SETTINGS = {
    "t6": {},
    "small": {"network.blocks_per_resolution": 2},
    "light": {
        "network.blocks_per_resolution": 2,
        "network.width": 64,
        "network.dtype": "bfloat16",
        "data.batch_size": 128,
        "optimizer.learning_rate": 5e-4,
        "optimizer.warmup_steps": 500,
        "training.steps": 10_000,
    },
    "k10": {"sampler.steps": 10},
    "k50": {"sampler.steps": 50},
    "t1": {"levels.count": 1, "sampler.steps": 180},
    "t1k": T1K,
    "t1k_dsm": {**T1K, "training.objective": "score"},
}


def get_config(setting: str = "t6") -> ConfigDict:
    if setting not in SETTINGS:
        raise ValueError(f"setting {setting!r} is unknown; settings are {', '.join(SETTINGS)}")
    config = base()  # the paper's CIFAR-10 settings, key by key
    config.update_from_flattened_dict(SETTINGS[setting])
    return config
