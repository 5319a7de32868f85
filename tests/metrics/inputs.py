"""The inputs of the references, by NumPy alone: `make_references.py` and the tests draw the same."""

import numpy as np

SIDES = (32, 64, 128, 299)


def weights(shapes: dict[str, list[int]]) -> dict[str, np.ndarray]:
    """Weights of Inception that keep the size of what passes through them, in torch's layout."""
    drawn = {}
    for i, (name, shape) in enumerate(sorted(shapes.items())):
        normal = np.random.default_rng([0, i]).standard_normal(shape)
        if name.endswith("conv.weight"):
            value = normal * np.sqrt(2 / np.prod(shape[1:]))
        elif name == "fc.weight":
            value = normal / np.sqrt(shape[1])
        elif name.endswith("running_var"):
            value = np.exp(0.1 * normal)
        elif name.endswith("bn.weight"):
            value = 1 + 0.1 * normal
        else:  # biases and running means
            value = 0.1 * normal
        drawn[name] = value.astype(np.float32)
    return drawn


def pictures(side: int) -> np.ndarray:
    """Two pictures: one of noise, one of smooth waves."""
    noise = np.random.default_rng([1, side]).integers(0, 256, (side, side, 3))
    angle = np.arange(side) * (6.0 / side)
    waves = 127.5 + 127 * np.sin(angle[:, None, None] * [1, 2, 3] + angle[None, :, None])
    return np.stack([noise, waves]).astype(np.uint8)


def features() -> tuple[np.ndarray, np.ndarray]:
    """Two sets of feature vectors of different means and covariances, not negative as Inception's are."""
    rng = np.random.default_rng(2)
    mix = rng.standard_normal((48, 48)) / 7
    a = np.abs(rng.standard_normal((600, 48)) @ mix)
    b = np.abs(rng.standard_normal((700, 48)) @ mix.T + 0.1)
    return a, b


def tiny() -> dict[str, np.ndarray]:
    """A state dict small enough to be stored as PyTorch writes it."""
    rng = np.random.default_rng(4)
    return {
        "a.weight": rng.standard_normal((3, 2, 2)).astype(np.float32),
        "a.count": np.array(7),
        "b": rng.standard_normal(5),
        "transposed": rng.standard_normal((4, 3)).astype(np.float32).T,
    }


def logits() -> np.ndarray:
    return (2 * np.random.default_rng(3).standard_normal((500, 1008))).astype(np.float32)
