"""Feature extractors: Inception, or the pixels or coordinates themselves."""

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Float

from drl_jax.checkpoints import torch_file
from drl_jax.data.downloads import fetch
from drl_jax.errors import UserError
from drl_jax.metrics import inception
from drl_jax.parallel.mesh import Placement
from drl_jax.pixels import to_unit

# Of torch-fidelity's public file of weights, as other projects publish it; its name has the first 8 digits.
PUBLIC_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
PUBLIC_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    f"weights-inception-2015-12-05-{PUBLIC_SHA256[:8]}.pth"
)
FETCH = "fetch"  # value of config.evaluation.inception_weights: download the public file
_ROWS = 16  # images that a device computes at a time: a fixed number, because last digits depend on it
_MAX_DIMENSIONS = 4096  # of features; larger covariances do not fit the memory


class Features(NamedTuple):
    """Features of examples.

    Attributes:
      vectors: one feature vector per example.
      logits: the class logits, if the extractor has classes.
    """

    vectors: Float[np.ndarray, "n d"]
    logits: Float[np.ndarray, "n classes"] | None = None

    def rows(self, first: int, count: int) -> "Features":
        """Returns the features of examples first … first + count − 1."""
        rows = slice(first, first + count)
        return Features(self.vectors[rows], None if self.logits is None else self.logits[rows])


class FeatureExtractor(NamedTuple):
    """A function from examples to features, and what it depends on.

    Attributes:
      name: "inception", "pixels" or "points".
      extract: examples -> features, for any number of examples. All processes call it with the same
        examples, and each gets all features.
      about: everything that the features depend on besides the examples. It is printed, and is part of the
        keys of caches.
      is_costly: whether features are worth a file.
    """

    name: str
    extract: Callable[[np.ndarray], Features]
    about: dict[str, str]
    is_costly: bool


def concatenate(parts: Sequence[Features]) -> Features:
    """Joins the features of examples that follow each other; there must be at least one part."""
    vectors = np.concatenate([part.vectors for part in parts])
    logits = [part.logits for part in parts if part.logits is not None]
    return Features(vectors, np.concatenate(logits) if logits else None)


def data_extractor(shape: tuple[int, ...]) -> FeatureExtractor:
    """Makes the extractor whose features are the examples themselves.

    Features are pixels in [-1, 1], or coordinates of points as they are.

    Args:
      shape: of one example.

    Raises:
      UserError: images of this shape have too many pixels for a covariance.
    """
    size = int(np.prod(shape))
    if size > _MAX_DIMENSIONS:
        raise UserError(
            f"config.evaluation.metrics: metrics of pixels are for small images; those of shape {shape} have "
            f"{size} numbers, more than {_MAX_DIMENSIONS}"
        )
    is_points = shape == (2,)
    return FeatureExtractor(
        name="points" if is_points else "pixels",
        extract=lambda x: Features(to_unit(x).reshape(len(x), size)),
        about={"scale": "coordinates as they are" if is_points else "0 … 255 to -1 … 1"},
        is_costly=False,
    )


def inception_extractor(path: str, sha256: str, placement: Placement) -> FeatureExtractor:
    """Makes the extractor of published figures: the Inception network of 2015-12-05, on all devices.

    Args:
      path: torch-fidelity's file of weights.
      sha256: how the SHA-256 of that file must begin.
      placement: where arrays live.

    Raises:
      UserError: the file cannot be read, or is another.
    """
    weights, digest = read_weights(path, sha256)
    weights = placement.replicate(weights)

    def on_device(weights: inception.Weights, images: jax.Array) -> jax.Array:
        # As one array: two messages at the same time could block the threads of a CPU.
        return jnp.concatenate(inception.inception(weights, images), axis=1)

    network = jax.jit(
        jax.shard_map(
            on_device,
            mesh=placement.mesh,
            in_specs=(placement.replicated.spec, placement.batched.spec),
            out_specs=placement.batched.spec,
        ),
        out_shardings=placement.replicated,
    )
    rows = _ROWS * placement.num_devices

    def extract(images: np.ndarray) -> Features:
        parts = [Features(np.zeros((0, 2048), np.float32), np.zeros((0, 1008), np.float32))]
        for first in range(0, len(images), rows):
            part = images[first : first + rows]
            if part.shape[-1] == 1:  # grey
                part = np.repeat(part, 3, axis=-1)
            padding = np.zeros((rows - len(part), *part.shape[1:]), part.dtype)
            both = np.asarray(network(weights, placement.shard(np.concatenate([part, padding]))))
            parts.append(Features(both[:, :2048], both[:, 2048:]).rows(0, len(part)))
        return concatenate(parts)

    about = {
        "network": "Inception-v3, graph of 2015-12-05, float32",
        "resize": "bilinear to 299x299 as in TensorFlow 1, without half-pixel centres",
        "weights_sha256": digest,
    }
    return FeatureExtractor("inception", extract, about, is_costly=True)


def read_weights(path: str, sha256: str) -> tuple[dict[str, np.ndarray], str]:
    """Reads the weights of Inception.

    Args:
      path: torch-fidelity's file of weights.
      sha256: how the SHA-256 of that file must begin. It is compared before anything in the file is read.

    Returns:
      (the weights, as `metrics.inception.Weights`; the SHA-256 of the file).

    Raises:
      UserError: the file cannot be read, has another SHA-256, or does not hold these weights.
    """
    key = f"config.evaluation.inception_weights={path}"
    try:
        content = epath.Path(path).expanduser().read_bytes()
    except OSError as error:
        raise UserError(f"{key} cannot be read: {error.strerror or error}") from None
    digest = hashlib.sha256(content).hexdigest()
    if not digest.startswith(sha256.lower()):
        raise UserError(
            f"{key} has the SHA-256 {digest[:16]}…, which does not begin with "
            f"config.evaluation.inception_sha256={sha256}: the file is damaged, or is another; the public "
            f"file is {PUBLIC_URL}"
        )
    try:
        weights = inception.fold(torch_file.read(content))
        jax.eval_shape(inception.inception, weights, jax.ShapeDtypeStruct((1, 32, 32, 3), np.uint8))
    except (ValueError, KeyError, TypeError) as error:  # damaged, arrays missing, or of other shapes
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{key} does not hold the weights of Inception: {reason}") from None
    return weights, digest


def fetch_weights(folder: epath.Path) -> str:
    """Downloads the public file of weights, unless it is in `folder` already.

    Returns:
      The path of the file.

    Raises:
      UserError: the download failed, or gave another file.
    """
    file = folder / PUBLIC_URL.rsplit("/", 1)[1]
    if not file.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            fetch(PUBLIC_URL, str(file), sha256=PUBLIC_SHA256)
        except OSError as error:
            raise UserError(
                f"config.evaluation.inception_weights={FETCH}: cannot download {PUBLIC_URL}: {error}; "
                "download the file by other means and give its path"
            ) from None
    return str(file)
