"""Agreement between the processes of a job. Every process must call these functions."""

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from drl_jax.errors import UserError


def gather(value: int) -> list[int]:
    """Returns the values of all processes, in the order of the processes; each from 0 to 2³² − 1."""
    if jax.process_count() == 1:
        return [value]
    return [int(each) for each in multihost_utils.process_allgather(np.array([value], np.uint32)).ravel()]


def all_processes(flag: bool) -> bool:
    """Returns whether `flag` is true in all processes."""
    return all(gather(flag))


def barrier() -> None:
    """Waits until all processes are here."""
    all_processes(True)


def on_process_0(action: Callable[[], Any]) -> Any:
    """Runs an action on process 0 alone.

    Args:
      action: what to run.

    Returns:
      Its result on process 0, None elsewhere.

    Raises:
      UserError: on process 0 the error that the action raised, elsewhere one that repeats its line.
    """
    result, refusal = None, None
    if jax.process_index() == 0:
        try:
            result = action()
        except UserError as error:
            refusal = error
    if not all_processes(refusal is None):
        said = broadcast(str(refusal))
        raise refusal or UserError(f"process 0 of the job has failed: {said}")
    return result


def together(action: Callable[[], Any]) -> Any:
    """Runs an action in every process.

    Args:
      action: what to run.

    Returns:
      Its result in this process.

    Raises:
      UserError: if the action raised one in any process; where it did not, one that names those processes.
    """
    result, refusal = None, None
    try:
        result = action()
    except UserError as error:
        refusal = error
    failed = [str(index) for index, went_well in enumerate(gather(refusal is None)) if not went_well]
    if failed:
        processes = f"process{'es' * (len(failed) > 1)} {', '.join(failed[:20])}"
        raise refusal or UserError(f"{processes} of the job failed; the own line of each says why")
    return result


def broadcast(value: Any) -> Any:
    """Returns the value of process 0 in all processes: anything that JSON can hold."""
    if jax.process_count() == 1:
        return value
    message = np.frombuffer(json.dumps(value).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(message))))
    message = np.resize(message, size)  # that of process 0 has this size already
    return json.loads(np.asarray(multihost_utils.broadcast_one_to_all(message)).tobytes())


def broadcast_array(array: np.ndarray | None) -> np.ndarray:
    """Returns the array of process 0 in all processes; the others may give None."""
    if jax.process_count() == 1:
        assert array is not None
        return array
    shape, dtype = broadcast(None if array is None else [array.shape, array.dtype.name])
    if jax.process_index() != 0 or array is None:
        array = np.zeros(shape, dtype)
    return np.asarray(multihost_utils.broadcast_one_to_all(array))
