"""From a workdir to its trained model."""

import jax
from etils import epath

from drl_jax import files
from drl_jax.checkpoints.orbax import FOLDER, Checkpoint, load, steps
from drl_jax.config import resume, schema
from drl_jax.config.build import Components
from drl_jax.config.schema import Config
from drl_jax.core.model import Model
from drl_jax.errors import UserError
from drl_jax.parallel.mesh import Placement


def load_model(
    workdir: epath.Path, config: Config, parts: Components, placement: Placement
) -> tuple[Checkpoint, Model]:
    """Loads the averaged weights of the checkpoint that `config.evaluation.step` names, or of the newest.

    Raises:
      UserError: there is none, or it was trained with other settings.
    """
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
    return checkpoint, Model(parts.network, parts.levels, tree["ema_params"], tree["ema_spectral"])
