"""AUROC and average precision against their definitions."""

import numpy as np
import pytest

from drl_jax.metrics.ranking import auroc, average_precision


def pairs(own, others) -> float:
    """The probability that defines the AUROC, pair by pair."""
    greater = (others[:, None] > own).mean() + 0.5 * (others[:, None] == own).mean()
    return float(greater)


def precisions(own, others) -> float:
    """The average precision, threshold by threshold."""
    total, recall_before = 0.0, 0.0
    for threshold in sorted({*own, *others}, reverse=True):
        found, wrong = (others >= threshold).sum(), (own >= threshold).sum()
        recall = found / len(others)
        total += (recall - recall_before) * found / (found + wrong)
        recall_before = recall
    return total


CASES = {
    "apart": ([0.0, 1, 2], [3.0, 4], 1.0, 1.0),
    # The others come last: the k-th of m is found with precision k / (n + k).
    "apart, the wrong way": ([3.0, 4], [0.0, 1, 2], 0.0, (1 / 3 + 2 / 4 + 3 / 5) / 3),
    "all equal": ([1.0, 1, 1], [1.0], 0.5, 0.25),
    "a tie": ([0.0, 1], [1.0, 2], 0.875, 0.5 * 1 + 0.5 * 2 / 3),
    "far apart": ([0.0, 1], [1e38, 1e38], 1.0, 1.0),
}


@pytest.mark.parametrize("case", CASES)
def test_closed_forms(case):
    own, others, area, precision = (np.array(each) for each in CASES[case])
    assert auroc(own, others) == pytest.approx(area, abs=1e-12)
    assert average_precision(own, others) == pytest.approx(precision, abs=1e-12)


@pytest.mark.parametrize("decimals", [8, 1, 0])
def test_the_definitions(decimals):
    rng = np.random.default_rng(decimals)
    own = rng.normal(size=60).round(decimals).astype(np.float32)
    others = rng.normal(0.7, size=45).round(decimals).astype(np.float32)
    assert auroc(own, others) == pytest.approx(pairs(own, others), abs=1e-12)
    assert auroc(own, others) == pytest.approx(1 - auroc(others, own), abs=1e-12)
    assert auroc(own, others) == pytest.approx(1 - auroc(-own, -others), abs=1e-12)
    assert average_precision(own, others) == pytest.approx(precisions(own, others), abs=1e-12)


def test_two_normal_distributions():
    # The AUROC of N(0, 1) and N(d, 1) is the distribution function of N(0, 1) at d / √2.
    rng, n = np.random.default_rng(0), 40_000
    area = auroc(rng.normal(size=n), rng.normal(1.0, size=n))
    assert area == pytest.approx(0.76024994, abs=4 * 0.5 / np.sqrt(n))
