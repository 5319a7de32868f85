"""CIFAR-10, 32x32, unconditional: the paper's six levels.

--config=configs/cifar10.py:t6     the network of the published figures, 34.8 M parameters
--config=configs/cifar10.py:small  2 blocks instead of 8, 9.06 M parameters, for one GPU
"""

from drl_jax.config.schema import Config, base

BLOCKS = {"t6": 8, "small": 2}  # residual blocks per resolution


def get_config(setting: str = "t6") -> Config:
    if setting not in BLOCKS:
        raise ValueError(f"setting {setting!r} is unknown; settings are {', '.join(BLOCKS)}")
    config = base()  # the paper's CIFAR-10 settings, key by key
    config.network.blocks_per_resolution = BLOCKS[setting]
    return config
