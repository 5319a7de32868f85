"""Running the program in this process, on small versions of the real configs."""

import re

import pytest

from drl_jax.main import main
from tests.helpers import CONFIGS, last_of_each


class Outcome:
    """How a command ended: its exit code and what it printed."""

    def __init__(self, code, printed):
        self.code, self.out, self.err = code, printed.out, printed.err


@pytest.fixture
def program(capfd):
    """Runs `drl-jax ARGUMENT …`; a config file is named by its name in configs/."""

    def run(*arguments: str) -> Outcome:
        capfd.readouterr()
        named = re.compile(r"^--config=(?!/)")
        given = [named.sub(f"--config={CONFIGS}/", a) for a in arguments]
        return Outcome(main(last_of_each(given)), capfd.readouterr())

    return run
