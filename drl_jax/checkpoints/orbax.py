"""Verified checkpoints: Orbax saves the tree, and a digest of every array says whether it is still the same.

Orbax restores an array with a flipped byte without an error. So the record of a checkpoint, which is JSON,
holds a digest of every array and one of itself. A checkpoint that does not match them is skipped, and the
one before it is taken.

The tree is saved under the names of its arrays, so Orbax' own tools can read a checkpoint, or a part of it.
"""

import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint.experimental.v1 as ocp
from etils import epath

from drl_jax import files
from drl_jax.checkpoints import digests
from drl_jax.checkpoints.quiet import quiet_read
from drl_jax.core.types import Leaf, Tree
from drl_jax.errors import UserError
from drl_jax.parallel.consensus import all_processes, broadcast
from drl_jax.parallel.preemption import is_peer_failure

FOLDER = "checkpoints"  # in the workdir
_CHUNK_BYTES = 2**25
_logger = logging.getLogger(__name__)
_BUGS = (TypeError, AttributeError, NameError, AssertionError)  # errors of ours, not of a file

Validate = Callable[[Mapping[str, Any]], object]
"""Raises UserError if a run cannot continue from the checkpoint with this record."""


class Checkpoint(NamedTuple):
    """What was saved after a step.

    Attributes:
      step: the step.
      tree: arrays, on the devices that their abstract form named.
      record: JSON: the config, the position in the data, and so on.
    """

    step: int
    tree: Tree
    record: dict[str, Any]


class Retention(NamedTuple):
    """Which checkpoints are kept: the newest ones, those of every `every` steps, and the best one."""

    newest: int
    every: int | None = None


def steps(directory: epath.Path) -> list[int]:
    """Returns the steps that have a checkpoint, damaged or not, oldest first."""
    names = [path.name for path in directory.iterdir()] if files.exists(directory) else []
    return sorted(int(name) for name in names if name.isdigit())


def load(
    directory: epath.Path,
    like: Tree,
    *,
    validate: Validate = lambda record: None,
    only: int | None = None,
) -> tuple[Checkpoint | None, list[int]]:
    """Loads the newest checkpoint that verifies. All processes must call this.

    The record is read and validated before any array is. Damaged checkpoints are left in place, and a
    warning names each.

    Args:
      directory: the folder of checkpoints.
      like: abstract arrays with shardings, as `jax.ShapeDtypeStruct`; they may be a part of the saved tree.
      validate: raises UserError for a record that does not fit.
      only: the step to load. Default: the newest.

    Returns:
      (the checkpoint, or None if there is none; the steps of damaged checkpoints).

    Raises:
      UserError: `validate` raised it; or the checkpoint of `only`, or all of them, cannot be read (the file
        system may be the cause, so nothing is deleted); or another version of the program saved them.
    """
    damaged = []
    for step in reversed(broadcast([s for s in steps(directory) if only in (None, s)])):
        path = directory / str(step)
        record, reason = _read_record(path)
        if all_processes(record is not None):  # all processes continue from the same step
            assert record is not None
            validate(record)
            tree, reason = _read_tree(path, like, record["arrays"])
            if all_processes(tree is not None):
                return Checkpoint(step, tree, record), damaged
        _check_permissions(path)
        damaged.append(step)
        reason = reason or "another process cannot read it"
        _logger.warning("checkpoint %s is damaged and skipped: %s", path, reason)
    if damaged and only is not None:
        raise UserError(f"the checkpoint of step {only} in {directory} is damaged: take another step")
    if damaged:
        raise UserError(
            f"none of the {len(damaged)} checkpoints in {directory} can be read; move that folder away to "
            "start from the beginning"
        )
    return None, damaged


def _check_permissions(path: epath.Path) -> None:
    """Raises UserError if a file of a checkpoint may not be read, which Orbax reports as something else."""
    if not files.is_local(path):
        return

    def refuse(error: OSError) -> None:
        if isinstance(error, PermissionError):
            raise UserError(f"{error.filename}: {error.strerror}; the checkpoint cannot be read")

    for folder, _, names in os.walk(path, onerror=refuse):
        for name in names:
            try:
                os.close(os.open(os.path.join(folder, name), os.O_RDONLY))
            except OSError as error:
                refuse(error)


def _read_record(path: epath.Path) -> tuple[dict[str, Any] | None, str]:
    """The record of a checkpoint, or None and the reason why there is none."""
    loaded, reason = _read(path, {"record": None}, partial=False)
    if loaded is None:
        return None, reason
    record = dict(loaded["record"] or {})
    if record.pop("record_sha256", None) != _sha256(record):
        return None, "its record is not the one that was saved"
    return record, ""


def _read_tree(path: epath.Path, like: Tree, saved: Mapping[str, Mapping[str, Any]]) -> tuple[Tree, str]:
    """The arrays of a checkpoint, or None and the reason why there are none."""
    plain = jax.tree.map(_plain_abstract, like)
    expected = digests.describe(plain)
    other = sorted(
        name
        for name, described in expected.items()
        if name not in saved or {key: saved[name][key] for key in described} != described
    )
    if other:
        # The record was validated: the program itself has changed since.
        raise UserError(
            f"{path} was saved by another version of the program: {len(other)} of its arrays differ, "
            f"first {other[0]}"
        )
    loaded, reason = _read(path, {"state": plain}, partial=len(expected) < len(saved))
    if loaded is None:
        return None, reason
    found = digests.digest(loaded["state"])
    wrong = sorted(name for name in found if found[name] != saved[name]["digest"])
    if wrong:
        return None, f"{len(wrong)} of its arrays are not what was saved, first {wrong[0]}"
    return jax.tree.map(_like_key, loaded["state"], like), ""


def _read(path: epath.Path, wanted: dict[str, Any], *, partial: bool) -> tuple[dict[str, Any] | None, str]:
    context = _context()
    context.pytree.loading.partial_load = partial
    with quiet_read() as wait:
        try:
            with context:
                return ocp.load_checkpointables(path, wanted), ""
        except (*_BUGS, jax.errors.JaxRuntimeError):  # the last: no memory on the device
            raise
        except Exception as error:  # the errors of a damaged file have many types
            if is_peer_failure(error):
                raise
            reason = _line(error)
        wait()  # here the exception, and the buffers that it refers to, are freed
    return None, reason


def _context() -> ocp.Context:
    """How Orbax saves and reads."""
    # The record is JSON; without an entry Orbax would save a dict as a tree of arrays.
    registry = ocp.handlers.local_registry()
    registry.add(ocp.handlers.JsonHandler, checkpointable_name="record")
    context = ocp.Context()
    context.checkpointables.registry = registry
    # A view of a JAX array cannot change: JAX donates no buffer that somebody else holds.
    context.memory.deepcopy_host_arrays = False
    # Weights do not compress; chunks are written and read in parallel.
    context.array.saving.use_compression = False
    context.array.saving.storage_options.chunk_byte_size = _CHUNK_BYTES
    return context


class Checkpoints:
    """The checkpoints of a run in progress."""

    def __init__(
        self, checkpointer: ocp.training.Checkpointer, policy: "_Policy", before_save: Callable[[], object]
    ):
        self._checkpointer, self._policy, self._before_save = checkpointer, policy, before_save
        self._saving = -1  # the step of the last save

    @property
    def _directory(self) -> epath.Path:
        return epath.Path(self._checkpointer.directory)

    def load(self, like: Tree, validate: Validate) -> Checkpoint | None:
        """Loads the newest checkpoint that verifies; see `load`. Waits for the save in progress."""
        self.wait()
        loaded, damaged = load(self._directory, like, validate=validate)
        self._policy.damaged.update(damaged)
        return loaded

    def save(self, step: int, tree: Tree, record: Mapping[str, Any]) -> None:
        """Starts to save; returns when `tree` may be donated.

        Args:
          step: the step.
          tree: arrays.
          record: JSON.

        Raises:
          UserError: this save or the one before failed, or another job has taken the folder.
        """
        self.wait()  # separately, so that a failure names the save that it belongs to
        self._before_save()
        tree = jax.tree.map(_plain, tree)
        arrays = digests.describe(tree)
        for name, digest in digests.digest(tree).items():
            arrays[name]["digest"] = digest
        record = {"step": step, **record, "arrays": arrays}
        self._saving, self._policy.damaged = step, self._policy.damaged - {step}
        with self._failures():
            self._checkpointer.save_checkpointables_async(
                step,
                {
                    "state": jax.tree.map(_to_save, tree),
                    "record": {**record, "record_sha256": _sha256(record)},
                },
                force=True,  # the loop decides when to save
                overwrite=True,  # only a damaged one can be there
            )

    def wait(self) -> None:
        """Returns when everything is saved. Raises UserError if that failed."""
        with self._failures():
            self._checkpointer.wait()

    def check(self) -> None:
        """Raises UserError if the save in progress has failed; does not wait for it."""
        if not self._checkpointer.is_saving_in_progress():
            self.wait()

    def set_best(self, step: int | None) -> None:
        """Keeps the checkpoint of `step` as the best one from now on."""
        self._policy.best = step

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except _BUGS:
            raise
        except Exception as error:  # the error of the file system, wrapped in one of several ways
            if is_peer_failure(error):
                raise
            whole = [s for s in steps(self._directory) if s not in {self._saving, *self._policy.damaged}]
            kept = f"that of step {whole[-1]} is kept" if whole else "there is none before it"
            raise UserError(
                f"the checkpoint of step {self._saving} could not be written to {self._directory}: "
                f"{_line(error)}; {kept}"
            ) from None


@contextmanager
def open_checkpoints(
    directory: epath.Path, retention: Retention, *, before_save: Callable[[], object] = lambda: None
) -> Iterator[Checkpoints]:
    """Opens the checkpoints in `directory`, which is made if need be. One job at a time may do this.

    Leaving the context waits for the save in progress. Orbax alone would lose it without an error.

    Args:
      directory: the folder of checkpoints.
      retention: which of them are kept.
      before_save: called in all processes before each save; what it raises prevents the save.
    """
    policy = _Policy(retention)
    always: Any = ocp.training.save_decision_policies.FixedIntervalPolicy(1)
    checkpointer = ocp.training.Checkpointer(
        directory,
        context=_context(),
        save_decision_policy=always,
        preservation_policy=policy,
        cleanup_tmp_directories=True,  # of a job that was killed while it saved
        lightweight_initialize=True,  # damaged metadata is no reason to stop
    )
    checkpoints = Checkpoints(checkpointer, policy, before_save)
    try:
        yield checkpoints
        checkpoints.wait()
    finally:
        with suppress(Exception):  # `wait` has reported it, or another error ends the run
            checkpointer.close()


class _Policy:
    """Orbax' own policies count damaged checkpoints among the newest, and delete whole ones for them."""

    def __init__(self, retention: Retention):
        self._retention = retention
        self.best: int | None = None
        self.damaged: set[int] = set()

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        del context
        newest, every = self._retention
        whole = [c.step for c in checkpoints if c.step not in self.damaged]
        kept = {*whole[-newest:], *self.damaged, self.best}
        return [c.step in kept or (every is not None and c.step % every == 0) for c in checkpoints]


def _is_key(leaf: Leaf) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain(leaf: Leaf) -> Leaf:
    """An array; of a random key, its data."""
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _plain_abstract(leaf: Leaf) -> jax.ShapeDtypeStruct:
    data = jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf
    return jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=leaf.sharding)


def _like_key(data: jax.Array, leaf: Leaf) -> jax.Array:
    return jax.random.wrap_key_data(data) if _is_key(leaf) else data


def _to_save(leaf: jax.Array) -> np.ndarray | jax.Array:
    """What Orbax gets.

    Of an array that every device holds, a copy on the host, so that the checkpoint can be read on any number
    of devices. A sharded array stays sharded: each process writes its part.
    """
    return np.asarray(leaf.addressable_data(0)) if leaf.is_fully_replicated else leaf


def _sha256(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    # tensorstore gives the error of the system at the end of a long line.
    number = re.search(r"os_error_code='(\d+)'", text)
    return os.strerror(int(number[1])) if number else f"{type(error).__name__}: {text[:200]}"
