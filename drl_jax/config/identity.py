"""What results of a trained model depend on. A saved part is used again only if all of it is equal."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from drl_jax.checkpoints.digests import sha256
from drl_jax.config import schema
from drl_jax.config.schema import Config
from drl_jax.core.model import Model

_NUMERICS = ("network.dtype", "network.precision")  # which the weights do not show


def identity(
    config: Config, model: Model, own: Mapping[str, Any], *, topics: Sequence[str] = ("levels", "sampler")
) -> dict[str, Any]:
    """Collects what a result depends on. The commit of the program is not part of it.

    Args:
      config: of the model.
      model: the trained model.
      own: what only this kind of result depends on.
      topics: the parts of the config on which it depends.

    Returns:
      Names and values, of JSON's types.
    """
    prefixes = (*(f"{topic}." for topic in topics), *_NUMERICS)
    settings = schema.flatten(schema.to_dict(config))
    return {
        "weights_sha256": sha256(model),
        **{key: value for key, value in settings.items() if key.startswith(prefixes)},
        **own,
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
    }
