"""The training loop: restore → next(data) → step → log → save → evaluate."""

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import grain
import jax
import numpy as np
from etils import epath

from drl_jax.checkpoints.orbax import Checkpoints, Validate
from drl_jax.errors import UserError
from drl_jax.parallel.consensus import all_processes, barrier, broadcast
from drl_jax.parallel.mesh import Placement
from drl_jax.parallel.preemption import Stop, Stopped
from drl_jax.report import metrics_log
from drl_jax.report.metrics_log import MetricsLog
from drl_jax.report.progress import Progress
from drl_jax.training.guard import Diverged, Guard, Thresholds
from drl_jax.training.step import LevelSums, StepMetrics, TrainState

_TIMED_STEPS = 4  # after which the time of a step is known
_logger = logging.getLogger(__name__)

Scores = Mapping[str, float]


class Cadence(NamedTuple):
    """How many steps there are, and after how many steps something happens."""

    num_steps: int
    log_every: int
    save_every: int
    evaluate_every: int

    def evaluates(self, step: int) -> bool:
        """Returns whether there is an evaluation after `step`."""
        return step % self.evaluate_every == 0 or step == self.num_steps


class Run(NamedTuple):
    """What a run works with.

    Attributes:
      begin: is called once, when it is sure that the run can continue.
      init: makes the state before the first step, on all devices.
      step: (state, batch, stop_flags) -> (state, metrics, flags that are set), compiled for all devices.
      evaluate: (step, state) -> scores.
      data: an iterator over the rows of this process; its position can be saved.
      placement: where arrays live.
      checkpoints: where states are saved.
      log: where numbers are written.
      stop: whether this process was asked to stop.
      workdir: the folder of the run.
    """

    begin: Callable[[], object]
    init: Callable[[], TrainState]
    step: Callable[[TrainState, jax.Array, jax.Array], tuple[TrainState, StepMetrics, jax.Array]]
    evaluate: Callable[[int, TrainState], Scores]
    data: grain.DatasetIterator
    placement: Placement
    checkpoints: Checkpoints
    log: MetricsLog
    stop: Stop
    workdir: epath.Path


def train(
    run: Run,
    cadence: Cadence,
    *,
    batch_size: int,
    thresholds: Thresholds,
    max_rollbacks: int,
    best_of: str | None,
    metadata: Mapping[str, Any],
    validate: Validate,
) -> tuple[TrainState, Scores | None]:
    """Trains to the last step, from the newest checkpoint that verifies.

    A run is a function of (config, seed), however often it is interrupted: the state holds its root key and
    its sums, the checkpoint also the position in the data and the state of the guard.

    Args:
      run: what the run works with.
      cadence: when things happen.
      batch_size: rows of a batch over all processes.
      thresholds: what counts as divergence.
      max_rollbacks: how often the run may go back to its last checkpoint.
      best_of: the score whose lowest value marks the best checkpoint.
      metadata: JSON that every checkpoint keeps: the config, the data, versions.
      validate: raises UserError for the record of a checkpoint from which this run cannot continue.

    Returns:
      The last state and its scores, or None if the scores existed already.

    Raises:
      Stopped: a signal came and the state is saved.
      UserError: the run diverged too often, or cannot continue.
    """
    like = run.placement.abstract(jax.eval_shape(run.init))
    num_levels = len(like.sums.count)
    guard = Guard(num_levels, thresholds)
    beginning = {"position": run.data.get_state(), "guard": guard.get_state()}
    progress = Progress(cadence.num_steps, batch_size)
    rollbacks, divergence = 0, None
    while True:
        run.stop.busy = False
        checkpoint = run.checkpoints.load(like, validate)
        if checkpoint is None:
            start, state, record = 0, run.init(), beginning
        else:
            start, state, record = checkpoint
        if start > cadence.num_steps:
            raise UserError(
                f"config.training.steps={cadence.num_steps} is too few: the run is at step {start} already"
            )
        if divergence is None:
            run.begin()
        run.data.set_state(record["position"])
        guard.set_state(record["guard"])
        rollbacks = max(rollbacks, int(state.rollbacks))
        run.log.truncate(start, rollbacks)
        if divergence is not None:
            if rollbacks >= max_rollbacks:
                kept = f"the checkpoint of step {start} is kept" if start else "nothing was saved before"
                raise UserError(
                    f"training diverged at {divergence}; config.guard.rollbacks={max_rollbacks} allows no "
                    f"more; {kept}; docs/divergence.md says what helps"
                )
            rollbacks += 1
            _logger.info("back to step %d with new noise: rollback %d of %d", start, rollbacks, max_rollbacks)
            run.log.note_rollback(start, rollbacks, from_step=divergence.step, cause=divergence.cause)
            state = state.replace(rollbacks=run.placement.replicate(np.int32(rollbacks)))
        elif checkpoint is not None:
            _logger.info("continuing from step %d", start)
            for name, version in record["versions"].items():
                if version != (now := metadata["versions"].get(name)):
                    _logger.info("%s was %s and is %s: results may differ", name, version, now)
        try:
            return _train(run, state, start, guard, progress, cadence, best_of, metadata)
        except Diverged as error:
            divergence = error.with_traceback(None)  # whose frames hold the diverged state
            _logger.info("%s", f"diverged at {error}\n{error.table}".rstrip())


def _train(
    run: Run,
    state: TrainState,
    start: int,
    guard: Guard,
    progress: Progress,
    cadence: Cadence,
    best_of: str | None,
    metadata: Mapping[str, Any],
) -> tuple[TrainState, Scores | None]:
    """Trains from step `start` to the last. Raises Diverged, Stopped."""
    scores, best = None, _Best(run.workdir, best_of)
    run.checkpoints.set_best(best.step)
    num_levels = len(state.sums.count)

    def evaluate(step: int) -> Scores:
        # Evaluations are long. All work is saved, so a signal may end one at once.
        busy = run.stop.busy
        run.checkpoints.wait()
        run.stop.busy = False
        if not all_processes(not run.stop.requested):
            raise Stopped(_stopped(step))
        began = time.monotonic()
        with progress.pause():
            scores = run.evaluate(step, state)
        if scores:
            _logger.info("  %s", "  ".join(f"{name} {value:.4g}" for name, value in scores.items()))
        run.log.write(step, {**scores, "evaluation_seconds": time.monotonic() - began})
        run.log.plot()
        run.checkpoints.set_best(best.update(step, scores))
        barrier()  # process 0 has written its files before any process continues
        run.stop.busy = busy
        return scores

    def read(*, leave: int) -> bool:
        """Shows the guard all metrics but the last `leave`; returns whether a step says to stop."""
        votes = 0.0
        while len(unread) > leave:
            step, metrics, flags = jax.device_get(unread.popleft())
            guard.check(int(step), metrics)
            votes += float(flags)
        return votes > 0

    if start and cadence.evaluates(start) and not _is_evaluated(run.workdir, start):
        scores = evaluate(start)
    stop_flags = [run.placement.stop_flags(flag) for flag in (False, True)]
    unread, most = deque[tuple[int, StepMetrics, jax.Array]](), 1  # metrics of steps; how many may wait
    is_alone = jax.process_count() == 1  # and needs no other process to agree to stop
    if start < cadence.num_steps:
        _logger.info("compiling the training step")
    began = time.monotonic()
    for step in range(start + 1, cadence.num_steps + 1):
        batch = run.placement.shard_local(next(run.data))
        state, metrics, flags = run.step(state, batch, stop_flags[run.stop.requested])
        unread.append((step, metrics, flags))
        ends = len(unread) > most and read(leave=min(most, 1))  # all but the step that runs now
        ends |= is_alone and run.stop.requested
        if step == start + 1:
            jax.block_until_ready(state.step)
            run.stop.busy = True
            seconds = time.monotonic() - began
            _logger.info("step %d/%d  the first, compiled in %.1f s", step, cadence.num_steps, seconds)
            progress.start(step)
            began = time.monotonic()
        if step == start + 1 + _TIMED_STEPS:
            ends |= read(leave=0)
            # The same everywhere: all processes must read a stop flag after the same step.
            most = broadcast(_most_unread((time.monotonic() - began) / _TIMED_STEPS))

        is_last = step == cadence.num_steps
        logs, evaluates = step % cadence.log_every == 0 or is_last, cadence.evaluates(step)
        saves = evaluates or step % cadence.save_every == 0
        if ends or logs or saves:
            # Nothing of a step is written before the guard has seen its metrics.
            ends |= read(leave=0)
        if logs:
            values = summarize(jax.device_get(state.sums))
            speed, left = progress.speed(step)
            _logger.info("%s", progress.line(step, values["loss"], speed, left))
            run.log.write(step, {**values, "steps_per_second": speed})
            state = state.replace(sums=run.placement.replicate(LevelSums.zeros(num_levels)))
            run.checkpoints.check()
        if ends or saves:
            guard.check_weights(step, state.params)
            record = {"position": run.data.get_state(), "guard": guard.get_state(), **metadata}
            run.checkpoints.save(step, state, record)
        if ends:
            run.checkpoints.wait()
            raise Stopped(_stopped(step))
        if evaluates:
            scores = evaluate(step)
    run.stop.busy = False
    return state, scores


def _most_unread(seconds_per_step: float) -> int:
    """How many steps' metrics may wait to be read: as many as run in half a second, at most 8.

    On CPU, reading costs the devices a core: reading at every step cost 1.5 % of a step of 60 ms. If a step
    takes over 0.5 s, its metrics are read at once: the next step starts a few ms late, and a signal takes
    effect after the current step.
    """
    return int(np.clip(0.5 / seconds_per_step, 0, 8))


def _stopped(step: int) -> str:
    return f"stopped after step {step}, which is saved; start again to continue"


class _Best:
    """The step with the lowest value of a score, among those in metrics.jsonl."""

    def __init__(self, workdir: epath.Path, score: str | None):
        self._score = score or ""  # the name of no score
        # Read by process 0, which rewrites the file: all processes must keep the same checkpoints.
        lines = metrics_log.read(workdir) if jax.process_index() == 0 else []
        known = [(line[self._score], line["step"]) for line in lines if line.get(self._score) is not None]
        self._lowest, self.step = broadcast(min(known, default=(float("inf"), None)))

    def update(self, step: int, scores: Scores) -> int | None:
        """Returns the best step, now that `step` has its scores."""
        value = scores.get(self._score, np.inf)
        if value < self._lowest:
            self._lowest, self.step = value, step
        return self.step


def _is_evaluated(workdir: epath.Path, step: int) -> bool:
    """Whether the scores of a step are in metrics.jsonl, which process 0 reads."""
    lines = metrics_log.read(workdir) if jax.process_index() == 0 else []
    return broadcast(any(line["step"] == step and "evaluation_seconds" in line for line in lines))


def summarize(sums: LevelSums) -> dict[str, float]:
    """Computes means over examples, of all and per level where there were any, and their numbers."""
    count = np.maximum(sums.count, 1)
    means = {name: total / count for name, total in sums._asdict().items() if name != "count"}
    values = {"loss": float(sums.loss.sum() / sums.count.sum())}
    for t in np.flatnonzero(sums.count):
        values |= {f"{name}/level_{t}": float(mean[t]) for name, mean in means.items()}
        values[f"examples/level_{t}"] = int(sums.count[t])
    return values
