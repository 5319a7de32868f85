"""Picture sets that tensorflow-datasets has prepared, read without TensorFlow."""

import difflib
import os
from typing import cast

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Int, UInt8
from tensorflow_datasets.core.read_only_builder import builder_from_files

from drl_jax.data.pictures import Framing
from drl_jax.errors import UserError


def data_directory(data_dir: str | None) -> str:
    """`data_dir`, or else what tensorflow-datasets takes: $TFDS_DATA_DIR, ~/tensorflow_datasets."""
    return os.path.expanduser(
        data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    )


def find(name: str, data_dir: str, *, prepare_command: str) -> tfds.core.DatasetBuilder:
    """The newest prepared version of the set `name` under `data_dir`; runs no builder's code.

    Raises:
      UserError: there is none (the message ends in `prepare_command`), it was written in a format
        without random access, or it has no pictures.
    """
    try:
        dataset = builder_from_files(name, data_dir=data_dir, file_format="array_record")
    except (ValueError, OSError) as error:
        if isinstance(error, tfds.core.DatasetNotFoundError):
            raise UserError(_not_found(name, data_dir, prepare_command)) from error
        reason = " ".join(str(error).split())
        raise UserError(f"data.name={name!r} under {data_dir} cannot be read: {reason}") from error
    features = dataset.info.features
    if not isinstance(features, tfds.features.FeaturesDict) or not isinstance(
        dict(features.items()).get("image"), tfds.features.Image
    ):
        raise UserError(f"data.name={name!r} has no feature 'image'; choose a set of pictures")
    return dataset


def natural_size(dataset: tfds.core.DatasetBuilder, name: str) -> int:
    """Side of the pictures of a set whose pictures are all the same square.

    Raises:
      UserError: they are not, so data.image_size must be set.
    """
    features = cast(tfds.features.FeaturesDict, dataset.info.features)
    height, width, _ = features["image"].shape
    if height is None or height != width:
        raise UserError(f"data.image_size must be set: the pictures of {name!r} are not one square")
    return height


class Prepared:
    """One split of a prepared set; decodes at each call."""

    def __init__(self, dataset: tfds.core.DatasetBuilder, name: str, split: str, framing: Framing):
        self._origin = f"{name} {split}"
        self._framing = framing
        try:
            # Left encoded here, so that Framing alone says how a picture is read.
            self._records = dataset.as_data_source(
                split, decoders={"image": tfds.decode.SkipDecoding()}
            )
        except (ValueError, OSError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"data.split={split!r} of data.name={name!r}: {reason}") from error
        if len(self._records) == 0:
            raise UserError(f"data.split={split!r} of data.name={name!r} is empty")

    def __len__(self) -> int:
        return len(self._records)

    def take(self, indices: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "n height width channels"]:
        records = self._records.__getitems__(indices.tolist())
        return np.stack(
            [
                self._framing(record["image"], f"{self._origin} example {i}")
                for i, record in zip(indices, records, strict=True)
            ]
        )


def _not_found(name: str, data_dir: str, prepare_command: str) -> str:
    known = tfds.list_builders(with_community_datasets=False)
    if name != "digits" and name.split("/")[0].split(":")[0] not in known:
        ours = ["points", "folder", "digits"]
        close = difflib.get_close_matches(name, [*ours, *known], n=3) or ["cifar10", *ours]
        return f"data.name={name!r} is unknown; try {', '.join(close)}"
    return f"data.name={name!r} is not prepared under {data_dir}; run: {prepare_command}"
