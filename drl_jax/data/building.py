"""Running a builder of tensorflow-datasets, TensorFlow absent, so that a set is there or is not."""

import contextlib
import os
import sys

import tensorflow_datasets as tfds

from drl_jax.errors import UserError


def build(builder: tfds.core.DatasetBuilder, **options) -> None:
    """Prepares the builder's set; it appears under its directory whole, by one rename, or not.

    Args:
      builder: with file_format "array_record"; others cannot be written without TensorFlow.
      **options: of `download_and_prepare`.

    Raises:
      UserError: the data directory cannot be written.
    """
    try:
        # Standard output belongs to whoever called; progress goes to standard error.
        with contextlib.redirect_stdout(sys.stderr):
            builder.download_and_prepare(**options)
    except OSError as error:
        if os.path.isdir(builder.data_dir):
            return  # another process was faster, and its set is as good
        reason = " ".join((error.strerror or str(error)).split())
        raise UserError(
            f"data.data_dir: cannot write {builder.name} to {builder.data_dir}: {reason}; "
            "choose a folder that can be written"
        ) from error
