"""`train`: trains a model, or continues the run in the workdir."""

import json
import logging
import os
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from clu import parameter_overview
from etils import epath

from drl_jax import files
from drl_jax.checkpoints.digests import describe as describe_arrays
from drl_jax.checkpoints.digests import sha256
from drl_jax.checkpoints.orbax import FOLDER, Retention, open_checkpoints, steps
from drl_jax.checkpoints.weights import find
from drl_jax.commands.job import start_job
from drl_jax.config import resume, schema
from drl_jax.config.build import Components, build, make_sampler, open_compared, open_data
from drl_jax.config.schema import Config
from drl_jax.config.scoring import check_examples, make_evaluator, metric_names
from drl_jax.core.model import Model
from drl_jax.core.types import Tree
from drl_jax.data.sources import Opened, fingerprint
from drl_jax.data.stream import batches
from drl_jax.errors import UserError
from drl_jax.evaluation.evaluator import Evaluator
from drl_jax.evaluation.scores import lower_is_better
from drl_jax.ownership import Check, owned
from drl_jax.parallel.consensus import all_processes, on_process_0, together
from drl_jax.parallel.mesh import describe
from drl_jax.parallel.preemption import Stop
from drl_jax.report import provenance
from drl_jax.report.metrics_log import NullLog, open_log
from drl_jax.training.guard import Thresholds
from drl_jax.training.loop import Cadence, Run, Scores
from drl_jax.training.loop import train as run_loop
from drl_jax.training.step import TrainState

SCORES = "scores.json"  # of the last step, in the workdir
_MAX_SKIPPED = 1000  # damaged examples that are recorded
_logger = logging.getLogger(__name__)


def train(config: Config, workdir: epath.Path, prepare_command: str, stop: Stop) -> None:
    """Trains a model, or continues the run in the workdir.

    Raises:
      UserError: the config, the data or the workdir is not right, or the run diverged too often.
      Stopped: a signal came and the state is saved.
    """
    parts, metrics = build(config), metric_names(config)
    _check_best(config, metrics)
    resume.changes_in_workdir(workdir, config)
    _check_apart(config, workdir)
    source = open_data(config, prepare_command)
    compared, against = open_compared(config, source, prepare_command)
    check_examples(config, metrics, against)
    sources = {"config.data": source}
    if against is not source:
        sources["config.evaluation.split"] = against
    job = start_job(
        stop,
        "train",
        config,
        workdir=workdir,
        sources=sources,
        batch_size=config.data.batch_size,
    )
    with job as placement, ExitStack() as opened:
        is_first = jax.process_index() == 0
        taken = on_process_0(lambda: _take_workdir(opened, config, workdir))
        changed, check_owner = taken or ([], lambda: None)
        _logger.info("%s", _overview(config, parts, len(source)))
        for line in changed:
            _logger.info("%s", line)
        sampler = make_sampler(config, parts, placement, stop)
        folder = workdir / "samples" if is_first else None
        evaluator = together(
            lambda: make_evaluator(compared, metrics, against, parts.shape, placement, sampler, folder)
        )
        data = fingerprint(source)
        _record_skipped(source, workdir)
        weights = together(lambda: _weights_to_begin_with(config, parts, workdir))
        init = jax.jit(partial(_init_state, parts), out_shardings=placement.replicated)
        key = placement.replicate(jax.random.key(config.training.seed))

        def validate(record: Mapping[str, Any]) -> None:
            # The checkpoint's own record counts: the file in the workdir may have been edited or lost.
            resume.validate(record["config"], config, workdir)
            _validate_data(record["data"], data, workdir)

        run = Run(
            begin=lambda: on_process_0(lambda: _save_config(config, workdir)),
            init=lambda: init(key, weights),
            step=placement.data_parallel(parts.train_step()),
            evaluate=lambda step, state: evaluator(step, _averaged(parts, state)),
            data=opened.enter_context(
                closing(  # its threads would keep the process for seconds
                    batches(
                        source,
                        seed=config.training.seed,
                        batch_size=config.data.batch_size,
                        flip=config.data.flip,
                        process_index=jax.process_index(),
                        process_count=jax.process_count(),
                    )
                )
            ),
            placement=placement,
            checkpoints=opened.enter_context(
                open_checkpoints(
                    workdir / FOLDER,
                    Retention(config.checkpoint.keep, config.checkpoint.keep_every),
                    before_save=lambda: on_process_0(check_owner),
                )
            ),
            log=opened.enter_context(open_log(workdir)) if is_first else NullLog(),
            stop=stop,
            workdir=workdir,
        )
        began = time.monotonic()
        state, scores = run_loop(
            run,
            Cadence(
                num_steps=config.training.steps,
                log_every=config.training.log_every,
                save_every=config.checkpoint.every,
                evaluate_every=config.evaluation.every,
            ),
            batch_size=config.data.batch_size,
            thresholds=Thresholds(config.guard.spike, config.guard.loss, config.guard.max_abs),
            max_rollbacks=config.guard.rollbacks,
            best_of=config.checkpoint.best_of,
            metadata={
                "config": schema.to_dict(config),
                "data": data,
                "machine": provenance.machine(),
                **provenance.versions(),
            },
            validate=validate,
        )
        _logger.info("trained in %.0f s; samples in %s", time.monotonic() - began, workdir / "samples")
        if metrics:
            _logger.info("scoring by config.evaluation.metrics=%s", config.evaluation.metrics)
            untrained = _averaged(parts, init(key, None)) if config.evaluation.score_untrained else None
            damaged = {"damaged_and_replaced": source.notes.skipped} if config.data.skip_damaged else {}
            scores = _final_scores(
                config, workdir, evaluator, _averaged(parts, state), untrained, scores, data | damaged
            )
            for name, value in scores.items():
                _logger.info("%-36s %.4f", name, value)


def _averaged(parts: Components, state: TrainState) -> Model:
    return state.averaged_model(parts.network, parts.levels)


def _init_state(parts: Components, key: jax.Array, weights: Tree) -> TrainState:
    """The state before the first step, with given weights if there are any."""
    state = parts.init_state(key)
    if weights is None:
        return state
    params, spectral = jax.tree.map(jnp.asarray, (weights["params"], weights["spectral"]))
    # Copies: donation refuses one buffer in two places.
    averages = jax.tree.map(jnp.copy, (params, spectral))
    return state.replace(params=params, spectral=spectral, ema_params=averages[0], ema_spectral=averages[1])


def _weights_to_begin_with(config: Config, parts: Components, workdir: epath.Path) -> Tree:
    """The weights that config.training.init names; None if it names none, or if the run has begun."""
    source = config.training.init
    if source is None or steps(workdir / FOLDER):
        return None
    try:
        weights = find(source).tree
    except UserError as error:
        raise UserError(f"config.training.init={source!r} is not possible: {error}") from None
    state = jax.eval_shape(parts.init_state, jax.random.key(0))
    own = describe_arrays({"params": state.params, "spectral": state.spectral})
    given = describe_arrays(weights)
    if other := [name for name in own | given if own.get(name) != given.get(name)]:
        raise UserError(
            f"config.training.init={source!r} has another network than config.network: {len(other)} arrays "
            f"differ, first {other[0]}"
        )
    return weights


def _final_scores(
    config: Config,
    workdir: epath.Path,
    evaluator: Evaluator,
    model: Model,
    untrained: Model | None,
    scores: Scores | None,
    data: Mapping[str, Any],
) -> Scores:
    """The scores of the last step beside those of a perfect and of an untrained model, in scores.json."""
    identity = {
        "step": config.training.steps,
        "weights_sha256": sha256(model),
        "evaluation": schema.to_dict(config)["evaluation"],
    }
    is_first = jax.process_index() == 0
    known = _read_scores(workdir / SCORES) if is_first and scores is None else {}
    if all_processes(not is_first or all(known.get(name) == value for name, value in identity.items())):
        return known.get("scores", {})
    if scores is None:  # the run was stopped between its last evaluation and here
        scores = evaluator(config.training.steps, model)
    scores = {**scores, **evaluator.bounds(untrained)}
    if is_first:
        content = {**identity, "scores": scores, "data": data, **provenance.versions()}
        files.write(workdir / SCORES, json.dumps(content, indent=1) + "\n")
    return scores


def _validate_data(before: Mapping[str, Any], now: Mapping[str, Any], workdir: epath.Path) -> None:
    """Refuses another number of examples; warns about other examples."""
    if before["examples"] != now["examples"]:
        raise UserError(
            f"config.data: there are {now['examples']} examples, and the run in --workdir={workdir} was "
            f"trained on {before['examples']}, in another order; use the old data, or another --workdir"
        )
    if before != now:
        _logger.warning("config.data: the examples are not the ones that the run began with")


def _check_apart(config: Config, workdir: epath.Path) -> None:
    """Raises UserError if the images are in the workdir itself, where samples would come among them."""
    path = config.data.path
    if config.data.name != "folder" or path is None or not files.is_local(workdir):
        return
    if os.path.realpath(os.path.expanduser(path)) == os.path.realpath(workdir):
        raise UserError(f"--workdir={workdir} is config.data.path too; take another folder for the run")


def _record_skipped(source: Opened, workdir: epath.Path) -> None:
    """Keeps a list of the damaged examples that this process meets, in the workdir."""
    file = workdir / f"skipped_{jax.process_index()}.txt"
    try:
        earlier = file.read_text().splitlines()
    except OSError:  # there is none
        earlier = []

    def write(lines: list[str]) -> None:
        if len(lines) <= _MAX_SKIPPED:
            files.write(file, "".join(f"{line}\n" for line in dict.fromkeys([*earlier, *lines])))

    source.notes.record(write)


def _check_best(config: Config, metrics: list[str]) -> None:
    """Raises UserError if the score that marks the best checkpoint is not measured."""
    best_of = config.checkpoint.best_of
    names = lower_is_better(metrics, config.evaluation.num_samples, config.levels.count)
    if best_of is not None and best_of not in names:
        raise UserError(
            f"config.checkpoint.best_of={best_of!r} is not measured, or not best when it is lowest; "
            f"config.evaluation.metrics={config.evaluation.metrics!r} gives {', '.join(names) or 'none'}"
        )


def _take_workdir(opened: ExitStack, config: Config, workdir: epath.Path) -> tuple[list[str], Check]:
    """Keeps other jobs out of the workdir.

    Returns the changes since the run began, and what checks that no other job has taken the workdir.
    """
    check = opened.enter_context(owned(workdir))
    return resume.changes_in_workdir(workdir, config), check


def _save_config(config: Config, workdir: epath.Path) -> None:
    try:
        schema.save(config, workdir / schema.FILE)
    except OSError as error:
        raise UserError(f"--workdir={workdir} cannot be written: {error.strerror or error}") from None


def _overview(config: Config, parts: Components, num_examples: int) -> str:
    state = jax.eval_shape(parts.init_state, jax.random.key(0))
    table = parameter_overview.get_parameter_overview(state.params, include_stats=False)
    return "\n".join(
        [
            table,
            f"{parts.levels.num_levels} levels, {_describe(config)}; {num_examples} examples of "
            f"{config.data.name}, {config.data.batch_size} per step",
            f"runs on {describe()}",
        ]
    )


def _describe(config: Config) -> str:
    """How a level is trained."""
    if config.training.objective == "score":
        return "denoising score matching"
    if config.sampler.name == "normal":
        return "one draw from a normal approximation each"
    return f"{config.sampler.steps} steps of {config.sampler.name} each"


def _read_scores(file: epath.Path) -> dict[str, Any]:
    """The content of scores.json; empty if it cannot be read."""
    try:
        scores = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return scores if isinstance(scores, dict) else {}
