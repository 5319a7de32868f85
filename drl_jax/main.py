"""The command line: COMMAND, then a config file with overrides, then a workdir."""

import json
import os
import shlex
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, NoReturn

from absl import flags
from etils import epath
from ml_collections import config_flags

from drl_jax import __version__
from drl_jax.config import schema
from drl_jax.config.schema import Config
from drl_jax.errors import UserError
from drl_jax.parallel.preemption import EXIT_CODE, Stop, Stopped, interruptible, listening

COMMANDS = {
    "train": "train a model, or go on with the one in --workdir",
    "sample": "draw from the model in --workdir: samples.npz and a grid",
    "evaluate": "measure the model in --workdir: config.evaluation.metrics, with their whole protocol",
    "check": "measure the data of --config against themselves: what a perfect model would score",
    "prepare": "fetch and prepare the data set that --config names",
}

USAGE = """usage: drl-jax COMMAND --config=FILE.py[:ARGUMENT] --workdir=DIR [--config.KEY=VALUE ...]

commands:
{commands}

flags:
  --config=FILE.py[:ARGUMENT]  a file of configs/; may be left out where DIR has a config.json
  --config.KEY=VALUE           override a value, as in --config.data.batch_size=64
  --workdir=DIR                where the run lives (train, sample, evaluate)
  --show                       print the config and stop
  --version                    print the version and stop
"""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs a command and exits: 0 when it is done, 1 with one line for what a restart would not mend, 42
    when the same line again goes on: a signal stopped it, or another process of the job is gone."""
    with listening() as stop:
        try:
            code, together = _run(list(sys.argv[1:] if argv is None else argv), stop)
        except Exception:  # an error of ours, or of the machine
            traceback.print_exc()
            code, together = 1, False
        if not together and "jax" in sys.modules:  # or nothing has joined a job yet
            from drl_jax.parallel import devices

            devices.abandon(code)
    sys.exit(code)


def _run(argv: Sequence[str], stop: Stop) -> tuple[int, bool]:
    """The exit code, and whether all processes of the job end alike."""
    try:
        run(argv, stop)
        return 0, True
    except Stopped as stopped:
        print(f"drl-jax: {stopped}", file=sys.stderr)
        return EXIT_CODE, True
    except UserError as error:
        print(f"drl-jax: {error}", file=sys.stderr)
    except ImportError as error:  # what a path of gs://… needs and an installation may not have
        print(f"drl-jax: {error}", file=sys.stderr)
    except (RuntimeError, ValueError) as error:
        from drl_jax.parallel import devices

        if not devices.is_lost_peer(error):
            raise
        reason = " ".join(str(error).split())[:120]
        kept = "checkpoints are kept; start again to go on"
        print(f"drl-jax: another process of the job has ended ({reason}); {kept}", file=sys.stderr)
        return EXIT_CODE, False
    except BrokenPipeError:  # whoever read the output has had enough; the interpreter's last flush too
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # a full disk, a folder that is gone
        where = "" if error.filename is None else f"{error.filename}: "
        print(f"drl-jax: {where}{error.strerror or error}; checkpoints are kept", file=sys.stderr)
    return 1, False


def run(argv: Sequence[str], stop: Stop) -> None:
    """Parses the command line and calls the command. Raises UserError, Stopped, OSError."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        lines = (f"  {name:<10} {what}" for name, what in COMMANDS.items())
        print(USAGE.format(commands="\n".join(lines)), end="")
        return
    if argv[0] == "--version":
        print(f"drl_jax {__version__}")
        return
    command, *rest = argv
    if command not in COMMANDS:
        raise UserError(f"command {command!r} is unknown; commands are {', '.join(COMMANDS)}")
    if "--help" in rest or "-h" in rest:
        return run([], stop)
    arguments = parse(rest)
    config, workdir = arguments.config, arguments.workdir
    if arguments.show:
        print(json.dumps(config.to_dict(), indent=1))
        return
    if command not in ("prepare", "check") and not workdir:
        raise UserError(f"--workdir is missing: the folder of the run that `{command}` is about")
    folder = epath.Path(workdir or "").expanduser()
    if not folder.is_absolute():  # Orbax takes no relative path; gs://… is absolute
        folder = folder.absolute()

    # Only now: importing jax takes its time, a mistake should not.
    from drl_jax.commands.common import start

    start()
    match command:
        case "train":
            from drl_jax.commands.train import train

            train(config, folder, arguments.prepare_command, stop)
        case "sample":
            from drl_jax.commands.sample import sample

            sample(config, folder, stop)
        case "evaluate":
            from drl_jax.commands.evaluate import evaluate

            evaluate(config, folder, arguments.prepare_command, stop)
        case "check":
            from drl_jax.commands.check import check

            check(config, arguments.prepare_command, stop)
        case _:
            from drl_jax.commands.prepare import prepare

            with interruptible():
                prepare(config)


class Arguments(NamedTuple):
    """What follows the command."""

    config: Config
    prepare_command: str  # of the data that the config names
    workdir: str | None
    show: bool


def parse(argv: Sequence[str]) -> Arguments:
    """The flags of a command. Raises UserError for anything that is not a flag, key, type or file."""
    known = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "where the run lives", flag_values=known)
    flags.DEFINE_bool("show", False, "print the config and stop", flag_values=known)

    # Needed before the flags are parsed: which keys there are depends on the config.
    given, workdir = (
        next((a.split("=", 1)[1] for a in argv if a.startswith(flag)), None)
        for flag in ("--config=", "--workdir=")
    )
    saved = None if workdir is None else epath.Path(workdir).expanduser() / schema.FILE
    with _as_the_program(argv):
        if given is None and (saved is None or not saved.exists()):
            where = "" if saved is None else f", and --workdir={workdir} holds no run that has one"
            raise UserError(
                f"--config is missing{where}: name a config file, as in --config=configs/digits.py"
            )
        # Misspelt keys are found as early as a flag is defined.
        try:
            if given is not None:
                config_flags.DEFINE_config_file("config", lock_config=True, flag_values=known)
            elif saved is not None:
                config = schema.load(saved)
                config_flags.DEFINE_config_dict("config", config, lock_config=True, flag_values=known)
            rest = known(sys.argv)[1:]
            config: Config = known["config"].value
            config.keys()  # a file that could not be loaded says so only when it is used
        except (
            flags.Error,
            AttributeError,
            LookupError,
            NameError,
            OSError,
            SyntaxError,
            TypeError,
            ValueError,
        ) as error:
            raise UserError(_one_line(error, given)) from None
    schema.require_keys(config, given or str(saved))
    if rest:
        raise UserError(f"{rest[0]!r} is not a flag; flags are written --config.KEY=VALUE")
    return Arguments(config, _prepare_command(argv, saved), workdir, bool(known["show"].value))


def _prepare_command(argv: Sequence[str], saved: epath.Path | None) -> str:
    """The line that prepares the data of a command: without its folder, which the data know."""
    data = [a for a in argv if a.startswith("--config.data.") and not a.startswith("--config.data.data_dir=")]
    file = next((a for a in argv if a.startswith("--config=")), f"--workdir={saved and saved.parent}")
    called = sys.argv[0]  # as the program was started, so that the line works where that worked
    program = [called] if os.path.basename(called) == "drl-jax" else [sys.executable, "-m", "drl_jax"]
    return shlex.join([*program, "prepare", file, *data])


@contextmanager
def _as_the_program(argv: Sequence[str]) -> Iterator[None]:
    # config_flags looks for overrides in sys.argv itself, when it defines flags and when it parses them.
    before, sys.argv = sys.argv, ["drl-jax", *argv]
    try:
        yield
    finally:
        sys.argv = before


def _one_line(error: Exception, config_file: str | None) -> str:
    """The message of a flag's error, without the traceback that config_flags puts into it."""
    text = str(error)
    if isinstance(error, OSError):
        return f"--config={config_file}: there is no such file"
    if isinstance(error, NameError | SyntaxError):
        return f"--config={config_file} is no config file: {' '.join(text.split())}"
    if "has no attribute 'get_config'" in text:
        return f"--config={config_file}: it has no function get_config()"
    if "Traceback" in text:
        reason = text.strip().splitlines()[-1].partition(": ")
        text = reason[2] or reason[0]
        if "get_config() takes" in text:
            file, _, argument = (config_file or "").rpartition(":")
            text = f"{file} takes no argument {argument!r}"
        return f"--config={config_file}: {text}"
    if "as a ConfigDict" in text:
        return f"{text.split(':')[0]}: this is a group of keys, to be set one by one"
    if isinstance(error, AttributeError | KeyError):
        # Its text is that of a KeyError: in quotes, with escapes.
        named = str(error.args[0]).replace("\\n", "\n").replace("\\'", "'")
        named = ". ".join(line.strip("'\"") for line in named.splitlines())
        text = f"--config: no key {named}"
    return " ".join(text.split())
