"""LSUN at 128x128 pixels, unconditional, with the paper's six levels.

Export the images of a category to a folder or a zip, and name it:

    --config=lsun128:church --config.data.path=church_outdoor_train.zip
    --config=lsun128:bedroom --config.data.path=bedroom_train.zip
"""

from ml_collections import ConfigDict

from drl_jax.config.schema import base

BLOCKS = {"church": 2, "bedroom": 5}  # per resolution: 29.12 M and 71.90 M parameters (paper)


def get_config(category: str = "church") -> ConfigDict:
    if category not in BLOCKS:
        raise ValueError(f"category {category!r} is unknown; categories are {', '.join(BLOCKS)}")
    config = base()
    config.data.name = "folder"  # the central square of each image, as the authors take it
    config.data.image_size = 128  # pixels
    config.data.batch_size = 64  # images per step (authors' code)
    config.network.multipliers = (1, 2, 2, 2, 4, 4)  # of 128 channels, at 128 … 4 pixels (paper)
    config.network.blocks_per_resolution = BLOCKS[category]
    config.optimizer.beta1 = 0.5  # (authors' code)
    return config
