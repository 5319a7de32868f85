"""What every command that computes does first: join the job, place the devices, print from process 0."""

import os
import socket
import time
import uuid
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import jax
from etils import epath

from drl_jax import files
from drl_jax.checkpoints.quiet import silence_orbax
from drl_jax.config import paths, schema
from drl_jax.config.build import set_precision
from drl_jax.config.restore import StoredModel
from drl_jax.config.schema import Config
from drl_jax.data.sources import Opened, fingerprint
from drl_jax.errors import UserError
from drl_jax.parallel import compile_cache
from drl_jax.parallel.consensus import broadcast, gather, on_process_0
from drl_jax.parallel.mesh import Placement, place
from drl_jax.parallel.preemption import Stop, Stopped, exit_delay, is_peer_failure
from drl_jax.parallel.startup import join_job
from drl_jax.report import provenance
from drl_jax.report.console import console

# Commands whose programs have at most one collective each: the step, the sampler, and Inception.
_ONE_COLLECTIVE = ("train", "sample", "evaluate")
_SEEN_WITHIN = 45.0  # seconds in which a new file appears on all hosts that share a folder


@contextmanager
def start_job(
    stop: Stop,
    command: str,
    config: Config,
    *,
    workdir: epath.Path | None = None,
    stored: StoredModel | None = None,
    sources: Mapping[str, Opened] | None = None,
    batch_size: int = 0,
) -> Iterator[Placement]:
    """Joins the other processes of the job, and prints from process 0 inside this context.

    The processes compare what they are about to do: the command, the config, the workdir, the data, and the
    versions of the program and of JAX. Where they differ, all of them end before anything is computed.

    Args:
      stop: gets the delay with which this process exits.
      command: the name of the command.
      config: the config.
      workdir: the folder of the run, which all processes must see. Default: that of `stored`.
      stored: the model that the command loads.
      sources: the data that the command reads, by the name that a message gives them.
      batch_size: rows of a batch, which must divide over the devices; 0 if there is no batch.

    Raises:
      UserError: the environment describes an impossible job, its processes do not fit together, or the batch
        does not divide.
      Missing: not all processes came in time.
    """
    microbatches = config.training.microbatches
    workdir = stored.workdir if stored else workdir
    digest = stored.weights_sha256 if stored else None
    facts = lambda: _facts(command, config, workdir, digest, sources or {})
    watch = join_job(
        batch_size // microbatches,
        facts,
        stop,
        threads_per_device=1 if stop.owns_process and command in _ONE_COLLECTIVE else 2,
    )
    stop.exit_delay = exit_delay()
    try:
        with console():
            for source in (sources or {}).values():
                source.notes.listen()
            _share_compiled_programs()
            if workdir is not None and jax.process_count() > 1 and files.is_local(workdir):
                (_check_written if command == "train" else _check_read)(workdir)
            yield place(batch_size, microbatches=microbatches)
    except BaseException as error:
        # Where another process has ended, the watch must go on: it names that process, and ends this one.
        if watch is not None and not (isinstance(error, Exception) and is_peer_failure(error)):
            watch.leave(_failure(error))
        raise
    if watch is not None:
        watch.leave(None)


def _facts(
    command: str,
    config: Config,
    workdir: epath.Path | None,
    weights_sha256: str | None,
    sources: Mapping[str, Opened],
) -> dict[str, Any]:
    """What must be equal in all processes of a job, by the name that a message gives it."""
    settings = schema.flatten(schema.to_dict(config))
    # Each host may have its own paths.
    facts = {f"config.{key}": value for key, value in settings.items() if key not in paths.KEYS}
    about = provenance.versions()
    facts |= {"the command": command, "--workdir": None if workdir is None else str(workdir)}
    facts |= {"the SHA-256 of the weights": weights_sha256}
    facts |= {f"the version of {name}": about["versions"][name] for name in ("drl_jax", "jax")}
    if about["commit"] is not None:
        facts["the commit of drl_jax"] = about["commit"]
    for name, source in sources.items():
        data = fingerprint(source)
        facts[f"the number of examples of {name}"] = data["examples"]
        facts[f"the SHA-256 of 16 examples of {name}"] = data["sha256_of_16"]
    return facts


def _failure(error: BaseException) -> str | None:
    """What the other processes are told about an error; None if it is no reason to give up."""
    if isinstance(error, UserError):
        return str(error)
    if not isinstance(error, Exception) or isinstance(error, Stopped):
        return None
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _check_written(workdir: epath.Path) -> None:
    """Checks that all processes see what process 0 writes in the workdir.

    Raises:
      UserError: in all processes, if one does not see it.
    """
    seen = _see_file_of_process_0(workdir, "--workdir", wait=_SEEN_WITHIN)
    _check_all_see(workdir, seen, "does not see what process 0 writes there")


def _check_read(workdir: epath.Path) -> None:
    """Checks that all processes see the same run in the workdir, in which they may not be able to write.

    Raises:
      UserError: in all processes, if one sees another run, or none.
    """
    end = time.monotonic() + _SEEN_WITHIN
    stamps = gather(_stamp(workdir / schema.FILE))
    # A network file system answers from its memory for a while. All processes must go round equally often.
    while len(set(stamps)) > 1 and broadcast(time.monotonic() < end):
        time.sleep(0.5)
        stamps = gather(_stamp(workdir / schema.FILE))
    _check_all_see(workdir, [stamp == stamps[0] for stamp in stamps], "does not see the run of process 0")


def _stamp(file: epath.Path) -> int:
    """A number that differs between two files, from 1 on; 0 if there is no file."""
    try:
        status = os.stat(file)
    except OSError:
        return 0
    return zlib.crc32(f"{status.st_mtime_ns} {status.st_size}".encode()) or 1


def _check_all_see(workdir: epath.Path, seen: Sequence[bool], what: str) -> None:
    if blind := [str(index) for index, sees in enumerate(seen) if not sees]:
        raise UserError(
            f"--workdir={workdir} is not one folder for all processes of the job: process "
            f"{', '.join(blind[:20])} {what}; take a folder that all hosts share"
        )


def _share_compiled_programs() -> None:
    """Lets this process write the cache of compiled programs, if no other writes what it will look for."""
    folder = jax.config.values["jax_compilation_cache_dir"]
    if not folder or jax.process_count() == 1 or not files.is_local(epath.Path(folder)):
        return
    if jax.default_backend() == "cpu":  # each process has its own keys
        compile_cache.write_here(jax.process_index())
        return
    hosts = gather(zlib.crc32(socket.gethostname().encode()))
    is_first_on_host = hosts.index(hosts[jax.process_index()]) == jax.process_index()
    with suppress(UserError):  # process 0 has no cache
        seen = _see_file_of_process_0(epath.Path(folder), "the folder of the cache", wait=0.0)
        if is_first_on_host and not seen[jax.process_index()]:
            compile_cache.write_here(jax.process_index())


def _see_file_of_process_0(folder: epath.Path, name: str, *, wait: float) -> list[bool]:
    """Writes a file in process 0 and looks for it in all of them.

    Args:
      folder: where.
      name: what a message calls the folder.
      wait: seconds in which it must appear.

    Returns:
      For each process whether it saw the file.

    Raises:
      UserError: in all processes, if process 0 cannot write there.
    """
    file = folder / broadcast(f".seen-{uuid.uuid4().hex[:12]}")

    def write() -> None:
        try:
            files.write(file, "")
        except OSError as error:
            raise UserError(f"{name}={folder} cannot be written: {error.strerror or error}") from None

    on_process_0(write)
    end = time.monotonic() + wait
    # A network file system answers from its memory for a while; listing a folder makes it ask again.
    while not (sees := _is_listed(file)) and time.monotonic() < end:
        time.sleep(0.5)
    seen = [bool(each) for each in gather(sees)]
    if jax.process_index() == 0:
        file.unlink(missing_ok=True)
    return seen


def _is_listed(file: epath.Path) -> bool:
    try:
        return any(path.name == file.name for path in file.parent.iterdir())
    except OSError:
        return False


@contextmanager
def configured_jax(config: Config) -> Iterator[None]:
    """Sets the precision of products inside this context; keeps compiled programs on disk from now on.

    Compiled programs make a second start quick. Each type of machine has its own folder. Where none can be
    written, nothing is kept. Small programs are kept too: a start has hundreds of them. JAX's own variables
    override where programs are kept.
    """
    if not jax.config.values["jax_compilation_cache_dir"] and (folder := compile_cache.default_folder()):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    silence_orbax()
    precision = jax.config.values["jax_default_matmul_precision"]
    set_precision(config)
    try:
        yield
    finally:
        jax.config.update("jax_default_matmul_precision", precision)


def check_output(output: epath.Path, stored: StoredModel) -> None:
    """Checks that samples can be written, before any is drawn. Process 0 alone writes them.

    Args:
      output: where they will be written. The folder is made.
      stored: the model that draws them.

    Raises:
      UserError: in all processes, if the folder cannot be written, or if images in it would become data.
    """

    def check() -> None:
        data = stored.config.data
        is_elsewhere = output != stored.workdir
        if is_elsewhere and data.path and data.name == "folder" and _is_inside(output, data.path):
            raise UserError(
                f"--output={output} is inside config.data.path={data.path}: the samples would become data; "
                "take another folder"
            )
        try:
            files.check_writable(output)
        except OSError as error:
            named, remedy = f"--output={output}", "name another folder"
            if output == files.absolute(""):
                named, remedy = f"the current folder, {output},", "name another folder with --output=DIR"
            if not is_elsewhere:
                named, remedy = (
                    f"--workdir={output}",
                    "name another folder for what is written with --output=DIR",
                )
            reason = error.strerror or error
            raise UserError(f"{named} cannot be written: {reason}; {remedy}") from None

    on_process_0(check)


def _is_inside(folder: epath.Path, outer: str) -> bool:
    """Whether a folder is another one, or inside of it."""
    if not files.is_local(folder):
        return False
    outer = os.path.realpath(outer)
    return os.path.isdir(outer) and os.path.commonpath([os.path.realpath(folder), outer]) == outer
