"""`chain`: long Markov chains on a model, how they mix, and the scores of their states."""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from drl_jax import arrays, files
from drl_jax.api import ChainSettings, TrainedModel
from drl_jax.applications import chains
from drl_jax.applications.chains import Diagnostics, Position, Run
from drl_jax.applications.kernels import Point
from drl_jax.commands.application import metrics_of_examples, some_examples
from drl_jax.config.build import open_compared, open_data
from drl_jax.config.identity import identity
from drl_jax.config.options import Chain
from drl_jax.config.restore import prepare_command
from drl_jax.config.scoring import (
    check_examples,
    data_kind,
    make_extractors,
    protocol_lines,
    protocol_of_scores,
    read_reference,
    score_examples,
    warn_of_singular_covariances,
)
from drl_jax.core.levels import diffuse_to
from drl_jax.core.randomness import example_keys, fold_in, standard_normal
from drl_jax.data.sources import Opened
from drl_jax.errors import UserError
from drl_jax.evaluation import scores
from drl_jax.evaluation.scores import Scores
from drl_jax.metrics import density_grid
from drl_jax.parallel.mesh import place
from drl_jax.parallel.preemption import Stop, Stopped
from drl_jax.pixels import to_unit
from drl_jax.report import images, provenance
from drl_jax.report.chain_plots import save_chain_plots
from drl_jax.report.console import aligned

_UNFINISHED = "chain_unfinished.npz"
_SAVE_EVERY = 300.0  # seconds
_SHOWN = 8  # chains in the image
_FACTOR = 1.5  # of the Fréchet distance of samples: below it, long chains keep the quality of samples
_START = 2**31 - 2  # what is folded into the keys of starts; chains fold in their level
_logger = logging.getLogger(__name__)


@dataclass
class _Progress:
    """A run and what is known of it, which `_UNFINISHED` keeps.

    Attributes:
      step_sizes: adapted.
      position: where the chains are; None before the first step.
      parts: what `chains.join` takes.
      states: x_t of each number of steps that is reached.
    """

    step_sizes: np.ndarray | None = None
    position: Position | None = None
    parts: list[tuple[int, int, Point]] = field(default_factory=list)
    states: list[np.ndarray] = field(default_factory=list)


def chain(model: TrainedModel, options: Chain, output: epath.Path, stop: Stop) -> None:
    """Runs chains: chain.npz, chain.json, an image of them after each number of steps, and plots.

    On a signal it saves where the chains are, and the same command continues there.

    Args:
      model: the model.
      options: of the chains.
      output: where the files are written.
      stop: whether this process was asked to stop.

    Raises:
      UserError: an option is not possible, or chains left the finite numbers.
      Stopped: this process was asked to stop, and has saved.
    """
    settings = _settings(model, options)
    config, metrics = metrics_of_examples(model.config, options.chains)
    needs_data = metrics or options.start == "data"
    source = open_data(config, prepare_command(model.source)) if needs_data else None
    compared, against = config, source
    if source is not None:
        compared, against = open_compared(config, source, prepare_command(model.source))
        check_examples(config, metrics, against)
    extractors = make_extractors(config, metrics, model.parts.shape, place())

    depends_on = identity(
        model.config,
        model.model,
        {"options": asdict(options), "devices": jax.device_count()},
        topics=("data", "levels", "sampler"),
    )
    progress = _read(output / _UNFINISHED, depends_on)
    stop.busy = True
    start = _start(model, options, source)
    run = model.prepare_chain(options.seed, options.chains, settings, start, progress.step_sizes)
    progress.step_sizes = run.step_sizes
    _run(run, progress, depends_on, output / _UNFINISHED, stop)
    stop.busy = False  # all steps are kept

    trace = chains.join(progress.parts)
    diagnostics = chains.diagnose(run, trace)
    examples = [model.finish_chain(run, x) for x in progress.states]
    result: dict[str, Any] = {
        "options": asdict(options),
        "step_sizes": run.step_sizes.tolist(),
        "diagnostics": [row._asdict() for row in diagnostics],
        "identity": depends_on,
        "machine": provenance.machine(),
        **provenance.versions(),
    }
    chain_scores: list[Scores] = [{} for _ in examples]
    bounds: dict[str, Scores] = {"samples": {}, "data_vs_data": {}}
    if metrics and against is not None:
        reference = read_reference(compared, against, metrics, extractors)
        warn_of_singular_covariances(metrics, options.chains, reference)
        measure = lambda x: score_examples(metrics, extractors, x, reference)
        chain_scores = [measure(x) for x in examples]
        bounds["samples"] = measure(model.sample(options.seed, options.chains))
        bounds["data_vs_data"] = scores.data_vs_data(metrics, reference.data)
        result["protocol"] = protocol_of_scores(compared, against, reference, metrics, extractors)
    result["scores"] = {str(n): each for n, each in zip(options.steps, chain_scores, strict=True)} | bounds

    arrays.save(
        output / "chain.npz",
        steps=np.array(options.steps),
        examples=np.stack(examples),
        states=np.stack(progress.states),
        **{f"trace_{name}": values for name, values in trace._asdict().items()},
    )
    files.write(output / "chain.json", json.dumps(result, indent=1) + "\n")
    _save_image(model, options, examples, output / "chain.png")
    save_chain_plots(
        {name: [each[name] for each in chain_scores] for name in chain_scores[0]},
        bounds["samples"],
        _limits(bounds["samples"]),
        options.steps,
        run.legs,
        trace,
        output / "chain_plots.png",
    )
    (output / _UNFINISHED).unlink(missing_ok=True)
    for line in _table(run, diagnostics, options, chain_scores, bounds):
        _logger.info("%s", line)
    if "protocol" in result:
        _logger.info("%s", "\n".join(protocol_lines(result["protocol"], result)))
    _logger.info("%s, and chain.json, chain.png, chain_plots.png beside it", output / "chain.npz")


def _settings(model: TrainedModel, options: Chain) -> ChainSettings:
    settings = ChainSettings(
        steps=options.steps,
        method=options.method,
        target=options.target,
        level=options.level,
        group=options.group,
        step_size=options.step_size,
        acceptance=options.acceptance,
        warmup=options.warmup,
        leapfrog_steps=options.leapfrog_steps,
    )
    settings.check(options.chains, model.num_levels, chains="chains", prefix="--")
    if options.target == "levels" and options.start != "samples":
        raise UserError(
            f"--start={options.start} is of --target=recovery or marginal: chains through all levels begin "
            "at white noise"
        )
    return settings


def _start(model: TrainedModel, options: Chain, source: Opened | None) -> np.ndarray | None:
    """x_{t+1} of the recovery posterior, or x_t of the marginal model; None for those of the model."""
    if options.start == "samples":
        return None
    rows = options.chains // options.group
    assert options.level is not None  # of the other targets than all levels
    number = options.level + (options.target == "recovery")
    keys = fold_in(example_keys(jax.random.key(options.seed), rows), _START)
    if source is None:
        like = jax.ShapeDtypeStruct((rows, *model.parts.shape), jnp.float32)
        return np.asarray(standard_normal(keys, like))
    x = to_unit(some_examples(source, options.seed, rows))
    return np.asarray(diffuse_to(keys, jnp.asarray(x), jnp.full(rows, number), model.parts.levels))


def _run(run: Run, progress: _Progress, depends_on: dict[str, Any], file: epath.Path, stop: Stop) -> None:
    """Runs the chains to their end, and saves where they are."""
    if progress.position is None:
        progress.position = chains.begin(run)
    else:
        leg = run.legs[min(progress.position.leg, len(run.legs) - 1)]
        _logger.info("continuing at level %d, part %d of --steps", leg.level, leg.snapshot + 1)
        progress.position = _on_devices(run, progress.position)
    total, saved = sum(leg.num_steps for leg in run.legs), time.monotonic()
    began, before = saved, _done(run, progress)
    for part in chains.continue_run(run, progress.position):
        progress.position = part.position
        progress.parts.append((part.leg, part.steps, part.point))
        if part.x is not None:
            progress.states.append(np.asarray(part.x)[: run.num_chains])
        is_due = time.monotonic() - saved > _SAVE_EVERY
        if part.x is not None or is_due or stop.requested:
            _write(file, depends_on, progress)
            saved, done = time.monotonic(), _done(run, progress)
            left = (total - done) * (saved - began) / max(done - before, 1)
            _logger.info("%d of %d steps, %.0f s left", done, total, left)
        if stop.requested:
            raise Stopped(f"stopped, {file} is kept; start again to continue")


def _done(run: Run, progress: _Progress) -> int:
    """How many steps are done, in all legs."""
    ends = {leg: steps for leg, steps, _ in progress.parts}
    return sum(steps - run.legs[leg].first for leg, steps in ends.items())


def _on_devices(run: Run, position: Position) -> Position:
    put = lambda array: jax.device_put(array, run.start.sharding)
    return position._replace(x_next=put(position.x_next), y=put(position.y))


def _write(file: epath.Path, depends_on: dict[str, Any], progress: _Progress) -> None:
    assert progress.position is not None
    assert progress.step_sizes is not None
    leg, part, x_next, y = progress.position
    points = Point._make(map(np.stack, zip(*(point for _, _, point in progress.parts), strict=True)))
    arrays.write(
        file,
        {
            "identity": np.frombuffer(json.dumps(depends_on, sort_keys=True).encode(), np.uint8),
            "step_sizes": progress.step_sizes,
            "position": np.array([leg, part]),
            "x_next": np.asarray(x_next),
            "y": np.asarray(y),
            "ends": np.array([(leg, steps) for leg, steps, _ in progress.parts]),
            **points._asdict(),
            **{f"state_{i}": x for i, x in enumerate(progress.states)},
        },
    )


def _read(file: epath.Path, depends_on: dict[str, Any]) -> _Progress:
    """What is kept of an earlier run of the same chains; an empty progress if nothing is."""
    named = arrays.read(file)
    if named is None or named["identity"].tobytes() != json.dumps(depends_on, sort_keys=True).encode():
        return _Progress()
    leg, part = named["position"].tolist()
    points = zip(*(named[name] for name in Point._fields), strict=True)
    parts = [(*end, Point._make(point)) for end, point in zip(named["ends"].tolist(), points, strict=True)]
    states = [named[f"state_{i}"] for i in range(sum(name.startswith("state_") for name in named))]
    position = Position._make((leg, part, named["x_next"], named["y"]))
    return _Progress(named["step_sizes"], position, parts, states)


def _limits(of_samples: Scores) -> Scores:
    """What the Fréchet distances of chains must not exceed."""
    return {
        name: _FACTOR * value for name, value in of_samples.items() if name.startswith(("fid", "frechet"))
    }


def _save_image(
    model: TrainedModel, options: Chain, examples: Sequence[np.ndarray], path: epath.Path
) -> None:
    """One row per chain, one column per number of steps; of points, a histogram per number of steps."""
    density = data_kind(model.config).density
    if density is not None:
        side = density_grid.SIDE // 4
        images.save_densities([[density_grid.histogram(x, density, side) for x in examples]], path)
        return
    # Of each group one chain.
    shown = min(_SHOWN, 2 * len(examples))
    sheet = np.stack([x[:: options.group][:shown] for x in examples], axis=1)
    titles = [f"{steps:,}" for steps in options.steps]
    images.save_grid(sheet.reshape(-1, *model.parts.shape), path, columns=len(examples), titles=titles)


def _table(
    run: Run,
    diagnostics: Sequence[Diagnostics],
    options: Chain,
    chain_scores: Sequence[Scores],
    bounds: Mapping[str, Scores],
) -> list[str]:
    """The diagnostics and scores for printing: one row per number of steps, and one per level."""
    names = list(chain_scores[0])
    head = ["steps", "energy", "acceptance", "ESS", "R-hat", *names]
    rows = [head]
    for i, (steps, values) in enumerate(zip(options.steps, chain_scores, strict=True)):
        legs = [row for row in diagnostics if row.snapshot == i]
        counts = [leg.num_steps for leg in run.legs if leg.snapshot == i]
        acceptance = float(np.average([row.acceptance for row in legs], weights=counts))
        last = legs[-1]
        numbers = [last.energy, acceptance, last.ess, last.rhat, *values.values()]
        rows.append([f"{steps:,}", *map(_number, numbers)])
    for name, title in (("samples", "samples"), ("data_vs_data", "data against data")):
        if bounds[name]:
            rows.append([title, "", "", "", "", *(_number(bounds[name][each]) for each in names)])
    lines = aligned(rows)
    for name, limit in _limits(bounds["samples"]).items():
        within = [
            f"{n:,}" for n, each in zip(options.steps, chain_scores, strict=True) if each[name] <= limit
        ]
        after = f"after {', '.join(within)} steps" if within else "after none of these"
        lines.append(f"{name} is at most {_FACTOR} × that of samples {after}")
    last = [row for row in diagnostics if row.snapshot == len(options.steps) - 1]
    head = ["level", "steps", "step size / s_t", "energy", "acceptance", "displacement", "ESS", "R-hat"]
    by_level = [
        [str(row.level), str(row.steps), *map(_number, (row.step_size, row.energy, row.acceptance))]
        + [_number(each) for each in (row.displacement, row.ess, row.rhat)]
        for row in last[:: max(1, len(last) // 10)]
    ]
    return [*lines, "", *aligned([head, *by_level])]


def _number(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.4g}"
