"""Where distances between images are measured: Inception's features, or the pixels themselves."""

import hashlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from etils import epath
from jaxtyping import Float

from drl_jax.checkpoints import torch_file
from drl_jax.data.downloads import fetch
from drl_jax.errors import UserError
from drl_jax.metrics import inception
from drl_jax.parallel.devices import Placement
from drl_jax.pixels import to_unit

PUBLIC_SHA256 = "6726825d"  # how the SHA-256 of the public file of weights begins; its name has it too
PUBLIC_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    f"weights-inception-2015-12-05-{PUBLIC_SHA256}.pth"
)
FETCH = "fetch"  # in place of a path: download it
_ROWS = 16  # images that a device takes at a time, so that no batch size changes a image's features
_MOST = 4096  # dimensions, in which a covariance can still be handled


class Features(NamedTuple):
    """Of some examples: vectors, and the class logits where the space has classes."""

    vectors: Float[np.ndarray, "n d"]
    logits: Float[np.ndarray, "n classes"] | None = None


class Space(NamedTuple):
    """`extract(examples)` gives their features in all processes, which all call it. `about` is what the
    features depend on besides the examples, for people and for caches; `costly` says whether those of data
    are worth keeping in a file."""

    name: str
    extract: Callable[[np.ndarray], Features]
    about: dict[str, str]
    costly: bool


def data_space(shape: tuple[int, ...]) -> Space:
    """The examples as they are: pixels in [-1, 1], or coordinates of points."""
    name = "points" if shape == (2,) else "pixels"
    size = int(np.prod(shape))
    if size > _MOST:
        raise UserError(
            f"config.evaluation.metrics: distances of pixels are for small images; {shape} are {size} "
            f"numbers, more than {_MOST}"
        )
    about = {"scale": "coordinates as they are" if name == "points" else "0 … 255 to -1 … 1"}
    return Space(name, lambda x: Features(to_unit(x).reshape(len(x), -1)), about, costly=False)


def inception_space(path: str, sha256: str, placement: Placement) -> Space:
    """The Inception network of published figures, on all devices.

    `path` is torch-fidelity's file of weights, whose SHA-256 begins with `sha256`. Raises UserError if it
    is not that.
    """
    weights, digest = read_weights(path, sha256)
    weights = placement.replicate(weights)
    network = jax.jit(
        jax.shard_map(
            inception.inception,
            mesh=placement.batched.mesh,
            in_specs=(placement.replicated.spec, placement.batched.spec),
            out_specs=placement.batched.spec,
        ),
        out_shardings=placement.replicated,
    )
    rows = _ROWS * placement.num_devices

    def extract(images: np.ndarray) -> Features:
        parts = []
        for first in range(0, len(images), rows):
            part = images[first : first + rows]
            if part.shape[-1] == 1:  # grey
                part = np.repeat(part, 3, axis=-1)
            padded = np.concatenate([part, np.zeros((rows - len(part), *part.shape[1:]), part.dtype)])
            vectors, logits = jax.device_get(network(weights, placement.spread(padded)))
            parts.append((vectors[: len(part)], logits[: len(part)]))
        vectors, logits = zip(*parts, strict=True)
        return Features(np.concatenate(vectors), np.concatenate(logits))

    about = {
        "network": "Inception-v3, graph of 2015-12-05, float32",
        "resize": "bilinear to 299x299 as in TensorFlow 1, without half-pixel centres",
        "weights_sha256": digest,
    }
    return Space("inception", extract, about, costly=True)


def read_weights(path: str, sha256: str) -> tuple[dict[str, np.ndarray], str]:
    """Inception's weights and the SHA-256 of their file. Raises UserError, in one line."""
    key = f"config.evaluation.inception_weights={path}"
    try:
        content = epath.Path(path).expanduser().read_bytes()
    except OSError as error:
        raise UserError(f"{key} cannot be read: {error.strerror or error}") from None
    digest = hashlib.sha256(content).hexdigest()
    if not digest.startswith(sha256.lower()):
        raise UserError(
            f"{key} has the SHA-256 {digest[:16]}…, and config.evaluation.inception_sha256={sha256} is "
            f"expected: it is damaged or another file; the public one is {PUBLIC_URL}"
        )
    try:
        weights = inception.fold(torch_file.read(content))
        jax.eval_shape(inception.inception, weights, jax.ShapeDtypeStruct((1, 32, 32, 3), np.uint8))
    except (ValueError, KeyError, TypeError) as error:  # damaged; arrays missing; of other shapes
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{key} does not hold the weights of Inception: {reason}") from None
    return weights, digest


def fetch_weights(folder: epath.Path) -> str:
    """The public file of weights, downloaded into `folder` unless it is there. Returns its path."""
    file = folder / PUBLIC_URL.rsplit("/", 1)[1]
    if not file.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            fetch(PUBLIC_URL, str(file), sha256=PUBLIC_SHA256)
        except OSError as error:
            raise UserError(
                f"config.evaluation.inception_weights={FETCH}: cannot download {PUBLIC_URL}: {error}; "
                "download it by other means and give its path"
            ) from None
    return str(file)
