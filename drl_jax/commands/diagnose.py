"""`diagnose`: what the chain of each level does to images of the data, and what more steps of it change."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from drl_jax import arrays, files
from drl_jax.api import TrainedModel
from drl_jax.commands.application import metrics_of_examples, some_examples, some_levels
from drl_jax.config.build import open_compared, open_data
from drl_jax.config.identity import identity
from drl_jax.config.options import Diagnose
from drl_jax.config.restore import prepare_command
from drl_jax.config.scoring import (
    check_examples,
    make_extractors,
    protocol_lines,
    protocol_of_scores,
    read_reference,
    score_examples,
    warn_of_singular_covariances,
)
from drl_jax.core.levels import diffuse
from drl_jax.core.randomness import example_keys
from drl_jax.errors import UserError
from drl_jax.evaluation import scores
from drl_jax.evaluation.scores import Scores
from drl_jax.parallel.mesh import place
from drl_jax.parallel.preemption import Stop, raise_on_signal
from drl_jax.pixels import to_unit
from drl_jax.report import provenance
from drl_jax.report.console import aligned
from drl_jax.report.images import save_columns

_SHOWN = 8  # images in the image
_logger = logging.getLogger(__name__)


class Row(NamedTuple):
    """What a number of steps at a level does. Means are over chains.

    Attributes:
      level: t.
      steps: of the chain, from x_{t+1} of the data.
      gap: the energy −f of the chains minus that of x_t of the data, in nats. Training drives it to 0 for its
        own number of steps.
      displacement: of the chain from x_{t+1}, over that of x_t of the data.
      scores: of x_0, which the levels below t draw.
    """

    level: int
    steps: int
    gap: float
    displacement: float
    scores: Scores


class Level(NamedTuple):
    """What was measured at a level.

    Attributes:
      rows: one for each number of steps.
      examples: x_0 after each number of steps [numbers, n, *shape].
    """

    rows: list[Row]
    examples: np.ndarray


def diagnose(model: TrainedModel, options: Diagnose, output: epath.Path, stop: Stop) -> None:
    """Measures the chain of each level on data: diagnose.json, diagnose.npz and, of images, diagnose.png.

    The data are diffused to x_{t+1}. The chain of level t moves them to x_t, and the levels below to x_0. The
    scores of x_0 show what the levels t … 0 lose together.

    Args:
      model: the model.
      options: the levels, the numbers of steps, and how the chains move.
      output: where the files are written.
      stop: unused: a signal ends the command at once.

    Raises:
      UserError: an option is not possible, or chains left the finite numbers.
    """
    del stop
    steps, levels = _steps(model, options), some_levels(model, options.levels)
    config, metrics = metrics_of_examples(model.config, options.count)
    with raise_on_signal():
        source = open_data(config, prepare_command(model.source))
        compared, against = open_compared(config, source, prepare_command(model.source))
        check_examples(config, metrics, against)
        extractors = make_extractors(config, metrics, model.parts.shape, place())
        reference = read_reference(compared, against, metrics, extractors)
        warn_of_singular_covariances(metrics, options.count, reference)
        score = lambda x: score_examples(metrics, extractors, x, reference)
        x = some_examples(source, options.seed, options.count)
        measured = []
        for level in levels:
            measured.append(measure(model, x, level, steps, options, score))
            _logger.info("level %d is measured", level)
        bounds = {
            "samples": score(model.sample(options.seed, options.count)),
            "data": score(x),
            "data_vs_data": scores.data_vs_data(metrics, reference.data),
        }
    result: dict[str, Any] = {
        "options": asdict(options) | {"steps": steps},
        "levels": [row._asdict() for each in measured for row in each.rows],
        "scores": bounds,
        "identity": identity(model.config, model.model, {}, topics=("data", "levels", "sampler")),
        "protocol": protocol_of_scores(compared, against, reference, metrics, extractors),
        "machine": provenance.machine(),
        **provenance.versions(),
    }
    drawn = np.stack([each.examples for each in measured])
    arrays.save(output / "diagnose.npz", levels=np.array(levels), steps=np.array(steps), data=x, drawn=drawn)
    if len(model.parts.shape) == 3:
        columns = [
            ("data", x),
            *((f"from x_{level + 1}", each[0]) for level, each in zip(levels, drawn, strict=True)),
        ]
        save_columns([(title, each[:_SHOWN]) for title, each in columns], output / "diagnose.png")
    files.write(output / "diagnose.json", json.dumps(result, indent=1) + "\n")
    _logger.info("%s", "\n".join(lines([row for each in measured for row in each.rows], bounds)))
    _logger.info("%s", "\n".join(protocol_lines(result["protocol"], result)))
    _logger.info("written to %s; examples in .npz, and images of them in .png", output / "diagnose.json")


def lines(rows: Sequence[Row], bounds: Mapping[str, Scores]) -> list[str]:
    """Formats the rows as a table.

    Args:
      rows: of all levels and numbers of steps.
      bounds: the scores of samples and of data.
    """
    names = list(bounds["samples"])
    table = [["level", "steps", "energy gap", "relative displacement", *names]]
    for row in rows:
        numbers = (row.gap, row.displacement, *row.scores.values())
        table.append([str(row.level), str(row.steps), *(f"{number:.4g}" for number in numbers)])
    titles = {"samples": "samples", "data": "the same data", "data_vs_data": "data against data"}
    for name, title in titles.items():
        table.append([title, "", "", "", *(f"{bounds[name][each]:.4g}" for each in names)])
    return aligned(table)


def measure(
    model: TrainedModel,
    x: np.ndarray,
    level: int,
    steps: tuple[int, ...],
    options: Diagnose,
    score: Callable[[np.ndarray], Scores],
) -> Level:
    """Runs the chain of a level from x_{t+1} of the data, and draws x_0 by the levels below.

    Args:
      model: the model.
      x: examples of the data [n, *shape].
      level: t.
      steps: numbers of steps after which the chains are measured.
      options: how the chains move, and the seed.
      score: computes the scores of x_0.

    Returns:
      What was measured.

    Raises:
      UserError: chains left the finite numbers.
    """
    levels, t = model.parts.levels, jnp.full(len(x), level)
    of_data, of_chains = jax.random.split(jax.random.fold_in(jax.random.key(options.seed), level))
    x_t, x_next = map(np.asarray, diffuse(example_keys(of_data, len(x)), jnp.asarray(to_unit(x)), t, levels))
    run = model.run_chain(
        of_chains,
        len(x),
        steps=steps,
        method=options.method or model.config.sampler.name,
        target="recovery",
        level=level,
        x=x_next,
    )
    energy = model.energy(x_t, level).mean()
    scale = float(levels.scale[level])
    # Both in units of y_t, in which the chain moves.
    distance = lambda x: float(np.sqrt(np.mean(np.sum((scale * x - x_next).reshape(len(x), -1) ** 2, -1))))
    rows = [
        Row(
            level,
            count,
            float(model.energy(state, level).mean() - energy),
            distance(state) / distance(x_t),
            score(drawn),
        )
        for count, state, drawn in zip(steps, run.states, run.examples, strict=True)
    ]
    return Level(rows, run.examples)


def _steps(model: TrainedModel, options: Diagnose) -> tuple[int, ...]:
    sampler = model.config.sampler
    if sampler.name == "normal":
        raise UserError(
            f"`diagnose` is for models whose levels are chains; {model.source} has config.sampler.name=normal"
        )
    return options.steps or (sampler.steps, 2 * sampler.steps, 4 * sampler.steps)
