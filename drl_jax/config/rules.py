"""Allowed values: the rules that the classes of `schema` mark their keys with, and how a key is checked."""

import difflib
import sys
from collections.abc import Callable, Iterable
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from drl_jax.errors import UserError

FREE = object()  # marks a key, or a group of keys, that may change when a run continues


class Rule(NamedTuple):
    """Which values of a type are allowed.

    Attributes:
      is_right: judges a value that has the key's type.
      text: what is right, as the end of "it must be a whole number …".
    """

    is_right: Callable[[Any], bool]
    text: str


def at_least(low: float) -> Rule:
    """Allows numbers from `low` on."""
    return Rule(lambda value: value >= low, f"of at least {low}")


def above(low: float) -> Rule:
    """Allows numbers above `low`."""
    return Rule(lambda value: value > low, f"above {low}")


DECAY = Rule(lambda value: 0 <= value < 1, "of at least 0 and below 1")
SEED = Rule(lambda value: 0 <= value < 2**31, f"between 0 and {2**31 - 1}")
TIMEOUT = Rule(lambda value: 0 < value <= 1e6, "above 0 and at most 1000000")
SIZES = Rule(lambda value: all(v >= 1 for v in value), "of at least 1")
SOME_SIZES = Rule(
    lambda value: len(value) > 0 and all(v >= 1 for v in value), "of at least 1, at least 1 of them"
)
PROPORTIONS = Rule(SOME_SIZES.is_right, "of at least 1, one per level")
CROP = Rule(
    lambda value: len(value) == 4 and min(value[:2]) >= 0 and value[2] == value[3] > 0,
    "(top, left, height, width) in pixels, a square",
)
BACKGROUND = Rule(
    lambda value: len(value) in (1, 3) and all(0 <= v <= 255 for v in value),
    "from 0 to 255: one grey level, or red, green, blue",
)
CHANNELS = Rule(lambda value: value in (1, 3), "that is 3 (RGB) or 1 (grey)")
EVEN = Rule(
    lambda value: value >= 4 and value % 2 == 0,
    "that is even and at least 4: half of the level's embedding are sines, half cosines",
)
COUNT = Rule(
    lambda value: 1 <= value <= 501 or value == 1000,
    "from 1 to 501 (levels that respace the schedule of 1000 steps), or 1000",
)
SHA256 = Rule(
    lambda value: 8 <= len(value) <= 64 and set(value.lower()) <= set("0123456789abcdef"),
    "of 8 to 64 hex digits",
)

_MAX_INT = 2**31 - 1  # JAX counts in 32 bits
_NOUNS = {
    bool: "True or False",
    int: "a whole number",
    float: "a finite number",
    str: "text",
    tuple: "whole numbers",
}


class Key(NamedTuple):
    """What `schema` says about a key.

    Attributes:
      type: bool, int, float, str or tuple (of ints).
      default: its value if nobody sets it.
      choices: the possible texts; empty if the type is not a Literal.
      rules: what else must hold.
      is_optional: whether the value may be None.
      is_free: whether it may change when a run continues.
    """

    type: type
    default: Any
    choices: tuple[str, ...]
    rules: tuple[Rule, ...]
    is_optional: bool
    is_free: bool

    @property
    def text(self) -> str:
        """What a right value is, as in "a whole number of at least 1, or None"."""
        noun = f"one of {', '.join(self.choices)}" if self.choices else _NOUNS[self.type]
        return " ".join([noun, *(rule.text for rule in self.rules)]) + ", or None" * self.is_optional

    def check(self, name: str, value: Any) -> Any:
        """Returns the value with the key's own type.

        Args:
          name: what a message calls the key, such as "config.data.batch_size".
          value: an int is right for a float, a list for a tuple; True is no number.

        Raises:
          UserError: the value is not possible.
        """
        if value is None and self.is_optional:
            return None
        if not self._has_type(value) or not all(rule.is_right(value) for rule in self.rules):
            shown = ",".join(map(str, value)) if isinstance(value, tuple) else " ".join(repr(value).split())
            raise UserError(f"{name}={shown} is not possible: it must be {self.text}")
        if not self._fits(value):
            raise UserError(f"{name}={value} is not possible: it must be at most {_MAX_INT}")
        return self.type(value)

    def _fits(self, value: Any) -> bool:
        return self.type is not int or abs(value) <= _MAX_INT

    def _has_type(self, value: Any) -> bool:
        if self.choices:
            return isinstance(value, str) and value in self.choices
        if self.type in (bool, str):
            return isinstance(value, self.type)
        if self.type is tuple:
            return isinstance(value, list | tuple) and all(_is_whole(each) for each in value)
        if self.type is int:
            return _is_whole(value)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and abs(value) <= sys.float_info.max  # no infinity, no NaN


def make_key(hint: Any, default: Any, *, is_free: bool = False) -> Key:
    """Reads what the type of a dataclass field says."""
    hint, marks = unwrap(hint)
    is_optional = get_origin(hint) in (Union, UnionType) and NoneType in get_args(hint)
    if is_optional:
        (hint,) = (each for each in get_args(hint) if each is not NoneType)
    choices = get_args(hint) if get_origin(hint) is Literal else ()
    rules = tuple(mark for mark in marks if isinstance(mark, Rule))
    kind = str if choices else (get_origin(hint) or hint)
    return Key(kind, default, choices, rules, is_optional, is_free or FREE in marks)


def unwrap(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """Returns the type and the marks of an Annotated type."""
    return (hint.__origin__, hint.__metadata__) if get_origin(hint) is Annotated else (hint, ())


def nearest(word: str, known: Iterable[str]) -> list[str]:
    """Returns the known words, or dotted keys, that are most like a misspelt one; perhaps none."""
    known, word = list(known), word.lower().replace("-", "_")
    if alike := difflib.get_close_matches(word, known, n=1, cutoff=0.85):
        return alike
    group, _, last = word.rpartition(".")
    # In another group, or with the group left out: `steps`.
    if same := [other for other in known if other.rpartition(".")[2] == last]:
        return same
    own = {other.rpartition(".")[2]: other for other in known if other.rpartition(".")[0] == group}
    return [own[name] for name in difflib.get_close_matches(last, own, n=1)]


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
