"""How well a statistic distinguishes two sets of examples: AUROC and average precision."""

import numpy as np
from jaxtyping import Float


def auroc(own: Float[np.ndarray, " n"], others: Float[np.ndarray, " m"]) -> float:
    """Computes the area under the receiver operating characteristic.

    It is the probability that the statistic of a random one of the others is higher than that of a random
    one of our own, where a tie counts half. 0.5: it tells nothing; below 0.5: the others have lower values.

    Args:
      own: the statistic of examples of the model's data.
      others: that of other examples.

    Returns:
      Between 0 and 1.
    """
    from sklearn.metrics import roc_auc_score  # imported here because it takes seconds

    return float(roc_auc_score(*_labelled(own, others)))


def average_precision(own: Float[np.ndarray, " n"], others: Float[np.ndarray, " m"]) -> float:
    """Computes the average precision with which thresholds of a statistic find the others.

    It is the sum of the precision at each threshold, weighted by the increase of the recall. A statistic that
    tells nothing has m / (n + m).

    Args:
      own: the statistic of examples of the model's data.
      others: that of other examples, which are to be found.

    Returns:
      Between 0 and 1.
    """
    from sklearn.metrics import average_precision_score  # imported here because it takes seconds

    return float(average_precision_score(*_labelled(own, others)))


def _labelled(own: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.repeat([False, True], [len(own), len(others)]), np.concatenate([own, others])
