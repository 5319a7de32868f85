"""Reads the files of MNIST and of sets in its format (IDX): Fashion-MNIST, KMNIST, EMNIST."""

import gzip
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from drl_jax.errors import UserError

SETS = ("mnist", "fashion_mnist", "kmnist", "emnist")  # the names of tensorflow-datasets


def read(path: Path) -> UInt8[np.ndarray, "..."]:
    """Reads the array of bytes in a file, packed by gzip or not.

    Raises:
      UserError: it is another file, or damaged.
    """
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        zero, kind, dimensions = struct.unpack(">HBB", content[:4])
        if (zero, kind) != (0, 8):
            raise ValueError(f"it begins with {content[:4].hex()}, not with 000008")
        shape = struct.unpack(f">{dimensions}I", content[4 : 4 + 4 * dimensions])
        pixels = np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions)
        if len(pixels) != math.prod(shape):
            raise ValueError(f"its shape is {shape}, and it has {len(pixels)} bytes")
        return pixels.reshape(shape)
    except (ValueError, OSError, EOFError, zlib.error, struct.error) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not a file in the format of MNIST, or is damaged: {reason}") from None


def examples(name: str, images: Path, labels: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Reads examples, with the keys of the library's builder, which reads these files with TensorFlow.

    Args:
      name: of the data set.
      images: the file of the images, [n, 28, 28].
      labels: the file of the labels, [n].

    Yields:
      A number from 0 on, and the features.

    Raises:
      UserError: a file is damaged, or the files do not belong together.
    """
    pixels, numbers = read(images), read(labels)
    if pixels.shape[1:] != (28, 28) or numbers.shape != pixels.shape[:1]:
        raise UserError(
            f"config.data.name={name!r}: {images} has the shape {pixels.shape} and {labels} {numbers.shape}; "
            "(n, 28, 28) and (n,) belong together"
        )
    for index, (image, label) in enumerate(zip(pixels, numbers, strict=True)):
        yield index, {"image": image[..., None], "label": int(label)}
