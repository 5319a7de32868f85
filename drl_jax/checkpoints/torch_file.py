"""Reading the arrays of a PyTorch file without PyTorch and without running what is in it.

A .pth file is a pickle, a program that builds objects, beside the arrays' bytes. Unpickling would call
whatever functions the program names. Here its instructions are listed by `pickletools`, which runs nothing,
and the few that a dictionary of arrays is made of are followed by hand; any other is an error.
"""

import io
import math
import pickletools
import struct
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

_TYPES = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
}
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


class _Name(NamedTuple):
    """A function or class that the program names; never looked up."""

    module: str
    name: str


class _Array(NamedTuple):
    """A view of a storage, not yet read."""

    storage: tuple
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read(content: bytes) -> dict[str, np.ndarray]:
    """The arrays of a state dict, by name. Raises ValueError if the file is anything but that."""
    try:
        tree, bytes_of = _open(content)
        if not isinstance(tree, dict):
            raise ValueError("it holds no dictionary of arrays")
        return {
            str(name): _view(value, bytes_of) for name, value in tree.items() if isinstance(value, _Array)
        }
    except ValueError:
        raise
    except Exception as error:  # whatever a damaged program makes the reader stumble over
        raise ValueError(f"it is damaged: {error}") from None


def _open(content: bytes) -> tuple[Any, Callable[[tuple], bytes]]:
    """The program's result, and a function from a storage to its bytes."""
    if content[:2] == b"PK":
        archive = zipfile.ZipFile(io.BytesIO(content))
        # PyTorch stores and does not compress: a file that unpacks to more than it is was made to harm.
        if sum(info.file_size for info in archive.infolist()) > len(content):
            raise ValueError("it is compressed, which no file of PyTorch's is")
        (program,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        folder = program.removesuffix("data.pkl")
        return (
            _follow(io.BytesIO(archive.read(program))),
            lambda storage: archive.read(f"{folder}data/{storage[2]}"),
        )
    file = io.BytesIO(content)
    if _follow(file) != _LEGACY_MAGIC:
        raise ValueError("it is not a PyTorch file")
    _follow(file)  # the protocol's version
    _follow(file)  # the writer's machine
    tree = _follow(file)
    keys = _follow(file)
    known = {value.storage[2]: value.storage for value in tree.values() if isinstance(value, _Array)}
    raw = {}
    for key in keys:
        (count,) = struct.unpack("<q", file.read(8))
        raw[key] = file.read(count * _dtype(known[key]).itemsize)
    return tree, lambda storage: raw[storage[2]]


def _dtype(storage: tuple) -> np.dtype:
    kind = storage[1]
    if not isinstance(kind, _Name) or kind.module != "torch" or kind.name not in _TYPES:
        raise ValueError(f"it holds arrays of a type that is not read, {_told(kind)}")
    return _TYPES[kind.name]


def _view(array: _Array, bytes_of: Callable[[tuple], bytes]) -> np.ndarray:
    dtype = _dtype(array.storage)
    flat = np.frombuffer(bytes_of(array.storage), dtype)
    numbers = (array.offset, *array.shape, *array.strides)
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError("it is damaged: an array has a place, shape or strides that no array has")
    last = array.offset + sum((n - 1) * s for n, s in zip(array.shape, array.strides, strict=True))
    inside = 0 in array.shape or last < len(flat)
    # No view repeats elements: a small file could ask for all memory with strides of 0.
    if len(flat) != array.storage[4] or not inside or math.prod(array.shape) > len(flat):
        raise ValueError("it is damaged: an array is longer than its bytes")
    strides = [stride * dtype.itemsize for stride in array.strides]
    return np.lib.stride_tricks.as_strided(flat[array.offset :], array.shape, strides).copy()


def _call(function: _Name, arguments: tuple) -> Any:
    if function == _Name("collections", "OrderedDict") and arguments == ():
        return {}
    if function == _Name("torch._utils", "_rebuild_tensor_v2"):
        return _Array(*arguments[:4])
    raise ValueError(f"it would run code: {_told(function)}")


def _told(value: Any) -> str:
    """A name, shortened; of anything else only its type: its text may be longer than all memory."""
    if isinstance(value, _Name) and isinstance(value.module, str) and isinstance(value.name, str):
        return f"{value.module}.{value.name}"[:120]
    return type(value).__name__


def _follow(file: io.BytesIO) -> Any:
    """The value that one pickle stands for; the file is left at its end."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        start = marks.pop()
        taken = stack[start:]
        del stack[start:]
        return taken

    for opcode, argument, position in pickletools.genops(file):
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case "MARK":
                marks.append(len(stack))
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode.name])
            case (
                "INT" | "BININT" | "BININT1" | "BININT2" | "LONG" | "LONG1" | "LONG4" | "BINFLOAT"
                | "BINUNICODE" | "SHORT_BINUNICODE" | "BINSTRING" | "SHORT_BINSTRING"
            ):  # fmt: skip
                stack.append(argument)
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE":
                stack.append(tuple(since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(opcode.name[-1])
                taken = tuple(stack[-count:])
                del stack[-count:]
                stack.append(taken)
            case "BINPUT" | "LONG_BINPUT":
                memo[int(argument or 0)] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[int(argument or 0)])
            case "GLOBAL":
                stack.append(_Name(*str(argument).split(" ")))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(_Name(module, name))
            case "BINPERSID":
                pass  # the storage's tuple itself stands for it
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(_call(function, arguments))
            case "BUILD":
                stack.pop()  # attributes of a dictionary: versions of its modules
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                stack[-1][key] = value
            case "SETITEMS":
                taken = since_mark()
                stack[-1].update(zip(taken[::2], taken[1::2], strict=True))
            case "APPEND":
                value = stack.pop()
                stack[-1].append(value)
            case "APPENDS":
                taken = since_mark()
                stack[-1].extend(taken)
            case other:
                raise ValueError(
                    f"it has an instruction that no dictionary of arrays needs, {other} at {position}"
                )
    raise ValueError("it ends in the middle")
