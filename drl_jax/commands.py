"""The commands of the program: each puts an experiment together and runs it."""

import json
import os
import time
from pathlib import Path

import jax
import numpy as np
from clu import parameter_overview
from etils import epath

from drl_jax import configuration
from drl_jax.configuration import Config
from drl_jax.data import densities
from drl_jax.data.pipeline import batches, to_uint8
from drl_jax.errors import UserError
from drl_jax.evaluation import Evaluation, PictureEvaluation, PointEvaluation
from drl_jax.experiment import Experiment, build, open_data
from drl_jax.parallel import devices
from drl_jax.parallel.devices import Placement
from drl_jax.reporting import pictures
from drl_jax.sampling import Sampler, Weights
from drl_jax.training.checkpoints import open_checkpoints
from drl_jax.training.loop import init_state
from drl_jax.training.loop import train as run_training

SCORES = "scores.json"  # of the last step, in the workdir


def start() -> None:
    """Settings of JAX for every command. Compiled programs are kept, so that a second start is quick."""
    if not jax.config.values["jax_compilation_cache_dir"]:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "drl_jax"
        jax.config.update("jax_compilation_cache_dir", str(cache))


def train(config: Config, workdir: epath.Path, config_file: str) -> None:
    """Trains a model, or goes on with the one in the workdir."""
    experiment = build(config)
    saved = workdir / configuration.FILE
    if saved.exists():
        configuration.refuse_changes(configuration.load(saved), config, str(workdir))
    source = open_data(config, f"python -m drl_jax prepare --config={config_file}")
    devices.start(config.data.batch_size)
    placement = devices.place(config.data.batch_size)
    sampler = make_sampler(config, experiment, placement)
    first = jax.process_index() == 0
    say = _say if first else _say_nothing
    if first:
        _make(workdir)
        configuration.save(config, saved)
    say(_overview(config, experiment, len(source)))

    if config.data.name == "points":
        evaluate: Evaluation = PointEvaluation(
            experiment,
            densities.by_name(config.data.density),
            sampler,
            num_samples=config.evaluation.num_samples,
            folder=workdir / "samples" if first else None,
            score=config.evaluation.metric == "total_variation",
        )
    else:
        evaluate = PictureEvaluation(
            sampler,
            num_samples=config.evaluation.num_samples,
            folder=workdir / "samples" if first else None,
            source=source if config.evaluation.metric == "frechet_pixels" else None,
        )
    began = time.monotonic()
    state, scores = run_training(
        experiment,
        batches(
            source,
            seed=config.training.seed,
            batch_size=config.data.batch_size,
            flip=config.data.flip,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        ),
        evaluate,
        placement,
        workdir,
        seed=config.training.seed,
        batch_size=config.data.batch_size,
        num_steps=config.training.steps,
        log_every=config.training.log_every,
        save_every=config.checkpoint.every,
        evaluate_every=config.evaluation.every,
        keep=config.checkpoint.keep,
        say=say,
    )
    seconds = time.monotonic() - began
    say(f"done in {seconds:.0f} s; samples in {workdir / 'samples'}")
    written = workdir / SCORES
    if config.evaluation.metric == "none" or (scores is None and written.exists()):
        return
    if scores is None:  # the run was stopped between its last checkpoint and here
        scores = evaluate(config.training.steps, Weights(state.ema_params, state.ema_vectors))
    untrained = init_state(experiment, placement, config.training.seed)
    scores = {**scores, **evaluate.reference(Weights(untrained.ema_params, untrained.ema_vectors))}
    for name, value in scores.items():
        say(f"{name:<36} {value:.4f}")
    if first:
        written.write_text(json.dumps(scores, indent=1) + "\n")


def sample(config: Config, workdir: epath.Path) -> None:
    """Draws from the averaged weights of the newest checkpoint: samples.npz and a grid, in the workdir."""
    experiment = build(config)
    saved = workdir / configuration.FILE
    if not saved.exists():
        raise UserError(f"--workdir={workdir} holds no run: there is no {saved}; train one first")
    configuration.refuse_changes(configuration.load(saved), config, str(workdir))
    devices.start()
    placement = devices.place()
    sampler = make_sampler(config, experiment, placement)
    with open_checkpoints(workdir / "checkpoints", keep=config.checkpoint.keep) as checkpoints:
        if checkpoints.latest_step is None:
            raise UserError(f"--workdir={workdir} holds no checkpoint yet; train longer")
        like = jax.eval_shape(experiment.init_state, jax.random.key(0))
        state, _ = checkpoints.restore(like, placement)

    count, began = config.evaluation.num_samples, time.monotonic()
    drawn = list(sampler.batches(Weights(state.ema_params, state.ema_vectors), count))
    samples = np.concatenate([x for x, _ in drawn])
    seconds = time.monotonic() - began
    if jax.process_index() != 0:
        return
    grid = workdir / "samples.png"
    if config.data.name == "points":
        density = densities.by_name(config.data.density)
        pictures.save_points(samples, density, grid)
    else:
        samples = to_uint8(samples)
        pictures.save_grid(samples, grid)
        pictures.save_process(drawn[0][1][:, : pictures.STRIPS], workdir / "process.png")
    with (workdir / "samples.npz").open("wb") as file:
        np.savez(file, arr_0=samples)
    _say(f"{count} samples of step {int(state.step)} in {seconds:.1f} s: {workdir / 'samples.npz'}, {grid}")


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


def _make(workdir: epath.Path) -> None:
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / ".writable"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise UserError(f"--workdir={workdir} cannot be written: {error.strerror}") from None


def _say(line: str) -> None:
    print(line, flush=True)


def _say_nothing(line: str) -> None:
    del line
