"""The commands of the program: each puts an experiment together and runs it."""

import io
import json
import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import jax
import numpy as np
from clu import parameter_overview
from etils import epath

from drl_jax import configuration, storage
from drl_jax.configuration import Config
from drl_jax.data import densities
from drl_jax.data.pipeline import batches, to_uint8
from drl_jax.data.sources import Source
from drl_jax.errors import UserError
from drl_jax.evaluation import Evaluation, PictureEvaluation, PointEvaluation, scores_of
from drl_jax.experiment import Experiment, build, open_data
from drl_jax.parallel import devices
from drl_jax.parallel.devices import Placement, everywhere
from drl_jax.parallel.stopping import Stop
from drl_jax.reporting import pictures, provenance
from drl_jax.reporting.records import Nowhere, open_records
from drl_jax.sampling import Sampler, Weights
from drl_jax.training.checkpoints import FOLDER, Keep, hush, load, open_checkpoints, steps
from drl_jax.training.guard import Limits
from drl_jax.training.loop import Run, Say, Schedule, init_state
from drl_jax.training.loop import train as run_training

SCORES = "scores.json"  # of the last step, in the workdir


def start() -> None:
    """Settings of JAX for every command. Compiled programs are kept, so that a second start is quick."""
    if not jax.config.values["jax_compilation_cache_dir"]:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "drl_jax"
        jax.config.update("jax_compilation_cache_dir", str(cache))
    hush()


def train(config: Config, workdir: epath.Path, prepare_command: str, stop: Stop) -> None:
    """Trains a model, or goes on with the one in the workdir."""
    experiment = build(config)
    best_of, names = config.checkpoint.best_of, scores_of(config.evaluation.metric, config.levels.count)
    if best_of is not None and best_of not in names:
        raise UserError(
            f"config.checkpoint.best_of={best_of!r} is not measured; "
            f"config.evaluation.metric={config.evaluation.metric!r} gives {', '.join(names) or 'none'}"
        )
    saved = workdir / configuration.FILE
    _changes(saved, config)
    source = open_data(config, prepare_command)
    devices.start(config.data.batch_size)
    stop.linger = devices.linger()
    placement = devices.place(config.data.batch_size)
    sampler = make_sampler(config, experiment, placement)
    first = jax.process_index() == 0
    say = _say if first else _say_nothing
    with ExitStack() as opened:
        changed, refusal = _take_workdir(opened, config, workdir, say) if first else ([], None)
        if not everywhere(refusal is None):
            raise refusal or UserError("the first process of the job could not start; its line says why")
        say(_overview(config, experiment, len(source)))
        for line in changed:
            say(line)
        evaluate = _evaluation(config, experiment, sampler, source, workdir / "samples" if first else None)
        records = opened.enter_context(open_records(workdir, _warn)) if first else Nowhere()
        keep = Keep(config.checkpoint.keep, config.checkpoint.keep_every)
        checkpoints = opened.enter_context(open_checkpoints(workdir / FOLDER, keep))
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
                warn=_warn if first else _say_nothing,
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
            limits=Limits(config.guard.spike, config.guard.loss, config.guard.reach),
            about={"config": config.to_dict(), **provenance.versions()},
        )
        seconds = time.monotonic() - began
        say(f"done in {seconds:.0f} s; samples in {workdir / 'samples'}")
        written = workdir / SCORES
        if config.evaluation.metric == "none" or everywhere(
            not first or (scores is None and _step_of(written) == config.training.steps)
        ):
            return
        if scores is None:  # the run was stopped between its last evaluation and here
            scores = evaluate(config.training.steps, Weights(state.ema_params, state.ema_vectors))
        untrained = init_state(experiment, placement, config.training.seed)
        scores = {**scores, **evaluate.reference(Weights(untrained.ema_params, untrained.ema_vectors))}
        for name, value in scores.items():
            say(f"{name:<36} {value:.4f}")
        if first:
            scores = {"step": config.training.steps, **scores}
            storage.write(written, json.dumps(scores, indent=1) + "\n")


def _take_workdir(
    opened: ExitStack, config: Config, workdir: epath.Path, say: Say
) -> tuple[list[str], UserError | None]:
    """Locks the folder and leaves the config there. Returns what has changed in it since the run began, and
    a refusal, for the other processes of the job to hear of."""
    try:
        opened.enter_context(storage.held(workdir))
        if not storage.is_local(workdir):
            say(f"--workdir={workdir} cannot be locked: see that no other job uses it")
        changed = _changes(workdir / configuration.FILE, config)
        configuration.save(config, workdir / configuration.FILE)
    except UserError as error:
        return [], error
    except OSError as error:
        return [], UserError(f"--workdir={workdir} cannot be written: {error.strerror or error}")
    return changed, None


def _changes(saved: epath.Path, config: Config) -> list[str]:
    """As `configuration.changes`; none where nothing was saved yet, which leaves all settings free."""
    if not saved.exists() or not steps(saved.parent / FOLDER):
        return []
    return configuration.changes(configuration.load(saved), config, str(saved.parent))


def _evaluation(
    config: Config, experiment: Experiment, sampler: Sampler, source: Source, folder: epath.Path | None
) -> Evaluation:
    if config.data.name == "points":
        return PointEvaluation(
            experiment,
            densities.by_name(config.data.density),
            sampler,
            num_samples=config.evaluation.num_samples,
            folder=folder,
            score=config.evaluation.metric == "total_variation",
        )
    return PictureEvaluation(
        sampler,
        num_samples=config.evaluation.num_samples,
        folder=folder,
        source=source if config.evaluation.metric == "frechet_pixels" else None,
    )


def sample(config: Config, workdir: epath.Path, stop: Stop) -> None:
    """Draws from the averaged weights of the newest checkpoint: samples.npz and a grid, in the workdir."""
    experiment = build(config)
    saved = workdir / configuration.FILE
    if not saved.exists():
        raise UserError(f"--workdir={workdir} holds no run: there is no {saved}; train one first")
    _changes(saved, config)
    devices.start()
    stop.linger = devices.linger()
    placement = devices.place()
    sampler = make_sampler(config, experiment, placement)
    like = jax.eval_shape(experiment.init_state, jax.random.key(0))
    first = jax.process_index() == 0
    checkpoint, _ = load(workdir / FOLDER, like, placement, _warn if first else _say_nothing)
    if checkpoint is None:
        raise UserError(f"--workdir={workdir} holds no checkpoint yet; train longer")

    count, began = config.evaluation.num_samples, time.monotonic()
    weights = Weights(checkpoint.state.ema_params, checkpoint.state.ema_vectors)
    drawn = list(sampler.batches(weights, count))
    samples = np.concatenate([x for x, _ in drawn])
    seconds = time.monotonic() - began
    if not first:
        return
    grid = workdir / "samples.png"
    if config.data.name == "points":
        density = densities.by_name(config.data.density)
        pictures.save_points(samples, density, grid)
    else:
        samples = to_uint8(samples)
        pictures.save_grid(samples, grid)
        pictures.save_process(drawn[0][1][:, : pictures.STRIPS], workdir / "process.png")
    file = io.BytesIO()
    np.savez(file, arr_0=samples)
    storage.write(workdir / "samples.npz", file.getvalue())
    _say(f"{count} samples of step {checkpoint.step} in {seconds:.1f} s: {workdir / 'samples.npz'}, {grid}")


def prepare(config: Config) -> None:
    """Fetches and prepares the data set that a config names, if it is not there yet."""
    from drl_jax.data.prepare import prepare as prepare_data

    _say(prepare_data(config.data.name, data_dir=config.data.data_dir, path=config.data.path))


def make_sampler(config: Config, experiment: Experiment, placement: Placement) -> Sampler:
    """The sampler of `config.evaluation`, on all devices."""
    return Sampler(
        experiment,
        placement,
        batch_size=config.evaluation.batch_size,
        seed=config.evaluation.seed,
        num_steps=config.langevin.steps,
        noise_scale=config.langevin.noise_scale,
        spread=config.langevin.spread,
    )


def _overview(config: Config, experiment: Experiment, examples: int) -> str:
    state = jax.eval_shape(experiment.init_state, jax.random.key(0))
    table = parameter_overview.get_parameter_overview(state.params, include_stats=False)
    return "\n".join(
        [
            table,
            f"{experiment.levels.num_levels} levels, {config.langevin.steps} Langevin steps each; "
            f"{examples} examples of {config.data.name}, {config.data.batch_size} a step",
            f"runs on {devices.describe()}",
        ]
    )


def _step_of(scores: epath.Path) -> int | None:
    """The step that a file of scores is about."""
    try:
        return json.loads(scores.read_text())["step"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _say(line: str) -> None:
    print(line, flush=True)


def _warn(line: str) -> None:
    print(f"drl-jax: {line}", file=sys.stderr, flush=True)


def _say_nothing(line: str) -> None:
    del line
