"""Config files: the ones that ship have names, and any other file has a path."""

import inspect
import os
import re
import traceback
from pathlib import Path

from drl_jax.config.rules import nearest
from drl_jax.errors import UserError

_PACKAGE = Path(__file__).parents[1]


def folder() -> Path:
    """Returns the folder of the configs that ship: in an installed package, or beside it in a checkout."""
    installed = _PACKAGE / "configs"
    return installed if installed.is_dir() else _PACKAGE.parent / "configs"


def names() -> list[str]:
    """Returns the names of the configs that ship."""
    return sorted(file.stem for file in folder().glob("*.py") if file.stem != "__init__")


def load(value: str) -> object:
    """Calls `get_config` of a config file.

    The file runs like a script: no module of it is left behind.

    Args:
      value: NAME of a config that ships, or FILE.py; then perhaps :ARGUMENT for `get_config`.

    Returns:
      What `get_config` returns, unchecked.

    Raises:
      UserError: there is no such file, it fails, or it does not take the argument.
    """
    flag = f"--config={value}"
    file, argument = _find(value)
    try:
        source = file.read_bytes()
    except IsADirectoryError:
        if (file / "config.json").exists():
            raise UserError(f"{flag} is the folder of a run; write --workdir={value}") from None
        inside = "".join(f", as in --config={path}" for path in sorted(file.glob("*.py"))[:1])
        raise UserError(f"{flag} is a folder; name a config file in it{inside}") from None
    except FileNotFoundError:
        raise UserError(f"{flag}: there is no such file{_meant(file)}") from None
    except OSError as error:
        raise UserError(f"{flag} cannot be read: {error.strerror}") from None
    if file.suffix != ".py":
        raise UserError(f"{flag}: a config file ends in .py; the config of a run is that of --workdir=DIR")

    namespace: dict[str, object] = {"__name__": "config_file", "__file__": str(file)}
    try:
        program = compile(source, file, "exec")
    except (SyntaxError, ValueError) as error:  # ValueError: a null byte
        line = getattr(error, "lineno", None)
        where = f" (line {line})" if line else ""
        raise UserError(f"{flag} is not a config file: {getattr(error, 'msg', error)}{where}") from None
    try:
        exec(program, namespace)
        get_config = namespace.get("get_config")
        if not callable(get_config):
            raise UserError("it has no function get_config()")
        arguments = () if argument is None else (argument,)
        if not _takes(get_config, *arguments):
            raise UserError(
                "it needs an argument, as in --config=FILE.py:ARGUMENT"
                if argument is None
                else f"{file.name} takes no argument {argument!r}"
            )
        return get_config(*arguments)
    except (Exception, SystemExit) as error:
        raise UserError(f"{flag}: {_describe(error, file)}") from None


def _find(value: str) -> tuple[Path, str | None]:
    """The file and the argument that a value of --config names."""
    # The path may have colons of its own.
    if match := re.fullmatch(r"(.+?\.py)(?::(.*))?", value, re.DOTALL):
        path, argument = match.groups()
        return Path(os.path.expanduser(path)), argument
    path = Path(os.path.expanduser(value))
    if os.sep in value or path.is_dir():
        return path, None
    name, colon, argument = value.partition(":")
    if name not in names():
        near = "".join(f"; did you mean --config={other}?" for other in nearest(name, names()))
        there = near or f"; there are {', '.join(names())}"
        raise UserError(f"--config={value}: no config has that name, and a file ends in .py{there}")
    return folder() / f"{name}.py", argument if colon else None


def _meant(file: Path) -> str:
    """What may be meant by the path of a file that does not exist."""
    if (complete := file.with_name(f"{file.name}.py")).is_file():
        return f"; did you mean --config={complete}?"
    name = file.name.rpartition("\\")[2].removesuffix(".py")
    if name in names():
        return f"; did you mean --config={name}?"
    if file.is_file() or file.parent.joinpath(file.name.partition(":")[0]).is_file():
        return "; the name of a config file ends in .py"
    return "; folders are separated by / here" if "\\" in str(file) and os.sep == "/" else ""


def _takes(function, *arguments: str) -> bool:
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        return False
    return True


def _describe(error: BaseException, file: Path) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, UserError | ValueError) and text:
        return text
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)
    ]
    where = f" (line {lines[-1]})" if lines else ""
    return f"{type(error).__name__}: {text}{where}"
