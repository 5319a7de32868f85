"""CelebA at 64x64, unconditional: the paper's six levels.

The set comes from tensorflow-datasets (`prepare`), whose split "train" has 162,770 faces; or take the aligned
JPEGs, a folder or a zip. Then all 202,599 faces are used, those of validation and test too:
    --config.data.name=folder --config.data.path=img_align_celeba.zip
"""

from drl_jax.config.schema import Config, base


def get_config() -> Config:
    config = base()
    config.data.name = "celeb_a"
    config.data.image_size = 64  # pixels (the paper; the published code says 32)
    config.data.crop = (20, 0, 178, 178)  # rows 20 … 198 of the aligned 218x178 (authors' code)
    config.data.batch_size = 128  # images a step (authors' code)
    config.network.multipliers = (1, 2, 2, 2, 4)  # of 128 channels, at 64 … 4 pixels (paper)
    config.network.blocks_per_resolution = 6  # per resolution: 56.27 M parameters (paper)
    config.optimizer.beta1 = 0.5  # (authors' code)
    return config
