"""What tests of the whole program share: small versions of the real configs, and running a command here."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from drl_jax.api import TrainedModel
from drl_jax.main import main

CONFIGS = Path(__file__).parents[1] / "configs"


def small(**overrides) -> list[str]:
    """Flags that make any image config run for seconds. One network and chain for all: compiled once."""
    values = {
        "network.width": 8,
        "network.blocks_per_resolution": 1,
        "data.batch_size": 8,
        "levels.count": 3,
        "sampler.steps": 2,
        "training.steps": 4,
        "training.log_every": 2,
        "training.level_proportions": None,
        "checkpoint.every": 2,
        "evaluation.every": 4,
        "evaluation.num_samples": 6,
        "evaluation.samples_per_device": 4,
        "evaluation.save_every": 4,
        "evaluation.metrics": "none",
    } | {name.replace("__", "."): value for name, value in overrides.items()}
    return [f"--config.{name}={value}" for name, value in values.items()]


# The smallest run of points: one level.
POINTS = [
    "--config.levels.count=1",
    "--config.data.batch_size=8",
    "--config.training.steps=2",
    "--config.evaluation.num_samples=40",
    "--config.evaluation.samples_per_device=8",
]


def last_of_each(argv: Sequence[str]) -> list[str]:
    """The words without flags that come again, so that a test can change one of `small` or `POINTS`."""
    last = {word.split("=")[0]: index for index, word in enumerate(argv)}
    return [
        word
        for index, word in enumerate(argv)
        if not (word.startswith("--") and "=" in word) or last[word.split("=")[0]] == index
    ]


def run(*arguments) -> None:
    """Runs a command of the program in this process; it must succeed."""
    assert main(last_of_each([str(a) for a in arguments])) == 0


def log_z_on_grid(model: TrainedModel, level: int, side: int = 800) -> float:
    """log Z of a level of points, inside of the box of `log_density`: the sum over the cells of a grid."""
    bound = model.bound(level)
    centres = (2 * (np.arange(side) + 0.5) / side - 1) * bound
    points = np.stack(np.meshgrid(centres, centres), axis=-1).reshape(-1, 2).astype(np.float32)
    log_density = model.log_density(points, level, log_z=0.0).astype(np.float64)
    top = log_density.max()
    return float(top + np.log(np.exp(log_density - top).sum() * (2 * bound / side) ** 2))
