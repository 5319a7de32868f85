"""Fetching a data set and writing it where `open_source` finds it, once and for all."""

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from drl_jax.data import digits
from drl_jax.data.downloads import Originals
from drl_jax.data.tfds_build import build
from drl_jax.data.tfds_source import data_directory, require_random_access, unknown
from drl_jax.errors import UserError


def prepare(name: str, *, data_dir: str | None = None, path: str | None = None) -> str:
    """Prepares the set `name`, unless it is prepared; nothing half-written is left behind.

    Args:
      name: as for `open_source`.
      data_dir: of tensorflow-datasets; None is $TFDS_DATA_DIR, or else ~/tensorflow_datasets.
      path: folder with the original files under their original names, or one of these files; with
        it the network is not used. None downloads what is not in `data_dir`/downloads.

    Returns:
      One line that says what there is now, and where.

    Raises:
      UserError: the name is unknown, files are missing or damaged, a download fails, the data
        directory cannot be written, or the builder needs TensorFlow.
    """
    if name in ("points", "folder"):
        return f"data.name={name!r} needs no preparation"
    directory = data_directory(data_dir)
    if name == "digits":
        digits.ensure_prepared(directory)
        return _summary(tfds.builder("digits", data_dir=directory))

    try:
        builder = tfds.builder(name, data_dir=directory, file_format="array_record")
    except tfds.core.DatasetNotFoundError as error:
        raise UserError(unknown(name)) from error
    except (ValueError, AssertionError, RuntimeError, ImportError) as error:
        require_random_access(name, directory)
        raise UserError(f"data.name={name!r}: {' '.join(str(error).split())}") from error
    if builder.is_prepared():
        return _summary(builder)
    if os.path.isdir(builder.data_dir):
        raise UserError(
            f"data.name={name!r}: {builder.data_dir} is there, but is not a whole data set; delete it "
            "and prepare again"
        )
    if name == "cifar10":
        vars(builder)["_generate_examples"] = _cifar10_examples
    downloads = os.path.join(directory, "downloads", builder.name)
    try:
        build(builder, Originals(builder.name, builder.url_infos or {}, downloads, path))
    finally:
        shutil.rmtree(os.path.join(downloads, f"unpacked.{os.getpid()}"), ignore_errors=True)
        with contextlib.suppress(OSError):  # what was downloaded stays, for another attempt
            os.rmdir(downloads)
            os.rmdir(os.path.dirname(downloads))
    return _summary(builder)


def _summary(builder: tfds.core.DatasetBuilder) -> str:
    splits = ", ".join(f"{split} {info.num_examples:,}" for split, info in builder.info.splits.items())
    return f"{builder.info.full_name}: {splits} examples, in {builder.data_dir}"


def _cifar10_examples(prefix: str, paths: Iterable[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The examples of batches of the binary archive: a byte of label, then 3 x 32 x 32 of pixels.

    They have the keys and ids of the public builder, which reads by TensorFlow.
    """
    index = 0
    for path in paths:
        with open(path, "rb") as file:
            content = np.frombuffer(file.read(), np.uint8)
        if len(content) == 0 or len(content) % 3073:
            raise UserError(
                f"data.name='cifar10': {os.path.basename(path)} has {len(content)} bytes, not a "
                "multiple of 3,073; it is damaged"
            )
        for row in content.reshape(-1, 3073):
            yield (
                index,
                {
                    "id": f"{prefix}{index:05d}",
                    "image": row[1:].reshape(3, 32, 32).transpose(1, 2, 0),
                    "label": int(row[0]),
                },
            )
            index += 1
