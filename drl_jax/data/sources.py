"""Random access to examples, whatever they are stored as."""

import queue
import shlex
import threading
import time
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int, UInt8

from drl_jax.data import densities
from drl_jax.data.decoding import Framing
from drl_jax.errors import UserError

Examples = UInt8[np.ndarray, "n height width channels"] | Float32[np.ndarray, "n 2"]
Indices = Int[np.ndarray, " n"]

# Rows 20 to 198 of the aligned faces, at their full width: the square of the published results.
CELEB_A_CROP = (20, 0, 178, 178)

_LARGEST_IN_MEMORY = 2**30  # bytes


@runtime_checkable
class Source(Protocol):
    """Examples by index."""

    def __len__(self) -> int: ...

    def take(self, indices: Indices) -> Examples:
        """Rows `[n, H, W, C]` uint8 of images or `[n, 2]` float32 of points.

        The array is the caller's to change. Threads may call at once.

        Raises:
          UserError: an example cannot be read.
        """
        ...


class InMemory:
    """A source that is one array."""

    def __init__(self, examples: Examples):
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    def take(self, indices: Indices) -> Examples:
        return self._examples[indices]


class Remembered:
    """A image source that decodes each image once and keeps its pixels.

    Opening costs nothing, and the first epoch pays for itself.
    """

    def __init__(self, source: Source, shape: tuple[int, int, int]):
        self._source = source
        self._pixels = np.zeros((len(source), *shape), np.uint8)
        self._known = np.zeros(len(source), bool)

    def __len__(self) -> int:
        return len(self._known)

    def take(self, indices: Indices) -> Examples:
        # Two threads may decode the same image; they write the same bytes.
        new = np.unique(indices[~self._known[indices]])
        if len(new):
            self._pixels[new] = self._source.take(new)
            self._known[new] = True
        return self._pixels[indices]


class Watched:
    """A source whose `take` returns or raises in time.

    A disk or a server that does not answer would hold the reader, and with it the run, for ever. So each
    call has a thread of its own, which is left behind when it does not come back.
    """

    def __init__(self, source: Source, timeout: float):
        self._source, self._timeout = source, timeout
        self._gone = threading.Event()  # one call has waited in vain: the others need not

    def __len__(self) -> int:
        return len(self._source)

    def take(self, indices: Indices) -> Examples:
        answer: queue.SimpleQueue[Any] = queue.SimpleQueue()

        def read() -> None:
            try:
                answer.put(self._source.take(indices))
            except BaseException as error:  # a reader that dies must be heard of
                answer.put(error)

        threading.Thread(target=read, daemon=True).start()
        end, examples = time.monotonic() + self._timeout, None
        while examples is None:
            try:
                examples = answer.get(timeout=min(0.5, max(0.0, end - time.monotonic())))
            except queue.Empty:
                if time.monotonic() >= end:
                    self._gone.set()
                if self._gone.is_set():
                    raise UserError(
                        f"{len(indices)} examples were not read within config.data.timeout="
                        f"{self._timeout:g} seconds: the data's disk or server does not answer"
                    ) from None
        if isinstance(examples, UserError):
            raise examples
        if isinstance(examples, BaseException):
            raise UserError(
                f"a reader of the data died of {type(examples).__name__}: {' '.join(str(examples).split())}"
            ) from examples
        return examples


def open_source(
    name: str,
    *,
    split: str = "train",
    image_size: int | None = None,
    channels: int = 3,
    data_dir: str | None = None,
    path: str | None = None,
    crop: tuple[int, int, int, int] | None = None,
    density: str | None = None,
    size: int = 1_000_000,
    seed: int = 0,
    timeout: float = 600.0,
    prepare_command: str = "python -m drl_jax prepare",
) -> Source:
    """Opens the examples that a config's `data` names.

    Args:
      name: "points" (needs `density`), "folder" (needs `path`), "digits", or the name of a image
        set of tensorflow-datasets, such as "cifar10" or "celeb_a", prepared as array_record.
      split: of a set of tensorflow-datasets; the others have "train" alone.
      image_size: side in pixels; None keeps the size of a set whose images are all one square.
      channels: 1 (grey) or 3 (RGB).
      data_dir: of tensorflow-datasets; None is $TFDS_DATA_DIR, or else ~/tensorflow_datasets.
      path: a folder, searched with its subfolders, or a zip of images.
      crop: (top, left, height, width) in the original image; None is the central square, or for
        celeb_a rows 20 to 198.
      density: name of a density in the plane.
      size: how many points are drawn from it, once.
      seed: of these points.
      timeout: seconds that a call of `take` may wait for files.
      prepare_command: what a user runs to prepare a missing set, save `--config.data.data_dir`.

    Returns:
      The source. Sets that take 1 GiB or less decoded are kept in memory as they are read.

    Raises:
      UserError: a name, path or size is wrong, or the set is not prepared; the message says which
        and what to do.
    """
    if name == "points":
        _require_train(name, split)
        if density is None:
            names = ", ".join(densities.DENSITIES)
            raise UserError(f"data.density must be set for data.name='points'; choose from {names}")
        if size < 1:
            raise UserError(f"data.size={size} must be at least 1")
        points = densities.by_name(density).sample(np.random.default_rng(seed), size)
        return InMemory(points)

    if name == "folder":
        from drl_jax.data.folder import open_folder

        _require_train(name, split)
        if path is None:
            raise UserError("data.path must be set for data.name='folder': a folder or a zip")
        if image_size is None:
            raise UserError("data.image_size must be set for data.name='folder'")
        framing = Framing(image_size, channels, crop)
        return _remembered_if_small(Watched(open_folder(path, framing), timeout), framing)

    # Imported here because tensorflow-datasets takes a second, and points do not need it.
    from drl_jax.data import tfds_source

    directory = tfds_source.data_directory(data_dir)
    if name == "digits":
        from drl_jax.data import digits

        digits.ensure_prepared(directory)
    command = f"{prepare_command} --config.data.data_dir={shlex.quote(directory)}"
    dataset = tfds_source.find(name, directory, prepare_command=command)
    if crop is None and name == "celeb_a":
        crop = CELEB_A_CROP
    if image_size is None:
        image_size = tfds_source.natural_size(dataset, name)
    framing = Framing(image_size, channels, crop)
    return _remembered_if_small(
        Watched(tfds_source.Prepared(dataset, name, split, framing), timeout), framing
    )


def _require_train(name: str, split: str) -> None:
    if split != "train":
        raise UserError(f"data.split={split!r}: data.name={name!r} has only 'train'")


def _remembered_if_small(source: Source, framing: Framing) -> Source:
    shape = (framing.image_size, framing.image_size, framing.channels)
    if len(source) * int(np.prod(shape)) <= _LARGEST_IN_MEMORY:
        return Remembered(source, shape)
    return source
