"""What reliability costs.

    python tests/benchmarks/reliability.py

Prints a table: a training step with guard and checkpoints beside the bare step, and saving, reading and
verifying the state of the paper's CIFAR-10 network.
"""

import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grain
import jax
import numpy as np
from etils import epath

from drl_jax.checkpoints import digests
from drl_jax.checkpoints.orbax import Retention, load, open_checkpoints
from drl_jax.commands.job import configured_jax
from drl_jax.config.build import Components, build, open_data
from drl_jax.config.overrides import parse
from drl_jax.data.stream import batches
from drl_jax.parallel.mesh import Placement, place
from drl_jax.parallel.preemption import Stop
from drl_jax.parallel.startup import start_devices
from drl_jax.report import provenance
from drl_jax.report.metrics_log import NullLog
from drl_jax.training.guard import Thresholds
from drl_jax.training.loop import Cadence, Run, train

CONFIGS = Path(__file__).parents[2] / "configs"
BLOCK = 100  # steps, with one checkpoint in the middle
PAIRS = 16


class Interleaved:
    """The batches of a guarded run. After every block the run waits for a block of the bare step.

    Each block lies between two of the other kind, so that a slow machine slows both. Of each we keep the
    seconds on the clock and the CPU seconds of the process.
    """

    def __init__(self, batches: grain.DatasetIterator, bare: Callable[[], None]):
        self._batches, self._bare = batches, bare
        self._asked, self._began = 0, None
        self.guarded, self.bare = [], []

    def __next__(self):
        # Midway between two checkpoints: an asynchronous save is on disk long before the block ends.
        if self._asked % BLOCK == BLOCK // 2:
            jax.block_until_ready(jax.live_arrays())
            if self._began is not None:
                self.guarded.append(_now() - self._began)
            began = _now()
            self._bare()
            self._began = _now()
            self.bare.append(self._began - began)
        self._asked += 1
        return next(self._batches)

    def get_state(self):
        return self._batches.get_state()

    def set_state(self, state):
        self._batches.set_state(state)


def _now() -> np.ndarray:
    """Seconds on the clock, CPU seconds of this process."""
    return np.array([time.perf_counter(), time.process_time()])


def guarded(
    parts: Components, placement: Placement, data: Interleaved, workdir: epath.Path, batch: int
) -> None:
    """The product's own loop with its guard and its checkpoints, without a log or an evaluation."""
    init = jax.jit(parts.init_state, out_shardings=placement.replicated)
    key = placement.replicate(jax.random.key(0))
    with open_checkpoints(workdir, Retention(3)) as checkpoints:
        train(
            Run(
                begin=lambda: None,
                init=lambda: init(key),
                step=placement.data_parallel(parts.train_step()),
                evaluate=lambda step, state: {},
                data=data,  # pyright: ignore[reportArgumentType]
                placement=placement,
                checkpoints=checkpoints,
                log=NullLog(),
                stop=Stop(),
                workdir=workdir,
            ),
            Cadence(
                num_steps=BLOCK * PAIRS + BLOCK // 2 + 1,
                log_every=10**9,
                save_every=BLOCK,
                evaluate_every=10**9,
            ),
            batch_size=batch,
            thresholds=Thresholds(),
            max_rollbacks=0,
            best_of=None,
            metadata=provenance.versions(),
            validate=lambda record: None,
        )


def overhead() -> Iterator[tuple[str, str]]:
    config = parse([f"--config={CONFIGS}/digits.py"]).config
    parts, source, batch = build(config), open_data(config, ""), config.data.batch_size
    start_devices(batch)
    placement = place(batch)
    whole = parts.train_step()

    def without_metrics(state, batch, shard):
        state, _ = whole(state, batch, shard)
        return state, ()

    step = placement.data_parallel(without_metrics)
    init = jax.jit(parts.init_state, out_shardings=placement.replicated)
    state, flags = init(placement.replicate(jax.random.key(0))), placement.stop_flags(False)
    settings = {"seed": 0, "batch_size": batch, "flip": False, "process_index": 0, "process_count": 1}
    examples = batches(source, **settings)

    def bare() -> None:
        nonlocal state
        for _ in range(BLOCK):
            state, _, _ = step(state, placement.shard_local(next(examples)), flags)
        jax.block_until_ready(state)

    bare()  # compiles
    data = Interleaved(batches(source, **settings), bare)
    with tempfile.TemporaryDirectory() as folder:
        guarded(parts, placement, data, epath.Path(folder), batch)
    off, on = np.array(data.bare), np.array(data.guarded)
    ratio = on / (off[:-1] + off[1:]) * 2 - 1
    low, middle, high = np.percentile(ratio, [25, 50, 75], axis=0)
    for name, seconds in (("bare", off), ("guard and checkpoints", on)):
        clock, cpu = 1e3 * np.median(seconds, axis=0) / BLOCK
        yield (
            f"digits, step, {name}",
            f"{clock:.2f} ms, CPU {cpu:.2f} ms (median of {len(seconds)} blocks of {BLOCK})",
        )
    for index, name in enumerate(("time", "CPU time")):
        yield (
            f"cost of both, {name}",
            f"{middle[index]:+.1%} (quartiles {low[index]:+.1%}, {high[index]:+.1%}; {len(on)} blocks, "
            "each compared with the bare ones beside it)",
        )


def full_state() -> list[tuple[str, str]]:
    parts = build(parse([f"--config={CONFIGS}/cifar10.py:t6"]).config)
    placement = place(devices=jax.devices()[:1])
    like = jax.eval_shape(parts.init_state, jax.random.key(0))
    rng = np.random.default_rng(0)

    def draw(leaf):
        if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.key(0)
        return rng.standard_normal(leaf.shape).astype(leaf.dtype)

    state = placement.replicate(jax.tree.map(draw, like))
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    rows = [
        ("CIFAR-10 state, with Adam and EMA", f"{size / 1e6:.0f} MB, {len(jax.tree.leaves(state))} arrays")
    ]
    blocked, saved, read, verified = [], [], [], []
    with tempfile.TemporaryDirectory() as folder:
        with open_checkpoints(epath.Path(folder), Retention(1)) as checkpoints:
            for step in range(5):
                began = time.perf_counter()
                checkpoints.save(step, state, {})
                blocked.append(time.perf_counter() - began)
                checkpoints.wait()
                saved.append(time.perf_counter() - began)
        for _ in range(5):
            began = time.perf_counter()
            loaded, _ = load(epath.Path(folder), placement.abstract(like))
            assert loaded is not None
            read.append(time.perf_counter() - began)
            plain = loaded.tree.replace(key=jax.random.key_data(loaded.tree.key))
            began = time.perf_counter()
            digests.digest(plain)
            verified.append(time.perf_counter() - began)
    first = blocked[0]
    blocked, saved, read, verified = map(statistics.median, (blocked, saved, read, verified))
    return [
        *rows,
        ("saving: training waits", f"{blocked:.2f} s (the first time {first:.2f} s)"),
        ("saving: until it is on disk", f"{saved:.2f} s"),
        (
            "reading and verifying",
            f"{read:.2f} s, of which verifying {verified:.2f} s ({verified / read:.0%})",
        ),
    ]


def main() -> None:
    print(f"{platform.processor() or platform.machine()}, jax {jax.__version__}")
    with configured_jax(parse(["--config=digits"]).config):
        for table in (overhead, full_state):
            for name, value in table():
                print(f"{name:<38} {value}", flush=True)


if __name__ == "__main__":
    main()
