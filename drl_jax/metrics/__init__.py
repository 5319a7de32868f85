"""Numbers from arrays: the scores of samples. float64 on the host."""

from typing import NamedTuple


class MeanStd(NamedTuple):
    """A score that is a mean over subsets or splits.

    Attributes:
      mean: the score.
      std: the standard deviation of the score over subsets or splits.
    """

    mean: float
    std: float
