"""`likelihood`: log Z of levels by annealed importance sampling, and bits per dimension of the data."""

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import jax
import numpy as np
from etils import epath

from drl_jax import arrays, files
from drl_jax.api import LIKELIHOOD_FILE, TrainedModel
from drl_jax.applications.likelihood import Estimate, bits_per_dimension
from drl_jax.commands.application import some_levels
from drl_jax.config import schema
from drl_jax.config.build import open_held_out
from drl_jax.config.identity import identity
from drl_jax.config.options import Likelihood
from drl_jax.config.restore import prepare_command
from drl_jax.data import densities
from drl_jax.errors import UserError
from drl_jax.evaluation.reference import short_hash
from drl_jax.ownership import owned
from drl_jax.parallel.annealer import Annealer, Progress
from drl_jax.parallel.preemption import Stop
from drl_jax.report import provenance

FOLDER = "likelihood"  # in --output: the parts that are done, one file per level
_VERSION = 1  # increase it when a change of the program changes the chains
_SECONDS_BETWEEN_LINES = 10
_ROWS = 500  # examples at once
_logger = logging.getLogger(__name__)


def likelihood(model: TrainedModel, options: Likelihood, output: epath.Path, stop: Stop) -> None:
    """Estimates log Z of levels, and the density of data: likelihood.json.

    After each part of a run its state is written to `output`, so a run that was stopped continues. Other
    settings begin a new run.

    Args:
      model: the model.
      options: levels, chains, steps and the data.
      output: where the files are written.
      stop: unused: a signal ends the command at once, and the part that was under way is lost.

    Raises:
      UserError: an option is not possible, the data cannot be read, or chains left the finite numbers.
    """
    del stop
    levels = some_levels(model, options.levels)
    examples, about_data = _read_data(model, options)
    annealer = model.annealer(
        options.seed, chains=options.chains, steps=options.steps, leapfrog_steps=options.leapfrog_steps
    )
    protocol = identity(
        model.config,
        model.model,
        {
            "version": _VERSION,
            **{name: getattr(options, name) for name in ("chains", "steps", "leapfrog_steps", "seed")},
            "reach": model.reach,
        },
    )
    folder = output / FOLDER
    found: dict[str, Any] = {}
    with owned(folder, "--output"):
        for t in levels:
            progress, seconds = _run(annealer, t, folder / f"level_{t}_{short_hash(protocol)}.npz")
            sides = annealer.result(progress)
            found[str(t)] = {
                "log_z": sides.log_z,
                "doubt": sides.doubt,
                "forward": sides.forward._asdict(),
                "reverse": sides.reverse._asdict(),
                "acceptance": float(progress.forward.acceptance),
                "path_length": annealer.length(progress),
                "bound": model.bound(t),
                "seconds": seconds,
                "data": None if sides.log_z is None else _density(model, options, t, examples, sides.log_z),
            }
    file = output / LIKELIHOOD_FILE
    result = {
        "options": asdict(options),
        "weights_sha256": protocol["weights_sha256"],
        "levels": _earlier(file, protocol) | found,
        "convention": _convention(model),
        "data": about_data,
        "protocol": protocol,
        "machine": provenance.machine(),
        **provenance.versions(),
        "config": schema.to_dict(model.config),
    }
    files.write(file, json.dumps(result, indent=1) + "\n")
    _logger.info("%s", "\n".join(_table(found, about_data, result["convention"])))
    _logger.info("written to %s", file)


def _earlier(file: epath.Path, protocol: Mapping[str, Any]) -> dict[str, Any]:
    """The levels that an earlier run with the same protocol has written; none if there was no such run."""
    try:
        earlier = json.loads(file.read_text())
        return earlier["levels"] if earlier["protocol"] == json.loads(json.dumps(protocol)) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _run(annealer: Annealer, t: int, file: epath.Path) -> tuple[Progress, float]:
    """Makes the parts of a level that its file does not have, and writes each: (progress, seconds)."""
    kept = arrays.read(file)
    if kept is None:
        seconds, began = 0.0, time.monotonic()
        progress = annealer.start(t)
    else:
        seconds, began = float(kept.pop("seconds")), time.monotonic()
        progress = Progress.of_named(kept)
        _logger.info("level %d: goes on where %s ends", t, file)
    logged = began
    while (after := annealer.advance(t, progress)) is not None:
        progress, now = after, time.monotonic()
        arrays.write(file, {**progress.named(), "seconds": np.asarray(seconds + now - began)})
        if now - logged > _SECONDS_BETWEEN_LINES:
            logged = now
            _logger.info("level %d: %s", t, annealer.describe(progress))
    return progress, seconds + time.monotonic() - began


def _read_data(model: TrainedModel, options: Likelihood) -> tuple[np.ndarray, dict[str, Any]]:
    """(Examples of the data; which they are)."""
    data, rng = model.config.data, np.random.default_rng([options.seed, 1])
    if data.name == "points":
        if options.split is not None:
            raise UserError(f"--split={options.split} is not possible with points, which are drawn anew")
        points = densities.by_name(data.density).sample(rng, options.examples)
        return points, {"name": "points", "density": data.density, "split": "new draws"}
    source, split = open_held_out(model.config, prepare_command(model.source), options.split)
    indices = np.sort(rng.permutation(len(source))[: options.examples])
    return source.take(indices), {
        "name": data.name,
        "split": split,
        "was_trained_on": split == data.split,
    }


def _density(
    model: TrainedModel, options: Likelihood, t: int, examples: np.ndarray, log_z: float
) -> dict[str, Any]:
    """The log-density of examples with the noise of level t, and their bits per dimension."""
    size, is_bytes = int(np.prod(examples.shape[1:])), examples.dtype == np.uint8
    x = model.diffuse(jax.random.fold_in(jax.random.key(options.seed), t), examples, t)
    parts = [
        model.log_density(x[first : first + _ROWS], t, log_z=log_z)
        for first in range(0, len(examples), _ROWS)
    ]
    log_density = np.concatenate(parts)
    is_inside = np.isfinite(log_density)
    bits = bits_per_dimension(log_density[is_inside], size, is_bytes=is_bytes)
    return {
        "examples": len(examples),
        "outside": int(np.sum(~is_inside)),
        "log_density": float(log_density[is_inside].mean()),
        "bits_per_dimension": float(bits.mean()),
        "standard_error": float(bits.std(ddof=1) / np.sqrt(len(bits))),
    }


def _convention(model: TrainedModel) -> str:
    unit = "numbers"
    if len(model.parts.shape) > 1:
        unit = "bytes (0 to 255): log2 127.5 more than of numbers in [-1, 1]"
    return (
        "natural logarithms; Z = ∫ exp(f(y, t) / temperature_t) dy inside of the box |x_t| ≤ bound, with "
        "y = scale_t x_t; the density is that of x_t = a_cum_t x + sigma_cum_t ε, with noise at level 0 too, "
        f"and 0 outside of the box; bits per dimension are −log2 p(x_t) / d, of {unit}"
    )


def _table(found: Mapping[str, Any], about: Mapping[str, Any], convention: str) -> list[str]:
    head = ("log Z forward", "log Z reverse", "effective sizes", "bits per dimension")
    lines = [f"level  {head[0]:>18}  {head[1]:>18}  {head[2]:>15}  {head[3]}"]
    for t, level in found.items():
        forward, reverse = Estimate(**level["forward"]), Estimate(**level["reverse"])
        sides = [f"{side.log_z:.3f} ± {side.standard_error:.2g}" for side in (forward, reverse)]
        sizes = f"{forward.effective_size:.1f}, {reverse.effective_size:.1f}"
        lines.append(f"{t:>5}  {sides[0]:>18}  {sides[1]:>18}  {sizes:>15}  {_shown(level)}")
    facts = ", ".join(f"{name} {value}" for name, value in about.items())
    return [*lines, f"data: {facts}", f"convention: {convention}"]


def _shown(level: Mapping[str, Any]) -> str:
    data = level["data"]
    if data is None:
        return f"no number: {level['doubt']}; more than {level['path_length'] ** 2:.0f} steps are needed"
    outside = f", without {data['outside']} of {data['examples']} examples, which are outside of the box"
    bits = f"{data['bits_per_dimension']:.4f} ± {data['standard_error']:.4f}"
    return bits + outside * (data["outside"] > 0)
