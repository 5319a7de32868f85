"""Finds out before a download whether a builder of tensorflow-datasets uses TensorFlow."""

from types import CodeType, FunctionType
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core.utils import lazy_imports_utils

_STARTS = ("_split_generators", "_generate_examples")


def is_needed(builder: tfds.core.DatasetBuilder) -> bool:
    """Returns whether a builder's own functions name TensorFlow where it reads the original files.

    The functions that it calls in its own module are followed. A function may name TensorFlow and not come to
    it, so the answer may be yes for a builder that would do without.
    """
    cls = type(builder)
    waiting: list[Any] = [getattr(cls, name, None) for name in _STARTS]
    seen: set[CodeType] = set()
    while waiting:
        function = waiting.pop()
        if not isinstance(function, FunctionType) or function.__code__ in seen:
            continue
        if not function.__module__.startswith("tensorflow_datasets.") or ".core." in function.__module__:
            continue  # the library itself does without TensorFlow here
        seen.add(function.__code__)
        for name in _names(function.__code__):
            value = function.__globals__.get(name)
            if value is lazy_imports_utils.tensorflow or name == "tensorflow_io":
                return True
            waiting += [value, getattr(cls, name, None)]
    return False


def _names(code: CodeType) -> set[str]:
    """The names in a function and in the functions inside it."""
    inner = [const for const in code.co_consts if isinstance(const, CodeType)]
    return set(code.co_names).union(*map(_names, inner))
