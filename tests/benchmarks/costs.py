"""What a training step costs on this machine, against the batch, the width, the chain and the image size.

    python tests/benchmarks/costs.py --config=cifar10:small --config.network.width=32 \
        --config.network.blocks_per_resolution=1 --config.data.batch_size=8 --output=FILE.json

The config is the middle of the table. One key at a time takes other values (`VALUES`). All steps are compiled
first, one after another; then calls of them alternate, so that a change of the machine's load meets all.
Operations are those of the mathematics. Memory is what XLA plans. Data do not matter to speed and are noise.

Flags beside those of a config:
  --rounds=N      calls of each step, in turn; default 20
  --keys=A,B      the keys that vary; default: all
  --output=FILE   a JSON file with all figures
"""

import argparse
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from accelerator import WARM_UP, Form, Step, StepCompiler, machine

from drl_jax.config.build import set_precision
from drl_jax.config.overrides import parse
from drl_jax.config.schema import Config
from drl_jax.parallel.mesh import describe, place
from drl_jax.parallel.startup import start_devices

VALUES = {
    "data.batch_size": (2, 4, 16, 32, 64),
    "network.width": (8, 16, 64, 96),
    "sampler.steps": (1, 5, 10, 60),
    "data.image_size": (16, 64),
}
BASE = "as it is"


def with_value(config: Config, key: str, value: int) -> Config:
    """Returns the config with another value of a key."""
    section, name = key.split(".")
    return replace(config, **{section: replace(getattr(config, section), **{name: value})})


def value_of(config: Config, key: str) -> int:
    """Returns the value of a key."""
    section, name = key.split(".")
    return getattr(getattr(config, section), name)


def compile_step(config: Config, pool: ThreadPoolExecutor) -> Step:
    """Compiles the step of a config."""
    return StepCompiler(config, place(config.data.batch_size), pool).compile(Form())


def measure(steps: dict[str, Step], rounds: int) -> dict[str, list[float]]:
    """Seconds of the calls of each step; calls of all alternate."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(WARM_UP + rounds):
        for name, step in steps.items():
            taken = step.call()
            if turn >= WARM_UP:
                seconds[name].append(taken)
    return seconds


def row(step: Step, seconds: list[float], batch: int) -> dict[str, Any]:
    """The figures of one step."""
    low, middle, high = np.quantile(seconds, (0.25, 0.5, 0.75)).tolist()
    return {
        "seconds": middle,
        "quartiles": [low, high],
        "gflop": step.tflop * 1e3,
        "gflops": step.tflop * 1e3 / middle,
        "images_per_second": batch / middle,
        "compile_seconds": step.compile_seconds,
        "peak_mib": step.peak_mib,
    }


def main() -> None:
    """Prints the table, and writes the JSON file."""
    parser = argparse.ArgumentParser(allow_abbrev=False, usage=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--keys", default=tuple(VALUES), type=lambda text: text.split(","))
    parser.add_argument("--output", type=Path)
    own, rest = parser.parse_known_args()
    config, load = parse(rest).config, os.getloadavg()[0]
    set_precision(config)
    start_devices(threads_per_device=1)
    configs = {BASE: config}
    for key in own.keys:
        for value in VALUES[key]:
            if value != value_of(config, key):
                configs[f"{key}={value}"] = with_value(config, key, value)
    steps = {}
    with ThreadPoolExecutor(1) as pool:
        for name, each in configs.items():
            steps[name] = compile_step(each, pool)
            print(f"{name}: compiled in {steps[name].compile_seconds:.1f} s", file=sys.stderr, flush=True)
    seconds = measure(steps, own.rounds)
    report = {
        "machine": machine(),
        "devices": describe(),
        "load": load,
        "config": rest,
        "base": {key: value_of(config, key) for key in VALUES},
        "rows": {name: row(steps[name], seconds[name], configs[name].data.batch_size) for name in steps},
    }
    print(f"{describe()}, load average {load:.2f}, median of {own.rounds}")
    print(
        f"{'':<22}{'s':>9}{'quartiles':>18}{'GFLOP':>8}{'GFLOP/s':>9}{'images/s':>10}{'MiB':>7}{'compiled':>10}"
    )
    for name, each in report["rows"].items():
        low, high = each["quartiles"]
        print(
            f"{name:<22}{each['seconds']:>9.4f}{f'{low:.4f} to {high:.4f}':>18}{each['gflop']:>8.1f}"
            f"{each['gflops']:>9.0f}{each['images_per_second']:>10.2f}{each['peak_mib']:>7.0f}"
            f"{each['compile_seconds']:>9.1f}s"
        )
    if own.output:
        own.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
