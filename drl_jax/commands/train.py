"""`train`: trains a model, or goes on with the one in the workdir."""

import json
import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import jax
from clu import parameter_overview
from etils import epath

from drl_jax import files
from drl_jax.checkpoints.orbax import FOLDER, Keep, open_checkpoints
from drl_jax.checkpoints.packing import digest
from drl_jax.commands.common import (
    changes,
    make_domain,
    make_sampler,
    make_spaces,
    metrics_of,
    read_reference,
    voices,
)
from drl_jax.config import schema
from drl_jax.config.build import Experiment, build, open_data
from drl_jax.config.schema import Config
from drl_jax.data.sources import fingerprint
from drl_jax.data.stream import batches
from drl_jax.errors import UserError
from drl_jax.evaluation import measures
from drl_jax.evaluation.evaluator import Evaluation
from drl_jax.parallel import devices
from drl_jax.parallel.devices import everywhere
from drl_jax.parallel.preemption import Stop
from drl_jax.parallel.sampler import Weights
from drl_jax.report import provenance
from drl_jax.report.metrics_log import Nowhere, open_records
from drl_jax.training.guard import Limits
from drl_jax.training.loop import Run, Say, Schedule, init_state
from drl_jax.training.loop import train as run_training

SCORES = "scores.json"  # of the last step, in the workdir


def train(config: Config, workdir: epath.Path, prepare_command: str, stop: Stop) -> None:
    """Trains a model, or goes on with the one in the workdir."""
    experiment, metrics = build(config), metrics_of(config)
    _check_best(config, metrics)
    changes(workdir, config)
    source = open_data(config, prepare_command)
    devices.start(config.data.batch_size)
    stop.linger = devices.linger()
    placement, (say, warn) = devices.place(config.data.batch_size), voices()
    spaces = make_spaces(config, metrics, experiment.shape, placement)
    first = jax.process_index() == 0
    with ExitStack() as opened:
        changed = devices.by_first(lambda: _take_workdir(opened, config, workdir, say)) or []
        say(_overview(config, experiment, len(source)))
        for line in changed:
            say(line)
        evaluate = Evaluation(
            make_domain(config, experiment),
            make_sampler(config, experiment, placement, stop),
            num_samples=config.evaluation.num_samples,
            metrics=metrics,
            spaces=spaces,
            read_reference=lambda: read_reference(config, source, metrics, spaces, warn),
            folder=workdir / "samples" if first else None,
            warn=warn,
        )
        records = opened.enter_context(open_records(workdir, warn)) if first else Nowhere()
        keep = Keep(config.checkpoint.keep, config.checkpoint.keep_every)
        checkpoints = opened.enter_context(open_checkpoints(workdir / FOLDER, keep))
        data = fingerprint(source)

        def accept(record: Mapping[str, Any]) -> None:
            # Its own word for what it was trained with: the workdir's file may have been edited or lost.
            schema.changes(record["config"], config, str(workdir))
            before = record["data"]
            if before["examples"] != data["examples"]:
                raise UserError(
                    f"config.data: there are {data['examples']} examples, and the run in --workdir={workdir} "
                    f"is on {before['examples']}: their order would be another; take the old data, or "
                    "another --workdir"
                )
            if before != data:
                warn("config.data: the examples are not those that the run began with")

        began = time.monotonic()
        state, scores = run_training(
            Run(
                experiment=experiment,
                data=batches(
                    source,
                    seed=config.training.seed,
                    batch_size=config.data.batch_size,
                    flip=config.data.flip,
                    process_index=jax.process_index(),
                    process_count=jax.process_count(),
                ),
                evaluate=evaluate,
                placement=placement,
                checkpoints=checkpoints,
                records=records,
                stop=stop,
                say=say,
                warn=warn,
            ),
            workdir,
            seed=config.training.seed,
            batch_size=config.data.batch_size,
            schedule=Schedule(
                num_steps=config.training.steps,
                log_every=config.training.log_every,
                save_every=config.checkpoint.every,
                evaluate_every=config.evaluation.every,
                rollbacks=config.guard.rollbacks,
                best_of=config.checkpoint.best_of,
            ),
            limits=Limits(config.guard.spike, config.guard.loss, config.guard.max_abs),
            about={
                "config": config.to_dict(),
                "data": data,
                "machine": provenance.machine(),
                **provenance.versions(),
            },
            accept=accept,
        )
        seconds = time.monotonic() - began
        say(f"done in {seconds:.0f} s; samples in {workdir / 'samples'}")
        if not metrics:
            return
        about = {
            "step": config.training.steps,
            "weights_sha256": digest(Weights(state.ema_params, state.ema_vectors)),
            "evaluation": config.evaluation.to_dict(),
        }
        known = _read_scores(workdir / SCORES) if first and scores is None else {}
        if everywhere(not first or all(known.get(name) == value for name, value in about.items())):
            scores = known.get("scores", {})
        else:
            if scores is None:  # the run was stopped between its last evaluation and here
                scores = evaluate(config.training.steps, Weights(state.ema_params, state.ema_vectors))
            untrained = init_state(experiment, placement, config.training.seed)
            bounds = evaluate.bounds(Weights(untrained.ema_params, untrained.ema_vectors))
            scores = {**scores, **bounds}
            if first:
                told = {**about, "scores": scores, "data": data, **provenance.versions()}
                content = json.dumps(told, indent=1) + "\n"
                files.write(workdir / SCORES, content)
        for name, value in scores.items():
            say(f"{name:<36} {value:.4f}")


def _check_best(config: Config, metrics: list[str]) -> None:
    """Raises UserError if the score that marks the best checkpoint is not among those that are measured."""
    best_of = config.checkpoint.best_of
    names = measures.lowest(metrics, config.evaluation.num_samples, config.levels.count)
    if best_of is not None and best_of not in names:
        raise UserError(
            f"config.checkpoint.best_of={best_of!r} is not measured, or not best when it is lowest; "
            f"config.evaluation.metrics={config.evaluation.metrics!r} gives {', '.join(names) or 'none'}"
        )


def _take_workdir(opened: ExitStack, config: Config, workdir: epath.Path, say: Say) -> list[str]:
    """Locks the folder and leaves the config there. Returns what has changed in it since the run began."""
    opened.enter_context(files.held(workdir))
    if not files.is_local(workdir):
        say(f"--workdir={workdir} cannot be locked: see that no other job uses it")
    changed = changes(workdir, config)
    try:
        schema.save(config, workdir / schema.FILE)
    except OSError as error:
        raise UserError(f"--workdir={workdir} cannot be written: {error.strerror or error}") from None
    return changed


def _overview(config: Config, experiment: Experiment, examples: int) -> str:
    state = jax.eval_shape(experiment.init_state, jax.random.key(0))
    table = parameter_overview.get_parameter_overview(state.params, include_stats=False)
    return "\n".join(
        [
            table,
            f"{experiment.levels.num_levels} levels, {config.sampler.steps} Langevin steps each; "
            f"{examples} examples of {config.data.name}, {config.data.batch_size} a step",
            f"runs on {devices.describe()}",
        ]
    )


def _read_scores(file: epath.Path) -> dict[str, Any]:
    """The scores of a run that ended; none if there are none that can be read."""
    try:
        scores = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return scores if isinstance(scores, dict) else {}
