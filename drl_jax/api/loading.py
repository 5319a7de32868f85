"""From a name, a workdir or a file to a trained model."""

from collections.abc import Mapping

from etils import epath

from drl_jax.api.trained import TrainedModel
from drl_jax.checkpoints.quiet import silence_orbax
from drl_jax.config import paths
from drl_jax.config.build import build
from drl_jax.config.restore import StoredModel, find_model
from drl_jax.parallel.mesh import place


def load(
    source: str | epath.PathLike, *, step: int | None = None, overrides: Mapping[str, str] | None = None
) -> TrainedModel:
    """Loads a trained model.

    Args:
      source: the name of a model that ships ("digits"), the workdir of a run, or a file that `export` wrote.
      step: the step of the checkpoint in a workdir. Default: the newest.
      overrides: texts by key of the config, as on the command line: {"sampler.noise_scale": "1"}. What the
        model was trained with cannot be changed.

    Returns:
      The model.

    Raises:
      UserError: there is no such model.

    Example:
      >>> import drl_jax
      >>> model = drl_jax.load("digits")
      >>> images = model.sample(0, 4)
      >>> images.shape, images.dtype.name
      ((4, 8, 8, 1), 'uint8')
    """
    texts = dict(overrides or {})
    if step is not None:
        texts["evaluation.step"] = str(step)
    paths.check_folder("source", str(source))
    silence_orbax()
    return open_model(find_model(str(source), texts, repr(str(source))))


def open_model(stored: StoredModel) -> TrainedModel:
    """Puts the weights of a model on the devices.

    Args:
      stored: the model.

    Returns:
      The model, with its methods.

    Raises:
      UserError: they cannot be read.
    """
    parts = build(stored.config)
    model, about = stored.load(parts, place())
    return TrainedModel(stored.source, stored.config, parts, model, about)
