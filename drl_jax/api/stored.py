"""log Z of a model, which the command `likelihood` has stored beside it."""

import json

from etils import epath

from drl_jax import pretrained
from drl_jax.checkpoints.digests import sha256
from drl_jax.core.model import Model
from drl_jax.errors import UserError

LIKELIHOOD_FILE = "likelihood.json"


def stored_log_z(source: str, model: Model, level: int) -> float:
    """Reads log Z of a level.

    Args:
      source: what the model was loaded from.
      model: the model.
      level: t.

    Returns:
      log Z, in nats.

    Raises:
      UserError: it is not known.
    """
    if source in pretrained.names():  # the program's own folder keeps no results
        raise UserError(f"log Z of level {level} is not known: give log_z, as `estimate_log_z` finds it")
    folder = epath.Path(source).expanduser()
    if not folder.is_dir():
        folder = folder.parent
    command = f"drl-jax likelihood --model={source} --levels={level} --output={folder}"
    unknown = f"log Z of level {level} is not known: run `{command}`, or give log_z"
    try:
        stored = json.loads((folder / LIKELIHOOD_FILE).read_text())
        if stored["weights_sha256"] != sha256(model):
            raise UserError(f"{folder / LIKELIHOOD_FILE} is of other weights, and {unknown}")
        found = stored["levels"][str(level)]
        log_z, doubt = found["log_z"], found["doubt"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(unknown) from None
    if log_z is None:
        raise UserError(f"log Z of level {level} is not known: {doubt} (from `{command}`)")
    return log_z
