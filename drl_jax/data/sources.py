"""Random access to the examples of a data set, in any kind of storage."""

import hashlib
import os
import queue
import shlex
import threading
import time
from typing import Any, Protocol, runtime_checkable

import numpy as np
from etils import epath
from jaxtyping import Float32, Int, UInt8
from PIL import Image

from drl_jax.data import BUILT_IN, densities
from drl_jax.data.decoding import WHITE, CropResize
from drl_jax.data.notes import Notes
from drl_jax.data.skipping import SkipDamaged
from drl_jax.errors import UserError

Examples = UInt8[np.ndarray, "n height width channels"] | Float32[np.ndarray, "n 2"]
Indices = Int[np.ndarray, " n"]


# The square of the published results: full width, rows 20 to 197 of the aligned faces.
CELEB_A_CROP = (20, 0, 178, 178)

_NUM_POINTS = 1_000_000
_MAX_CACHED = 2**30  # bytes of decoded images that are kept in memory


@runtime_checkable
class Source(Protocol):
    """Examples by index."""

    def __len__(self) -> int: ...

    def take(self, indices: Indices) -> Examples:
        """Returns the examples with these indices. Several threads may call this at once.

        Returns:
          Images `[n, height, width, channels]` uint8 or points `[n, 2]` float32, in an array that the caller
          may change.

        Raises:
          UserError: an example cannot be read.
        """
        ...


class Opened:
    """A source as `open_source` returns it: with what there is to report about it.

    Attributes:
      notes: what was changed or left out, and which damaged examples were met.
    """

    def __init__(self, source: Source, notes: Notes):
        self._source, self.notes = source, notes

    def __len__(self) -> int:
        return len(self._source)

    def take(self, indices: Indices) -> Examples:
        return self._source.take(indices)


class InMemory:
    """A source whose examples are the rows of an array."""

    def __init__(self, examples: Examples):
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    def take(self, indices: Indices) -> Examples:
        return self._examples[indices]


class Cached:
    """Another source's images, each read once and then kept in memory."""

    def __init__(self, source: Source, shape: tuple[int, int, int]):
        """Reads nothing yet. `shape` is (height, width, channels) of an image of `source`."""
        self._source = source
        self._images = np.zeros((len(source), *shape), np.uint8)
        self._is_read = np.zeros(len(source), bool)

    def __len__(self) -> int:
        return len(self._is_read)

    def take(self, indices: Indices) -> Examples:
        # Two threads may read the same image at once; both write the same bytes.
        missing = np.unique(indices[~self._is_read[indices]])
        if len(missing):
            self._images[missing] = self._source.take(missing)
            self._is_read[missing] = True
        return self._images[indices]


class WithTimeout:
    """Another source, whose `take` raises UserError if it does not return in time.

    A disk or server that does not answer would block its reader, and so the run, forever. So each call runs
    in a thread of its own; after the timeout it is left behind.
    """

    def __init__(self, source: Source, timeout: float):
        """`timeout` is in seconds, for each call of `take`."""
        self._source, self._timeout = source, timeout
        self._timed_out = threading.Event()  # set by the first call that times out; ends all others

    def __len__(self) -> int:
        return len(self._source)

    def take(self, indices: Indices) -> Examples:
        results: queue.SimpleQueue[Any] = queue.SimpleQueue()

        def read() -> None:
            try:
                results.put(self._source.take(indices))
            except BaseException as error:  # also SystemExit: the caller waits for a result
                results.put(error)

        threading.Thread(target=read, daemon=True).start()
        end, result = time.monotonic() + self._timeout, None
        while result is None:
            try:
                result = results.get(timeout=min(0.5, max(0.0, end - time.monotonic())))
            except queue.Empty:
                if time.monotonic() >= end:
                    self._timed_out.set()
                if self._timed_out.is_set():
                    raise UserError(
                        f"{len(indices)} examples were not read within config.data.timeout={self._timeout:g} "
                        "seconds: the disk or server that holds the data does not answer"
                    ) from None
        if isinstance(result, UserError):
            raise result
        if isinstance(result, BaseException):
            raise UserError(
                f"a reader of the data failed with {type(result).__name__}: {' '.join(str(result).split())}"
            ) from result
        return result


def open_source(
    name: str,
    *,
    image_size: int,
    channels: int = 3,
    crop: tuple[int, int, int, int] | None = None,
    split: str = "train",
    data_dir: str | None = None,
    path: str | None = None,
    density: str | None = None,
    background: tuple[int, ...] = WHITE,
    skip_damaged: bool = False,
    for_check: bool = False,
    timeout: float = 600.0,
    prepare_command: str = "python -m drl_jax prepare",
) -> Opened:
    """Opens a data set.

    Images are kept in memory once they are read, if all of them take at most 1 GiB decoded. Points are
    1,000,000 samples of a density, the same at each call.

    Args:
      name: "digits", "folder" (needs `path`), "points" (needs `density`), or an image set of
        tensorflow-datasets that is prepared as array_record, such as "cifar10" or "celeb_a".
      image_size: side of the images in pixels, after crop and resize. Not used for points.
      channels: of the images: 1 (grey) or 3 (RGB).
      crop: (top, left, height, width) in pixels of the upright image. None is the largest central square, or
        for celeb_a `CELEB_A_CROP`.
      split: of a set of tensorflow-datasets; the others have only "train".
      data_dir: folder of prepared data sets; None is $TFDS_DATA_DIR, or else ~/tensorflow_datasets.
      path: a folder of images, with its subfolders, an archive, or arrays.
      density: name of a density in `densities.DENSITIES`.
      background: what shows where an image is transparent: one grey level or RGB, 0 to 255.
      skip_damaged: whether the next undamaged example takes the place of a damaged one.
      for_check: every example is to be read once, to find the bad ones: none is kept in memory or replaced.
      timeout: seconds that a call of `take` may wait for files.
      prepare_command: the command that prepares a missing data set, without `--config.data.data_dir`; for the
        message.

    Raises:
      UserError: the name, split, path or density is wrong, or the data set is not prepared.
    """
    notes = Notes()
    if name in BUILT_IN and split != "train":
        raise UserError(f"config.data.split={split!r}: config.data.name={name!r} has only 'train'")
    if name == "points":
        return Opened(
            InMemory(densities.by_name(density).sample(np.random.default_rng(0), _NUM_POINTS)), notes
        )
    if crop is None and name == "celeb_a":
        crop = CELEB_A_CROP
    crop_resize = CropResize(image_size, channels, crop, background, notes)
    if name == "digits":
        return Opened(_digits(crop_resize), notes)
    if name == "folder":
        from drl_jax.data.folder import open_folder

        if path is None:
            raise UserError(
                "config.data.path must be set for config.data.name='folder': a folder or an archive of "
                "images; `prepare` with --config.data.name=lsun/church_outdoor prints how to get LSUN's"
            )
        source = open_folder(path, crop_resize, is_tolerant=skip_damaged or for_check)
    else:
        # Imported here because it takes a second, and no other data set needs it.
        from drl_jax.data import tfds_source

        directory = data_directory(data_dir)
        command = f"{prepare_command} --config.data.data_dir={shlex.quote(str(directory))}"
        dataset = tfds_source.find(name, directory, prepare_command=command)
        source = tfds_source.TfdsSplit(dataset, name, split, crop_resize)
    if skip_damaged and not for_check:
        source = SkipDamaged(source, notes)
    source = WithTimeout(source, timeout)
    shape = (image_size, image_size, channels)
    if not for_check and len(source) * int(np.prod(shape)) <= _MAX_CACHED:
        source = Cached(source, shape)
    return Opened(source, notes)


def _digits(crop_resize: CropResize) -> InMemory:
    """The 1,797 handwritten digits of scikit-learn: 8 × 8 pixels, grey."""
    # Imported here because it takes seconds.
    from sklearn.datasets import load_digits

    rows, _ = load_digits(return_X_y=True)
    pixels = np.round(np.asarray(rows) * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    images = [crop_resize(Image.fromarray(each), f"digits example {i}") for i, each in enumerate(pixels)]
    return InMemory(np.stack(images))


def has_split(name: str, split: str, *, data_dir: str | None = None) -> bool:
    """Whether a prepared data set has a split of this name.

    Raises:
      UserError: the data set is not prepared, or cannot be read.
    """
    if name in BUILT_IN:
        return split == "train"
    from drl_jax.data import tfds_source

    return split in tfds_source.find(name, data_directory(data_dir), prepare_command="").info.splits


def data_directory(data_dir: str | None) -> epath.Path:
    """The folder of prepared data sets: `data_dir`, or else $TFDS_DATA_DIR, or else ~/tensorflow_datasets."""
    return epath.Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def skipped(source: Source) -> int:
    """Returns how many damaged examples of a source were met, and replaced, so far."""
    return source.notes.skipped if isinstance(source, Opened) else 0


def fingerprint(source: Source) -> dict[str, Any]:
    """Returns what distinguishes data sets, without reading all of their examples.

    Returns:
      `examples`: their number. `sha256_of_16`: the SHA-256 of 16 of them, evenly spaced.
    """
    few = source.take(np.linspace(0, len(source) - 1, 16).astype(int))
    sha256 = hashlib.sha256(f"{few.dtype}{few.shape}".encode() + np.ascontiguousarray(few).tobytes())
    return {"examples": len(source), "sha256_of_16": sha256.hexdigest()}
