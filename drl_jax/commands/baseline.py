"""`baseline`: the scores of data against data, to compare those of a model with, and to test the metrics."""

import logging
from collections.abc import Mapping

from drl_jax.commands.job import start_job
from drl_jax.config.build import build, open_data, with_split
from drl_jax.config.schema import Config
from drl_jax.config.scoring import (
    check_examples,
    make_extractors,
    metric_names,
    protocol_lines,
    protocol_of_scores,
    read_reference,
)
from drl_jax.data.sources import has_split
from drl_jax.errors import UserError
from drl_jax.evaluation import scores
from drl_jax.evaluation.features import PUBLIC_SHA256
from drl_jax.parallel.consensus import together
from drl_jax.parallel.preemption import Stop
from drl_jax.report import provenance

# What others measured on the images of CIFAR-10 with the same network: the distance of the test split from
# the training split, and the score of the training split.
_KNOWN = {"cifar10": {"fid_10000": 3.15, "inception_score": 11.24}}
_logger = logging.getLogger(__name__)


def baseline(config: Config, prepare_command: str, stop: Stop) -> None:
    """Prints the scores of one half of the data against the other, and of the test split, if there is one.

    Args:
      config: the config.
      prepare_command: the command that a message names if the data are not prepared.
      stop: gets the delay with which this process exits.

    Raises:
      UserError: the config or the data are not right.
    """
    parts, metrics = build(config), metric_names(config, needs_samples=False)
    metrics = [name for name in metrics if name != scores.TOTAL_VARIATION]
    if not metrics:
        raise UserError(
            f"config.evaluation.metrics={config.evaluation.metrics} names no metric of samples; name "
            "one, as in fid or frechet_pixels"
        )
    source, sources = open_data(config, prepare_command), {}
    test_config = with_split(config, "test")
    if has_split(config.data.name, "test", data_dir=config.data.data_dir):
        sources["the test split"] = open_data(test_config, prepare_command)
    for each in (source, *sources.values()):
        check_examples(config, metrics, each)
    with start_job(stop, "baseline", config, sources={"config.data": source, **sources}) as placement:
        extractors = together(lambda: make_extractors(config, metrics, parts.shape, placement))
        reference = read_reference(config, source, metrics, extractors)
        protocol = protocol_of_scores(config, source, reference, metrics, extractors)
        _logger.info("%s", "\n".join(protocol_lines(protocol, provenance.versions())))
        _print("one half of the data against the other", scores.data_vs_data(metrics, reference.data), {})
        known = _KNOWN.get(config.data.name, {}) if _is_standard(config) else {}
        if "inception_score" in metrics:
            score = scores.compute_scores(["inception_score"], reference.data, reference.data)
            _print(f"{config.data.split} alone", score, known)
        if not sources:
            return
        (test_source,) = sources.values()
        test = read_reference(test_config, test_source, metrics, extractors)
        _logger.info("%d examples of %s test, sha256 %s", len(test_source), config.data.name, test.sha256)
        compared = [name for name in metrics if name != "inception_score"]
        values = scores.compute_scores(compared, test.data, reference.data)
        _print(f"test against {config.data.split}", values, known)


def _is_standard(config: Config) -> bool:
    """Whether the data and the network are those of the known scores."""
    data, weights = config.data, config.evaluation.inception_sha256
    is_whole = (data.split, data.image_size, data.channels, data.crop) == ("train", 32, 3, None)
    return is_whole and PUBLIC_SHA256.startswith(weights.lower())


def _print(what: str, values: Mapping[str, float], known: Mapping[str, float]) -> None:
    _logger.info("%s:", what)
    for name, value in values.items():
        beside = f"  (known: {known[name]})" if name in known else ""
        _logger.info("  %-34s %.5g%s", name, value, beside)
