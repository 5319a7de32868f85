"""Paths in a config and on the command line: absolute ones, and addresses such as gs://."""

import os
import re
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from drl_jax import pretrained
from drl_jax.errors import UserError

# Values of these keys are paths on this machine; the words are not.
KEYS = ("data.data_dir", "data.path", "training.init", "evaluation.inception_weights")
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(//|(?<=gs:)/)(.*)", re.DOTALL)


def absolute(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of a config with absolute paths, so that they mean the same from every folder.

    Args:
      values: by key, such as "data.path".

    Raises:
      UserError: a path is an address, such as s3://….
    """
    return {key: _absolute(key, value) for key, value in values.items()}


def check_folder(flag: str, folder: str) -> None:
    """Checks that a value is a folder, or an address that can be used here.

    Args:
      flag: the flag that it is the value of.
      folder: the value.

    Raises:
      UserError: it is another address, or the package for gs:// is missing.
    """
    match = _ADDRESS.match(folder)
    if match is None:
        return
    scheme, slashes, rest = match.groups()
    if scheme == "file":
        raise UserError(f"{flag}={folder} is not possible; write {flag}=/{rest.lstrip('/')}")
    if scheme.lower() == "gs" and (scheme != "gs" or slashes != "//"):
        raise UserError(f"{flag}={folder} is not possible; write {flag}=gs://{rest.lstrip('/')}")
    if scheme != "gs":
        raise UserError(
            f"{flag}={folder} is not possible: it must be a folder, or on gs://, not on {scheme}://; mount "
            "it as a folder"
        )
    if find_spec("gcsfs") is None:
        raise UserError(
            f"{flag}={folder} needs the package gcsfs, as the extra gcs has it: pip install gcsfs"
        )


def _absolute(key: str, value: Any) -> Any:
    if key not in KEYS or not isinstance(value, str) or not value or _is_name(key, value):
        return value
    if match := _ADDRESS.match(value):
        scheme, _, rest = match.groups()
        remedy = (
            f"write --config.{key}=/{rest.lstrip('/')}"
            if scheme == "file"
            else f"{scheme}:// is not read; copy it to a disk of this machine, or mount it as a folder"
        )
        raise UserError(f"config.{key}={value!r} is not possible: {remedy}")
    return os.path.abspath(os.path.expanduser(value))


def _is_name(key: str, value: str) -> bool:
    """Whether a value is one of the words that a key takes beside paths."""
    if key == "training.init":
        return value in pretrained.names()
    return key == "evaluation.inception_weights" and value == "fetch"
