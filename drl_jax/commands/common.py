"""What several commands do alike."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from etils import epath

from drl_jax.checkpoints.orbax import FOLDER, Checkpoint, hush, load, steps
from drl_jax.config import schema
from drl_jax.config.build import Experiment
from drl_jax.config.schema import Config
from drl_jax.data import densities
from drl_jax.data.sources import Source, data_directory
from drl_jax.errors import UserError
from drl_jax.evaluation import features, measures
from drl_jax.evaluation.evaluator import Domain, Images, Points
from drl_jax.evaluation.features import Space
from drl_jax.evaluation.reference import Reference, measure_data
from drl_jax.parallel.devices import Placement
from drl_jax.parallel.preemption import Stop
from drl_jax.parallel.sampler import Sampler, Weights
from drl_jax.training.loop import Say


def start() -> None:
    """Settings of JAX for every command. Compiled programs are kept, so that a second start is quick."""
    if not jax.config.values["jax_compilation_cache_dir"]:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "drl_jax"
        jax.config.update("jax_compilation_cache_dir", str(cache))
    hush()


def voices() -> tuple[Say, Say]:
    """(say, warn) of the first process of a job; the others are silent."""
    return (_say, _warn) if jax.process_index() == 0 else (_say_nothing, _say_nothing)


def changes(workdir: epath.Path, config: Config) -> list[str]:
    """As `schema.changes`; none where nothing was saved yet, which leaves all settings free."""
    saved = workdir / schema.FILE
    if not saved.exists() or not steps(workdir / FOLDER):
        return []
    return schema.changes(schema.load(saved), config, str(workdir))


def make_sampler(config: Config, experiment: Experiment, placement: Placement, stop: Stop) -> Sampler:
    """The sampler of `config.evaluation`, on all devices."""
    return Sampler(
        experiment,
        placement,
        stop,
        rows=config.evaluation.samples_per_device,
        seed=config.evaluation.seed,
        num_steps=config.sampler.steps,
        noise_scale=config.sampler.noise_scale,
        spread=config.sampler.step_range,
    )


def make_domain(config: Config, experiment: Experiment) -> Domain:
    """Images, or points of the config's density."""
    if config.data.name != "points":
        return Images()
    return Points(experiment, densities.by_name(config.data.density))


def metrics_of(config: Config, *, samples: bool = True) -> list[str]:
    """The metrics that a config names. Raises UserError for one that there is not, and for what it lacks:
    Inception's weights, or (if it is about `samples`) enough of these."""
    names = measures.parse(config.evaluation.metrics, points=config.data.name == "points")
    needed = measures.spaces_of(names)
    if "inception" in needed and config.evaluation.inception_weights is None:
        raise UserError(
            f"config.evaluation.metrics={config.evaluation.metrics!r} needs Inception: set "
            f"config.evaluation.inception_weights to torch-fidelity's file, or to {features.FETCH}: download it"
        )
    fewest = measures.fewest(names)
    if samples and config.evaluation.num_samples < fewest:
        raise UserError(
            f"config.evaluation.num_samples={config.evaluation.num_samples} is too few for "
            f"config.evaluation.metrics={config.evaluation.metrics!r}: {fewest} are the least"
        )
    return names


def make_spaces(
    config: Config, metrics: Sequence[str], shape: tuple[int, ...], placement: Placement
) -> list[Space]:
    """The spaces that metrics need. Raises UserError, for Inception's weights."""
    made = []
    for name in measures.spaces_of(metrics):
        if name == "inception":
            path = config.evaluation.inception_weights
            if path == features.FETCH:
                path = features.fetch_weights(data_folder(config) / "downloads")
            made.append(features.inception_space(path, config.evaluation.inception_sha256, placement))
        else:
            made.append(features.data_space(shape))
    return made


def read_reference(
    config: Config, source: Source, metrics: Sequence[str], spaces: Sequence[Space], warn: Say
) -> Reference:
    """What metrics measure against, of the examples of a source; kept beside the data."""
    cache = data_folder(config) / "features"
    return measure_data(source, features, cache, warn, fewest=measures.fewest(metrics))


def about_data(config: Config, source: Source, reference: Reference) -> dict[str, Any]:
    """What scores are measured against, for a protocol."""
    data = config.data
    used = {"path": data.path} if data.name == "folder" else {"split": data.split}
    if data.name == "points":
        used = {"density": data.density}
    else:
        used |= {
            "image_size": data.image_size,
            "colors": data.channels,
            "crop": data.crop or "as the set's own",
        }
    compared = {
        f"examples_in_{space}": population.size for space, population in reference.populations().items()
    }
    return {"name": data.name, **used, "count": len(source), "sha256": reference.sha256, **compared}


def protocol_lines(protocol: Mapping[str, Mapping[str, Any]], code: Mapping[str, Any]) -> list[str]:
    """A protocol as it is printed, and the code's own version (`provenance.versions`)."""
    lines = [
        f"{topic}: " + ", ".join(f"{name} {value}" for name, value in facts.items())
        for topic, facts in protocol.items()
        if facts
    ]
    return [*lines, f"code: commit {code['commit']}, drl_jax {code['versions']['drl_jax']}"]


def data_folder(config: Config) -> epath.Path:
    """Where data sets, and what is made of them, are kept."""
    return data_directory(config.data.data_dir)


def load_weights(
    workdir: epath.Path, config: Config, experiment: Experiment, placement: Placement, warn: Say
) -> tuple[Checkpoint, Weights]:
    """The averaged weights of the checkpoint that `config.evaluation.step` names, or of the newest.

    Raises UserError if there is none.
    """
    if not (workdir / schema.FILE).exists():
        missing = workdir / schema.FILE
        raise UserError(f"--workdir={workdir} holds no run: there is no {missing}; train one first")
    changes(workdir, config)
    like = jax.eval_shape(experiment.init_state, jax.random.key(0))
    step = config.evaluation.step
    checkpoint, _ = load(workdir / FOLDER, like, placement, warn, only=step)
    if checkpoint is None and step is not None:
        there = ", ".join(map(str, steps(workdir / FOLDER))) or "none"
        raise UserError(
            f"config.evaluation.step={step} has no checkpoint in --workdir={workdir}; there are: {there}"
        )
    if checkpoint is None:
        raise UserError(f"--workdir={workdir} holds no checkpoint yet; train longer")
    # Its own word for what it was trained with: the workdir's file may have been edited.
    schema.changes(checkpoint.record["config"], config, str(workdir))
    return checkpoint, Weights(checkpoint.state.ema_params, checkpoint.state.ema_vectors)


def _say(line: str) -> None:
    print(line, flush=True)


def _warn(line: str) -> None:
    print(f"drl-jax: {line}", file=sys.stderr, flush=True)


def _say_nothing(line: str) -> None:
    del line
