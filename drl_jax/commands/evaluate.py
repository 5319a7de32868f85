"""`evaluate`: the scores of a trained model, with everything that they depend on."""

import json
import logging
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import jax
from etils import epath

from drl_jax import files
from drl_jax.commands.job import check_output, start_job
from drl_jax.config import schema
from drl_jax.config.build import build, make_sampler, open_compared, open_data
from drl_jax.config.identity import identity
from drl_jax.config.restore import StoredModel, training_seconds
from drl_jax.config.scoring import (
    check_examples,
    data_kind,
    make_extractors,
    metric_names,
    protocol_lines,
    protocol_of_scores,
    read_reference,
    warn_of_singular_covariances,
)
from drl_jax.errors import UserError
from drl_jax.evaluation import scores
from drl_jax.evaluation.preview import save_densities
from drl_jax.evaluation.reference import short_hash
from drl_jax.evaluation.scores import TOTAL_VARIATION
from drl_jax.evaluation.store import SampleStore, draw_missing, read_samples
from drl_jax.ownership import owned
from drl_jax.parallel.consensus import barrier, on_process_0, together
from drl_jax.parallel.preemption import Stop
from drl_jax.report import provenance

FOLDER = "evaluations"  # in the workdir or in --output: one folder per set of samples
_SAMPLING_VERSION = 1  # increase it when a change of the program changes the samples
_logger = logging.getLogger(__name__)


def evaluate(stored: StoredModel, output: epath.Path, prepare_command: str, stop: Stop) -> None:
    """Draws samples from a trained model, and scores them.

    Sample i is a function of (weights, sampler, seed, i). Samples are kept in `output`, so an interrupted
    evaluation continues, and more samples or another metric draw only what is missing.

    Args:
      stored: the model.
      output: where samples and scores are written. If it is not the workdir of the run, that is only read.
      prepare_command: the command that a message names if the data are not prepared.
      stop: whether this process was asked to stop.

    Raises:
      UserError: the config, the data or the model is not right, or samples are not finite.
      Stopped: one of several processes was asked to stop.
    """
    config = stored.config
    parts, metrics = build(config), metric_names(config)
    if not metrics:
        raise UserError(
            "config.evaluation.metrics=none leaves nothing to measure; name metrics, as in fid,kid or "
            "frechet_pixels"
        )
    compared, source = open_compared(config, open_data(config, prepare_command), prepare_command)
    check_examples(config, metrics, source)
    job = start_job(stop, "evaluate", config, stored=stored, sources={"config.data": source})
    with job as placement, ExitStack() as opened:
        model, about = stored.load(parts, placement)
        check_output(output, stored)
        extractors = together(lambda: make_extractors(config, metrics, parts.shape, placement))
        sampler, kind = make_sampler(config, parts, placement, stop), data_kind(config)
        count, save_every = config.evaluation.num_samples, config.evaluation.save_every
        if save_every > count:
            _logger.info(
                "config.evaluation.save_every=%d is more than the %d samples: they are saved all at once",
                save_every,
                count,
            )
        depends_on = identity(
            config,
            model,
            {
                "sampling_version": _SAMPLING_VERSION,
                "seed": config.evaluation.seed,
                "samples_per_device": config.evaluation.samples_per_device,
            },
        )
        folder = output / FOLDER / f"{about['step']:07}_{short_hash(depends_on)}"
        store = SampleStore(folder)

        def take_folder() -> None:
            opened.enter_context(owned(folder, "evaluation"))
            store.write_identity(depends_on)

        on_process_0(take_folder)
        draw_missing(store, sampler, model, kind, count, save_every=save_every)
        samples = read_samples(store, extractors, count, stop)
        reference = read_reference(compared, source, metrics, extractors)
        values: scores.Scores = {}
        if TOTAL_VARIATION in metrics and kind.density is not None:
            densities = scores.level_densities(model, kind.density)
            values |= scores.total_variation_scores(densities)
            if jax.process_index() == 0:
                save_densities(densities, folder / "model")
        if jax.process_index() == 0:
            warn_of_singular_covariances(metrics, count, reference)
            values |= scores.compute_scores(metrics, samples.features, reference.compared())
            versions, machine = provenance.versions(), provenance.machine()
            drawn = {
                "count": count,
                "sha256": samples.sha256,
                **({} if config.data.name == "points" else {"bytes": "by truncation"}),
                "step": about["step"],
                "weights": f"average with decay {config.training.ema_decay:g}",
                **depends_on,
            }
            result = {
                "scores": values,
                "data_vs_data": scores.data_vs_data(metrics, reference.data),
                "protocol": {
                    "samples": drawn,
                    **protocol_of_scores(compared, source, reference, metrics, extractors),
                },
                "training": {
                    "seconds": training_seconds(stored, about),
                    **{name: about[name] for name in ("machine", "commit")},
                },
                "evaluation": {
                    "machine": machine,
                    "commits": {name: versions["commit"] for name in metrics},
                },
                **versions,
                "config": schema.to_dict(config),
            }
            _logger.info("%s", _format(result))
            split = f"_{compared.data.split}" if compared is not config else ""
            file = folder / f"result_{count}{split}.json"
            files.write(file, json.dumps(_with_earlier(file, result), indent=1) + "\n")
            _logger.info("written to %s", file)
        barrier()  # process 0 works longer than the others


def _with_earlier(file: epath.Path, result: dict[str, Any]) -> dict[str, Any]:
    """Adds the scores of other metrics that an earlier evaluation measured on the same samples and data.

    Returns the result alone if there was none, its file is damaged, or it was of other data or features.
    """
    result = json.loads(json.dumps(result))  # with JSON's types, to compare
    try:
        earlier = json.loads(file.read_text())
        protocol = {}
        for topic in earlier["protocol"].keys() | result["protocol"].keys():
            before, now = (each["protocol"].get(topic, {}) for each in (earlier, result))
            if topic != "metrics" and any(now[name] != before[name] for name in now.keys() & before.keys()):
                return result
            protocol[topic] = {**before, **now}
        commits = {**earlier["evaluation"]["commits"], **result["evaluation"]["commits"]}
        merged = {kind: {**earlier[kind], **result[kind]} for kind in ("scores", "data_vs_data")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return result
    order = [*(topic for topic in earlier["protocol"] if topic != "metrics"), *result["protocol"]]
    protocol = {topic: protocol[topic] for topic in dict.fromkeys(order)}
    evaluation = {**result["evaluation"], "commits": commits}
    training = result["training"] if result["training"]["seconds"] else earlier["training"]
    return {**result, **merged, "protocol": protocol, "training": training, "evaluation": evaluation}


def _format(result: Mapping[str, Any]) -> str:
    """The scores, those of data against data, and the protocol, for printing."""
    bounds = {f"{name}_data_vs_data": value for name, value in result["data_vs_data"].items()}
    lines = [f"{name:<36} {value:.5g}" for name, value in (result["scores"] | bounds).items()]
    return "\n".join([*lines, *protocol_lines(result["protocol"], result)])
