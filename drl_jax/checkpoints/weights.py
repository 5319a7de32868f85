"""The averaged weights of a run in one safetensors file, with the config and the record of their origin."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from flax.traverse_util import unflatten_dict
from safetensors import SafetensorError
from safetensors.numpy import load, save

from drl_jax import files, pretrained
from drl_jax.checkpoints.digests import named_leaves, sha256
from drl_jax.core.types import Tree
from drl_jax.errors import UserError

_FORMAT = "drl_jax 1"


class Stored(NamedTuple):
    """The weights in a file.

    Attributes:
      tree: {"params": …, "spectral": …}, nested dicts of NumPy arrays.
      about: JSON, where they are from.
      sha256: of the tree.
    """

    tree: Tree
    about: dict[str, Any]
    sha256: str


def find(source: str) -> Stored:
    """Reads the weights of a model that ships, or of a file.

    Args:
      source: the name of the model, or the path of the file.

    Returns:
      The weights.

    Raises:
      UserError: there is no such model.
    """
    if source in pretrained.names():
        return read(pretrained.weights_of(source), f"the model {source}")
    path = epath.Path(source).expanduser()
    if not path.is_file():
        raise UserError(
            f"{source!r} is no model; give one of {', '.join(pretrained.names())}, or a file that `export` "
            "wrote"
        )
    return read(path, source)


def write(path: epath.Path, tree: Tree, about: Mapping[str, Any]) -> None:
    """Writes weights.

    Args:
      path: of the file.
      tree: {"params": …, "spectral": …}, nested dicts of arrays.
      about: JSON: the config, the step and whatever tells where the weights are from.
    """
    named = {name: np.ascontiguousarray(leaf) for name, leaf in named_leaves(tree).items()}
    metadata = {"format": _FORMAT, "sha256": sha256(tree), "about": json.dumps(about)}
    files.write(path, save(named, metadata))


def read(path: epath.Path, name: str) -> Stored:
    """Reads what `write` wrote.

    Args:
      path: of the file.
      name: what a message calls it.

    Returns:
      The weights.

    Raises:
      UserError: it is no such file, or damaged.
    """
    content = path.read_bytes()
    try:
        metadata = _metadata(content)
        named = load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise UserError(f"{name} is not a safetensors file, or damaged: {error}") from None
    if metadata.get("format") != _FORMAT:
        raise UserError(
            f"{name} has no weights of this program: its metadata lack format={_FORMAT!r}; `export` writes it"
        )
    # A network without spectral normalisation has no such arrays.
    tree: Tree = {"params": {}, "spectral": {}, **unflatten_dict(named, sep="/")}
    digest = sha256(tree)
    if digest != metadata["sha256"]:
        raise UserError(f"{name} is damaged: its weights are not those that were written")
    return Stored(tree, json.loads(metadata["about"]), digest)


def _metadata(content: bytes) -> dict[str, str]:
    """The metadata in the header: its length in 8 bytes, then JSON."""
    size = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + size])["__metadata__"]
