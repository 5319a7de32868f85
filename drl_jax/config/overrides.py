"""The flags of a command: a config, values that override it, and a workdir."""

import os
import shlex
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from etils import epath

from drl_jax.config import loading, schema
from drl_jax.config.rules import Key, nearest
from drl_jax.config.schema import Config
from drl_jax.errors import UserError

_FLAGS = ("--config", "--workdir", "--show")
PLAN_FLAGS = ("--topology", "--slices", "--full", "--sweep")
_ALL_FLAGS = (*_FLAGS, *PLAN_FLAGS)
_SWITCHES = ("--show", "--full", "--sweep")  # need no value
_KEY = "--config."
_BOOLEANS: dict[str, bool] = {
    **dict.fromkeys(("true", "1", "yes", "on"), True),
    **dict.fromkeys(("false", "0", "no", "off"), False),
}
_ABSENT = ("none", "null", "")


class Arguments(NamedTuple):
    """What follows the command.

    Attributes:
      config: checked key by key.
      prepare_command: the command line that prepares the data of the config, but for their folder.
      workdir: as given, or None.
      show: whether to print the config and stop.
      topology, slices: the hardware that `plan` is for.
      full: whether `plan` compiles everything.
      sweep: whether `plan` compares sizes of the hardware.
    """

    config: Config
    prepare_command: str
    workdir: str | None
    show: bool
    topology: str | None = None
    slices: int = 1
    full: bool = False
    sweep: bool = False


def parse(argv: Sequence[str], command: str = "plan") -> Arguments:
    """Reads the flags of a command.

    A flag and its value are one word (`--workdir=DIR`) or two (`--workdir DIR`). The last counts if a flag
    is given twice. Without --config, the config is the one of the run in --workdir.

    Args:
      argv: the words after the command.
      command: some flags belong to one command alone.

    Raises:
      UserError: a flag, a key, a value or the config file is not right.
    """
    flags = _read_flags(argv)
    if foreign := [flag for flag in PLAN_FLAGS if flag in flags and command != "plan"]:
        raise UserError(f"{foreign[0]} is a flag of `plan`, not of `{command}`")
    given, workdir = flags.get("--config"), flags.get("--workdir")
    if given:
        source = f"--config={given}"
        values = schema.config_dict_values(loading.load(given), source)
    else:
        saved = epath.Path(workdir).expanduser() / schema.FILE if workdir else None
        if saved is None or not saved.exists():
            where = f", and --workdir={workdir} has no {schema.FILE}" if workdir else ""
            raise UserError(
                f"--config is missing{where}; name a config ({', '.join(loading.names())}) or a file, as in "
                "--config=digits or --config=configs/digits.py"
            )
        source, values = str(saved), schema.load_values(saved)
    overrides = {flag.removeprefix(_KEY): text for flag, text in flags.items() if flag.startswith(_KEY)}
    config = schema.from_values(_override(values, overrides, source), source)
    slices = flags.get("--slices", "1")
    if not slices.isdecimal() or int(slices) < 1:
        raise UserError(f"--slices={slices} is not possible: it must be a whole number of at least 1")
    return Arguments(
        config,
        _prepare_command(flags),
        workdir,
        show=_read_switch(flags, "--show"),
        topology=flags.get("--topology"),
        slices=int(slices),
        full=_read_switch(flags, "--full"),
        sweep=_read_switch(flags, "--sweep"),
    )


def _read_switch(flags: Mapping[str, str], flag: str) -> bool:
    value = flags.get(flag, "false").lower()
    if value not in _BOOLEANS:
        raise UserError(f"{flag}={flags[flag]} is not possible: {flag} takes no value")
    return _BOOLEANS[value]


def _read_flags(argv: Sequence[str]) -> dict[str, str]:
    """The value of each flag as text."""
    flags: dict[str, str] = {}
    words = deque(argv)
    while words:
        word = words.popleft()
        flag, equals, value = word.partition("=")
        if flag not in _ALL_FLAGS and not flag.startswith(_KEY):
            raise UserError(_not_a_flag(word, flag))
        if not equals and flag in _SWITCHES:
            value = "true"
        elif not equals:
            if not words or words[0].startswith("--"):
                raise UserError(f"{flag} needs a value, as in {flag}=VALUE")
            value = words.popleft()
        flags[flag] = value
    return flags


def _not_a_flag(word: str, flag: str) -> str:
    if not word.startswith("-"):
        is_close = f"--{flag}" in _ALL_FLAGS or flag.startswith("config.")
        meant = f"; did you mean --{word}?" if is_close else ""
        return f"{word!r} is not a flag{meant or '; flags are written --config.KEY=VALUE'}"
    keys = [f"{_KEY}{key}" for network in schema.NETWORKS for key in schema.keys(network)]
    known = [name.removeprefix("--") for name in dict.fromkeys([*_ALL_FLAGS, *keys])]
    near = " or ".join(f"--{name}" for name in nearest(flag.lstrip("-"), known))
    return f"{flag} is not a flag; " + (
        f"did you mean {near}?" if near else f"flags are {', '.join(_FLAGS)} and --config.KEY"
    )


def _override(values: Mapping[str, Any], overrides: Mapping[str, str], source: str) -> dict[str, Any]:
    """The values with the overrides, as far as their text can be read."""
    network = schema.known_network(values.get("network.name"), source)
    if (other := overrides.get("network.name", network)) != network:
        schema.known_network(other, "the command line")
        raise UserError(
            f"config.network.name={other} is not possible with {source}, whose network is {network}: each "
            f"network has its own keys; take another config, or a file that starts from base({other!r})"
        )
    known = schema.keys(network)
    for key in overrides:
        if key not in known:
            raise UserError(schema.unknown_key(key, network))
    return {**values, **{key: _read_value(text, known[key]) for key, text in overrides.items()}}


def _read_value(text: str, key: Key) -> Any:
    """The value that a text means; the text itself where it means none, which the schema then refuses."""
    if text.lower() in _ABSENT and (key.is_optional or key.type not in (str, tuple)):
        return None
    if key.type is bool:
        return _BOOLEANS.get(text.lower(), text)
    if key.type is int:
        return _read_int(text)
    if key.type is tuple:
        inner = text.strip()
        if inner[:1] + inner[-1:] in ("()", "[]"):
            inner = inner[1:-1].strip()
        return tuple(_read_int(part) for part in inner.removesuffix(",").split(",")) if inner else ()
    return _read_float(text) if key.type is float else text


def _read_int(text: str) -> Any:
    with suppress(ValueError):
        return int(text)
    value = _read_float(text)
    return int(value) if isinstance(value, float) and value.is_integer() else value  # 1e5


def _read_float(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


def _prepare_command(flags: Mapping[str, str]) -> str:
    """The command line that prepares the data: without their folder, which the data add."""
    data = [f"{flag}={text}" for flag, text in flags.items() if flag.startswith(f"{_KEY}data.")]
    data = [word for word in data if not word.startswith(f"{_KEY}data.data_dir=")]
    name = "--config" if flags.get("--config") else "--workdir"
    # As the program was started, so that the line works where that worked.
    called = sys.argv[0]
    program = [called] if os.path.basename(called) == "drl-jax" else [sys.executable, "-m", "drl_jax"]
    return shlex.join([*program, "prepare", f"{name}={flags.get(name)}", *data])
