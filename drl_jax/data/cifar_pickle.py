"""Reads the files of CIFAR's python archive without `pickle`, so that no file can run code.

Such a file is a pickle of a dict that Python 2 wrote: texts, whole numbers, lists of them, and one array of
bytes. Its opcodes are read as data. A class or a function that the file names is only a name here; nothing is
imported and nothing is called.
"""

import codecs
import io
import pickletools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from drl_jax.errors import UserError

_MAX_BYTES = 2**28  # the largest original, the training images of CIFAR-100, has 155 MB


class _Name(NamedTuple):
    """A class or function that the file names."""

    text: str


class _Object(NamedTuple):
    """What the file asks to make: the call, and the state that the result gets. Neither is done."""

    name: str
    arguments: tuple
    state: list


_RECONSTRUCT = ("numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct")
_NAMES = (*_RECONSTRUCT, "numpy ndarray", "numpy dtype", "_codecs encode")
_MARK = object()
_TEXT = ("STRING", "BINSTRING", "SHORT_BINSTRING")  # of Python 2: bytes
_PLAIN = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "UNICODE", "BINUNICODE")
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_NEW: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}
_ESCAPES = {b"\\", b"'", b'"', b"n", b"r", b"t", b"x"}  # as Python writes them
_OPCODES = {opcode.code: opcode for opcode in pickletools.opcodes}
_ALLOWED = {
    *(*_TEXT, *_PLAIN, *_CONSTANTS, *_NEW),
    *("PROTO", "STOP", "MARK", "PUT", "BINPUT", "LONG_BINPUT", "GET", "BINGET", "LONG_BINGET"),
    *("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "LIST", "DICT", "APPEND", "APPENDS", "SETITEM", "SETITEMS"),
    *("GLOBAL", "REDUCE", "BUILD"),
}


def read(path: Path) -> dict[str, Any]:
    """Reads a file of CIFAR's python archive.

    Args:
      path: such as data_batch_1 or batches.meta, in the pickle protocols 0 to 2.

    Returns:
      What it holds by name: lists of whole numbers and of texts, and `data`, the pixels, [n, 3072].

    Raises:
      UserError: it is another file.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"it has more than {_MAX_BYTES:,} bytes")
        content = _run(path.read_bytes())
        if not isinstance(content, dict):
            raise ValueError("it holds no dict")
        return {_as_text(key): _value(value) for key, value in content.items()}
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"config.data.path: {path} is not a file of CIFAR's python archive, or is damaged: {reason}"
        ) from None


def _run(content: bytes) -> Any:
    """The value that the opcodes describe, with `_Object` for what they would make by a call."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    for code, argument in _opcodes(content):
        if code in _TEXT:
            stack.append(argument if isinstance(argument, bytes) else argument.encode("latin-1"))
        elif code in _PLAIN:
            stack.append(argument)
        elif code in _CONSTANTS:
            stack.append(_CONSTANTS[code])
        elif code in _NEW:
            stack.append(_NEW[code]())
        elif code == "MARK":
            stack.append(_MARK)
        elif code in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif code in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif code in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(code[-1])
            stack[-count:] = [tuple(stack[-count:])] if len(stack) >= count else [stack[-count]]
        elif code in ("TUPLE", "LIST", "DICT", "APPENDS", "SETITEMS"):
            items = _pop_to_mark(stack)
            _collect(code, items, stack)
        elif code in ("APPEND", "SETITEM"):
            count = 1 if code == "APPEND" else 2
            items = [stack.pop() for _ in range(count)][::-1]
            _collect(f"{code}S", items, stack)
        elif code == "GLOBAL":
            if argument not in _NAMES:
                raise ValueError(f"it names {argument!r}, which no file of CIFAR names")
            stack.append(_Name(argument))
        elif code == "REDUCE":
            arguments, name = stack.pop(), stack.pop()
            stack.append(_make(name, arguments))
        elif code == "BUILD":
            state = stack.pop()
            stack[-1].state.append(state)
    if len(stack) != 1:
        raise ValueError("it ends too early")
    return stack[0]


def _opcodes(content: bytes) -> Iterator[tuple[str, Any]]:
    """The opcodes up to the end, with their arguments."""
    file = io.BytesIO(content)
    while letter := file.read(1):
        opcode = _OPCODES.get(letter.decode("latin-1"))
        if opcode is None or opcode.name not in _ALLOWED:
            name = repr(letter) if opcode is None else opcode.name
            raise ValueError(f"it has the opcode {name}, which no file of CIFAR has")
        if opcode.name == "STOP":
            return
        if opcode.name == "STRING":  # the library's reader takes ASCII alone
            yield opcode.name, codecs.escape_decode(_line(file))[0]
        elif opcode.name == "GLOBAL":  # the library's reader warns of some texts
            yield opcode.name, " ".join(file.readline().decode("ascii").removesuffix("\n") for _ in range(2))
        else:
            yield opcode.name, opcode.arg.reader(file) if opcode.arg else None
    raise ValueError("it ends too early")


def _line(file: io.BytesIO) -> bytes:
    """The text between quotes that ends a line."""
    text = file.readline()
    if len(text) < 3 or text[-1:] != b"\n" or text[0] != text[-2] or text[:1] not in (b"'", b'"'):
        raise ValueError("it has a text without quotes")
    text = text[1:-2]
    if odd := set(re.findall(rb"\\(.)", text, re.DOTALL)) - _ESCAPES:
        raise ValueError(f"it has the escape {min(odd)!r} in a text")
    return text


def _pop_to_mark(stack: list[Any]) -> list[Any]:
    """Takes what lies above the last mark from the stack, with the mark."""
    for index in range(len(stack) - 1, -1, -1):
        if stack[index] is _MARK:
            items = stack[index + 1 :]
            del stack[index:]
            return items
    raise ValueError("it has no mark where one belongs")


def _collect(code: str, items: list[Any], stack: list[Any]) -> None:
    """Makes a container of items on the stack, or adds the items to the one that is there."""
    if code == "TUPLE":
        stack.append(tuple(items))
    elif code == "LIST":
        stack.append(items)
    elif code == "DICT":
        stack.append(_pairs(items))
    elif code == "APPENDS" and type(stack[-1]) is list:
        stack[-1].extend(items)
    elif code == "SETITEMS" and type(stack[-1]) is dict:
        stack[-1].update(_pairs(items))
    else:
        raise ValueError("it adds to what is no container")


def _pairs(items: list[Any]) -> dict[bytes | str, Any]:
    keys = items[::2]
    if len(items) % 2 or not all(isinstance(key, bytes | str) for key in keys):
        raise ValueError("a key of a dict is no text")
    return dict(zip(keys, items[1::2], strict=True))


def _make(name: Any, arguments: Any) -> Any:
    """What a call stands for: bytes that Python 3 wrote as text, or an `_Object`."""
    if not isinstance(name, _Name) or type(arguments) is not tuple:
        raise ValueError("it calls what is no function of an array")
    if name.text == "_codecs encode":
        text, encoding = arguments
        if encoding not in ("latin1", "latin-1"):
            raise ValueError(f"it has text in {encoding!r}")
        return codecs.latin_1_encode(text)[0]
    return _Object(name.text, arguments, [])


def _value(value: Any) -> Any:
    if isinstance(value, _Object):
        return _array(value)
    if isinstance(value, list):
        return [each if isinstance(each, int) else _as_text(each) for each in value]
    return value if isinstance(value, int) else _as_text(value)


def _array(array: _Object) -> UInt8[np.ndarray, "n columns"]:
    """The array of bytes that an object stands for."""
    ((_, shape, dtype, is_fortran, content),) = array.state
    is_bytes = dtype.name == "numpy dtype" and _as_text(dtype.arguments[0]) in ("u1", "|u1")
    if array.name not in _RECONSTRUCT or not is_bytes or not isinstance(content, bytes):
        raise ValueError("its array is not one of bytes")
    rows, columns = shape
    if (
        not (isinstance(rows, int) and isinstance(columns, int))
        or min(shape) < 0
        or rows * columns != len(content)
    ):
        raise ValueError(f"its array has the shape {shape!r} and {len(content)} bytes")
    return np.frombuffer(content, np.uint8).reshape(rows, columns, order="F" if is_fortran else "C")


def _as_text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else _require_text(value)


def _require_text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"it holds a {type(value).__name__} where text belongs")
    return value
