"""`detect`: how well energies and scores tell other data from those of a model."""

import json
import logging
import os
import re
import shlex
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from drl_jax import arrays, files
from drl_jax.api import TrainedModel
from drl_jax.applications.detection import Statistics
from drl_jax.commands.application import check_is_of_images, some_levels
from drl_jax.config.build import open_held_out
from drl_jax.config.options import Detect
from drl_jax.config.restore import prepare_command
from drl_jax.data import made
from drl_jax.data.sources import Opened
from drl_jax.errors import UserError
from drl_jax.metrics.ranking import auroc, average_precision
from drl_jax.parallel.preemption import Stop, raise_on_signal
from drl_jax.report import provenance
from drl_jax.report.histograms import save_histograms
from drl_jax.report.images import save_columns

CONTROL = "other images of the data"  # as a check: no statistic distinguishes them
_OWN = "the data"
_SHOWN = 6  # images of each set
_HIGHER = "1: all of the set is above the data; 0.5: no difference; below 0.5: the set is lower"
_logger = logging.getLogger(__name__)


class _Images(NamedTuple):
    """The sets of images that are compared.

    Attributes:
      own: images of the model's data.
      others: images of each other set, by its name; the first are other images of the model's data.
      about: of each set, where it is from.
    """

    own: np.ndarray
    others: dict[str, np.ndarray]
    about: dict[str, Any]


def detect(model: TrainedModel, options: Detect, output: epath.Path, stop: Stop) -> None:
    """Compares other data with those of the model: detect.json, arrays, histograms, and some of the images.

    Args:
      model: the model.
      options: the other data, the levels, and how many examples.
      output: where the files are written.
      stop: unused: a signal ends the command at once.

    Raises:
      UserError: an option is not possible, or data cannot be read.
    """
    del stop
    check_is_of_images(model, "detect")
    levels = some_levels(model, options.levels)
    with raise_on_signal():
        images = _read(model, options)
        measured = [_measure(model, images, level, options) for level in levels]
    result = {
        "model": {
            "data": model.config.data.name,
            "step": model.about["step"],
            "commit": model.about["commit"],
        },
        "options": asdict(options),
        "levels": levels,
        "examples": {_OWN: len(images.own), **{name: len(x) for name, x in images.others.items()}},
        "sets": images.about,
        **_tables([compare(own, others) for own, others in measured]),
        "machine": provenance.machine(),
        **provenance.versions(),
    }
    _save(output, images, levels, measured)
    files.write(output / "detect.json", json.dumps(result, indent=1) + "\n")
    _logger.info("%s", "\n".join(lines(result)))
    _logger.info("written to %s; arrays in .npz, histograms and images in .png", output / "detect.json")


Measured = tuple[Statistics, dict[str, Statistics]]
"""(The statistics of the model's data; those of the other sets by name, the control first)."""
Scores = dict[str, dict[str, tuple[float, float]]]
"""(AUROC, average precision) by statistic and set."""


def compare(own: Statistics, others: Mapping[str, Statistics]) -> Scores:
    """Computes how well each statistic distinguishes each set from the data.

    A third statistic is made of the energy: the atypicality, its distance from the median of the control.
    Examples may have too low an energy, too.

    Args:
      own: the statistics of the model's data.
      others: those of the other sets; `CONTROL` is one of them.

    Returns:
      The scores.

    Source: of the atypicality: Nalisnick et al. (2019).
    """
    median = np.median(others[CONTROL].energy)
    views = {
        "energy": lambda statistics: statistics.energy,
        "atypicality": lambda statistics: np.abs(statistics.energy - median),
        "score_norm": lambda statistics: statistics.score_norm,
    }
    return {
        statistic: {
            name: (auroc(view(own), view(other)), average_precision(view(own), view(other)))
            for name, other in others.items()
        }
        for statistic, view in views.items()
    }


def lines(result: Mapping[str, Any]) -> list[str]:
    """Formats the scores as tables, one for each statistic.

    Args:
      result: the content of detect.json.
    """
    width = max(map(len, result["examples"])) + 2
    text = []
    for statistic, sets in result["auroc"].items():
        levels = "".join(f"{f'level {level}':>15}" for level in result["levels"])
        text += [f"AUROC (average precision) of the {statistic.replace('_', ' ')}", " " * width + levels]
        for name, areas in sets.items():
            precisions = result["average_precision"][statistic][name]
            cells = (f"{area:.3f} ({mean:.3f})" for area, mean in zip(areas, precisions, strict=True))
            text.append(f"{name:<{width}}" + "".join(f"{cell:>15}" for cell in cells))
    return [*text, _HIGHER]


def _tables(scores: Sequence[Scores]) -> dict[str, Any]:
    """The scores of all levels as {"auroc" and "average_precision": by statistic and set, one per level}."""
    return {
        metric: {
            statistic: {name: [level[statistic][name][i] for level in scores] for name in sets}
            for statistic, sets in scores[0].items()
        }
        for i, metric in enumerate(("auroc", "average_precision"))
    }


def _read(model: TrainedModel, options: Detect) -> _Images:
    """Reads the model's data, and reads or makes the others."""
    source, split = open_held_out(model.config, prepare_command(model.source), options.split)
    if len(source) < 2:
        raise UserError(f"the data have {len(source)} example; `detect` needs at least 2")
    count = min(options.count, len(source) // 2)
    order = _rng(options, _OWN).permutation(len(source))
    own = source.take(np.sort(order[:count]))
    others = {CONTROL: source.take(np.sort(order[count : 2 * count]))}
    about = {_OWN: {"name": model.config.data.name, "split": split}}
    for text in _sets(options.against):
        name = os.path.basename(os.path.normpath(text)) if _is_path(text) else text
        if name in others:
            raise UserError(f"--against={options.against} names two sets {name!r}; rename one")
        if text in made.SETS:
            others[name], about[name] = made.SETS[text](_rng(options, text), own), {"made": text}
        else:
            other, about[name] = _open_other(model, text)
            order = _rng(options, name).permutation(len(other))
            others[name] = other.take(np.sort(order[: options.count]))
    return _Images(own, others, about)


def _sets(against: str) -> list[str]:
    """The sets that the option names, each once."""
    given = (each.strip() for each in against.split(","))
    named = [name for each in given for name in (made.SETS if each == "made" else [each])]
    return list(dict.fromkeys(named))


def _open_other(model: TrainedModel, text: str) -> tuple[Opened, dict[str, str]]:
    """Opens the data set of a name, or the images at a path, and says what it is."""
    is_path = _is_path(text)
    place = {"name": "folder", "path": text} if is_path else {"name": text, "path": None}
    if not text or place["name"] == "points":
        raise UserError(
            f"--against={text} is not possible; name made, {', '.join(made.SETS)}, data sets or paths"
        )
    data = replace(model.config.data, split="train", crop=None, **place)
    prepare = f"{prepare_command(model.source)} {shlex.quote(f'--config.data.name={text}')}"
    try:
        source, split = open_held_out(replace(model.config, data=data), prepare)
    except UserError as error:
        raise UserError(f"--against={text}: {error}") from None
    return source, {"path": text} if is_path else {"name": text, "split": split}


def _is_path(text: str) -> bool:
    return bool(text) and files.exists(epath.Path(text).expanduser())


def _number(name: str) -> int:
    """The random numbers of a set depend on its name, and so not on which other sets there are."""
    return zlib.crc32(name.encode()) >> 1


def _rng(options: Detect, name: str) -> np.random.Generator:
    return np.random.default_rng([options.seed, _number(name)])


def _measure(model: TrainedModel, images: _Images, level: int, options: Detect) -> Measured:
    """The statistics of all sets at a level."""
    began = time.monotonic()

    def measure(name: str, x: np.ndarray) -> Statistics:
        key = jax.random.fold_in(jax.random.key(options.seed), _number(name))
        return model.statistics(key, x, level, options.draws)

    own = measure(_OWN, images.own)
    others = {name: measure(name, x) for name, x in images.others.items()}
    _logger.info("level %d in %.1f s", level, time.monotonic() - began)
    return own, others


def _save(output: epath.Path, images: _Images, levels: Sequence[int], measured: Sequence[Measured]) -> None:
    """Writes the statistics [levels, n] of each set, their histograms, and some of the images."""
    named = {}
    for name in images.others:
        for field in Statistics._fields:
            named[f"against/{name}.{field}"] = np.stack([getattr(each[name], field) for _, each in measured])
    for field in Statistics._fields:
        named[f"data.{field}"] = np.stack([getattr(own, field) for own, _ in measured])
    arrays.save(output / "detect.npz", levels=np.array(levels), **named)
    units = {"energy": "energy: −log p + constant (nats)", "score_norm": "norm of the score (nats per unit)"}
    for level, (own, others) in zip(levels, measured, strict=True):
        sets = {_OWN: own, **{name: each for name, each in others.items() if name != CONTROL}}
        panels = {
            unit: {name: np.asarray(getattr(each, field)) for name, each in sets.items()}
            for field, unit in units.items()
        }
        save_histograms(panels, output / f"detect_level_{level}.png", title=f"level {level}")
    for file in output.glob("detect_level_*.png"):
        of_level = re.fullmatch(r"detect_level_(\d+)", file.stem)
        if of_level and int(of_level[1]) not in levels:  # of an earlier run
            file.unlink(missing_ok=True)
    shown = {"data": images.own, **{name: x for name, x in images.others.items() if name != CONTROL}}
    rows = min(_SHOWN, *map(len, shown.values()))
    columns = [(name, x[np.linspace(0, len(x) - 1, rows).astype(int)]) for name, x in shown.items()]
    save_columns(columns, output / "detect.png")
