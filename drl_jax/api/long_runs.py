"""What long chains are asked for, and what they give."""

from dataclasses import dataclass
from typing import NamedTuple, get_args

import numpy as np

from drl_jax.api.checks import check_count, whole_level
from drl_jax.applications import chains, kernels
from drl_jax.errors import UserError

_COUNTS = ("group", "warmup", "leapfrog_steps")  # of ChainSettings


@dataclass(frozen=True)
class ChainSettings:
    """What `TrainedModel.run_chain` is asked for; see there."""

    steps: tuple[int, ...]
    method: str
    target: str
    level: int | None
    group: int
    step_size: float | None
    acceptance: float
    warmup: int
    leapfrog_steps: int

    def check(self, n: int, num_levels: int, *, chains: str = "n", prefix: str = "") -> None:
        """Checks the settings.

        Args:
          n: how many chains.
          num_levels: T of the model.
          chains: what a message calls n.
          prefix: what stands before each name in a message.

        Raises:
          UserError: they are not possible for n chains on a model of so many levels.
        """
        for name, value, possible in (
            ("method", self.method, kernels.METHODS),
            ("target", self.target, ("levels", *get_args(kernels.Target))),
        ):
            if value not in possible:
                raise UserError(
                    f"{prefix}{name}={value!r} is not possible: it must be one of {', '.join(possible)}"
                )
        for name, count in ((chains, n), *((name, getattr(self, name)) for name in _COUNTS)):
            check_count(count, 1, f"{prefix}{name}")
        if not self.steps:
            raise UserError(f"{prefix}steps has no number; name one or more, which increase")
        for before, count in zip((0, *self.steps), self.steps, strict=False):
            check_count(count, before + 1, f"{prefix}steps")
        if self.target == "levels" and self.steps[0] < num_levels:
            raise UserError(
                f"{prefix}steps={self.steps[0]} is too few: the model has {num_levels} levels, and each "
                "needs a step"
            )
        if n % self.group:
            raise UserError(f"{prefix}group={self.group} does not divide {prefix}{chains}={n}")
        if self.step_size is not None and not 0 < self.step_size < np.inf:
            raise UserError(f"{prefix}step_size={self.step_size} is not possible: it must be above 0")
        if not 0 < self.acceptance < 1:
            raise UserError(
                f"{prefix}acceptance={self.acceptance} is not possible: it must be between 0 and 1"
            )
        if self.target == "levels":
            if self.level is not None or self.group > 1:
                raise UserError(
                    f"{prefix}level and {prefix}group are of {prefix}target=recovery or marginal; leave "
                    "them out"
                )
            return
        if self.level is None:
            raise UserError(
                f"{prefix}target={self.target} needs {prefix}level, a whole number from 0 to {num_levels - 1}"
            )
        whole_level(self.level, 0, num_levels - 1, f"{prefix}level")


class LongRun(NamedTuple):
    """What `TrainedModel.run_chain` returns.

    Attributes:
      examples: x_0 after each number of steps [numbers, n, *shape], of the data's type. Chains at a level t
        above 0 have states x_t, from which the levels below draw x_0.
      states: x_t [numbers, n, *shape], floats in units of the model; t = 0 for all levels.
      trace: energy, acceptance, displacement and projections of each chain against its steps.
      diagnostics: for each leg: the way to the next number of steps, at one level.
    """

    examples: np.ndarray
    states: np.ndarray
    trace: chains.Trace
    diagnostics: list[chains.Diagnostics]
