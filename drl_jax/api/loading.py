"""From a name, a workdir or a file to a trained model."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from etils import epath

from drl_jax import files
from drl_jax.api.trained import TrainedModel
from drl_jax.checkpoints import weights
from drl_jax.checkpoints.quiet import silence_orbax
from drl_jax.config import resume, schema
from drl_jax.config.build import build
from drl_jax.config.overrides import override
from drl_jax.config.restore import load_model
from drl_jax.config.schema import Config
from drl_jax.core.model import Model
from drl_jax.errors import UserError
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
    return find(str(source), texts).load()


class Found(NamedTuple):
    """A model that was found, before its weights are read.

    Attributes:
      config: how it was trained, with overrides.
      workdir: of its run, if it is one.
      load: reads the weights.
    """

    config: Config
    workdir: epath.Path | None
    load: Callable[[], TrainedModel]


def find(source: str, overrides: Mapping[str, str]) -> Found:
    """Finds a trained model. Uses no device yet.

    Args:
      source, overrides: as for `load`.

    Raises:
      UserError: there is no such model, or an override is not possible.
    """
    workdir = epath.Path(source).expanduser()
    if files.exists(workdir / schema.FILE):
        return _find_run(workdir.absolute(), overrides)
    if "evaluation.step" in overrides:
        raise UserError(
            f"config.evaluation.step={overrides['evaluation.step']} is of a workdir, and {source} is none; "
            "leave it out"
        )
    if workdir.is_dir():
        raise UserError(f"{source!r} is no model: the folder holds no run, for it has no {schema.FILE}")
    tree, about = weights.find(source)
    values = schema.complete(about["config"], source)
    config = schema.from_values(override(values, overrides, source), source)
    resume.check_unchanged(about["config"], config, source)

    def load() -> TrainedModel:
        parts, arrays = build(config), jax.tree.map(jnp.asarray, tree)
        model = Model(parts.network, parts.levels, arrays["params"], arrays["spectral"])
        return TrainedModel(source, config, parts, model, about)

    return Found(config, None, load)


def _find_run(workdir: epath.Path, overrides: Mapping[str, str]) -> Found:
    file = workdir / schema.FILE
    values = override(schema.load_values(file), overrides, str(file))
    config = schema.from_values(values, str(file))

    def load() -> TrainedModel:
        silence_orbax()
        parts = build(config)
        checkpoint, model = load_model(workdir, config, parts, place())
        about = {"step": checkpoint.step, **checkpoint.record}
        return TrainedModel(str(workdir), config, parts, model, about)

    return Found(config, workdir, load)
