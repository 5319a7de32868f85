"""Texts of the command line, and the values that they mean. No text is ever run as code."""

from contextlib import suppress
from typing import Any

from drl_jax.config.rules import Key
from drl_jax.errors import UserError

BOOLEANS: dict[str, bool] = {
    **dict.fromkeys(("true", "1", "yes", "on"), True),
    **dict.fromkeys(("false", "0", "no", "off"), False),
}
_ABSENT = ("none", "null", "")
# What word processors, web pages and chats make of what was typed; invisible characters become nothing.
_TYPED = {
    **dict.fromkeys("‐‑‒–−﹣－", "-"),
    **dict.fromkeys("—―﹘", "--"),
    **dict.fromkeys("“”„‟«»‘’‚‛`", ""),
    **dict.fromkeys("\u00a0\u2007\u2009\u202f\u3000", " "),
    **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u00ad", ""),
    "＝": "=",
    "，": ",",
}


def plain(text: str) -> str:
    """Replaces the dashes, quotes and spaces of a word processor by those of a keyboard."""
    return text.translate(str.maketrans(_TYPED))


def read(flag: str, text: str, key: Key) -> Any:
    """Returns the value that a text means.

    Args:
      flag: that has the text, such as "--config.data.batch_size".
      text: what follows the =.
      key: what the schema says about the key.

    Returns:
      The value; the text itself where it means none, which the schema then refuses.

    Raises:
      UserError: the text has characters of a word processor.
    """
    word = _unquoted(text.strip())
    if word.lower() in _ABSENT:
        return _absent(key)
    if key.choices:
        return word.lower() if word.lower() in key.choices else text
    if key.type is str:
        return text
    if (typed := plain(word)) != word:
        raise UserError(
            f"{flag.removeprefix('--')}={text} has characters of a document; write {flag}={typed}"
        )
    if key.type is bool:
        return BOOLEANS.get(word.lower(), text)
    if key.type is int:
        return read_int(word)
    if key.type is float:
        return _read_float(word)
    inner = word[1:-1].strip() if word[:1] + word[-1:] in ("()", "[]") else word
    return tuple(read_int(part.strip()) for part in inner.removesuffix(",").split(",")) if inner else ()


def read_int(text: str) -> Any:
    """Returns the whole number that a text means, as in 1000, 1_000, 1e3 or 1000.0; else what it means."""
    with suppress(ValueError):
        return int(text)
    value = _read_float(text)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _absent(key: Key) -> Any:
    """What "None" and its like mean: no value, where the key can be without one."""
    if key.is_optional:
        return None
    if key.type is tuple and all(rule.is_right(()) for rule in key.rules):
        return ()
    return key.default if isinstance(key.default, str) and key.default in _ABSENT else None


def _unquoted(text: str) -> str:
    """The text without the quotes around it, which some shells and files leave there."""
    return text[1:-1].strip() if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def _read_float(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text
