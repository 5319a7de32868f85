"""What safety costs: a training step with guard and checkpoints against the bare one, and saving and reading
the state of the paper's CIFAR-10 network. Prints a table.

    python tests/benchmarks/reliability.py
"""

import itertools
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from etils import epath

from drl_jax.commands import start
from drl_jax.data.pipeline import batches
from drl_jax.experiment import Experiment, build, open_data
from drl_jax.main import parse
from drl_jax.parallel import devices
from drl_jax.parallel.devices import AXIS, Placement
from drl_jax.parallel.stopping import Stop
from drl_jax.reporting import provenance
from drl_jax.reporting.records import Nowhere
from drl_jax.training.checkpoints import Keep, digests, load, open_checkpoints
from drl_jax.training.guard import Limits
from drl_jax.training.loop import Run, Schedule, init_state, train
from drl_jax.training.step import make_train_step

CONFIGS = Path(__file__).parents[2] / "configs"
BLOCK = 100  # steps, with one checkpoint
ROUNDS, BLOCKS = 6, 2  # of each kind in turn


class Timed:
    """Batches, and when each was asked for."""

    def __init__(self, data):
        self._data, self.times = data, []

    def __next__(self):
        self.times.append(time.perf_counter())
        return next(self._data)

    def get_state(self):
        return self._data.get_state()

    def set_state(self, state):
        self._data.set_state(state)

    def blocks(self) -> list[float]:
        """Seconds of each block of steps, but for the first, in which programs are compiled."""
        at = self.times[::BLOCK]
        return [b - a for a, b in itertools.pairwise(at[1:])]


def guarded(
    experiment: Experiment, placement: Placement, data: Timed, workdir: epath.Path, batch: int
) -> None:
    """The product's own loop, with nothing but its safety: no records, no evaluation."""
    steps = BLOCK * (BLOCKS + 1) + 1
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
            num_steps=steps,
            log_every=10**9,
            save_every=BLOCK,
            evaluate_every=10**9,
            rollbacks=0,
            best_of=None,
        )
        about = provenance.versions()
        train(run, workdir, seed=0, batch_size=batch, schedule=schedule, limits=Limits(), about=about)


def bare(experiment: Experiment, placement: Placement, data: Timed, step: Callable) -> None:
    """The step and nothing else: its report is not even computed."""
    state, votes = init_state(experiment, placement, 0), placement.votes(False)
    for _ in range(BLOCK * (BLOCKS + 1) + 1):
        state = step(state, placement.batch(next(data)), votes)  # pyright: ignore[reportArgumentType]
    jax.block_until_ready(state)


def overhead() -> list[tuple[str, str]]:
    config = parse([f"--config={CONFIGS}/digits.py"]).config
    experiment, source, batch = build(config), open_data(config, ""), config.data.batch_size
    devices.start(batch)
    placement = devices.place(batch)
    whole = make_train_step(
        experiment.network, experiment.levels, experiment.optimizer, experiment.settings, axis=AXIS
    )
    step = placement.split(lambda *arguments: whole(*arguments)[0])

    def timed() -> Timed:
        settings = {"seed": 0, "batch_size": batch, "flip": False, "process_index": 0, "process_count": 1}
        return Timed(batches(source, **settings))

    on, off = [], []
    for _ in range(ROUNDS):
        data = timed()
        bare(experiment, placement, data, step)
        off += data.blocks()
        data = timed()
        with tempfile.TemporaryDirectory() as folder:
            guarded(experiment, placement, data, epath.Path(folder), batch)
        on += data.blocks()
    on_step, off_step = (statistics.median(seconds) / BLOCK for seconds in (on, off))
    return [
        ("digits, step, bare", f"{1e3 * off_step:.2f} ms (median of {len(off)} blocks of {BLOCK})"),
        ("digits, step, guard and checkpoints", f"{1e3 * on_step:.2f} ms, one checkpoint in {BLOCK} steps"),
        ("cost of both", f"{on_step / off_step - 1:+.1%}"),
    ]


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
        for step in range(3):
            with open_checkpoints(epath.Path(folder), Keep(1)) as checkpoints:
                began = time.perf_counter()
                checkpoints.save(step, state, {})
                blocked.append(time.perf_counter() - began)
                checkpoints.wait()
                saved.append(time.perf_counter() - began)
            began = time.perf_counter()
            loaded, _ = load(epath.Path(folder), like, placement, print)
            assert loaded is not None
            read.append(time.perf_counter() - began)
            began = time.perf_counter()
            digests(loaded.state)
            verified.append(time.perf_counter() - began)
    blocked, saved, read, verified = map(statistics.median, (blocked, saved, read, verified))
    return [
        *rows,
        ("saving: training waits", f"{blocked:.2f} s, of which digests {verified:.2f} s"),
        ("saving: until it is on disk", f"{saved:.2f} s"),
        (
            "reading and verifying",
            f"{read:.2f} s, of which verifying {verified:.2f} s ({verified / read:.0%})",
        ),
    ]


def main() -> None:
    start()
    rows = overhead()
    print(f"{devices.describe()}, {platform.processor() or platform.machine()}, jax {jax.__version__}")
    for name, value in rows + full_state():
        print(f"{name:<38} {value}")


if __name__ == "__main__":
    main()
