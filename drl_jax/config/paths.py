"""Paths in a config and on the command line: absolute ones, and addresses such as gs://."""

import os
import re
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from drl_jax.errors import UserError

# Values of these keys are paths on this machine; the words are not.
KEYS = ("data.data_dir", "data.path", "evaluation.inception_weights")
_WORDS = {"evaluation.inception_weights": ("fetch",)}
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(//|(?<=gs:)/)(.*)", re.DOTALL)


def absolute(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of a config with absolute paths, so that they mean the same from every folder.

    Args:
      values: by key, such as "data.path".

    Raises:
      UserError: a path is an address, such as s3://….
    """
    return {key: _absolute(key, value) for key, value in values.items()}


def check_workdir(workdir: str) -> None:
    """Checks that a workdir is a folder, or an address that can be used here.

    Raises:
      UserError: it is another address, or the package for gs:// is missing.
    """
    match = _ADDRESS.match(workdir)
    if match is None:
        return
    scheme, slashes, rest = match.groups()
    if scheme == "file":
        raise UserError(f"--workdir={workdir} is not possible; write --workdir=/{rest.lstrip('/')}")
    if scheme.lower() == "gs" and (scheme != "gs" or slashes != "//"):
        raise UserError(f"--workdir={workdir} is not possible; write --workdir=gs://{rest.lstrip('/')}")
    if scheme != "gs":
        raise UserError(
            f"--workdir={workdir} is not possible: a workdir is a folder or on gs://, not on {scheme}://; "
            "mount it as a folder"
        )
    if find_spec("gcsfs") is None:
        raise UserError(f"--workdir={workdir} needs the package gcsfs: pip install 'drl-jax[gcs]'")


def _absolute(key: str, value: Any) -> Any:
    if key not in KEYS or not isinstance(value, str) or not value or value in _WORDS.get(key, ()):
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
