"""Downloads a data set of tensorflow-datasets and writes it where `open_source` finds it."""

import contextlib
import logging
import os
import re
import shutil

import tensorflow_datasets as tfds

from drl_jax.data import BUILT_IN, exports
from drl_jax.data.downloads import Downloads
from drl_jax.data.sources import data_directory, open_source
from drl_jax.data.tfds_build import build
from drl_jax.data.tfds_source import require_random_access, unknown_name
from drl_jax.errors import UserError


def prepare(name: str, *, data_dir: str | None = None, path: str | None = None) -> str:
    """Prepares a data set, unless this is done already. If it fails, no unfinished files are left.

    Args:
      name: of the data set, as for `open_source`.
      data_dir: folder of prepared data sets; None is $TFDS_DATA_DIR, or else ~/tensorflow_datasets.
      path: folder with the original files, or one of these files; nothing is downloaded then. `originals`,
        `cifar` and `celeba` know the forms that they may have. None downloads the files that are not in
        `data_dir`/downloads.

    Returns:
      One line that says what is prepared, and where.

    Raises:
      UserError: the name is unknown, files are missing or damaged, a download fails, `data_dir` cannot be
        written, or the builder of the data set needs TensorFlow.
    """
    exports.refuse_lsun(name, path)
    if name == "folder":
        open_source(name, image_size=1, path=path)  # what cannot be read is refused
    if name in BUILT_IN:
        return f"config.data.name={name!r} needs no preparation"
    directory = data_directory(data_dir)
    try:
        builder = tfds.builder(name, data_dir=directory, file_format="array_record")
    except tfds.core.DatasetNotFoundError as error:
        raise UserError(unknown_name(name)) from error
    except (ValueError, AssertionError, RuntimeError, ImportError) as error:
        if re.fullmatch(r"\w+([/:].*)?", name) is None:
            raise UserError(unknown_name(name)) from error
        require_random_access(name, directory)
        raise UserError(f"config.data.name={name!r}: {' '.join(str(error).split())}") from error
    logging.getLogger("absl").setLevel(logging.ERROR)  # it would warn of a folder that is made below
    if builder.is_prepared():
        return _summary(builder)
    if builder.data_path.is_dir():
        raise UserError(
            f"config.data.name={name!r}: {builder.data_dir} exists but is not a complete data set; delete it "
            "and prepare again"
        )
    if path is not None and not os.path.exists(os.path.expanduser(path)):
        raise UserError(f"config.data.path={path!r} does not exist; give the folder of the original files")
    folder = directory / "downloads" / builder.name
    new = [each for each in (builder.data_path, *builder.data_path.parents) if not each.exists()]
    downloads = Downloads(builder.name, builder.url_infos or {}, folder, path, given_name=name)
    try:
        build(builder, downloads)
    finally:
        downloads.delete_unpacked()
        with contextlib.suppress(OSError):  # not empty: downloaded files are kept for the next attempt
            os.rmdir(folder)
            os.rmdir(folder.parent)
        for each in new:
            if not builder.data_path.exists():  # the library has noted there which config is the default
                shutil.rmtree(each / ".config", ignore_errors=True)
            with contextlib.suppress(OSError):  # not empty: the data set is there
                os.rmdir(each)
    return _summary(builder)


def _summary(builder: tfds.core.DatasetBuilder) -> str:
    splits = ", ".join(f"{split} {info.num_examples:,}" for split, info in builder.info.splits.items())
    return f"{builder.info.full_name}: {splits} examples, in {builder.data_dir}"
