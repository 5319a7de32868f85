"""CelebA at 64x64 pixels, unconditional, with the paper's six levels.

    --config=celeba64

The data are the split "train" of tensorflow-datasets, 162,770 faces; `drl-jax prepare` downloads them. A
folder or a zip of the aligned JPEGs works too. It has all 202,599 faces, also those of validation and test:

    --config=celeba64 --config.data.name=folder --config.data.path=img_align_celeba.zip
"""

from ml_collections import ConfigDict

from drl_jax.config.schema import base


def get_config() -> ConfigDict:
    config = base()
    config.data.name = "celeb_a"
    config.data.image_size = 64  # pixels (the paper; the published code says 32)
    config.data.crop = (20, 0, 178, 178)  # rows 20 … 197 of the aligned 218x178 image (authors' code)
    config.data.batch_size = 128  # images per step (authors' code)
    config.network.multipliers = (1, 2, 2, 2, 4)  # of 128 channels, at 64 … 4 pixels (paper)
    config.network.blocks_per_resolution = 6  # per resolution: 56.27 M parameters (paper)
    config.optimizer.beta1 = 0.5  # (authors' code)
    return config
