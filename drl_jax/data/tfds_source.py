"""Image sets that tensorflow-datasets has prepared, read without TensorFlow."""

import difflib
import os
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Int, UInt8
from tensorflow_datasets.core.read_only_builder import builder_from_files

from drl_jax.data.decoding import Framing
from drl_jax.errors import UserError


def data_directory(data_dir: str | None) -> str:
    """`data_dir`, or else what tensorflow-datasets takes: $TFDS_DATA_DIR, ~/tensorflow_datasets."""
    return os.path.expanduser(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")


def find(name: str, data_dir: str, *, prepare_command: str) -> tfds.core.DatasetBuilder:
    """The newest prepared version of the set `name` under `data_dir`; runs no builder's code.

    Raises:
      UserError: there is none (the message ends in `prepare_command`), it was written in a format
        without random access, or it has no images.
    """
    try:
        dataset = builder_from_files(name, data_dir=data_dir, file_format="array_record")
    except tfds.core.DatasetNotFoundError as error:
        raise UserError(_not_found(name, data_dir, prepare_command)) from error
    except Exception as error:  # a damaged description fails in the parser of the moment
        require_random_access(name, data_dir)
        raise UserError(_unreadable(name, data_dir, error)) from error
    features = dataset.info.features
    if not isinstance(features, tfds.features.FeaturesDict) or not isinstance(
        dict(features.items()).get("image"), tfds.features.Image
    ):
        raise UserError(f"data.name={name!r} has no feature 'image'; choose a set of images")
    return dataset


def has_split(name: str, split: str, data_dir: str) -> bool:
    """Whether a set that is prepared under `data_dir` has a split of that name."""
    return split in find(name, data_dir, prepare_command="").info.splits


def require_random_access(name: str, data_dir: str) -> None:
    """Refuses a set that is there, but only in a format that is read from end to end.

    Raises:
      UserError: so it is.
    """
    try:
        info = builder_from_files(name, data_dir=data_dir).info
    except Exception:
        return  # not there, or damaged, which is for the caller to tell
    formats = [found for found in (info.file_format, *info.alternative_file_formats) if found]
    if tfds.core.FileFormat.ARRAY_RECORD not in formats:
        found = ", ".join(each.value for each in formats)
        raise UserError(
            f"data.name={name!r} under {data_dir} is in the format {found}, and only array_record "
            "can be read at random; set data.data_dir to another folder and prepare it there"
        )


def natural_size(dataset: tfds.core.DatasetBuilder, name: str) -> int:
    """Side of the images of a set whose images are all the same square.

    Raises:
      UserError: they are not, so data.image_size must be set.
    """
    features: Any = dataset.info.features
    height, width, _ = features["image"].shape
    if height is None or height != width:
        raise UserError(f"data.image_size must be set: the images of {name!r} are not one square")
    return height


class Prepared:
    """One split of a prepared set; decodes at each call."""

    def __init__(self, dataset: tfds.core.DatasetBuilder, name: str, split: str, framing: Framing):
        self._name = name
        self._directory = dataset.data_dir
        self._origin = f"{name} {split}"
        self._framing = framing
        open_split: Any = dataset.as_data_source  # a decorator hides its type
        try:
            # Left encoded here, so that Framing alone says how a image is read.
            self._records = open_split(split, decoders={"image": tfds.decode.SkipDecoding()})
        except ValueError as error:
            raise UserError(f"data.split={split!r} of data.name={name!r}: {_line(error)}") from error
        except (RuntimeError, OSError) as error:
            raise UserError(_unreadable(name, dataset.data_dir, error)) from error
        if len(self._records) == 0:
            raise UserError(f"data.split={split!r} of data.name={name!r} is empty")

    def __len__(self) -> int:
        return len(self._records)

    def take(self, indices: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "n height width channels"]:
        try:
            records = self._records.__getitems__(indices.tolist())
        except (RuntimeError, ValueError, OSError) as error:  # of array_record, of protobuf
            raise UserError(_unreadable(self._name, self._directory, error)) from error
        return np.stack(
            [
                self._framing(record["image"], f"{self._origin} example {i}")
                for i, record in zip(indices, records, strict=True)
            ]
        )


def unknown(name: str) -> str:
    """The message for a name that means no set at all."""
    known = ["points", "folder", "digits", *tfds.list_builders(with_community_datasets=False)]
    close = difflib.get_close_matches(name, known, n=3) or ["cifar10", "folder"]
    return f"data.name={name!r} is unknown; try {', '.join(close)}"


def _not_found(name: str, data_dir: str, prepare_command: str) -> str:
    base = name.split("/")[0].split(":")[0]
    if base != "digits" and base not in tfds.list_builders(with_community_datasets=False):
        return unknown(name)
    return f"data.name={name!r} is not prepared under {data_dir}; run: {prepare_command}"


def _unreadable(name: str, directory: str, error: Exception) -> str:
    return (
        f"data.name={name!r} under {directory} cannot be read: {_line(error)}; delete its folder "
        "and prepare it again"
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
