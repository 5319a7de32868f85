"""The training loop: restore → next(data) → step → write → save."""

import time
from collections.abc import Callable, Mapping

import grain
import jax
import numpy as np
from etils import epath

from drl_jax.experiment import Experiment
from drl_jax.parallel.devices import AXIS, Placement
from drl_jax.reporting.progress import Progress
from drl_jax.reporting.records import open_records
from drl_jax.sampling import Weights
from drl_jax.training.checkpoints import open_checkpoints
from drl_jax.training.step import Totals, TrainState, make_train_step

Evaluate = Callable[[int, Weights], Mapping[str, float]]
Say = Callable[[str], None]


def train(
    experiment: Experiment,
    data: grain.DatasetIterator,
    evaluate: Evaluate,
    placement: Placement,
    workdir: epath.Path,
    *,
    seed: int,
    batch_size: int,
    num_steps: int,
    log_every: int,
    save_every: int,
    evaluate_every: int,
    keep: int,
    say: Say,
) -> tuple[TrainState, Mapping[str, float] | None]:
    """Trains to `num_steps`, from the newest checkpoint in `workdir` if there is one.

    Returns the last state and its scores; None for the scores if there was nothing left to train.

    A run is a function of (config, seed), however often it is interrupted: the state holds its root key
    and its sums, the checkpoint the position in `data`.
    """
    with open_checkpoints(workdir / "checkpoints", keep=keep) as checkpoints:
        start = checkpoints.latest_step or 0
        if start:
            state, position = checkpoints.restore(
                jax.eval_shape(experiment.init_state, jax.random.key(seed)), placement
            )
            data.set_state(position)
            say(f"continuing from step {start}")
        else:
            state = init_state(experiment, placement, seed)

        scores = None
        began = time.monotonic()
        step_function = placement.split(
            make_train_step(
                experiment.network, experiment.levels, experiment.optimizer, experiment.settings, axis=AXIS
            )
        )
        progress = Progress(num_steps, batch_size)
        with open_records(workdir, start) as records:
            for step in range(start + 1, num_steps + 1):
                state = step_function(state, placement.batch(next(data)))
                last = step == num_steps

                if step == start + 1:
                    jax.block_until_ready(state.step)
                    say(f"step {step}/{num_steps}  the first, compiled in {time.monotonic() - began:.1f} s")
                    progress.start(step)
                if step % log_every == 0 or last:
                    values = summarize(jax.device_get(state.totals))
                    speed, left = progress.speed(step)
                    say(progress.line(step, values["loss"], speed, left))
                    records.write(step, {**values, "steps_per_second": speed})
                    zeros = Totals.zeros(experiment.levels.num_levels)
                    state = state.replace(totals=placement.replicate(zeros))
                if step % evaluate_every == 0 or last:
                    with progress.pause():
                        scores = evaluate(step, Weights(state.ema_params, state.ema_vectors))
                        if scores:
                            say("  " + "  ".join(f"{k} {v:.4g}" for k, v in scores.items()))
                            records.write(step, scores)
                if step % save_every == 0 or last:
                    checkpoints.save(step, state, data.get_state())
    return state, scores


def init_state(experiment: Experiment, placement: Placement, seed: int) -> TrainState:
    """The state before the first step, already on every device."""
    init = jax.jit(experiment.init_state, out_shardings=placement.replicated)
    return init(placement.replicate(jax.random.key(seed)))


def summarize(totals: Totals) -> dict[str, float]:
    """Means over the examples since the last record: of all, and per level where there were any."""
    mean = {
        name: total / np.maximum(totals.count, 1)
        for name, total in vars(totals).items()
        if name != "count"
    }
    values = {"loss": float(totals.loss.sum() / totals.count.sum())}
    for t in np.flatnonzero(totals.count):
        values |= {f"{name}/level_{t}": float(means[t]) for name, means in mean.items()}
    return values
