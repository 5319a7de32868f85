"""What the authors' code was given, and how much of what it returned is kept here. See README.md.

The inputs are drawn again from the seeds that they were first drawn from: the stream of a seeded
`numpy.random.RandomState` is frozen (NEP 19), so the repository need not carry megabytes of noise.
`DIGESTS` are of the arrays that the authors' code was really given.
"""

import hashlib
from collections.abc import Mapping

import numpy as np

Arrays = dict[str, np.ndarray]

RELU, SWISH = 1000, 1003  # seeds of the weights of the two small networks
PICTURE_STRIDE, WEIGHT_STRIDE = 5, 23  # of the gradients that are kept

DIGESTS = {
    "weights 1000": "4d0b5f202340a7a96b65256bdd885f744e42e551d34fb7c6acba47175941bdde",
    "weights 1003": "aea060fc1bfa49028db83b9612a1c8e65e1ef703e67974f97d4b3fb333674637",
    "images": "f9e4effcce32017e9f27b09d0e913f65da2dc90981f1195a34dccabeb4725557",
    "chain": "27c22c6e47a74ae2f56b9893186aaff417214ab20c34b4ba8776513b84b28ae1",
    "pair": "9601de1266d13bacf7a849e78caf700281c46e6272209a8c53d6aff381b6483c",
}


def weights(seed: int) -> Arrays:
    """The small network (32 channels, multipliers 1, 2, 2, 2, one block) under the authors' names.

    One stream, in the order of the names: kernels N(0, .05²), second convolutions .35 of that in
    every second block (both sides of the cap occur), biases N(0, .05²), gains 1 + N(0, .1²),
    u N(0, .02²).
    """
    stream = np.random.RandomState(seed)
    arrays = {}

    def draw(name, shape, scale=0.05, centre=0.0):
        arrays[name] = (centre + scale * stream.randn(*shape)).astype(np.float32)

    def layer(name, shape, *, scale=0.05, gain=False):
        draw(f"{name}/w", shape, scale)
        draw(f"{name}/layer/b", shape[-1:])
        if gain:
            draw(f"{name}/layer/g", shape[-1:], 0.1, 1.0)
        draw(f"{name}/sn_u", (1, shape[-1]), 0.02)

    layer("temb_dense_0/dense", (32, 128))
    layer("temb_dense_1/dense", (128, 128))
    draw("temb_dense_2/dense/W", (128, 64))
    draw("temb_dense_2/dense/b", (64,))
    layer("conv2d_in/conv", (3, 3, 3, 32))
    inputs = 32
    for i, outputs in enumerate((32, 64, 64, 64)):
        block = f"res_levels/{i}/0"
        layer(f"{block}/dense/dense", (128, outputs))
        layer(f"{block}/conv2d_1/conv", (3, 3, inputs, outputs))
        scale = 0.05 * (0.35 if i % 2 else 1.0)
        layer(f"{block}/conv2d_2/conv", (3, 3, outputs, outputs), scale=scale, gain=True)
        if inputs != outputs:
            layer(f"{block}/conv2d_shortcut/conv", (3, 3, inputs, outputs))
        inputs = outputs
    return arrays


def images() -> Arrays:
    """What the energies are computed of."""
    x = np.random.RandomState(7).randn(4, 32, 32, 3).astype(np.float32)
    return {"x": x, "t": np.array([0, 2, 3, 5], np.int32)}


def chain() -> Arrays:
    """The data, the noises of the pair (the step's, then the jump's), and of 30 Langevin steps."""
    stream = np.random.RandomState(77)
    return {
        "x0": np.clip(0.5 * stream.randn(4, 32, 32, 3), -1, 1).astype(np.float32),
        "q_noise": stream.randn(2, 4, 32, 32, 3).astype(np.float32),
        "noises": stream.randn(30, 4, 32, 32, 3).astype(np.float32),
        "t": np.array([0, 2, 3, 5], np.int32),
    }


def pair() -> Arrays:
    """The positives and negatives of the loss."""
    stream = np.random.RandomState(79)
    x = stream.randn(4, 32, 32, 3)
    positive = np.clip(x, -3, 3).astype(np.float32)
    negative = (positive + 0.3 * stream.randn(4, 32, 32, 3)).astype(np.float32)
    return {"x_pos": positive, "x_neg": negative, "t": np.array([0, 3, 3, 5], np.int32)}


def thin(array: np.ndarray, stride: int) -> np.ndarray:
    """Every `stride`-th entry. An odd prime stride visits every channel and every row."""
    return np.asarray(array).reshape(-1)[::stride]


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """The SHA-256 of names, types, shapes and contents."""
    sha = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        sha.update(f"{name} {array.dtype} {array.shape}".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()
