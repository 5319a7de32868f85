"""The benchmarks at toy size: an hour on a lent accelerator must not end at a typing error."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

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


def test_the_profile_of_a_step_finds_all_items(tmp_path):
    output = tmp_path / "step.json"
    benchmark("step.py", *TOY, "--profile", f"--output={output}")
    report = json.loads(output.read_text())
    items = report["items_seconds"]
    assert all(seconds > 0 for seconds in items.values()), items


def test_costs_vary_one_key_at_a_time(tmp_path):
    output = tmp_path / "costs.json"
    benchmark("costs.py", *TOY, "--rounds=2", "--keys=sampler.steps", f"--output={output}")
    report = json.loads(output.read_text())
    assert set(report["rows"]) == {"as it is", *(f"sampler.steps={value}" for value in (1, 5, 10, 60))}
    # One more Langevin step costs the same each time: operations are linear in K.
    gflop = {name: row["gflop"] for name, row in report["rows"].items()}
    of_one = (gflop["sampler.steps=60"] - gflop["sampler.steps=10"]) / 50
    assert gflop["sampler.steps=10"] - gflop["sampler.steps=5"] == pytest.approx(5 * of_one)


def test_a_diffusion_model_trains_for_the_given_time(tmp_path):
    output, samples = tmp_path / "diffusion.json", tmp_path / "samples.npz"
    files = (f"--output={output}", f"--samples={samples}")
    benchmark("diffusion_peer.py", "--config=digits", "--seconds=1", "--width=8", *files)
    (run,) = json.loads(output.read_text())["runs"]
    assert run["steps"] >= 1
    assert run["seconds"] > 0
    assert np.isfinite(run["scores"]["frechet_pixels"])
    x = np.load(samples)["arr_0"]
    assert x.dtype == np.uint8
    assert x.shape == (898, 8, 8, 1)


def test_sweep_continues_and_keeps_failures(tmp_path):
    output = tmp_path / "runs.jsonl"
    # Points in the plane, and one step: the scores do not matter.
    rows = [" ".join(flag.removeprefix("--config.") for flag in POINTS), "levels.count=0"]
    arguments = ["--config=points:ring", f"--output={output}", *rows]
    text = benchmark("sweep.py", *arguments)
    first, second = map(json.loads, output.read_text().splitlines())
    assert first["scores"]["total_variation/level_0"] > 0
    assert first["values"]["levels.count"] == 1
    assert first["values"]["training.steps"] == 2
    assert "values" not in second
    assert "config.levels.count=0" in second["failed"]
    assert "| `levels.count=0` | –" in text
    before = output.read_text()
    benchmark("sweep.py", *arguments)
    assert output.read_text() == before


def test_a_short_run_continues_from_what_an_earlier_one_kept(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 8, 8), np.uint8)
    (tmp_path / "images").mkdir()
    for name, part in zip("ab", images, strict=True):
        np.savez(tmp_path / f"images/{name}.npz", part)
    outputs = [tmp_path / "first", tmp_path / "second"]
    for output, more in zip(outputs, ([], [f"--earlier={outputs[0]}"]), strict=True):
        own = [f"--images={tmp_path}/images", "--minutes=0.4", f"--output={output}", "--samples=4"]
        benchmark("short_run.py", *own, *more, *TOY, "--config.optimizer.learning_rate=1e-6")
    first, second = json.loads((outputs[1] / "run.json").read_text())
    assert 0 < first["steps"] < second["steps"]
    assert second["steps"] == first["steps"] + second["steps_of_this_call"]
    assert second["images"] == 4 * second["steps"]
    kept = {file.name: file.stat().st_size for file in outputs[1].iterdir()}
    names = {"curves.png", "metrics.jsonl", "run.json", "samples.npz", "samples.png", "state.tar.0"}
    assert set(kept) == names
    assert max(kept.values()) <= 16 * 2**20
    with np.load(outputs[1] / "samples.npz") as opened:
        assert opened["arr_0"].shape == (4, 8, 8, 1)


def test_an_archive_in_parts_is_put_together(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import short_run  # pyright: ignore[reportMissingImports]

    monkeypatch.setattr(short_run, "PART", 1000)
    run, output = tmp_path / "run", tmp_path / "output"
    (run / "checkpoints/7").mkdir(parents=True)
    (run / "checkpoints/12").mkdir()
    content = np.random.default_rng(0).bytes(15_000)
    for name, data in (
        ("config.json", b"{}"),
        ("metrics.jsonl", b'{"step": 7, "loss": 1}\n'),
        ("checkpoints/12/state", content),
    ):
        (run / name).write_bytes(data)
    output.mkdir()
    short_run.pack(run, output)
    (output / "run.json").write_text("[]")
    assert len(list(output.glob("state.tar.*"))) > 10  # so that 10 comes after 9
    assert short_run.unpack(output, tmp_path / "again") == []
    assert (tmp_path / "again/checkpoints/12/state").read_bytes() == content
    assert not (tmp_path / "again/checkpoints/7").exists()


def test_what_the_host_costs(tmp_path):
    output = tmp_path / "host.json"
    benchmark("host.py", *TOY, "--rounds=1", "--steps=5", f"--output={output}")
    report = json.loads(output.read_text())
    assert set(report["images_per_second"]) == {"first epoch", "batches of 4", "batches of 256"}
    assert report["loop_seconds"][0] > 0
    assert report["host_share"] == pytest.approx(report["loop_seconds"][0] / report["step_seconds"][0] - 1)


def test_a_step_beside_another_program(tmp_path):
    output = tmp_path / "busy.json"
    benchmark("busy.py", *TOY, "--rounds=1", f"--output={output}")
    report = json.loads(output.read_text())
    assert report["ratio"] == pytest.approx(np.median(report["busy"]) / np.median(report["quiet"]))


def test_readability_knows_digits_from_mixtures_of_two(tmp_path):
    x = load_digits(return_X_y=True)[0].reshape(-1, 8, 8) * 255 / 16
    mixtures = (x + x[np.random.default_rng(0).permutation(len(x))]) / 2
    digits, diagnosis = tmp_path / "digits.npz", tmp_path / "diagnose.npz"
    np.savez(digits, x.astype(np.uint8)[..., None])
    drawn = np.stack([x, mixtures])[None].astype(np.uint8)[..., None]
    np.savez(diagnosis, levels=[2], steps=[8, 16], drawn=drawn)
    text = benchmark("readability.py", str(digits), str(diagnosis))
    rows = [line.strip("| ").split(" | ") for line in text.splitlines()[2:]]
    part = {name: float(named) for name, _, named, _ in rows}
    of_digits, of_mixtures = (f"from data at x_3, {steps} steps" for steps in (8, 16))
    assert list(part) == ["the data", "digits.npz", of_digits, of_mixtures]
    # A classifier names more of digits of which it knows half than of new ones, and fewer mixtures.
    assert part["digits.npz"] == part[of_digits] > part["the data"] > 0.8
    assert part[of_mixtures] < part["the data"] - 0.2
    assert [float(repeated) for *_, repeated in rows][:3] == [0.01, 1, 1]
    assert float(rows[3][-1]) < 0.01


def test_readability_refuses_other_images(tmp_path):
    np.savez(tmp_path / "clothes.npz", np.zeros((4, 28, 28, 1), np.uint8))
    for name, message in (("clothes.npz", "has no images of digits"), ("other.npz", "does not exist")):
        command = [sys.executable, str(FOLDER / "readability.py"), str(tmp_path / name)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ended.returncode == 1
        assert ended.stderr.strip().startswith(f"{tmp_path / name} {message}")
