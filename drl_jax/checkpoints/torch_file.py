"""Reads the arrays of a PyTorch file without PyTorch, and without running code from it.

A .pth file holds a pickle, which is a program that builds objects, and the bytes of the arrays. Unpickling
calls any function that the program names. Here `pickletools` lists its instructions, which runs nothing, and
the few that build a dictionary of arrays are interpreted. Any other instruction is an error.

Places, shapes and sizes are checked too: a caller may know only the first digits of a file's SHA-256.
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
    """A function or class that the program names. It is never imported."""

    module: str
    name: str


class _Array(NamedTuple):
    """A view of a storage that is not read yet; strides are in elements."""

    storage: tuple
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read(content: bytes) -> dict[str, np.ndarray]:
    """Reads the arrays of a state dict.

    Args:
      content: the bytes of the file, in PyTorch's zip format or its legacy format.

    Returns:
      The arrays by name.

    Raises:
      ValueError: the file is damaged, is not a state dict, or would run code.
    """
    try:
        tree, bytes_of = _open(content)
        if not isinstance(tree, dict):
            raise ValueError("it holds no dictionary of arrays")
        return {
            str(name): _view(value, bytes_of) for name, value in tree.items() if isinstance(value, _Array)
        }
    except ValueError:
        raise
    except Exception as error:  # a damaged program can raise errors of many types
        raise ValueError(f"it is damaged: {error}") from None


def _open(content: bytes) -> tuple[Any, Callable[[tuple], bytes]]:
    """Returns the result of the program, and a function from a storage to its bytes."""
    if content[:2] == b"PK":
        archive = zipfile.ZipFile(io.BytesIO(content))
        # PyTorch does not compress. A compressed file could fill the memory.
        if sum(info.file_size for info in archive.infolist()) > len(content):
            raise ValueError("it is compressed, and PyTorch does not compress its files")
        (program,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        folder = program.removesuffix("data.pkl")
        return (
            _interpret(io.BytesIO(archive.read(program))),
            lambda storage: archive.read(f"{folder}data/{storage[2]}"),
        )
    file = io.BytesIO(content)
    if _interpret(file) != _LEGACY_MAGIC:
        raise ValueError("it is not a PyTorch file")
    _interpret(file)  # the version of the protocol
    _interpret(file)  # the machine that wrote the file
    tree = _interpret(file)
    keys = _interpret(file)
    known = {value.storage[2]: value.storage for value in tree.values() if isinstance(value, _Array)}
    raw = {}
    for key in keys:
        (count,) = struct.unpack("<q", file.read(8))
        raw[key] = file.read(count * _dtype(known[key]).itemsize)
    return tree, lambda storage: raw[storage[2]]


def _dtype(storage: tuple) -> np.dtype:
    kind = storage[1]
    if not isinstance(kind, _Name) or kind.module != "torch" or kind.name not in _TYPES:
        raise ValueError(f"it holds arrays of a type that cannot be read, {_name(kind)}")
    return _TYPES[kind.name]


def _view(array: _Array, bytes_of: Callable[[tuple], bytes]) -> np.ndarray:
    dtype = _dtype(array.storage)
    flat = np.frombuffer(bytes_of(array.storage), dtype)
    numbers = (array.offset, *array.shape, *array.strides)
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError("it is damaged: an array has an impossible place, shape or strides")
    last = array.offset + sum((n - 1) * s for n, s in zip(array.shape, array.strides, strict=True))
    inside = 0 in array.shape or last < len(flat)
    # A view must not repeat elements: with strides of 0 a small file could fill the memory.
    if len(flat) != array.storage[4] or not inside or math.prod(array.shape) > len(flat):
        raise ValueError("it is damaged: an array is longer than its bytes")
    strides = [stride * dtype.itemsize for stride in array.strides]
    return np.lib.stride_tricks.as_strided(flat[array.offset :], array.shape, strides).copy()


def _call(function: _Name, arguments: tuple) -> Any:
    if function == _Name("collections", "OrderedDict") and arguments == ():
        return {}
    if function == _Name("torch._utils", "_rebuild_tensor_v2"):
        return _Array(*arguments[:4])
    raise ValueError(f"it would run code: {_name(function)}")


def _name(value: Any) -> str:
    """A name, shortened, for a message. Of other values only the type: their text could fill the memory."""
    if isinstance(value, _Name) and isinstance(value.module, str) and isinstance(value.name, str):
        return f"{value.module}.{value.name}"[:120]
    return type(value).__name__


def _interpret(file: io.BytesIO) -> Any:
    """Returns the value that one pickle builds; the file is left at its end."""
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
                pass  # the tuple that describes the storage stays on the stack in its place
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(_call(function, arguments))
            case "BUILD":
                stack.pop()  # attributes of a dictionary: versions of modules
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
                    f"it has the instruction {other} at {position}, which no dictionary of arrays needs"
                )
    raise ValueError("it ends in the middle")
