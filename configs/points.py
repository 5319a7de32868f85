"""Points in the plane whose density is known: --config=configs/points.py:ring, :checkerboard, …"""

from ml_collections import ConfigDict

from drl_jax.configuration import Config, base
from drl_jax.data.densities import by_name


def get_config(density: str = "ring") -> Config:
    by_name(density)
    config = base()
    config.data.name = "points"
    config.data.density = density
    config.data.flip = False  # only pictures have a left and a right
    config.network = ConfigDict({"name": "points"})
    config.levels.temperature = "one"
    config.levels.growth = 0.0
    config.levels.b_squared = 0.03
    config.evaluation.metric = "total_variation"
    return config
