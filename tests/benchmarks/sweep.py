"""Trains a config with other values of its keys, and prints a table of scores and costs.

    python tests/benchmarks/sweep.py --config=digits --output=sweep.jsonl --seeds=0,1,2 \
        "" "sampler.steps=30" "levels.count=12 sampler.steps=7 levels.b_squared=2e-3"

Each argument without -- is a row: overrides of config keys with spaces between, "" for the config as it is.
Each row is trained once per seed, by the program itself, and scored as the config says. A run that diverges
or is refused is a row too, with the program's words.

The output has one line of JSON per run. Runs that are in it already are not trained again, so the sweep can
be stopped and continued, and rows can be added. The line of a run has its commit and the values of all keys.

Flags:
  --config=NAME    the config
  --output=FILE    where the runs are written
  --seeds=N,N      training.seed of the runs; default 0
  --workdirs=DIR   keeps the workdirs there; default: they are deleted
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from drl_jax.config import schema
from drl_jax.machine import num_cores, processor
from drl_jax.report import provenance


def words(overrides: str) -> list[str]:
    """The overrides of a row in one order, so that equal rows have equal texts."""
    return sorted(shlex.split(overrides))


def train(config: str, overrides: Sequence[str], seed: int, workdir: Path) -> dict[str, Any]:
    """Trains once; the line of the run."""
    flags = [f"--config.{each}" for each in (*overrides, f"training.seed={seed}")]
    began, load = time.monotonic(), os.getloadavg()[0]
    ended = subprocess.run(
        [sys.executable, "-m", "drl_jax", "train", f"--config={config}", f"--workdir={workdir}", *flags],
        capture_output=True,
        text=True,
        check=False,
    )
    line: dict[str, Any] = {
        "config": config,
        "overrides": list(overrides),
        "seed": seed,
        "seconds": round(time.monotonic() - began, 1),
        "load_before": round(load, 2),
        "machine": f"{processor()}, {num_cores()} cores",
        **provenance.versions(),
    }
    if (workdir / schema.FILE).exists():
        line["values"] = schema.load_values(epath.Path(workdir) / schema.FILE)
    file = workdir / "scores.json"
    if ended.returncode == 0 and file.exists():
        return line | {"scores": json.loads(file.read_text())["scores"]}
    return line | {"failed": (ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"])[-1]}


def read(file: Path, config: str) -> list[dict[str, Any]]:
    """The runs of the config that the file has."""
    lines = file.read_text().splitlines() if file.exists() else []
    return [run for run in map(json.loads, lines) if run["config"] == config]


def table(runs: Sequence[dict[str, Any]]) -> list[str]:
    """A Markdown table with one line per row: the mean of its seeds, and their range if there are several."""
    rows: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for run in runs:
        rows.setdefault(tuple(run["overrides"]), []).append(run)
    names = list(dict.fromkeys(name for run in runs for name in run.get("scores", {}) if _is_shown(name)))
    text = [f"| changed | {' | '.join(names)} | minutes | runs |", "|" + "---|" * (len(names) + 3)]
    for overrides, each in rows.items():
        scored = [run for run in each if "scores" in run]
        cells = [_cell([run["scores"][name] for run in scored if name in run["scores"]]) for name in names]
        failed = [run["failed"] for run in each if "failed" in run]
        minutes = f"{np.mean([run['seconds'] for run in each]) / 60:.1f}"
        count = f"{len(each)}" + (f", {len(failed)} failed: {failed[0]}" if failed else "")
        changed = ", ".join(f"`{override}`" for override in overrides) or "as it is"
        text.append(f"| {changed} | {' | '.join(cells)} | {minutes} | {count} |")
    return text


def _is_shown(name: str) -> bool:
    return not name.endswith(("_std", "_data_vs_data"))


def _cell(values: Sequence[float]) -> str:
    if not values:
        return "–"
    mean = f"{np.mean(values):.3g}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.3g} to {max(values):.3g})"


def main() -> None:
    """Trains what is missing, and prints the table."""
    parser = argparse.ArgumentParser(allow_abbrev=False, usage=__doc__)
    parser.add_argument("--config", required=True)
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--seeds", default=(0,), type=lambda text: tuple(map(int, text.split(","))))
    parser.add_argument("--workdirs", type=Path)
    parser.add_argument("rows", nargs="*")
    own = parser.parse_args()
    done = {(tuple(run["overrides"]), run["seed"]) for run in read(own.output, own.config)}
    for row in own.rows:
        for seed in own.seeds:
            overrides = words(row)
            if (tuple(overrides), seed) in done:
                continue
            with tempfile.TemporaryDirectory() as folder:
                name = "_".join([*overrides, f"seed={seed}"]).replace("/", "-")
                workdir = (own.workdirs or Path(folder)) / name
                line = train(own.config, overrides, seed, workdir)
            with own.output.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(f"{overrides}, seed {seed}: {line.get('scores') or line.get('failed')}", flush=True)
    print("\n".join(table(read(own.output, own.config))))


if __name__ == "__main__":
    main()
