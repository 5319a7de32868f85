"""What safety costs: a training step with guard and checkpoints against the bare one, and saving and reading
the state of the paper's CIFAR-10 network. Prints a table.

    python tests/benchmarks/reliability.py
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
from drl_jax.commands.common import start
from drl_jax.parallel.devices import AXIS, Placement
from etils import epath

from drl_jax.checkpoints import packing
from drl_jax.checkpoints.orbax import Keep, load, open_checkpoints
from drl_jax.config.build import Experiment, build, open_data
from drl_jax.config.overrides import parse
from drl_jax.data.stream import batches
from drl_jax.parallel import devices
from drl_jax.parallel.preemption import Stop
from drl_jax.report import provenance
from drl_jax.report.metrics_log import Nowhere
from drl_jax.training.guard import Limits
from drl_jax.training.loop import Run, Schedule, init_state, train
from drl_jax.training.step import make_train_step

CONFIGS = Path(__file__).parents[2] / "configs"
BLOCK = 100  # steps, with one checkpoint in their middle
PAIRS = 16


class Interleaved:
    """The batches of a guarded run, which stands still after every block for a block of the bare step.

    A block of one kind lies between two of the other, so that what slows the machine slows both. Each has
    its seconds, and those that the processors worked for it.
    """

    def __init__(self, batches: grain.DatasetIterator, bare: Callable[[], None]):
        self._batches, self._bare = batches, bare
        self._asked, self._began = 0, None
        self.guarded, self.bare = [], []

    def __next__(self):
        # In the middle between two checkpoints: an asynchronous one is on disk long before the block ends.
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
    """Seconds on the clock, seconds of all processors in this process."""
    return np.array([time.perf_counter(), time.process_time()])


def guarded(
    experiment: Experiment, placement: Placement, data: Interleaved, workdir: epath.Path, batch: int
) -> None:
    """The product's own loop, with nothing but its safety: no records, no evaluation."""
    with open_checkpoints(workdir, Keep(3)) as checkpoints:
        run = Run(
            experiment=experiment,
            data=data,  # pyright: ignore[reportArgumentType]
            evaluate=lambda step, weights: {},
            placement=placement,
            checkpoints=checkpoints,
            records=Nowhere(),
            stop=Stop(),
            say=lambda line: None,
            warn=print,
        )
        schedule = Schedule(
            num_steps=BLOCK * PAIRS + BLOCK // 2 + 1,
            log_every=10**9,
            save_every=BLOCK,
            evaluate_every=10**9,
            rollbacks=0,
            best_of=None,
        )
        about = provenance.versions()
        settings = {"schedule": schedule, "limits": Limits(), "about": about, "accept": lambda record: None}
        train(run, workdir, seed=0, batch_size=batch, **settings)


def overhead() -> Iterator[tuple[str, str]]:
    config = parse([f"--config={CONFIGS}/digits.py"]).config
    experiment, source, batch = build(config), open_data(config, ""), config.data.batch_size
    devices.start(batch)
    placement = devices.place(batch)
    whole = make_train_step(
        experiment.network, experiment.levels, experiment.optimizer, experiment.settings, axis=AXIS
    )
    # Its report is not even computed.
    step = placement.split(lambda *arguments: whole(*arguments)[0])
    state, votes = init_state(experiment, placement, 0), placement.votes(False)
    settings = {"seed": 0, "batch_size": batch, "flip": False, "process_index": 0, "process_count": 1}
    examples = batches(source, **settings)

    def bare() -> None:
        nonlocal state
        for _ in range(BLOCK):
            state = step(state, placement.batch(next(examples)), votes)
        jax.block_until_ready(state)

    bare()  # compiles
    data = Interleaved(batches(source, **settings), bare)
    with tempfile.TemporaryDirectory() as folder:
        guarded(experiment, placement, data, epath.Path(folder), batch)
    off, on = np.array(data.bare), np.array(data.guarded)
    ratio = on / (off[:-1] + off[1:]) * 2 - 1
    low, middle, high = np.percentile(ratio, [25, 50, 75], axis=0)
    for name, seconds in (("bare", off), ("guard and checkpoints", on)):
        clock, worked = 1e3 * np.median(seconds, axis=0) / BLOCK
        yield (
            f"digits, step, {name}",
            f"{clock:.2f} ms, processors {worked:.2f} ms (median of {len(seconds)} blocks of {BLOCK})",
        )
    for index, name in enumerate(("on the clock", "of the processors")):
        yield (
            f"cost of both, {name}",
            f"{middle[index]:+.1%} (quartiles {low[index]:+.1%}, {high[index]:+.1%}; {len(on)} blocks, "
            "each against the bare ones beside it)",
        )


def full_state() -> list[tuple[str, str]]:
    experiment = build(parse([f"--config={CONFIGS}/cifar10.py:t6"]).config)
    placement = devices.place(devices=jax.devices()[:1])
    like = jax.eval_shape(experiment.init_state, jax.random.key(0))
    rng = np.random.default_rng(0)

    def draw(leaf):
        if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.key(0)
        return rng.standard_normal(leaf.shape).astype(leaf.dtype)

    state = placement.replicate(jax.tree.map(draw, like))
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    rows = [("CIFAR-10 state, with Adam and EMA", f"{size / 1e6:.0f} MB")]
    blocked, saved, read, verified = [], [], [], []
    with tempfile.TemporaryDirectory() as folder:
        with open_checkpoints(epath.Path(folder), Keep(1)) as checkpoints:
            for step in range(5):
                began = time.perf_counter()
                checkpoints.save(step, state, {})
                blocked.append(time.perf_counter() - began)
                checkpoints.wait()
                saved.append(time.perf_counter() - began)
        for _ in range(5):
            began = time.perf_counter()
            loaded, _ = load(epath.Path(folder), like, placement, print)
            assert loaded is not None
            read.append(time.perf_counter() - began)
            packed = packing.pack(loaded.state)
            began = time.perf_counter()
            packing.unpack(*packed, like)
            verified.append(time.perf_counter() - began)
    first = blocked[0]  # in memory that the process has not used yet
    blocked, saved, read, verified = map(statistics.median, (blocked, saved, read, verified))
    return [
        *rows,
        ("saving: training waits", f"{blocked:.2f} s (copy and digests; the first time {first:.2f} s)"),
        ("saving: until it is on disk", f"{saved:.2f} s"),
        (
            "reading and verifying",
            f"{read:.2f} s, of which verifying {verified:.2f} s ({verified / read:.0%})",
        ),
    ]


def main() -> None:
    start()
    print(f"{platform.processor() or platform.machine()}, jax {jax.__version__}")
    for table in (overhead, full_state):
        for name, value in table():
            print(f"{name:<38} {value}", flush=True)


if __name__ == "__main__":
    main()
