"""The words of a command line: the command, and the text of each flag."""

import os
import re
import shlex
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence

from drl_jax.config import loading, options, schema
from drl_jax.config.rules import nearest
from drl_jax.config.values import plain
from drl_jax.errors import UserError

WITH_MODEL = ("sample", "evaluate")  # commands that take --model or --workdir
COMMON = ("--config", "--workdir", "--show")
OF_COMMANDS: Mapping[str, tuple[str, ...]] = {
    "--output": ("sample", "evaluate", "export", "report", *options.COMMANDS),
    "--model": (*WITH_MODEL, *options.COMMANDS),
    "--topology": ("plan",),
    "--slices": ("plan",),
    "--full": ("plan",),
    "--sweep": ("plan",),
}
SWITCHES = ("--show", "--full", "--sweep")  # need no value
KEY = "--config."
_HELP = re.compile(r"--?(h|\?|help\w*)")  # also --helpfull and --helpshort, as other programs have them
_VERSION = ("--version", "-V")


def command_of(argv: Sequence[str], commands: Iterable[str]) -> tuple[str, list[str]]:
    """Finds the command of a command line, which is its first word.

    Args:
      argv: the words after the program's name.
      commands: the names of all commands.

    Returns:
      The command, and the words after it. "help", with the command that it is about, and "version" are asked
      for by several words, some of them in any place.

    Raises:
      UserError: there is no command, an unknown one, one in the wrong place, or a second one.
    """
    commands = tuple(commands)
    argv = argv[1:] if argv[:1] == ["--"] else argv
    if not argv or argv[0] == "help" or argv[1:] == ["help"] or any(map(_HELP.fullmatch, argv)):
        return "help", [word for word in argv if word in commands][:1]
    if argv[0] == "version" or any(word in _VERSION for word in argv):
        return "version", []
    first, *rest = argv
    given = [index for index, word in _bare(argv) if word in commands]
    if first in commands:
        if len(given) > 1:
            raise UserError(
                f"{argv[given[1]]!r} is a second command after {first!r}; run one after the other"
            )
        return first, rest
    there = f"{first!r} is not a command; commands are {', '.join(commands)}"
    if first.lstrip("-") in commands:
        raise UserError(f"{there}; did you mean {first.lstrip('-')}?")
    if given:
        line = [argv[given[0]], *argv[: given[0]], *argv[given[0] + 1 :]]
        raise UserError(f"{there}; the command comes first: drl-jax {shlex.join(line)}")
    if first.startswith("-"):
        raise UserError(f"{there}; the command comes first, as in drl-jax train {shlex.join(argv)}")
    raise UserError(there + "".join(f"; did you mean {near}?" for near in nearest(first, commands)))


def of(command: str) -> tuple[str, ...]:
    """Returns the flags of a command, but for the keys of the config."""
    own = [flag for flag, commands in OF_COMMANDS.items() if command in commands]
    if command in options.COMMANDS:
        return (*own, *(f"--{name}" for name in options.keys(command)))
    return (*COMMON, *own)


def names(argv: Sequence[str], flag: str) -> bool:
    """Returns whether a flag is among the words after a command.

    Args:
      argv: the words.
      flag: such as "--model".
    """
    return any(word == flag or word.startswith(f"{flag}=") for word in argv)


def read(argv: Sequence[str], command: str) -> dict[str, str]:
    """Reads the text of each flag.

    A flag and its text are one word (`--workdir=DIR`) or two (`--workdir DIR`).

    Args:
      argv: the words after the command.
      command: whose flags they are.

    Returns:
      The texts by flag, such as "--config.data.path"; "true" for a switch alone.

    Raises:
      UserError: a word is no flag, a flag has no text, or it is given twice.
    """
    flags: dict[str, str] = {}
    known = of(command)
    words, before = deque(argv), ""
    while words:
        word = words.popleft()
        flag, equals, text = word.partition("=")
        if not flag and word:
            raise UserError(f"{word!r} is not a flag; flags are written {KEY}KEY=VALUE, without spaces")
        if len(flag.split()) != 1 or flag.strip() != flag or not flag.isascii():
            raise UserError(_not_plain(word, known))
        if flag not in known and not flag.startswith(KEY):
            raise UserError(_not_a_flag(word, before, next(iter(words), ""), command))
        if not equals and flag in SWITCHES:
            text = "true"
        elif not equals:
            if not words or words[0].startswith("--"):
                raise UserError(f"{flag} needs a value, as in {flag}=VALUE")
            text = words.popleft()
            if text.startswith("="):
                value = text[1:] or next(iter(words), "VALUE")
                raise UserError(
                    f"{flag} {text} has a space before the =; write {shlex.join([f'{flag}={value}'])}"
                )
        elif not text and words and not words[0].startswith("-"):
            raise UserError(
                f"{word} {words[0]} has a space after the =; write {shlex.join([word + words[0]])}"
            )
        if flag in flags:
            twice = "" if flag in SWITCHES else f" ({flags[flag]!r} and {text!r})"
            raise UserError(f"{flag} is given twice{twice}; give it once")
        flags[flag], before = text, flag
    return flags


def _bare(argv: Sequence[str]) -> Iterator[tuple[int, str]]:
    """The words that are neither flags nor the text of the flag before them, with their places."""
    is_text = False
    for index, word in enumerate(argv):
        is_flag = word.startswith("-")
        if not is_flag and not is_text:
            yield index, word
        is_text = is_flag and "=" not in word and word not in SWITCHES


def _not_plain(word: str, known: Iterable[str]) -> str:
    """The message about a flag with spaces, or with characters of a word processor."""
    written = plain(word)
    name = re.split(r"[\s=]", written.strip(), maxsplit=1)[0]
    text = written.strip()[len(name) :].strip(" =\t\n")
    name = "--" + name.lstrip("-") if name.startswith("-") else name
    form = f"{name}={text}" if text else name
    if written != word:
        odd = " ".join(dict.fromkeys(f"{each!r}" for each in word if plain(each) != each))
        return f"{word!r} has {odd}, as a document writes it; write {shlex.join([form])}"
    if not word.isascii():
        odd = " ".join(dict.fromkeys(f"{each!r} (U+{ord(each):04X})" for each in word if not each.isascii()))
        meant = _meant(word, "", known)
        return f"{word!r} is not a flag: its {odd} is no letter of a flag; type the flag anew{meant}"
    if not word.strip():
        return "there is an empty word on the command line, perhaps an unset variable; leave it out"
    return f"{word!r} is one word with a space in it; write {shlex.join([form])}"


def _not_a_flag(word: str, before: str, after: str, command: str) -> str:
    """The message about a word that is no flag of a command.

    Args:
      word: the word.
      before: the flag before it.
      after: the word after it.
      command: the command.
    """
    known = of(command)
    if word.startswith("-"):
        flag, equals, text = word.partition("=")
        if owners := _owners(flag):
            if flag == "--workdir" and "--model" in known:
                model = text if equals else after or "DIR"
                return f"--workdir is not a flag of `{command}`; write {shlex.join([f'--model={model}'])}"
            if not (command not in options.COMMANDS and _of_config(flag)):
                return f"{flag} is a flag of {', '.join(f'`{each}`' for each in owners)}, not of `{command}`"
        first = known if command in options.COMMANDS else COMMON
        there = f"flags are {', '.join(first)} and {KEY}KEY=VALUE"
        return f"{flag} is not a flag{_meant(word, after, known) or '; ' + there}"
    if before in SWITCHES:
        return f"{word!r} is not a flag; {before} takes no value"
    if word.partition(":")[0] in loading.names() or word.endswith(".py"):
        return f"{word!r} is not a flag; did you mean --config={word}?"
    name = word.partition("=")[0]
    if "=" in word or f"--{name}" in known or name.startswith("config."):
        if meant := _meant(word, after, known):
            return f"{word!r} is not a flag{meant}"
    elif os.path.isdir(word) and before != "--workdir":
        return f"{word!r} is not a flag; did you mean --workdir={word}?"
    return f"{word!r} is not a flag; flags are written {KEY}KEY=VALUE, and a value with spaces is in quotes"


def _owners(flag: str) -> list[str]:
    """The commands that have a flag which not all have."""
    commands = dict.fromkeys([*(name for names in OF_COMMANDS.values() for name in names), *options.COMMANDS])
    owners = [command for command in commands if flag in of(command)]
    return ["train", "sample", "evaluate", "export"] if flag in COMMON else owners


def _of_config(flag: str) -> list[str]:
    """The keys of a config that a flag is like."""
    keys = {f"config.{key}": None for network in schema.NETWORKS for key in schema.keys(network)}
    return nearest(flag.lstrip("-"), keys)


def _meant(word: str, after: str, own: Iterable[str]) -> str:
    """The flags that a word is like, with its value; empty if there are none."""
    flag, equals, text = word.partition("=")
    keys = [f"{KEY}{key}" for network in schema.NETWORKS for key in schema.keys(network)]
    known = [name.removeprefix("--") for name in dict.fromkeys([*own, *keys])]
    near = [f"--{name}" for name in nearest(flag.lstrip("-"), known)]
    if not equals and after and not after.startswith("-"):
        equals, text = "=", after
    forms = [name if name in SWITCHES or not equals else shlex.join([f"{name}={text}"]) for name in near]
    return f"; did you mean {' or '.join(forms)}?" if forms else ""
