"""What the trace of Markov chains tells: autocorrelation, effective sample size and split R̂."""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

MIN_POINTS = 8  # of a trace; fewer say nothing, and give NaN

Trace = Float[np.ndarray, "points chains quantities"]


class Mixing(NamedTuple):
    """How well chains mix.

    Attributes:
      ess: effective sample size of a chain, at most about its points; of the quantity with the smallest.
      rhat: split R̂ of the quantity with the largest; near 1 where the parts of chains look alike.
    """

    ess: float
    rhat: float


def mixing(trace: Trace, group: int = 1) -> Mixing:
    """Computes effective sample size and R̂ of chains, by the worst quantity.

    Only chains with one target can be compared with each other. Each chain is split in two, so that one chain
    alone has an R̂ as well.

    Args:
      trace: quantities of chains, at equal distances.
      group: how many chains in succession have one target.

    Returns:
      The effective sample size of one chain and R̂: the mean and the median over the groups. NaN where there
      are fewer than `MIN_POINTS` points.

    Source: rank-normalised, Vehtari et al. (2021), of blackjax.
    """
    points, chains, quantities = trace.shape
    if points < MIN_POINTS:
        return Mixing(float("nan"), float("nan"))
    # [chains of a group, points, groups × quantities]
    grouped = trace.reshape(points, chains // group, group, quantities)
    columns = np.moveaxis(grouped, 2, 0).reshape(group, points, -1)
    with jax.numpy_rank_promotion("allow"):  # blackjax relies on it
        measured = _ess_and_rhat(columns)
    ess, rhat = (np.asarray(each).reshape(-1, quantities) for each in measured)
    return Mixing(float(ess.mean(axis=0).min() / group), float(np.median(rhat, axis=0).max()))


@jax.jit
def _ess_and_rhat(columns: jax.Array) -> tuple[jax.Array, jax.Array]:
    from blackjax import diagnostics  # takes a second to import

    return diagnostics.ess_bulk(columns), diagnostics.rhat(columns)


def autocorrelation(trace: Float[np.ndarray, "points chains"], max_lag: int) -> Float[np.ndarray, " lags"]:
    """Computes the autocorrelation of a quantity at lags 0 … max_lag points, as a mean over chains.

    Each chain is centred at its own mean, which makes long correlations appear shorter.

    Args:
      trace: the quantity, at equal distances.
      max_lag: less than the number of points.

    Returns:
      Correlations [max_lag + 1], of which the first is 1. NaN where no chain moves.
    """
    points = len(trace)
    centred = np.asarray(trace, np.float64) - np.mean(trace, axis=0, dtype=np.float64)
    power = np.abs(np.fft.rfft(centred, n=2 * points, axis=0)) ** 2
    covariance = np.fft.irfft(power.mean(axis=1))[: max_lag + 1]  # zeros behind the end: no lag wraps round
    with np.errstate(invalid="ignore"):
        return covariance / covariance[0]
