"""A trained model in Python: `drl_jax.load` gives it, its methods take and give arrays of the data's kind.

Images are uint8 arrays [n, height, width, channels], 0 to 255. Floats are taken in the units of the model:
data are in [-1, 1], and noisy examples go beyond. Points are floats [n, 2].
"""

from drl_jax.api.grid import image_grid
from drl_jax.api.loading import load, open_model
from drl_jax.api.long_runs import ChainSettings, LongRun
from drl_jax.api.stored import LIKELIHOOD_FILE
from drl_jax.api.trained import TrainedModel

__all__ = ["LIKELIHOOD_FILE", "ChainSettings", "LongRun", "TrainedModel", "image_grid", "load", "open_model"]
