"""What the host costs: the input pipeline alone, and the training loop beside its compiled step alone.

    python tests/benchmarks/host.py --config=cifar10:small --config.network.width=32 \
        --config.network.blocks_per_resolution=1 --config.data.batch_size=8 [--rounds=5] [--steps=60]
        [--output=FILE.json]

Measures
  the pipeline   images per second of the stream of batches, when nothing else runs: in the first epoch, which
                 decodes each image, and later, for the batch of the config and for 256 images
  the loop       seconds per step of the program's own loop: data, dispatch, metrics, guard, log
  the step       seconds per step of the same compiled step, called again and again on one batch
  the thread     CPU seconds per step of the thread that runs the loop, and of the one that calls the step

Rounds of the loop and of the step alternate. The loop makes a few steps more, which are not counted: the
first ones measure the step, and the last one saves a checkpoint. Seconds vary by 1 % between rounds; CPU
seconds of a thread do not.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from accelerator import machine
from etils import epath

from drl_jax.checkpoints.orbax import Retention, open_checkpoints
from drl_jax.config.build import build, open_data
from drl_jax.config.overrides import parse
from drl_jax.config.schema import Config
from drl_jax.data.sources import Source
from drl_jax.data.stream import batches
from drl_jax.parallel.mesh import Placement, describe, place
from drl_jax.parallel.preemption import Stop
from drl_jax.parallel.startup import start_devices
from drl_jax.report.metrics_log import open_log
from drl_jax.training.guard import Thresholds
from drl_jax.training.loop import Cadence, Run
from drl_jax.training.loop import train as run_loop

SKIPPED = 10  # first steps of a loop, in which it measures how long a step takes
NEVER = 10**9  # steps
LARGE = 256  # images: the paper's batch
SECONDS = 3.0  # for which the pipeline runs alone


class Seconds(NamedTuple):
    """Seconds per step.

    Attributes:
      wall: of the clock.
      thread: of CPU time, of the calling thread.
    """

    wall: float
    thread: float


def now() -> np.ndarray:
    """[the clock, CPU time of this thread], in seconds."""
    return np.array([time.perf_counter(), time.thread_time()])


def stream(config: Config, source: Source, batch_size: int):
    """The batches that a run of one process reads."""
    return batches(
        source, seed=0, batch_size=batch_size, flip=config.data.flip, process_index=0, process_count=1
    )


def pipeline_speed(config: Config, source: Source, batch_size: int) -> float:
    """Images per second of the stream alone."""
    with closing(stream(config, source, batch_size)) as data:
        for _ in range(SKIPPED):
            next(data)
        count, start = 0, time.perf_counter()
        while time.perf_counter() - start < SECONDS:
            next(data)
            count += batch_size
        return count / (time.perf_counter() - start)


def loop_seconds(config: Config, source: Source, placement: Placement, step: Callable, count: int) -> Seconds:
    """Of the program's loop."""
    parts, times = build(config), []

    def timed_step(*arguments: Any) -> Any:
        times.append(now())
        return step(*arguments)

    with ExitStack() as opened:
        workdir = epath.Path(opened.enter_context(tempfile.TemporaryDirectory()))
        init = jax.jit(parts.init_state, out_shardings=placement.replicated)
        key = placement.replicate(jax.random.key(0))
        run = Run(
            begin=lambda: None,
            init=lambda: init(key),
            step=timed_step,
            evaluate=lambda step, state: {},
            data=opened.enter_context(closing(stream(config, source, config.data.batch_size))),
            placement=placement,
            checkpoints=opened.enter_context(open_checkpoints(workdir / "checkpoints", Retention(1, None))),
            log=opened.enter_context(open_log(workdir)),
            stop=Stop(),
            workdir=workdir,
        )
        run_loop(
            run,
            Cadence(SKIPPED + count + 1, config.training.log_every, NEVER, NEVER),
            batch_size=config.data.batch_size,
            thresholds=Thresholds(config.guard.spike, config.guard.loss, config.guard.max_abs),
            max_rollbacks=0,
            best_of=None,
            metadata={},
            validate=lambda record: None,
        )
    return Seconds(*(times[-1] - times[SKIPPED]) / (len(times) - 1 - SKIPPED))


def step_seconds(config: Config, placement: Placement, step: Callable, count: int) -> Seconds:
    """Of the compiled step alone."""
    parts = build(config)
    state = jax.jit(parts.init_state, out_shardings=placement.replicated)(
        placement.replicate(jax.random.key(0))
    )
    rows = np.random.default_rng(0).uniform(-1, 1, (config.data.batch_size, *parts.shape))
    x, flag = placement.shard_local(rows.astype(np.float32)), placement.stop_flags(False)
    for _ in range(SKIPPED):
        state, _, _ = step(state, x, flag)
    jax.block_until_ready(state)
    start = now()
    for _ in range(count):
        state, _, _ = step(state, x, flag)
    jax.block_until_ready(state)
    return Seconds(*(now() - start) / count)


def main() -> None:
    """Prints the table, and writes the JSON file."""
    parser = argparse.ArgumentParser(allow_abbrev=False, usage=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--output", type=Path)
    own, rest = parser.parse_known_args()
    config, load = parse(rest).config, os.getloadavg()[0]
    start_devices(config.data.batch_size, threads_per_device=1)
    placement, source = place(config.data.batch_size), open_data(config, "drl-jax prepare")
    speeds = {"first epoch": pipeline_speed(config, source, LARGE)}
    source.take(np.arange(len(source)))
    for size in (config.data.batch_size, LARGE):
        speeds[f"batches of {size}"] = pipeline_speed(config, source, size)
    step = placement.data_parallel(build(config).train_step())
    loops, steps = [], []
    for _ in range(own.rounds):
        loops.append(loop_seconds(config, source, placement, step, own.steps))
        steps.append(step_seconds(config, placement, step, own.steps))
    loop, alone = (Seconds(*np.median(rounds, axis=0).tolist()) for rounds in (loops, steps))
    ratios = [a.wall / b.wall - 1 for a, b in zip(loops, steps, strict=True)]
    low, share, high = np.quantile(ratios, (0.25, 0.5, 0.75)).tolist()
    used = config.data.batch_size / alone.wall
    report = {
        "machine": machine(),
        "load": load,
        "config": rest,
        "images_per_second": speeds,
        "loop_seconds": [each.wall for each in loops],
        "step_seconds": [each.wall for each in steps],
        "loop_thread_seconds": loop.thread,
        "step_thread_seconds": alone.thread,
        "used_images_per_second": used,
        "host_share": share,
        "host_share_quartiles": [low, high],
    }
    print(f"{describe()}, load average {load:.2f}, medians of {own.rounds} rounds of {own.steps} steps")
    for what, speed in speeds.items():
        print(f"the pipeline alone, {what:<16} {speed:10.0f} images/s, {speed / used:.0f} × the step")
    print(f"the step alone                       {alone.wall:10.4f} s, {used:.1f} images/s")
    print(
        f"the loop                             {loop.wall:10.4f} s, {share:+.1%} ({low:+.1%} to {high:+.1%})"
    )
    print(f"the thread of the step alone         {alone.thread:10.4f} s of CPU time")
    print(f"the thread of the loop               {loop.thread:10.4f} s of CPU time")
    if own.output:
        own.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
