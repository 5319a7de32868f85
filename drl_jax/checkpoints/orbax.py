"""Verified checkpoints: Orbax keeps state and position, digests beside them tell whether they are whole.

Orbax restores an array with a flipped byte without a word. So every array is saved with its digest, and a
checkpoint that does not give the same digests when it is read is passed over for the one before. What Orbax
saves as "state" is a vector per type; the table of what lies where is in the "record", which is JSON.
"""

import gc
import hashlib
import json
import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import jax
import orbax.checkpoint.experimental.v1 as ocp
from etils import epath

from drl_jax.checkpoints import packing
from drl_jax.errors import UserError
from drl_jax.parallel.devices import Placement, everywhere, from_first
from drl_jax.training.step import TrainState

FOLDER = "checkpoints"  # in the workdir
_CHUNK = 2**25  # bytes


class Checkpoint(NamedTuple):
    """What was saved after `step`. `record` is JSON: the position in the data, the config, and so on."""

    step: int
    state: TrainState
    record: dict[str, Any]


class Keep(NamedTuple):
    """Which checkpoints stay: the `newest` ones, those of every `every`-th step, and the best one."""

    newest: int
    every: int | None = None


def steps(directory: epath.Path) -> list[int]:
    """The steps there are checkpoints of, whole or not, oldest first."""
    names = [path.name for path in directory.iterdir()] if directory.exists() else []
    return sorted(int(name) for name in names if name.isdigit())


def load(
    directory: epath.Path,
    like: TrainState,
    placement: Placement,
    warn: Callable[[str], None],
    *,
    only: int | None = None,
) -> tuple[Checkpoint | None, list[int]]:
    """The newest checkpoint that verifies, on every device; None if there is no checkpoint. And the damaged
    steps that were passed over, each named in a warning and left where it is.

    `only` the checkpoint of this step will do, if it is given. `like` gives structure, shapes and types; its
    arrays may be abstract.

    Raises UserError: there are checkpoints and none can be read, which need not be their fault.
    """
    damaged = []
    for step in reversed(from_first([s for s in steps(directory) if only in (None, s)])):
        loaded, reason = _read(directory / str(step), like, placement)
        if everywhere(loaded is not None):  # all processes go on from the same step
            return loaded, damaged
        damaged.append(step)
        warn(f"checkpoint {directory / str(step)} is damaged and passed over: {reason}")
    if damaged and only is not None:
        raise UserError(f"the checkpoint of step {only} in {directory} is damaged: take that of another step")
    if damaged:
        raise UserError(
            f"none of the {len(damaged)} checkpoints in {directory} can be read; move that folder away to "
            "start afresh"
        )
    return None, damaged


def _read(path: epath.Path, like: TrainState, placement: Placement) -> tuple[Checkpoint | None, str]:
    loaded, failure = None, ""
    with _quiet() as settle:
        try:
            with _context():
                wanted = {"state": packing.empty(like), "record": None}
                loaded = ocp.load_checkpointables(path, wanted)
        except jax.errors.JaxRuntimeError:  # of the devices' memory, or of another process
            raise
        except Exception as error:  # whatever a damaged file makes the reader stumble over
            failure = _line(error)
        if loaded is None:  # and the error itself, which holds what the reader left, is gone
            settle()
            return None, failure
    record = dict(loaded["record"] or {})
    if record.pop("seal", None) != _seal(record):
        return None, "its record is not the one that was saved"
    try:
        state = packing.unpack(loaded["state"], record["arrays"], like)
    except ValueError as error:
        return None, str(error)
    return Checkpoint(record["step"], placement.replicate(state), record), ""


def _context() -> ocp.Context:
    """How Orbax is to save and read."""
    # The record is JSON: the registry's default for a dict is a tree of arrays.
    registry = ocp.handlers.local_registry()
    registry.add(ocp.handlers.JsonHandler, checkpointable_name="record")
    context = ocp.Context()
    context.checkpointables.registry = registry
    context.memory.deepcopy_host_arrays = False  # `packing.pack` has copied them
    # Weights are noise to a compressor; chunks are written and read side by side.
    context.array.saving.use_compression = False
    context.array.saving.storage_options.chunk_byte_size = _CHUNK
    return context


def hush() -> None:
    """Leaves it to the program to tell what goes wrong in a save or a read, in one line.

    Orbax logs what it raises, with its traceback, and gives up by closing an event loop to which
    tensorstore's threads still report; each of them prints that it is closed.
    """
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    told, unraisable = sys.excepthook, sys.unraisablehook

    def is_noise(error: BaseException | None) -> bool:
        return isinstance(error, RuntimeError) and str(error) == "Event loop is closed"

    sys.excepthook = lambda kind, error, trace: None if is_noise(error) else told(kind, error, trace)
    sys.unraisablehook = lambda args: None if is_noise(args.exc_value) else unraisable(args)


@contextmanager
def _quiet() -> Iterator[Callable[[], None]]:
    """Lets nothing be printed by a read that fails. It leaves other reads unfinished, whose complaints come
    later, with tracebacks; the function that is handed out waits for these."""

    def settle() -> None:
        time.sleep(0.2)
        gc.collect()

    hook, level = sys.unraisablehook, logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    sys.unraisablehook = lambda _: None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield settle
    finally:
        sys.unraisablehook = hook
        logging.disable(level)


class Checkpoints:
    """The checkpoints of a run under way."""

    def __init__(self, checkpointer: ocp.training.Checkpointer, policy: "_Policy"):
        self._checkpointer, self._policy = checkpointer, policy
        self._saving = -1  # the step of the last save …
        self._vectors: packing.Vectors | None = None  # … and what it wrote

    def load(self, like: TrainState, placement: Placement, warn: Callable[[str], None]) -> Checkpoint | None:
        """See `load`. Waits for the save in progress."""
        self.wait()
        loaded, damaged = load(epath.Path(self._checkpointer.directory), like, placement, warn)
        self._policy.damaged.update(damaged)
        return loaded

    def save(self, step: int, state: TrainState, record: Mapping[str, Any]) -> None:
        """Starts to save; returns when `state` may be donated.

        Raises UserError: this or the save before failed.
        """
        self.wait()  # apart, so that a failure is told as that of the save it belongs to
        self._vectors, table = packing.pack(state, self._vectors)
        record = {"step": step, **record, "arrays": table}
        self._saving, self._policy.damaged = step, self._policy.damaged - {step}
        with self._failures():
            self._checkpointer.save_checkpointables_async(
                step,
                {"state": self._vectors, "record": {**record, "seal": _seal(record)}},
                force=True,  # the loop decides when to save
                overwrite=True,  # only a damaged one can be there
            )

    def wait(self) -> None:
        """Returns when everything is saved. Raises UserError if it could not be."""
        with self._failures():
            self._checkpointer.wait()

    def check(self) -> None:
        """Raises UserError if the save in progress has failed; does not wait for it."""
        if not self._checkpointer.is_saving_in_progress():
            self.wait()

    def prefer(self, step: int | None) -> None:
        """The checkpoint of `step` is the best one from now on."""
        self._policy.best = step

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of the file system, in one of several wrappings
            directory = epath.Path(self._checkpointer.directory)
            whole = [step for step in steps(directory) if step not in {self._saving, *self._policy.damaged}]
            kept = f"that of step {whole[-1]} is kept" if whole else "there is none before it"
            raise UserError(
                f"the checkpoint of step {self._saving} could not be written to {directory}: "
                f"{_line(error)}; {kept}"
            ) from None


@contextmanager
def open_checkpoints(directory: epath.Path, keep: Keep) -> Iterator[Checkpoints]:
    """The checkpoints under `directory`, which is made if need be; for one job at a time.

    Leaving waits for the save in progress, which Orbax would lose without a word.
    """
    policy = _Policy(keep)
    always: Any = ocp.training.save_decision_policies.FixedIntervalPolicy(1)
    checkpointer = ocp.training.Checkpointer(
        directory,
        context=_context(),
        save_decision_policy=always,
        preservation_policy=policy,
        cleanup_tmp_directories=True,  # what a killed job was about to save
        lightweight_initialize=True,  # damaged metadata is no reason to stop
    )
    checkpoints = Checkpoints(checkpointer, policy)
    try:
        yield checkpoints
        checkpoints.wait()
    finally:
        with suppress(Exception):  # told by `wait`, or second to what ends the run
            checkpointer.close()


class _Policy:
    """Orbax's own would count damaged checkpoints among the newest, and delete sound ones for them."""

    def __init__(self, keep: Keep):
        self._keep = keep
        self.best: int | None = None
        self.damaged: set[int] = set()

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        del context
        newest, every = self._keep
        sound = [c.step for c in checkpoints if c.step not in self.damaged]
        kept = {*sound[-newest:], *self.damaged, self.best}
        return [c.step in kept or (every is not None and c.step % every == 0) for c in checkpoints]


def _seal(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    # tensorstore gives the system's error at the end of a long line.
    number = re.search(r"os_error_code='(\d+)'", text)
    return os.strerror(int(number[1])) if number else f"{type(error).__name__}: {text[:200]}"
