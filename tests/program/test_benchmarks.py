"""The benchmarks at toy size: an hour on a lent accelerator must not end at a typing error."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import POINTS

FOLDER = Path(__file__).parents[1] / "benchmarks"
TOY = [
    "--config=digits",
    "--config.network.width=8",
    "--config.network.blocks_per_resolution=2",
    "--config.data.batch_size=4",
    "--config.sampler.steps=3",
]


def benchmark(name: str, *arguments: str) -> str:
    """Runs a benchmark in a process of its own; what it printed."""
    command = [sys.executable, str(FOLDER / name), *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    return ended.stdout


def test_accelerator_measures_ceilings_and_forms(tmp_path):
    output = tmp_path / "report.json"
    forms = "base,float32,own_gradients,rbg,unroll_2,nhwc"
    benchmark("accelerator.py", *TOY, f"--forms={forms}", "--repeats=2", f"--output={output}")
    report = json.loads(output.read_text())
    assert set(report["forms"]) == set(forms.split(","))
    for name, row in report["forms"].items():
        assert (row.get("seconds", 0) > 0) != ("failed" in row), name
    assert len({round(report["forms"][name]["tflop"], 12) for name in ("base", "rbg", "unroll_2")}) == 1
    assert report["forms"]["base"]["share_of_floor"] > 0
    assert all(row["seconds"] > 0 for row in report["convolutions"])


def test_costs_vary_one_key_at_a_time(tmp_path):
    output = tmp_path / "costs.json"
    benchmark("costs.py", *TOY, "--rounds=2", "--keys=sampler.steps", f"--output={output}")
    report = json.loads(output.read_text())
    assert set(report["rows"]) == {"as it is", *(f"sampler.steps={value}" for value in (1, 5, 10, 60))}
    # One more Langevin step costs the same each time: operations are linear in K.
    gflop = {name: row["gflop"] for name, row in report["rows"].items()}
    of_one = (gflop["sampler.steps=60"] - gflop["sampler.steps=10"]) / 50
    assert gflop["sampler.steps=10"] - gflop["sampler.steps=5"] == pytest.approx(5 * of_one)


def test_sweep_continues_and_keeps_failures(tmp_path):
    output = tmp_path / "runs.jsonl"
    # Points in the plane, and one step: the scores do not matter.
    rows = [" ".join(flag.removeprefix("--config.") for flag in POINTS), "levels.count=0"]
    arguments = ["--config=points:ring", f"--output={output}", *rows]
    text = benchmark("sweep.py", *arguments)
    first, second = map(json.loads, output.read_text().splitlines())
    assert first["scores"]["total_variation/level_0"] > 0
    assert "config.levels.count=0" in second["failed"]
    assert "| `levels.count=0` | –" in text
    before = output.read_text()
    benchmark("sweep.py", *arguments)
    assert output.read_text() == before
