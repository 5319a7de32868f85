"""The flags of a command: a config or a trained model, values that override the config, and folders."""

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from drl_jax import files, pretrained
from drl_jax.config import flags as command_line
from drl_jax.config import loading, options, paths, schema
from drl_jax.config.options import Options
from drl_jax.config.schema import Config
from drl_jax.config.values import BOOLEANS, read, read_int
from drl_jax.errors import UserError

_KEY = command_line.KEY


class Arguments(NamedTuple):
    """What follows the command.

    Attributes:
      config: checked key by key.
      prepare_command: the command line that prepares the data of the config, but for their folder.
      workdir: as given, or None.
      output: where samples or scores are written, as given; None for the workdir.
      show: whether to print the config and stop.
      topology, slices: the hardware that `plan` is for.
      full: whether `plan` compiles everything.
      sweep: whether `plan` compares sizes of the hardware.
    """

    config: Config
    prepare_command: str
    workdir: str | None
    output: str | None
    show: bool
    topology: str | None = None
    slices: int = 1
    full: bool = False
    sweep: bool = False


class ModelArguments(NamedTuple):
    """What follows an application, or another command with --model.

    Attributes:
      model: a model that ships, the workdir of a run, or a file that `export` wrote.
      output: where the results are written, as given; None for the workdir, or for the current folder.
      overrides: texts by key of the config.
      options: of the application; None for another command.
      show: whether to print the config and stop.
    """

    model: str
    output: str | None
    overrides: Mapping[str, str]
    options: Options | None = None
    show: bool = False


def parse(argv: Sequence[str], command: str = "plan") -> Arguments:
    """Reads the flags of a command.

    Without --config, the config is the one of the run in --workdir. Paths in the config become absolute.

    Args:
      argv: the words after the command.
      command: some flags belong to one command alone.

    Raises:
      UserError: a flag, a key, a value or the config file is not right.
    """
    flags = command_line.read(argv, command)
    given, workdir = flags.get("--config"), flags.get("--workdir")
    _check_folders(flags)
    if given:
        source = f"--config={given}"
        values = schema.config_dict_values(loading.load(given), source)
    else:
        saved = epath.Path(workdir).expanduser() / schema.FILE if workdir else None
        if saved is None or not files.exists(saved):
            where = f", and --workdir={workdir} has no {schema.FILE}" if workdir else ""
            if saved is not None and command != "train" and not files.exists(saved.parent):
                raise UserError(f"--workdir={workdir} does not exist; give the folder of a run")
            raise UserError(
                f"--config is missing{where}; name a config ({', '.join(loading.names())}) or a file, as in "
                "--config=digits or --config=configs/digits.py"
            )
        source, values = str(saved), schema.load_values(saved)
    values = override(values, _overrides(flags), source)
    slices = read_int(flags.get("--slices", "1"))
    if not isinstance(slices, int) or slices < 1:
        raise UserError(
            f"--slices={flags['--slices']} is not possible: it must be a whole number of at least 1"
        )
    return Arguments(
        schema.from_values(values, source),
        _prepare_command(flags),
        workdir,
        flags.get("--output"),
        show=_read_switch(flags, "--show"),
        topology=flags.get("--topology"),
        slices=slices,
        full=_read_switch(flags, "--full"),
        sweep=_read_switch(flags, "--sweep"),
    )


def parse_model(argv: Sequence[str], command: str) -> ModelArguments:
    """Reads the flags of an application, or of another command with --model.

    Args:
      argv: the words after the command.
      command: the command.

    Raises:
      UserError: a flag or a value is not right.
    """
    flags = command_line.read(argv, command)
    _check_folders(flags)
    if not flags.get("--model"):
        raise UserError(no_model(command))
    model, output, overrides = flags["--model"], flags.get("--output"), _overrides(flags)
    if command not in options.COMMANDS:
        for other in ("--workdir", "--config"):
            if other in flags:
                raise UserError(
                    f"{other}={flags[other]} is not possible with --model={model}; give one of them"
                )
        return ModelArguments(model, output, overrides, show=_read_switch(flags, "--show"))
    values = {}
    for name, key in options.keys(command).items():
        flag = f"--{name}"
        given = read(flag, flags[flag], key) if flag in flags else key.default
        values[name] = key.check(flag, given)
    return ModelArguments(model, output, overrides, options.COMMANDS[command](**values))


def _check_folders(flags: Mapping[str, str]) -> None:
    if flags.get("--output") == "":
        raise UserError("--output has no folder; name one, as in --output=DIR, or leave the flag out")
    for flag in ("--workdir", "--output", "--model"):
        if folder := flags.get(flag):
            paths.check_folder(flag, folder)


def _overrides(flags: Mapping[str, str]) -> dict[str, str]:
    """The texts of the keys of the config."""
    return {flag.removeprefix(_KEY): text for flag, text in flags.items() if flag.startswith(_KEY)}


def _read_switch(flags: Mapping[str, str], flag: str) -> bool:
    value = flags.get(flag, "false").lower()
    if value not in BOOLEANS:
        raise UserError(f"{flag}={flags[flag]} is not possible: {flag} takes no value")
    return BOOLEANS[value]


def override(values: Mapping[str, Any], overrides: Mapping[str, str], source: str) -> dict[str, Any]:
    """Returns the values of a config with overrides, as far as their text can be read. Paths become absolute.

    Args:
      values: by key.
      overrides: texts of the command line by key.
      source: where the values are from, for messages.

    Raises:
      UserError: a key is unknown, or the network is another one.
    """
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
    read_values = {key: read(f"{_KEY}{key}", text, known[key]) for key, text in overrides.items()}
    return paths.absolute({**values, **read_values})


def _prepare_command(flags: Mapping[str, str]) -> str:
    """The command line that prepares the data: without their folder, which the data add."""
    name = "--config" if flags.get("--config") else "--workdir"
    return prepare_line(f"{name}={flags.get(name)}", *data_flags(_overrides(flags)))


def no_model(command: str) -> str:
    """Returns the message that a command has no model."""
    return (
        f"--model is missing; name a model that ships ({', '.join(pretrained.names())}), the workdir of a "
        f"run, or a file that `export` wrote, as in drl-jax {command} --model=digits"
    )


def data_flags(overrides: Mapping[str, str]) -> list[str]:
    """Returns the flags of a command line that say which data are meant, but for their folder.

    Args:
      overrides: texts by key of the config.
    """
    of_data = {key: text for key, text in overrides.items() if key.startswith("data.")}
    return [f"{_KEY}{key}={text}" for key, text in of_data.items() if key != "data.data_dir"]


def prepare_line(*flags: str) -> str:
    """Returns a command line that prepares data, with the program as it was started.

    Args:
      flags: which follow `prepare`.
    """
    called = sys.argv[0]
    program = [called] if os.path.basename(called) == "drl-jax" else [sys.executable, "-m", "drl_jax"]
    return shlex.join([*program, "prepare", *flags])
