"""Running the program in this process, on small versions of the real configs."""

import re
from pathlib import Path

import jax
import pytest

from drl_jax.main import main

CONFIGS = Path(__file__).parents[2] / "configs"


class Outcome:
    """How a command ended: its exit code and what it printed."""

    def __init__(self, code, printed):
        self.code, self.out, self.err = code, printed.out, printed.err


@pytest.fixture(scope="package", autouse=True)
def _compiled_programs_are_shared(tmp_path_factory):
    """As a user's second start finds them: runs of the same program compile it once."""
    jax.config.update("jax_enable_compilation_cache", True)
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("compiled")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    yield
    jax.config.update("jax_enable_compilation_cache", False)


@pytest.fixture
def program(capfd):
    """Runs `drl-jax ARGUMENT …`; a config file is named by its name in configs/."""

    def run(*arguments: str) -> Outcome:
        capfd.readouterr()
        named = re.compile(r"^--config=(?!/)")
        given = [named.sub(f"--config={CONFIGS}/", a) for a in arguments]
        with pytest.raises(SystemExit) as exit_:
            main(given)
        return Outcome(exit_.value.code, capfd.readouterr())

    return run


def small(**overrides) -> list[str]:
    """Overrides that make any image config run for seconds."""
    values = {
        "network.width": 8,
        "network.blocks_per_resolution": 1,
        "data.batch_size": 4,
        "levels.count": 2,
        "sampler.steps": 2,
        "training.steps": 4,
        "training.log_every": 2,
        "checkpoint.every": 2,
        "evaluation.every": 4,
        "evaluation.num_samples": 4,
        "evaluation.samples_per_device": 1,
        "evaluation.save_every": 4,
        "evaluation.metrics": "none",
    } | {name.replace("__", "."): value for name, value in overrides.items()}
    return [f"--config.{name}={value}" for name, value in values.items()]
