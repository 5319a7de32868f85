"""Inputs of the references. They need only NumPy, so `make_references.py` and the tests draw the same."""

import io
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from unittest.mock import patch

import numpy as np

SIDES = (32, 299)  # enlarged, and as it is; the resize has a test of its own


def weights(shapes: dict[str, list[int]]) -> dict[str, np.ndarray]:
    """Weights of Inception in torch's layout, drawn so that activations keep their size."""
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


def images(side: int) -> np.ndarray:
    """Two images: one of noise, one of smooth waves."""
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
    """A small state dict; the repository holds it as files that PyTorch wrote."""
    rng = np.random.default_rng(4)
    return {
        "a.weight": rng.standard_normal((3, 2, 2)).astype(np.float32),
        "a.count": np.array(7),
        "b": rng.standard_normal(5),
        "transposed": rng.standard_normal((4, 3)).astype(np.float32).T,
    }


def logits() -> np.ndarray:
    return (2 * np.random.default_rng(3).standard_normal((500, 1008))).astype(np.float32)


def pth(arrays: dict[str, np.ndarray]) -> bytes:
    """A file of float32 arrays as torch.save writes it, made without torch.

    It is a zip of a pickle that names functions of torch, and of the bytes of each array.
    """
    functions, storage = types.ModuleType("torch._utils"), types.ModuleType("torch")

    def _rebuild_tensor_v2(*_): ...

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    kind = type("FloatStorage", (), {"__module__": "torch"})
    vars(functions)["_rebuild_tensor_v2"], vars(storage)["FloatStorage"] = _rebuild_tensor_v2, kind

    class Stored:
        def __init__(self, key: str, size: int):
            self.id = ("storage", kind, key, "cpu", size)

    class Tensor:
        def __init__(self, key: str, value: np.ndarray):
            self._key, self._value = key, value

        def __reduce__(self):
            strides = tuple(stride // 4 for stride in self._value.strides)
            stored = Stored(self._key, self._value.size)
            return _rebuild_tensor_v2, (stored, 0, self._value.shape, strides, False, OrderedDict())

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            return obj.id if isinstance(obj, Stored) else None

    program, file = io.BytesIO(), io.BytesIO()
    with patch.dict(sys.modules, {"torch": storage, "torch._utils": functions}):
        tensors = {name: Tensor(str(i), value) for i, (name, value) in enumerate(arrays.items())}
        Pickler(program, protocol=2).dump(OrderedDict(tensors))
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", program.getvalue())
        for i, value in enumerate(arrays.values()):
            archive.writestr(f"archive/data/{i}", np.ascontiguousarray(value).tobytes())
    return file.getvalue()


class Evil:
    """An object whose pickle runs code when it is unpickled."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('it ran')",))
