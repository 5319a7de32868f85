"""Checkpoints by Orbax: the training state and the position in the data, together."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import orbax.checkpoint.experimental.v1 as ocp
from etils import epath

from drl_jax.parallel.devices import Placement
from drl_jax.training.step import TrainState


class Checkpoints:
    """The checkpoints of one run, in `directory`/STEP."""

    def __init__(self, checkpointer: ocp.training.Checkpointer):
        self._checkpointer = checkpointer

    @property
    def latest_step(self) -> int | None:
        """The step of the newest checkpoint; None if there is none."""
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def save(self, step: int, state: TrainState, position: dict[str, Any]) -> None:
        """Starts to save; returns when `state` may be donated. `position` is the data's own state."""
        self._checkpointer.save_checkpointables_async(step, {"state": state, "position": position})

    def restore(self, like: TrainState, placement: Placement) -> tuple[TrainState, dict[str, Any]]:
        """The newest checkpoint: the state, placed on every device, and the position in the data.

        `like` gives structure, shapes and types; its arrays may be abstract.
        """
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placement.replicated), like
        )
        loaded = self._checkpointer.load_checkpointables(
            self.latest_step, {"state": abstract, "position": None}
        )
        return loaded["state"], loaded["position"]


@contextmanager
def open_checkpoints(directory: epath.PathLike, *, keep: int) -> Iterator[Checkpoints]:
    """The checkpoints under `directory`, which is made if need be; the newest `keep` are kept.

    Leaving waits for the save in progress: Orbax would lose it silently.
    """
    # The loop decides when to save; a checkpointer that also did could skip the last step.
    always: Any = ocp.training.save_decision_policies.FixedIntervalPolicy(1)
    newest: Any = ocp.training.preservation_policies.LatestN(keep)
    with ocp.training.Checkpointer(
        epath.Path(directory),
        save_decision_policy=always,
        preservation_policy=newest,
        cleanup_tmp_directories=True,
    ) as checkpointer:
        yield Checkpoints(checkpointer)
