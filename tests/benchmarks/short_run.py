"""Trains for some minutes on a machine that is lent, and keeps what is needed to continue another time.

    python tests/benchmarks/short_run.py --images=FOLDER --minutes=8 --output=FOLDER [--earlier=FOLDER]
        [--samples=5000] --config=cifar10:light

`--images` is a folder of .npz files with one array of images each; without it the config names the data.
Such a machine may return few files of limited size. `--output` gets at most 16 MiB per file, and eight files
if the state of the run has at most 45 MiB:

  state.tar.0, .1, …             the newest checkpoint and the config of the run, one archive in parts
  samples.npz, samples.png       samples of the averaged weights
  curves.png, metrics.jsonl      of the run
  run.json                       machine, steps, images and seconds of this call and of earlier ones

`--earlier` is the output of an earlier call: the run continues from its checkpoint.
"""

import argparse
import io
import json
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from accelerator import machine
from etils import epath

from drl_jax.checkpoints.orbax import FOLDER, steps
from drl_jax.config.overrides import parse
from drl_jax.parallel.preemption import EXIT_CODE
from drl_jax.report import metrics_log
from drl_jax.report.curves import plot_curves

PART = 15 * 2**20  # bytes
ENDLESS = 10**9  # steps: the time ends a run


def main() -> None:
    """Trains, samples and packs."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--earlier", type=Path)
    parser.add_argument("--samples", type=int, default=5000)
    own, flags = parser.parse_known_args()
    flags += [f"--config.training.steps={ENDLESS}", f"--config.evaluation.every={ENDLESS}"]
    if own.images:
        flags += ["--config.data.name=folder", f"--config.data.path={own.images.resolve()}"]
    batch_size = parse(flags).config.data.batch_size
    own.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        workdir = Path(temporary) / "run"
        rows = unpack(own.earlier, workdir) if own.earlier else []
        earlier_steps = rows[-1]["steps"] if rows else 0

        start = time.perf_counter()
        code = train(workdir, flags, own.minutes)
        seconds = time.perf_counter() - start
        if code != EXIT_CODE:
            sys.exit(f"the run ended with exit code {code}; {EXIT_CODE} was expected")
        step = newest(workdir)
        pack(workdir, own.output)
        rows.append(
            {
                **machine(),
                "config": flags,
                "steps": step,
                "images": step * batch_size,
                "seconds": seconds,
                "steps_of_this_call": step - earlier_steps,
            }
        )
        (own.output / "run.json").write_text(json.dumps(rows, indent=1) + "\n")
        print(json.dumps(rows[-1], indent=1), flush=True)
        draw(workdir, own.samples, own.output)


def train(workdir: Path, flags: list[str], minutes: float) -> int:
    """Trains until the time is over; then a signal makes the run save its state. Returns the exit code."""
    command = [sys.executable, "-m", "drl_jax", "train", f"--workdir={workdir}", *flags]
    process = subprocess.Popen(command)
    try:
        return process.wait(timeout=60 * minutes)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        return process.wait()


def draw(workdir: Path, count: int, output: Path) -> None:
    """Draws samples with the newest checkpoint."""
    command = [sys.executable, "-m", "drl_jax", "sample", f"--workdir={workdir}"]
    command += [f"--config.evaluation.num_samples={count}", "--config.evaluation.samples_per_device=256"]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([*command, f"--output={folder}"], check=True)
        for name in ("samples.npz", "samples.png"):
            shutil.copy(Path(folder) / name, output)


def newest(workdir: Path) -> int:
    """The step of the newest checkpoint."""
    found = steps(epath.Path(workdir / FOLDER))
    if not found:
        sys.exit("the run made no step; give it more --minutes")
    return found[-1]


def pack(workdir: Path, output: Path) -> None:
    """Writes the newest checkpoint, the config and the metrics to the output."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name in ("config.json", "metrics.jsonl", f"{FOLDER}/{newest(workdir)}"):
            tar.add(workdir / name, name)
    for index, start in enumerate(range(0, archive.tell(), PART)):
        (output / f"state.tar.{index}").write_bytes(archive.getvalue()[start : start + PART])
    shutil.copy(workdir / "metrics.jsonl", output)
    (output / "curves.png").write_bytes(plot_curves(metrics_log.read(epath.Path(workdir))))


def unpack(earlier: Path, workdir: Path) -> list[dict]:
    """Puts what an earlier call packed into a workdir. Returns the rows of its run.json."""
    parts = sorted(earlier.glob("state.tar.*"), key=lambda part: int(part.suffix[1:]))
    archive = io.BytesIO(b"".join(part.read_bytes() for part in parts))
    with tarfile.open(fileobj=archive) as tar:
        tar.extractall(workdir, filter="data")
    return json.loads((earlier / "run.json").read_text())


if __name__ == "__main__":
    main()
