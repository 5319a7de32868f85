"""Running a builder of tensorflow-datasets without TensorFlow."""

import contextlib
import os
import sys
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import shuffle

from drl_jax.data.decoding import png
from drl_jax.data.downloads import Originals
from drl_jax.errors import UserError


def build(builder: tfds.core.DatasetBuilder, originals: Originals) -> None:
    """Prepares the builder's set; it appears under its directory whole, by one rename, or not.

    Args:
      builder: with file_format "array_record"; others cannot be written without TensorFlow.
      originals: where the builder gets its files from.

    Raises:
      UserError: the set cannot be written, or its builder cannot do without TensorFlow.
    """
    directory = builder.data_dir
    _require_writable(os.path.dirname(directory))
    _encode_by_pillow(builder)
    # Set on this one builder: the library offers no other place for a download manager.
    vars(builder)["_make_download_manager"] = lambda **_: originals
    try:
        # Standard output belongs to whoever called; progress goes to standard error.
        with contextlib.redirect_stdout(sys.stderr), _sorting_in_memory():
            builder.download_and_prepare()
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and os.path.isdir(directory):
            return  # another process was faster, and its set is as good
        if any(map(_is_missing_tensorflow, _causes(error))):
            raise UserError(
                f"data.name={builder.name!r} cannot be prepared without TensorFlow, which its "
                "builder uses; prepare it elsewhere with file_format='array_record', or take its "
                "images by data.name='folder'"
            ) from error
        # The library repeats the whole example at each level; the root says what was wrong.
        root = _causes(error)[-1]
        reason = f"{type(root).__name__}: {' '.join(str(root).split())}"
        raise UserError(
            f"data.name={builder.name!r} could not be prepared in {directory}: {reason}"
        ) from error


def _require_writable(folder: str) -> None:
    try:
        os.makedirs(folder, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(None, "Permission denied")
    except OSError as error:
        raise UserError(
            f"data.data_dir: cannot write to {folder}: {error.strerror}; set data.data_dir to a "
            "folder that can be written"
        ) from error


def _encode_by_pillow(builder: tfds.core.DatasetBuilder) -> None:
    """Makes arrays of pixels PNG files by Pillow instead of by TensorFlow."""

    def encoder(feature: tfds.features.Image):
        usual = feature.encode_example

        def encode(image):
            is_pixels = isinstance(image, np.ndarray) and image.dtype == np.uint8
            return png(image) if is_pixels else usual(image)

        return encode

    features = builder.info.features
    if isinstance(features, tfds.features.FeaturesDict):
        for feature in features.values():
            if isinstance(feature, tfds.features.Image):
                vars(feature)["encode_example"] = encoder(feature)


@contextlib.contextmanager
def _sorting_in_memory() -> Iterator[None]:
    """Lets a split, as CelebA's, be put in order in memory beyond the usual 1,000 MiB.

    Past that size the library sorts by files, for which it wants TensorFlow.
    """
    usual = shuffle.MAX_MEM_BUFFER_SIZE
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    shuffle.MAX_MEM_BUFFER_SIZE = max(usual, memory // 2)
    try:
        yield
    finally:
        shuffle.MAX_MEM_BUFFER_SIZE = usual


def _causes(error: BaseException | None) -> list[BaseException]:
    """The error, its cause, the cause of that, and so on."""
    chain = []
    while error is not None:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain


def _is_missing_tensorflow(error: BaseException) -> bool:
    return isinstance(error, ImportError) and "tensorflow" in str(error).lower()
