"""What tests of the whole program share: small versions of the real configs, and running a command here."""

from collections.abc import Sequence
from pathlib import Path

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
