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
from drl_jax.config.overrides import data_flags, override, prepare_line
from drl_jax.config.schema import Config
from drl_jax.core.model import Model
from drl_jax.errors import UserError
from drl_jax.parallel.mesh import Placement
from drl_jax.report import metrics_log


class Trained(NamedTuple):
    """A trained model.

    Attributes:
      model: with averaged weights.
      about: JSON, where the weights are from: "step", "config", "data", "machine", "commit", "versions"; of a
        file, also the "seconds" of training.
    """

    model: Model
    about: dict[str, Any]


class StoredModel(NamedTuple):
    """A trained model before its weights are on devices.

    Attributes:
      source: the name of a model that ships, the workdir of a run as an absolute path, or a file of weights.
      config: how it was trained, with overrides.
      workdir: of its run; None for a file.
      weights_sha256: of the weights in a file; None for a run.
      load: (the parts of the config, where arrays live) -> the model. Raises UserError if it cannot be read.
    """

    source: str
    config: Config
    workdir: epath.Path | None
    weights_sha256: str | None
    load: Callable[[Components, Placement], Trained]


def find_model(source: str, overrides: Mapping[str, str], name: str) -> StoredModel:
    """Finds a trained model. Uses no device yet.

    Args:
      source: the name of a model that ships ("digits"), the workdir of a run, or a file that `export` wrote.
        A folder with the name of a model that ships is written ./digits.
      overrides: texts by key of the config. What the model was trained with cannot be changed.
      name: what a message calls it, such as "--model=digits".

    Returns:
      The model.

    Raises:
      UserError: there is no such model, or an override is not possible.
    """
    is_path = source not in pretrained.names()
    folder = files.absolute(source)
    if is_path and files.exists(folder / schema.FILE):
        file = folder / schema.FILE
        saved = schema.load_values(file)
        values = override(saved, overrides, str(file))
        resume.check_unchanged(saved, values, name)
        return model_in(folder, schema.from_values(values, str(file)))
    if is_path and not folder.is_file():
        run = f"it has no {schema.FILE}, which a run has; " * folder.is_dir()
        raise UserError(
            f"{name} is no model: {run}it must be one that ships ({', '.join(pretrained.names())}), the "
            "workdir of a run, or a file that `export` wrote"
        )
    if step := overrides.get("evaluation.step"):
        raise UserError(
            f"config.evaluation.step={step} is possible only with the workdir of a run, and {name} is none; "
            "leave it out"
        )
    tree, about, digest = weights.find(source)
    values = schema.complete(about["config"], source)
    changed = override(values, overrides, source)
    resume.check_unchanged(values, changed, source)
    config = schema.from_values(changed, source)

    def load_weights(parts: Components, placement: Placement) -> Trained:
        arrays = placement.replicate(tree)
        model = Model(parts.network, parts.levels, arrays["params"], arrays["spectral"])
        return Trained(model, about)

    return StoredModel(source, config, None, digest, load_weights)


def model_in(workdir: epath.Path, config: Config) -> StoredModel:
    """Describes the model in the workdir of a run: the checkpoint of `config.evaluation.step`, or the newest.

    Args:
      workdir: the folder, an absolute path.
      config: of the run, with overrides.

    Returns:
      The model. Whether there is one is seen when it is loaded.
    """

    def load_checkpoint(parts: Components, placement: Placement) -> Trained:
        return _load_checkpoint(workdir, config, parts, placement)

    return StoredModel(str(workdir), config, workdir, None, load_checkpoint)


def training_seconds(stored: StoredModel, about: Mapping[str, Any]) -> float | None:
    """Returns how long a model was trained: with its evaluations, without interruptions.

    Args:
      stored: the model.
      about: what is known of its weights.

    Returns:
      Seconds; None if nobody knows.
    """
    if stored.workdir is None:
        return about.get("seconds")
    return metrics_log.training_seconds(metrics_log.read(stored.workdir), about["step"]) or None


def prepare_command(source: str, overrides: Mapping[str, str] | None = None) -> str:
    """Returns the command line that prepares the data of a model.

    Args:
      source: as `StoredModel` has it.
      overrides: texts by key of the config.
    """
    if source in pretrained.names():
        where = f"--config={source}"
    else:
        is_run = files.exists(files.absolute(source) / schema.FILE)
        where = f"--workdir={source}" if is_run else "--config=CONFIG"
    return prepare_line(where, *data_flags(overrides or {}))


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
    return Trained(model, {**checkpoint.record, "step": checkpoint.step})
