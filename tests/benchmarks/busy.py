"""What a training step costs while another program keeps one core busy.

    python tests/benchmarks/busy.py --config=cifar10:small --config.network.width=32 \
        --config.network.blocks_per_resolution=1 --config.data.batch_size=8 [--rounds=10] [--output=FILE.json]

Rounds of `CALLS` steps alternate: quiet, then beside a process that counts without end. Prints the medians of
all calls and their ratio.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from accelerator import WARM_UP, Form, StepCompiler, machine

from drl_jax.config.overrides import parse
from drl_jax.parallel.mesh import describe, place
from drl_jax.parallel.startup import start_devices

CALLS = 4
OTHER = "while True: pass"
SETTLED = 0.5  # seconds after the start or the end of the other program


def main() -> None:
    """Prints the table, and writes the JSON file."""
    parser = argparse.ArgumentParser(allow_abbrev=False, usage=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--output", type=Path)
    own, rest = parser.parse_known_args()
    config, load = parse(rest).config, os.getloadavg()[0]
    start_devices(config.data.batch_size, threads_per_device=1)
    with ThreadPoolExecutor(1) as pool:
        step = StepCompiler(config, place(config.data.batch_size), pool).compile(Form())
    for _ in range(WARM_UP):
        step.call()
    quiet, busy = [], []
    for _ in range(own.rounds):
        quiet += [step.call() for _ in range(CALLS)]
        with subprocess.Popen([sys.executable, "-c", OTHER]) as other:
            time.sleep(SETTLED)
            busy += [step.call() for _ in range(CALLS)]
            other.kill()
        time.sleep(SETTLED)
    medians = [float(np.median(seconds)) for seconds in (quiet, busy)]
    ratio = medians[1] / medians[0]
    print(f"{describe()}, load average {load:.2f}, medians of {len(quiet)} steps")
    for name, seconds in zip(("quiet", "one core busy"), medians, strict=True):
        print(f"{name:<16} {seconds:.4f} s")
    print(f"{'ratio':<16} {ratio:.2f}")
    if own.output:
        report = {"machine": machine(), "load": load, "config": rest, "quiet": quiet, "busy": busy}
        own.output.write_text(json.dumps(report | {"ratio": ratio}, indent=1) + "\n")


if __name__ == "__main__":
    main()
