"""LSUN at 64x64 pixels, unconditional, with the paper's six levels.

Export the images of a category to a folder or a zip, and name it:

    --config=lsun64:church --config.data.path=church_outdoor_train.zip
    --config=lsun64:bedroom --config.data.path=bedroom_train.zip
"""

from ml_collections import ConfigDict

from drl_jax.config.schema import base

CATEGORIES = ("church", "bedroom")


def get_config(category: str = "church") -> ConfigDict:
    if category not in CATEGORIES:
        raise ValueError(f"category {category!r} is unknown; categories are {', '.join(CATEGORIES)}")
    config = base()
    config.data.name = "folder"  # the central square of each image, as the authors take it
    config.data.image_size = 64  # pixels
    config.data.batch_size = 128  # images per step (authors' code)
    config.network.multipliers = (1, 2, 2, 2, 4)  # of 128 channels, at 64 … 4 pixels (paper)
    config.network.blocks_per_resolution = 2  # per resolution: 19.15 M parameters
    return config
