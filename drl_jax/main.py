"""The command line: from a command and its flags to an exit code."""

import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from drl_jax import __version__, pretrained
from drl_jax.commands import APPLICATIONS, COMMANDS, NEED_WORKDIR, call, call_on_model, show
from drl_jax.config import loading, options
from drl_jax.config.flags import WITH_MODEL, command_of, names
from drl_jax.config.overrides import no_model, parse, parse_model
from drl_jax.errors import UserError
from drl_jax.parallel import rendezvous
from drl_jax.parallel.environments import this_job
from drl_jax.parallel.preemption import EXIT_CODE, Stop, Stopped, exit_now, handle_signals, is_peer_failure

_THREADS_WITHIN = 5.0  # seconds in which threads of libraries must end
_NAMED_WITHIN = 5.0  # seconds in which `parallel.watch` names a process that has ended
USAGE = """usage: drl-jax COMMAND --config=CONFIG --workdir=DIR [--config.KEY=VALUE ...]
       drl-jax APPLICATION --model=MODEL [--OPTION=VALUE ...]

commands:
{commands}

applications of a trained model:
{applications}

flags:
  --config=NAME[:ARGUMENT]     one of {names}
  --config=FILE.py[:ARGUMENT]  a config file; without --config, the config of the run in --workdir
  --config.KEY=VALUE           override a value, as in --config.data.batch_size=64; None for no value
  --workdir=DIR                the folder of the run (train, sample, evaluate, export, report)
  --output=DIR                 where sample, evaluate, export, report and applications write
  --model=NAME|DIR|FILE        applications, sample and evaluate: a model that ships ({models}), a workdir,
                               or a file of `export`
  --show                       print the config and stop
  --topology=NAME              plan: the hardware, as in v5e:4x4, tpu7x:2x2x2, gpu:h100:8 or cpu:8
  --slices=N                   plan: how many slices of that topology; 1 without it
  --full                       plan: compile the whole program, which takes minutes
  --sweep                      plan: compare sizes of the hardware, and find the largest batch
  --version                    print the version and stop

`drl-jax help APPLICATION` prints the options of an application.

Exit code 0: done. 1: failed, restarting will not help. 42: stopped early, run the same command again.
"""

_OF_ALL_APPLICATIONS = """\
  --model=NAME|DIR|FILE              a model that ships, a workdir, or a file of `export`:
                                     {models} ship
  --output=DIR                       where results are written: the workdir, or else the current folder
  --config.KEY=VALUE                 override a value that training did not depend on
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command inside a Python process that goes on afterwards, such as that of a notebook.

    Signal handlers and settings of JAX are as before when it returns. An interrupt (Ctrl-C, or the button of
    a notebook) lets training save and return; where nothing is to be saved, it is raised.

    Args:
      argv: the words of the command line after the program's name. Default: those of this process.

    Returns:
      The exit code. 0: done. 1: failed, restarting will not help (one line on standard error). 42: stopped
      early, run the same command again.

    Raises:
      KeyboardInterrupt: as Python raises it.
    """
    return _main(argv, is_program=False)


def _main(argv: Sequence[str] | None, *, is_program: bool) -> int:
    code, all_end = 0, True  # whether all processes of the job end together
    argv = sys.argv[1:] if argv is None else argv
    with handle_signals(is_program=is_program) as stop:
        try:
            run(argv, stop)
            if is_program:
                stop.claim_end()  # all is done: a signal has nothing to end any more
            if sys.stdout is not None:
                sys.stdout.flush()  # here, where a reader that is gone can be handled
        except Exception as error:
            code, message = _explain(error, stop)
            all_end = isinstance(error, Stopped)
            if message:
                with suppress(OSError, ValueError):  # nobody reads it
                    print(f"drl-jax: {message}", file=sys.stderr, flush=True)
            if not is_joined() and list(argv[:1]) not in (["prepare"], ["check"], ["report"]):
                tell_others(error, message)
        if not all_end and is_joined():
            exit_now(code)
    return code


def program(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs a command and exits with its code, even where a thread of a library does not end.

    After a failed save, threads of Orbax may wait for minutes.

    Args:
      argv: as for `main`.
    """
    _open_closed_streams()
    code = _main(argv, is_program=True)
    if is_joined():
        import jax

        # The processes wait for each other here. Without this, the others abort if this one leaves a thread.
        jax.distributed.shutdown()
    end = time.monotonic() + _THREADS_WITHIN
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            with suppress(Exception):  # a thread of Orbax raises here what has been reported
                thread.join(max(0.0, end - time.monotonic()))
            if thread.is_alive():
                with suppress(OSError, ValueError):
                    sys.stdout.flush()
                os._exit(code)
    sys.exit(code)


def _open_closed_streams() -> None:
    """Lets what is printed to a stream that the caller has closed vanish, and keeps its number from files."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            nothing = os.open(os.devnull, os.O_RDWR)
            if nothing != number:
                os.dup2(nothing, number)
                os.close(nothing)
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w"))


def is_joined() -> bool:
    """Returns whether this process has joined a job."""
    if "jax" not in sys.modules:
        return False
    import jax

    return jax.distributed.is_initialized()


def tell_others(error: Exception, line: str) -> None:
    """Tells the other processes of the job, if there are any, that this one cannot join them.

    They would wait for it otherwise, until their time is up.

    Args:
      error: why.
      line: what was printed about it.
    """
    if isinstance(error, rendezvous.Refused | rendezvous.Missing | Stopped | KeyboardInterrupt):
        return  # they know, or they have the same signal
    with suppress(UserError, rendezvous.Missing):
        job = this_job()
        if job is not None and job.count > 1:
            failed = line or type(error).__name__
            rendezvous.meet(job, {}, rendezvous.limits(os.environ), failed=failed)


def run(argv: Sequence[str], stop: Stop) -> None:
    """Reads the command line and runs the command."""
    command, flags = command_of(argv, [*COMMANDS, *APPLICATIONS])
    if command == "help":
        print(_usage(flags), end="")
        return
    if command == "version":
        print(f"drl_jax {__version__}")
        return
    _check_variables(os.environ)
    if command in APPLICATIONS or (command in WITH_MODEL and names(flags, "--model")):
        on_model = parse_model(flags, command)
        _import_jax()
        with _files_named("--model", on_model.model):
            return call_on_model(command, on_model, stop)
    if command in WITH_MODEL and not (names(flags, "--workdir") or names(flags, "--config")):
        raise UserError(no_model(command))
    arguments = parse(flags, command)
    if arguments.show:
        return show(arguments.config)
    if command == "plan" and not arguments.topology:
        raise UserError("--topology is missing; `plan` needs the hardware, as in --topology=v5e:4x4")
    if command in NEED_WORKDIR and not arguments.workdir:
        missing = f"--workdir is missing; `{command}` needs the folder of a run"
        raise UserError(no_model(command) if command in WITH_MODEL else missing)
    if command != "prepare":  # which does without
        _import_jax()
    with _files_named("--workdir", arguments.workdir):
        call(command, arguments, stop)


def _usage(about: Sequence[str]) -> str:
    """What `help` prints, about an application if one is named."""
    for name in about:
        if name in APPLICATIONS:
            return (
                f"usage: drl-jax {name} --model=MODEL [--OPTION=VALUE ...]\n\n{APPLICATIONS[name]}\n\n"
                f"{_OF_ALL_APPLICATIONS.format(models=', '.join(pretrained.names()))}{options.usage(name)}\n"
            )
    listed = lambda texts: "\n".join(f"  {name:<11} {text}" for name, text in texts.items())
    return USAGE.format(
        commands=listed(COMMANDS),
        applications=listed(APPLICATIONS),
        names=", ".join(loading.names()),
        models=", ".join(pretrained.names()),
    )


@contextmanager
def _files_named(flag: str, folder: str | None) -> Iterator[None]:
    """Makes one line of an error of the file system, such as a full disk, or a folder that is gone."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(_of_files(error, flag, folder)) from error


def _of_files(error: OSError, flag: str = "", folder: str | None = None) -> str:
    """One line about an error of the file system: the path, the reason, and which checkpoints there are."""
    where = error.filename or (f"{flag}={folder}" if folder else "")
    line = f"{where}: {error.strerror or error}" if where else str(error.strerror or error)
    checkpoints = Path(os.path.expanduser(folder or "")) / "checkpoints"
    with suppress(OSError):
        if folder and (kept := [path.name for path in checkpoints.iterdir() if path.name.isdecimal()]):
            return f"{line}; checkpoints are kept, the newest of step {max(map(int, kept))}"
    return line


def _check_variables(environment: Mapping[str, str]) -> None:
    """Checks variables that would end JAX with a traceback, or abort it."""
    flag = "--xla_force_host_platform_device_count"
    counts = {
        "JAX_NUM_CPU_DEVICES": environment.get("JAX_NUM_CPU_DEVICES", "1"),
        **dict(re.findall(rf"({flag})=(\S*)", environment.get("XLA_FLAGS", ""))),
    }
    for name, value in counts.items():
        if not value.isdecimal() or int(value) < 1:
            where = "in XLA_FLAGS: " * name.startswith("--")
            raise UserError(f"{where}{name}={value} is not possible: it must be a whole number, at least 1")


def _import_jax() -> None:
    """Imports JAX, which checks its own variables.

    Raises:
      UserError: one of them has an impossible value, or asks for numbers of 64 bits.
    """
    try:
        import jax
    except ValueError as error:
        raise UserError(f"JAX cannot be imported: {error}") from None
    if jax.config.values["jax_enable_x64"]:
        raise UserError(
            "jax_enable_x64 is on (JAX_ENABLE_X64), and the program computes with numbers of 32 bits; turn "
            "it off"
        )


def _explain(error: Exception, stop: Stop) -> tuple[int, str]:
    """The exit code, and one line about the error."""
    is_lost = is_peer_failure(error)
    if is_lost:
        time.sleep(_NAMED_WITHIN)  # the watch names the process, and ends this one
    if is_joined() and not stop.claim_end():
        time.sleep(60)  # another thread has printed why, and is ending the process
    match error:
        case Stopped() | rendezvous.Missing():
            return EXIT_CODE, str(error)
        case _ if is_lost:
            reason = " ".join(str(error).split())[:120]
            kept = "checkpoints are kept; start again to continue"
            return EXIT_CODE, f"another process of the job has ended ({reason}); {kept}"
        case UserError():
            return 1, str(error)
        case BrokenPipeError():  # nobody reads what was asked for, such as `--show`
            from drl_jax.report.console import discard

            discard(sys.stdout)
            return 1, ""
        case MemoryError():
            reason = " ".join(str(error).split()) or "MemoryError"
            return (
                1,
                f"the memory of this machine is too small: {reason}; is config.data.batch_size too large?",
            )
        case OSError():  # of the command line: a config that cannot be read
            return 1, _of_files(error)
        case _:  # a fault of the program or of the machine
            traceback.print_exception(error)
            return 1, ""


if __name__ == "__main__":
    program()
