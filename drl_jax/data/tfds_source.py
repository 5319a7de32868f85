"""Reads image sets that tensorflow-datasets has prepared, without TensorFlow."""

import difflib
import os
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Int, UInt8
from tensorflow_datasets.core.read_only_builder import builder_from_files

from drl_jax.data import BUILT_IN
from drl_jax.data.decoding import CropResize, Unreadable
from drl_jax.errors import UserError


def find(name: str, data_dir: os.PathLike, *, prepare_command: str) -> tfds.core.DatasetBuilder:
    """Finds the newest prepared version of a data set. No code of its builder is run.

    Args:
      name: of the data set.
      data_dir: folder of prepared data sets.
      prepare_command: the command that prepares the data set, for the message if it is missing.

    Raises:
      UserError: the data set is not prepared, cannot be read, cannot be read at random, or has no images.
    """
    try:
        dataset = builder_from_files(name, data_dir=data_dir, file_format="array_record")
    except tfds.core.DatasetNotFoundError as error:
        raise UserError(_not_found(name, data_dir, prepare_command)) from error
    except Exception as error:  # a damaged dataset_info.json raises errors of several types
        require_random_access(name, data_dir)
        raise UserError(_unreadable(name, data_dir, error)) from error
    features = dataset.info.features
    if not isinstance(features, tfds.features.FeaturesDict) or not isinstance(
        dict(features.items()).get("image"), tfds.features.Image
    ):
        raise UserError(f"config.data.name={name!r} has no feature 'image'; choose a data set of images")
    return dataset


def require_random_access(name: str, data_dir: os.PathLike) -> None:
    """Checks that a prepared data set is in the format array_record.

    Nothing is raised if the data set is missing or damaged.

    Raises:
      UserError: the data set is only in other formats, which can only be read from beginning to end.
    """
    try:
        info = builder_from_files(name, data_dir=data_dir).info
    except Exception:
        return
    formats = [each for each in (info.file_format, *info.alternative_file_formats) if each]
    if tfds.core.FileFormat.ARRAY_RECORD not in formats:
        names = ", ".join(each.value for each in formats)
        raise UserError(
            f"config.data.name={name!r} under {data_dir} is in the format {names}, and only array_record can "
            "be read at random; set config.data.data_dir to another folder and prepare it there"
        )


class TfdsSplit:
    """A source of the images of one split. Each call of `take` decodes them."""

    def __init__(self, dataset: tfds.core.DatasetBuilder, name: str, split: str, crop_resize: CropResize):
        """Opens a split.

        Args:
          dataset: what `find` returned.
          name: of the data set, for messages.
          split: such as "train", or a part of it such as "train[:1000]".
          crop_resize: how images are decoded.

        Raises:
          UserError: there is no such split, it is empty, or it cannot be read.
        """
        self._name = name
        self._directory = dataset.data_dir
        self._split = split
        self._crop_resize = crop_resize
        open_split: Any = dataset.as_data_source  # a decorator hides its type
        try:
            self._records = open_split(split, decoders={"image": tfds.decode.SkipDecoding()})
        except ValueError as error:
            raise UserError(
                f"config.data.split={split!r} of config.data.name={name!r}: {_one_line(error)}"
            ) from error
        except (RuntimeError, OSError) as error:
            raise UserError(_unreadable(name, dataset.data_dir, error)) from error
        if len(self._records) == 0:
            raise UserError(f"config.data.split={split!r} of config.data.name={name!r} is empty")

    def __len__(self) -> int:
        return len(self._records)

    def take(self, indices: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "n height width channels"]:
        try:
            records = self._records.__getitems__(indices.tolist())
        except (RuntimeError, ValueError, OSError) as error:  # raised by array_record and protobuf
            where = f" example {indices[0]}" if len(indices) == 1 else ""
            raise Unreadable(_unreadable(self._name, self._directory, error, where)) from error
        return np.stack(
            [
                self._crop_resize.decode(record["image"], f"{self._name} {self._split} example {i}")
                for i, record in zip(indices, records, strict=True)
            ]
        )


def unknown_name(name: str) -> str:
    """The message for a name that is no data set's: it lists similar names."""
    known = [*BUILT_IN, *tfds.list_builders(with_community_datasets=False)]
    word = name.lower().replace("-", "").replace(" ", "_")
    similar = difflib.get_close_matches(word, known, n=3) or ["cifar10", "folder"]
    return f"config.data.name={name!r} is unknown; try {', '.join(similar)}"


def _not_found(name: str, data_dir: os.PathLike, prepare_command: str) -> str:
    base = name.split("/")[0].split(":")[0]
    if base not in tfds.list_builders(with_community_datasets=False):
        return unknown_name(name)
    return f"config.data.name={name!r} is not prepared under {data_dir}; run: {prepare_command}"


def _unreadable(name: str, directory: str | os.PathLike, error: Exception, where: str = "") -> str:
    return (
        f"config.data.name={name!r} under {directory}{where} cannot be read: {_one_line(error)}; delete its "
        "folder and prepare it again"
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
