"""The training loop: restore → next(data) → step → write → save → evaluate."""

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import grain
import jax
import numpy as np
from etils import epath

from drl_jax.checkpoints.orbax import Checkpoints
from drl_jax.config.build import Experiment
from drl_jax.errors import UserError
from drl_jax.parallel.devices import AXIS, Placement, everywhere, from_first
from drl_jax.parallel.preemption import Stop, Stopped
from drl_jax.parallel.sampler import Weights
from drl_jax.report import metrics_log as recording
from drl_jax.report.metrics_log import Records
from drl_jax.report.progress import Progress
from drl_jax.training.guard import Diverged, Guard, Limits
from drl_jax.training.step import Report, Totals, TrainState, make_train_step

_TIMED = 4  # steps, from which the time of a step is known

Evaluate = Callable[[int, Weights], Mapping[str, float]]
Say = Callable[[str], None]


class Schedule(NamedTuple):
    """When things happen, in steps, and how often a run may go back (`guard`)."""

    num_steps: int
    log_every: int
    save_every: int
    evaluate_every: int
    rollbacks: int
    best_of: str | None  # the score whose lowest value marks the best checkpoint

    def evaluates(self, step: int) -> bool:
        return step % self.evaluate_every == 0 or step == self.num_steps


class Run(NamedTuple):
    """What a run works with."""

    experiment: Experiment
    data: grain.DatasetIterator
    evaluate: Evaluate
    placement: Placement
    checkpoints: Checkpoints
    records: Records
    stop: Stop
    say: Say
    warn: Say


def train(
    run: Run,
    workdir: epath.Path,
    *,
    seed: int,
    batch_size: int,
    schedule: Schedule,
    limits: Limits,
    about: Mapping[str, Any],
    accept: Callable[[Mapping[str, Any]], None],
) -> tuple[TrainState, Mapping[str, float] | None]:
    """Trains to the last step, from the newest checkpoint that verifies.

    Returns the last state and its scores; None for the scores if they were there already.

    A run is a function of (config, seed), however often it is interrupted: the state holds its root key
    and its sums, the checkpoint the position in the data and what the guard has seen. `about` is kept in
    every checkpoint: the config, the data, versions. `accept` raises UserError for the record of a checkpoint
    that this run cannot go on from.

    Raises Stopped when a signal came and the state is saved, UserError when it diverged too often.
    """
    guard = Guard(run.experiment.levels.num_levels, limits)
    beginning = {"position": run.data.get_state(), "guard": guard.get_state()}
    step_function = _compiled(run)
    like = jax.eval_shape(run.experiment.init_state, jax.random.key(seed))
    progress = Progress(schedule.num_steps, batch_size)
    rollbacks, trouble = 0, None
    while True:
        run.stop.unsaved = False
        checkpoint = run.checkpoints.load(like, run.placement, run.warn)
        if checkpoint is None:
            start, state, record = 0, init_state(run.experiment, run.placement, seed), beginning
        else:
            start, state, record = checkpoint
            accept(record)
        if start > schedule.num_steps:
            raise UserError(f"config.training.steps={schedule.num_steps}: the run is at step {start} already")
        run.data.set_state(record["position"])
        guard.set_state(record["guard"])
        rollbacks = max(rollbacks, int(state.rollbacks))
        run.records.cut(start, rollbacks)
        if trouble is not None:
            if rollbacks >= schedule.rollbacks:
                kept = f"the checkpoint of step {start} is kept" if start else "nothing was saved before"
                raise UserError(
                    f"training diverged at {trouble}; config.guard.rollbacks={schedule.rollbacks} allows no "
                    f"more; {kept}; docs/divergence.md says what helps"
                )
            rollbacks += 1
            run.say(f"back to step {start} with fresh noise: rollback {rollbacks} of {schedule.rollbacks}")
            run.records.roll_back(start, rollbacks, from_step=trouble.step, cause=trouble.cause)
            state = state.replace(rollbacks=run.placement.replicate(np.int32(rollbacks)))
        elif checkpoint is not None:
            run.say(f"continuing from step {start}")
            for name, version in record["versions"].items():
                if version != about["versions"].get(name):
                    run.say(f"{name} was {version} and is {about['versions'].get(name)}: results may differ")
        try:
            return _train(run, state, start, step_function, guard, progress, schedule, about, workdir)
        except Diverged as error:
            trouble = error.with_traceback(None)  # whose frames hold the diverged state
            run.say(f"diverged at {error}\n{error.table}".rstrip())


def _compiled(run: Run) -> Callable[..., tuple[TrainState, jax.Array]]:
    """The training step on all devices, its report packed."""
    experiment = run.experiment
    step = make_train_step(
        experiment.network, experiment.levels, experiment.optimizer, experiment.settings, axis=AXIS
    )

    def packed(state: TrainState, batch: jax.Array, votes: jax.Array) -> tuple[TrainState, jax.Array]:
        state, report = step(state, batch, votes)
        return state, report.packed()

    return run.placement.split(packed)


def _train(
    run: Run,
    state: TrainState,
    start: int,
    step_function: Callable[..., tuple[TrainState, jax.Array]],
    guard: Guard,
    progress: Progress,
    schedule: Schedule,
    about: Mapping[str, Any],
    workdir: epath.Path,
) -> tuple[TrainState, Mapping[str, float] | None]:
    """From step `start` to the last. Raises Diverged, Stopped."""
    scores, best = None, _Best(workdir, schedule.best_of)
    run.checkpoints.prefer(best.step)

    def evaluate(step: int) -> Mapping[str, float]:
        # Evaluations are long: with all work saved, a signal may end one at once.
        unsaved = run.stop.unsaved
        run.checkpoints.wait()
        run.stop.unsaved = False
        if not everywhere(not run.stop.requested):
            raise Stopped(_stopped(step))
        began = time.monotonic()
        with progress.pause():
            scores = run.evaluate(step, Weights(state.ema_params, state.ema_vectors))
        if scores:
            run.say("  " + "  ".join(f"{name} {value:.4g}" for name, value in scores.items()))
        run.records.write(step, {**scores, "evaluation_seconds": time.monotonic() - began})
        run.records.draw()
        run.checkpoints.prefer(best.update(step, scores))
        everywhere(True)  # the first process writes: none may be ahead of it with work of its own
        run.stop.unsaved = unsaved
        return scores

    def read(*, leave: int) -> bool:
        """Shows the guard all reports but the last `leave`; whether one of them says to stop."""
        votes = 0.0
        while len(unread) > leave:
            step, packed = unread.popleft()
            report = Report.unpacked(np.asarray(packed), run.experiment.levels.num_levels)
            guard.check(step, report)
            votes += float(report.votes)
        return votes > 0

    if start and schedule.evaluates(start) and not _is_evaluated(workdir, start):
        scores = evaluate(start)
    votes = [run.placement.votes(vote) for vote in (False, True)]
    unread, most = deque[tuple[int, jax.Array]](), 1  # reports of steps, and how many may wait to be read
    alone = jax.process_count() == 1  # and needs no vote to stop
    began = time.monotonic()
    for step in range(start + 1, schedule.num_steps + 1):
        batch = run.placement.batch(next(run.data))
        state, report = step_function(state, batch, votes[run.stop.requested])
        unread.append((step, report))
        ends = len(unread) > most and read(leave=min(most, 1))  # that of the step which runs
        ends |= alone and run.stop.requested
        if step == start + 1:
            jax.block_until_ready(state.step)
            run.stop.unsaved = True
            run.say(
                f"step {step}/{schedule.num_steps}  the first, compiled in {time.monotonic() - began:.1f} s"
            )
            progress.start(step)
            began = time.monotonic()
        if step == start + 1 + _TIMED:
            ends |= read(leave=0)
            # The same everywhere: all processes must notice a vote after the same step.
            most = from_first(_most_unread((time.monotonic() - began) / _TIMED))

        last = step == schedule.num_steps
        logs, evaluates = step % schedule.log_every == 0 or last, schedule.evaluates(step)
        if ends or logs or evaluates or step % schedule.save_every == 0:
            # Nothing is written of a step that the guard has not seen.
            ends |= read(leave=0)
        if logs:
            values = summarize(jax.device_get(state.totals))
            speed, left = progress.speed(step)
            run.say(progress.line(step, values["loss"], speed, left))
            run.records.write(step, {**values, "steps_per_second": speed})
            zeros = Totals.zeros(run.experiment.levels.num_levels)
            state = state.replace(totals=run.placement.replicate(zeros))
            run.checkpoints.check()
        if ends or evaluates or step % schedule.save_every == 0:
            guard.check_weights(step, state.params)
            record = {"position": run.data.get_state(), "guard": guard.get_state(), **about}
            run.checkpoints.save(step, state, record)
        if ends:
            run.checkpoints.wait()
            raise Stopped(_stopped(step))
        if evaluates:
            scores = evaluate(step)
    run.stop.unsaved = False
    return state, scores


def _most_unread(seconds_per_step: float) -> int:
    """How many reports may wait: half a second's, eight at most. Each time the host reads, it takes a core
    from the devices, if they are cores themselves: reading at every step cost 1.5 % of a step of 60 ms.
    None where a step takes longer: then the next begins milliseconds late, and a signal is heeded at the end
    of the step that runs."""
    return int(np.clip(0.5 / seconds_per_step, 0, 8))


def _stopped(step: int) -> str:
    return f"stopped after step {step}, which is saved; start again to go on"


class _Best:
    """The step with the lowest value of a score, among those that metrics.jsonl has."""

    def __init__(self, workdir: epath.Path, score: str | None):
        self._score = score or ""  # which no score is called
        lines = recording.read(workdir)
        known = [(line[self._score], line["step"]) for line in lines if line.get(self._score) is not None]
        self._lowest, self.step = min(known, default=(np.inf, None))

    def update(self, step: int, scores: Mapping[str, float]) -> int | None:
        """The best step, now that `step` has its scores."""
        value = scores.get(self._score, np.inf)
        if value < self._lowest:
            self._lowest, self.step = value, step
        return self.step


def _is_evaluated(workdir: epath.Path, step: int) -> bool:
    """Whether the scores of a step are recorded; the first process knows."""
    lines = recording.read(workdir) if jax.process_index() == 0 else []
    known = any(line["step"] == step and "evaluation_seconds" in line for line in lines)
    return everywhere(known or jax.process_index() != 0)


def init_state(experiment: Experiment, placement: Placement, seed: int) -> TrainState:
    """The state before the first step, already on every device."""
    init = jax.jit(experiment.init_state, out_shardings=placement.replicated)
    return init(placement.replicate(jax.random.key(seed)))


def summarize(totals: Totals) -> dict[str, float]:
    """Means over the examples since the last record, of all and per level where there were any, and how many
    there were."""
    mean = {
        name: total / np.maximum(totals.count, 1) for name, total in vars(totals).items() if name != "count"
    }
    values = {"loss": float(totals.loss.sum() / totals.count.sum())}
    for t in np.flatnonzero(totals.count):
        values |= {f"{name}/level_{t}": float(means[t]) for name, means in mean.items()}
        values[f"examples/level_{t}"] = int(totals.count[t])
    return values
