"""From the name of a model, a workdir or a file of weights to the trained model."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from etils import epath

from drl_jax import files, pretrained
from drl_jax.checkpoints import weights
from drl_jax.checkpoints.orbax import FOLDER, load, steps
from drl_jax.config import resume, schema
from drl_jax.config.build import Components
from drl_jax.config.overrides import override, prepare_line
from drl_jax.config.schema import Config
from drl_jax.core.model import Model
from drl_jax.errors import UserError
from drl_jax.parallel.mesh import Placement
from drl_jax.report import metrics_log


class Trained(NamedTuple):
    """A trained model.

    Attributes:
      model: with averaged weights.
      about: JSON, where the weights are from: "step", "seconds" of training (None if nobody knows),
        "config", "data", "machine", "commit" and "versions".
    """

    model: Model
    about: dict[str, Any]


class StoredModel(NamedTuple):
    """A trained model before its weights are read.

    Attributes:
      source: as the user named it.
      config: how it was trained, with overrides.
      workdir: of its run; None if it is a file of weights.
      load: (the parts of the config, where arrays live) -> the model. Raises UserError if it cannot be read.
    """

    source: str
    config: Config
    workdir: epath.Path | None
    load: Callable[[Components, Placement], Trained]


def find_model(source: str, overrides: Mapping[str, str]) -> StoredModel:
    """Finds a trained model. Uses no device yet.

    Args:
      source: the name of a model that ships ("digits"), the workdir of a run, or a file that `export` wrote.
      overrides: texts by key of the config. What the model was trained with cannot be changed.

    Raises:
      UserError: there is no such model, or an override is not possible.
    """
    folder = epath.Path(source).expanduser()
    if files.exists(folder / schema.FILE):
        file = folder.absolute() / schema.FILE
        values = override(schema.load_values(file), overrides, str(file))
        return model_in(folder.absolute(), schema.from_values(values, str(file)), source)
    if "evaluation.step" in overrides:
        raise UserError(
            f"config.evaluation.step={overrides['evaluation.step']} is of a workdir, and {source} is none; "
            "leave it out"
        )
    if folder.is_dir():
        raise UserError(f"{source!r} is no model: the folder holds no run, for it has no {schema.FILE}")
    tree, about = weights.find(source)
    values = schema.complete(about["config"], source)
    config = schema.from_values(override(values, overrides, source), source)
    resume.check_unchanged(about["config"], config, source)

    def load_weights(parts: Components, placement: Placement) -> Trained:
        arrays = placement.replicate(tree)
        model = Model(parts.network, parts.levels, arrays["params"], arrays["spectral"])
        return Trained(model, {"seconds": None, **about})

    return StoredModel(source, config, None, load_weights)


def model_in(workdir: epath.Path, config: Config, source: str | None = None) -> StoredModel:
    """Describes the model in the workdir of a run: the checkpoint of `config.evaluation.step`, or the newest.

    Args:
      workdir: the folder, an absolute path.
      config: of the run, with overrides.
      source: the workdir as the user named it. Default: `workdir`.
    """

    def load_checkpoint(parts: Components, placement: Placement) -> Trained:
        return _load_checkpoint(workdir, config, parts, placement)

    return StoredModel(source or str(workdir), config, workdir, load_checkpoint)


def prepare_command(source: str) -> str:
    """Returns the command line that prepares the data of a model.

    Args:
      source: as for `find_model`.
    """
    if source in pretrained.names():
        return prepare_line(f"--config={source}")
    is_run = files.exists(epath.Path(source).expanduser() / schema.FILE)
    return prepare_line(f"--workdir={source}" if is_run else "--config=CONFIG")


def _load_checkpoint(workdir: epath.Path, config: Config, parts: Components, placement: Placement) -> Trained:
    """Loads averaged weights. Raises UserError if there are none, or of other settings."""
    if not files.exists(workdir / schema.FILE):
        missing = workdir / schema.FILE
        raise UserError(f"--workdir={workdir} holds no run: there is no {missing}; train one first")
    state = placement.abstract(jax.eval_shape(parts.init_state, jax.random.key(0)))
    step = config.evaluation.step
    checkpoint, _ = load(
        workdir / FOLDER,
        # Of the state, only what samples: a part of the files is read.
        {"ema_params": state.ema_params, "ema_spectral": state.ema_spectral},
        validate=lambda record: resume.validate(record["config"], config, workdir),
        only=step,
    )
    if checkpoint is None and step is not None:
        there = ", ".join(map(str, steps(workdir / FOLDER))) or "none"
        raise UserError(
            f"config.evaluation.step={step} has no checkpoint in --workdir={workdir}; there are: {there}"
        )
    if checkpoint is None:
        raise UserError(f"--workdir={workdir} holds no checkpoint yet; train longer")
    tree = checkpoint.tree
    model = Model(parts.network, parts.levels, tree["ema_params"], tree["ema_spectral"])
    seconds = metrics_log.training_seconds(metrics_log.read(workdir), checkpoint.step) or None
    return Trained(model, {**checkpoint.record, "step": checkpoint.step, "seconds": seconds})
