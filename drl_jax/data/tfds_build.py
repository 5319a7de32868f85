"""Runs builders of tensorflow-datasets without TensorFlow."""

import contextlib
import os
import sys
from collections.abc import Iterator
from functools import partial, wraps
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import shuffle
from tensorflow_datasets.core.utils import tqdm_utils

from drl_jax.data import cifar, idx, tensorflow_use
from drl_jax.data.decoding import encode_png
from drl_jax.data.downloads import Downloads
from drl_jax.errors import UserError

# This module replaces `_make_download_manager`, `_split_generators` and `_generate_examples` of a builder,
# `encode_example` of its images, and `shuffle.MAX_MEM_BUFFER_SIZE`. These are internals of the library, so
# pyproject.toml pins tensorflow-datasets to ~=4.9.10.


def build(builder: tfds.core.DatasetBuilder, downloads: Downloads) -> None:
    """Prepares a data set. Its folder appears by one rename, once it is complete.

    Args:
      builder: of the data set, with file_format "array_record"; other formats cannot be written without
        TensorFlow. Some of its methods are replaced.
      downloads: gives the builder its original files.

    Raises:
      UserError: the data set cannot be written, or its builder needs TensorFlow.
    """
    directory = builder.data_path
    vars(builder)["_make_download_manager"] = lambda **_: downloads
    if builder.name in cifar.LAYOUTS:
        vars(builder)["_generate_examples"] = partial(cifar.examples, builder.name)
    elif builder.name in idx.SETS:
        vars(builder)["_generate_examples"] = partial(_idx_examples, builder.name)
    elif tensorflow_use.is_needed(builder):
        raise UserError(_needs_tensorflow(downloads.given_name))
    _check_writable(directory.parent)
    _encode_with_pillow(builder)
    _announce(builder)
    try:
        with _quiet(), _sort_in_memory():
            builder.download_and_prepare()
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and directory.is_dir():
            return  # another process was faster and has written the same data set
        causes = _causes(error)
        if any(map(_is_missing_tensorflow, causes)):
            raise UserError(_needs_tensorflow(downloads.given_name)) from error
        # The library wraps an error several times and repeats the example; the first cause has the reason.
        reason = f"{type(causes[-1]).__name__}: {' '.join(str(causes[-1]).split())}"
        raise UserError(
            f"config.data.name={downloads.given_name!r} could not be prepared in {directory}: {reason}"
        ) from error


def _check_writable(folder: os.PathLike) -> None:
    try:
        os.makedirs(folder, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(None, "Permission denied")
    except OSError as error:
        raise UserError(
            f"config.data.data_dir: cannot write to {folder}: {error.strerror}; set it to a folder that can "
            "be written"
        ) from error


def _encode_with_pillow(builder: tfds.core.DatasetBuilder) -> None:
    """Makes the builder encode pixels as PNG with Pillow; the library does this with TensorFlow."""

    def encoder(feature: tfds.features.Image):
        library_encode = feature.encode_example

        def encode(image):
            is_pixels = isinstance(image, np.ndarray) and image.dtype == np.uint8
            return encode_png(image) if is_pixels else library_encode(image)

        return encode

    features = builder.info.features
    if isinstance(features, tfds.features.FeaturesDict):
        for feature in features.values():
            if isinstance(feature, tfds.features.Image):
                vars(feature)["encode_example"] = encoder(feature)


def _announce(builder: tfds.core.DatasetBuilder) -> None:
    """Makes the builder print a line when it has its original files, and the long part begins."""
    split_generators: Any = builder._split_generators  # pyright: ignore

    @wraps(split_generators)
    def announced(*args, **options):
        splits = split_generators(*args, **options)
        print(f"writing the examples of {builder.name}", file=sys.stderr, flush=True)
        return splits

    vars(builder)["_split_generators"] = announced


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences the library: its lines, and its progress bars unless somebody sees them on a terminal."""
    was_active = tqdm_utils._active
    tfds.display_progress_bar(was_active and sys.stderr.isatty())
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            yield
    finally:
        tfds.display_progress_bar(was_active)


def _idx_examples(
    name: str, *, num_examples: int, data_path: os.PathLike, label_path: os.PathLike
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Takes the arguments of the library's builder. The files say how many examples they have."""
    del num_examples
    return idx.examples(name, Path(data_path), Path(label_path))


def _needs_tensorflow(name: str) -> str:
    return (
        f"config.data.name={name!r} cannot be prepared without TensorFlow, which its builder "
        "uses; prepare it elsewhere with file_format='array_record', or use its images with "
        "config.data.name=folder"
    )


@contextlib.contextmanager
def _sort_in_memory() -> Iterator[None]:
    """Lets the library sort a split in memory if it takes at most half of the machine's memory.

    The library's limit is 1,000 MiB, less than CelebA's training split. It sorts larger splits with files,
    which needs TensorFlow.
    """
    limit = shuffle.MAX_MEM_BUFFER_SIZE
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    shuffle.MAX_MEM_BUFFER_SIZE = max(limit, memory // 2)
    try:
        yield
    finally:
        shuffle.MAX_MEM_BUFFER_SIZE = limit


def _causes(error: BaseException | None) -> list[BaseException]:
    """The error, its cause, the cause of this cause, and so on."""
    chain = []
    while error is not None:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain


def _is_missing_tensorflow(error: BaseException) -> bool:
    return isinstance(error, ImportError) and "tensorflow" in str(error).lower()
