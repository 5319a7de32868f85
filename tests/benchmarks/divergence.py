"""Runs that diverge, and the same runs with one value changed: the table of docs/divergence.md.

    python tests/benchmarks/divergence.py

Each is the program itself, with no rollback allowed unless the row says so. Its folder is deleted afterwards.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

CONFIGS = Path(__file__).parents[2] / "configs"

RING = {
    "config": "points.py:ring",
    "training.energy_penalty": 0.0,
    "training.steps": 1500,
    "evaluation.every": 1_000_000,
    "evaluation.num_samples": 64,
    "evaluation.save_every": 64,
    "checkpoint.every": 250,
    "guard.rollbacks": 0,
}
DIGITS = {
    "config": "digits.py",
    "training.steps": 300,
    "optimizer.decay_steps": 1_000_000,
    "evaluation.every": 1_000_000,
    "checkpoint.every": 100,
    "guard.rollbacks": 0,
}
FAST = {"optimizer.learning_rate": 1e-2}  # ten times the config's
VERY_FAST = {"optimizer.learning_rate": 0.3}  # a hundred times
LONG_STEPS = {"levels.b_squared": 0.1}  # a hundred times
ROWS = [
    (RING, {}, {}),
    (RING, FAST, {}),
    (RING, FAST, {"guard.rollbacks": 5}),
    (RING, FAST, {"optimizer.learning_rate": 3e-3}),
    (RING, FAST, {"sampler.steps": 60}),
    (RING, FAST, {"sampler.steps": 1}),
    (RING, FAST, {"levels.b_squared": 1.0}),
    (RING, FAST, {"training.energy_penalty": 1e-2}),
    (RING, FAST, {"optimizer.clip_norm": 0.1}),
    (DIGITS, {}, {}),
    (DIGITS, VERY_FAST, {}),
    (DIGITS, VERY_FAST, {"spectral.iterations": 10}),
    (DIGITS, VERY_FAST, {"training.energy_penalty": 1e-2}),
    (DIGITS, VERY_FAST, {"optimizer.clip_norm": 0.1}),
    (DIGITS, VERY_FAST, {"optimizer.learning_rate": 3e-2}),
    (DIGITS, LONG_STEPS, {}),
    (DIGITS, LONG_STEPS, {"levels.b_squared": 3e-3}),
]


def outcome(settings: dict) -> str:
    """How a run ended, in words."""
    config, *overrides = (f"{key}={value}" for key, value in settings.items())
    with tempfile.TemporaryDirectory() as folder:
        ended = subprocess.run(
            [sys.executable, "-m", "drl_jax", "train", f"--{config.replace('=', f'={CONFIGS}/')}"]
            + [f"--config.{override}" for override in overrides]
            + [f"--workdir={folder}"],
            capture_output=True,
            text=True,
        )
        back = ended.stdout.count("back to step")
        if ended.returncode:
            cause = re.search(
                r"diverged at (step \d+: .*?)(; config.guard.rollbacks| \(config)", ended.stderr
            )
            return f"diverged at {cause[1] if cause else ended.stderr}"
        scores = json.loads((Path(folder) / "scores.json").read_text())["scores"]
        key = next(k for k in ("total_variation/level_0", "frechet_pixels") if k in scores)
        rolled = f", after {back} rollbacks" if back else ""
        return f"{'total variation' if 'total' in key else 'Fréchet distance'} {scores[key]:.3g}{rolled}"


def words(overrides: dict) -> str:
    return ", ".join(f"`{key}={value:g}`" for key, value in overrides.items()) or "as it is"


def main() -> None:
    print("| run | changed to diverge | and changed to help | outcome |\n|---|---|---|---|")
    for base, fault, remedy in ROWS:
        name = f"`{base['config']}`, {base['training.steps']} steps"
        helped = words(remedy) if remedy else "–"
        print(f"| {name} | {words(fault)} | {helped} | {outcome({**base, **fault, **remedy})} |", flush=True)


if __name__ == "__main__":
    main()
