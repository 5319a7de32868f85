"""Evaluation during training: preview images and scores of a model."""

import logging
from collections.abc import Callable, Sequence
from functools import cached_property

from etils import epath

from drl_jax.core.model import Model
from drl_jax.evaluation.features import FeatureExtractor
from drl_jax.evaluation.preview import Kind, Preview, save_densities
from drl_jax.evaluation.reference import Reference
from drl_jax.evaluation.scores import (
    TOTAL_VARIATION,
    FeatureAccumulator,
    Scores,
    compute_scores,
    data_vs_data,
    level_densities,
    total_variation_scores,
)
from drl_jax.parallel.consensus import broadcast
from drl_jax.parallel.sampler import ShardedSampler, count_not_finite

_logger = logging.getLogger(__name__)


class Evaluator:
    """Draws samples of a model, writes preview images and computes scores.

    All processes of a job call its methods. Files are named by the step.

    Args:
      kind: of the data.
      sampler: draws the samples.
      num_samples: how many.
      metrics: names of metrics; may be empty.
      extractors: that the metrics need.
      read_reference: computes the features of the data; called once, when they are needed first.
      folder: of the images; None in the processes that write none.
    """

    def __init__(
        self,
        kind: Kind,
        sampler: ShardedSampler,
        *,
        num_samples: int,
        metrics: Sequence[str],
        extractors: Sequence[FeatureExtractor],
        read_reference: Callable[[], Reference],
        folder: epath.Path | None,
    ):
        self._kind, self._sampler, self._num_samples = kind, sampler, num_samples
        self._metrics, self._extractors = metrics, extractors
        self._read_reference, self._folder = read_reference, folder

    def __call__(self, step: int, model: Model) -> Scores:
        """Evaluates the model of a step. Returns the scores, the same in all processes.

        Raises:
          UserError: the data cannot be read.
          Stopped: one of several processes was asked to stop.
        """
        return self._evaluate(model, None if self._folder is None else self._folder / f"{step:07}")

    def bounds(self, untrained: Model | None) -> Scores:
        """Computes scores to compare others with, the same in all processes.

        Args:
          untrained: the model before its training, or None to leave it out; it costs as much as an
            evaluation.

        Returns:
          NAME_data_vs_data of one half of the data against the other, the best that can be expected, and
          NAME_untrained of the untrained model.
        """
        bounds: Scores = {}
        if self._extractors:
            best = data_vs_data(self._metrics, self._reference.data)
            bounds |= {f"{name}_data_vs_data": value for name, value in best.items()}
        if untrained is not None and self._metrics:
            worst = self._evaluate(untrained, None)
            bounds |= {f"{name}_untrained": value for name, value in worst.items()}
        return broadcast(bounds)

    def _evaluate(self, model: Model, prefix: epath.Path | None) -> Scores:
        scores: Scores = {}
        if TOTAL_VARIATION in self._metrics and self._kind.density is not None:
            densities = level_densities(model, self._kind.density)
            scores |= total_variation_scores(densities)
            if prefix is not None:
                save_densities(densities, prefix)
        accumulators = {extractor.name: FeatureAccumulator() for extractor in self._extractors}
        preview, not_finite = Preview(self._kind), 0
        for x, process in self._sampler.sample(model, self._num_samples):
            examples = self._kind.to_examples(x)
            not_finite += count_not_finite(x)
            preview.add(examples, process)
            for extractor in self._extractors:
                accumulators[extractor.name].add(extractor.extract(examples))
        if prefix is not None:
            preview.save(prefix)
        if not_finite:
            _logger.warning(
                "%d of %d samples are not finite: their chains diverged, and scores mean nothing",
                not_finite,
                self._num_samples,
            )
        if self._extractors:
            features = {name: accumulator.result() for name, accumulator in accumulators.items()}
            scores |= compute_scores(self._metrics, features, self._reference.compared())
        # Processes may differ in the last digits, and all must take the same decisions.
        return broadcast(scores)

    @cached_property
    def _reference(self) -> Reference:
        return self._read_reference()
