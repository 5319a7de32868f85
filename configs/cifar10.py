"""CIFAR-10, 32x32 pixels, unconditional, with the paper's six levels.

--config=cifar10:t6     the network of the published results, 34.8 M parameters
--config=cifar10:small  2 blocks per resolution instead of 8, 9.06 M parameters, for one GPU
"""

from ml_collections import ConfigDict

from drl_jax.config.schema import base

BLOCKS = {"t6": 8, "small": 2}  # residual blocks per resolution


def get_config(setting: str = "t6") -> ConfigDict:
    if setting not in BLOCKS:
        raise ValueError(f"setting {setting!r} is unknown; settings are {', '.join(BLOCKS)}")
    config = base()  # the paper's CIFAR-10 settings, key by key
    config.network.blocks_per_resolution = BLOCKS[setting]
    return config
