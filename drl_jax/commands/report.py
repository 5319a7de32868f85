"""`report`: one page of HTML about a run."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from etils import epath

from drl_jax import files
from drl_jax.checkpoints import orbax
from drl_jax.commands.evaluate import FOLDER as EVALUATIONS
from drl_jax.commands.train import SCORES
from drl_jax.config import schema
from drl_jax.config.build import build
from drl_jax.config.schema import Config
from drl_jax.config.scoring import protocol_lines
from drl_jax.core.levels import Levels
from drl_jax.errors import UserError
from drl_jax.report import curves, html, metrics_log
from drl_jax.report.html import Html, Section

FILE = "report.html"
_MAX_ROWS = 10  # levels in a table
_MAX_LINES = 20  # lines of a list
_MAX_NUMBERS = 12  # numbers of a list in a cell
_MAX_GRID = 800  # pixels; wider images are plots, or have words
_PNG = b"\x89PNG\r\n\x1a\n"
# What applications leave in the workdir: a heading, and how their files begin.
_APPLICATIONS = {
    "interpolation": "Interpolation",
    "inpainting": "Inpainting",
    "denoising": "Denoising",
    "energy": "Energies",
    "chain": "Long chains",
    "diagnose": "The chain of each level",
    "likelihood": "Likelihood",
    "detect": "Detection of other data",
}
_MEANS = ("gap", "displacement", "gradient")


def report(config: Config, workdir: epath.Path, output: epath.Path) -> None:
    """Writes report.html: what was run, on what, how it went, and how to repeat it.

    Args:
      config: of the command line, which must be that of the run.
      workdir: the folder of the run.
      output: where the page is written. If it is another folder, the workdir is only read.

    Raises:
      UserError: there is no run, the config is another one, or the page cannot be written.
    """
    if not files.exists(workdir / schema.FILE):
        missing = workdir / schema.FILE
        raise UserError(f"--workdir={workdir} holds no run: there is no {missing}; train one first")
    run = Run(workdir, schema.load(workdir / schema.FILE))
    if config != run.config:
        raise UserError("`report` shows the config of the run in --workdir; leave --config and its keys out")
    try:
        files.write(output / FILE, page(run))
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{output / FILE} cannot be written: {reason}; name a folder: --output=DIR") from None
    print(f"written to {output / FILE}", flush=True)


@dataclass(frozen=True)
class Run:
    """A run, as its workdir shows it. A file that is missing or damaged is left out.

    Attributes:
      workdir: its folder.
      config: its config.
    """

    workdir: epath.Path
    config: Config

    @cached_property
    def lines(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        return metrics_log.read(self.workdir)

    @cached_property
    def levels(self) -> Levels:
        """The noise levels."""
        return build(self.config).levels

    @cached_property
    def starts(self) -> list[metrics_log.Start]:
        """When training was started."""
        return metrics_log.starts(self.workdir)

    @cached_property
    def records(self) -> dict[int, dict[str, Any]]:
        """The records of the checkpoints by step, oldest first."""
        folder = self.workdir / orbax.FOLDER
        found = {step: read_json(folder / str(step) / "record" / "data.json") for step in orbax.steps(folder)}
        return {step: record for step, record in found.items() if record}

    @cached_property
    def evaluations(self) -> dict[str, dict[str, Any]]:
        """The results of `evaluate`, by their paths in the workdir."""
        paths = sorted((self.workdir / EVALUATIONS).glob("*/result_*.json"))
        found = {f"{EVALUATIONS}/{path.parent.name}/{path.name}": read_json(path) for path in paths}
        return {name: result for name, result in found.items() if result}

    @property
    def step(self) -> int:
        """The last step that the log or a checkpoint has."""
        return max([*self.records, *(line["step"] for line in self.lines)], default=0)


def page(run: Run) -> str:
    """Makes the page.

    Args:
      run: what it is about.

    Returns:
      The content of the file.
    """
    parts = (
        ("curves", "Curves", _curves(run)),
        ("samples", "Samples", _samples(run)),
        ("scores", "Scores", _scores(run)),
        ("levels", "Noise levels", _levels(run)),
        *((name, title, _application(run, name)) for name, title in _APPLICATIONS.items()),
        ("interruptions", "Interruptions", _interruptions(run)),
        ("machine", "Machine and versions", _machine(run)),
        ("repeat", "How to repeat it", _repeat(run)),
        ("config", "Config", _config(run)),
    )
    sections = [Section(name, title, body) for name, title, body in parts if body is not None]
    return html.page(f"{run.config.data.name}: a run of drl_jax", _summary(run), sections)


def read_json(path: epath.Path) -> dict[str, Any]:
    """Reads a JSON file; empty if there is none, or it is damaged."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _summary(run: Run) -> Html:
    config, newest = run.config, next(reversed(run.records.values()), {})
    arrays = newest.get("arrays", {})
    count = sum(prod(about["shape"]) for name, about in arrays.items() if name.startswith("params/"))
    examples = newest.get("data", {}).get("examples")
    seconds = metrics_log.training_seconds(run.lines, run.step)
    level = f"{config.sampler.steps} steps of {config.sampler.name} each"
    if config.training.objective == "score":
        level = "trained by denoising score matching"
    unfinished = "" if run.step >= config.training.steps else ": not finished"
    return html.facts(
        [
            ("data", config.data.name + (f", {examples:,} examples" if examples else "")),
            ("model", f"{config.levels.count} noise levels, {level}" + f"; {count:,} weights" * (count > 0)),
            ("training", f"step {run.step:,} of {config.training.steps:,}{unfinished}"),
            ("time", f"{_duration(seconds)} of training, without interruptions" if seconds else "not known"),
            ("machine", newest.get("machine", "not known before the first checkpoint")),
            ("folder", run.workdir),
        ]
    )


def _curves(run: Run) -> Html:
    if not run.lines:
        return html.paragraph("Nothing is logged yet.")
    return html.join(
        [
            html.image(
                curves.plot_curves(run.lines),
                "The loss and the scores against the training step.",
                is_plot=True,
            ),
            html.image(
                curves.plot_levels(run.lines),
                "Means over the examples of each level t against the training step: the gap that training "
                "closes, how far chains move, and the gradient at their ends.",
                is_plot=True,
            ),
        ]
    )


def _samples(run: Run) -> Html:
    names = sorted(path.name for path in _listed(run.workdir / "samples") if path.suffix == ".png")
    steps = sorted({int(name[:7]) for name in names if name[:7].isdecimal()})
    if not steps:
        return html.paragraph("No samples yet: they are drawn every config.evaluation.every steps.")
    kinds = {
        "": "Samples of step {}.",
        "_process": "From noise, on the left, to samples, on the right: one row per sample. Step {}.",
        "_densities": "True densities of the levels above, those of the model below. Step {}.",
    }
    last = [
        _image(run, f"samples/{steps[-1]:07}{kind}.png", caption.format(f"{steps[-1]:,}"))
        for kind, caption in kinds.items()
    ]
    earlier = [_image(run, f"samples/{s:07}.png", f"Samples of step {s:,}.") for s in _some(steps[:-1], 4)]
    drawn = _image(run, "samples.png", "Samples that `sample` has drawn.")
    before = html.details("Earlier steps", html.join(earlier)) if earlier else ""
    return html.join([*last, drawn, before])


def _scores(run: Run) -> Html:
    parts = []
    if scores := read_json(run.workdir / SCORES):
        kinds = {"": "model", "_data_vs_data": "data against data", "_untrained": "untrained model"}
        values = scores.get("scores", {})
        names = [name for name in values if not name.endswith(("_data_vs_data", "_untrained"))]
        used = {end: title for end, title in kinds.items() if any(f"{name}{end}" in values for name in names)}
        rows = [[name, *(values.get(f"{name}{end}") for end in used)] for name in names]
        count = scores.get("evaluation", {}).get("num_samples")
        caption = f"At the end of training, step {scores.get('step'):,}, with {count} samples"
        parts.append(html.table(caption, ["score", *used.values()], rows))
    for name, result in run.evaluations.items():
        bounds = result.get("data_vs_data", {})
        rows = [[score, value, bounds.get(score)] for score, value in result.get("scores", {}).items()]
        drawn = result.get("protocol", {}).get("samples", {})
        caption = f"evaluate: step {drawn.get('step')}, {drawn.get('count')} samples, in {name}"
        protocol = html.code("\n".join(protocol_lines(result["protocol"], result)))
        parts += [
            html.table(caption, ["score", "model", "data against data"], rows),
            html.details("Protocol", protocol),
            html.details(
                "The samples that were scored",
                _image(run, f"{name.rpartition('/')[0]}/samples.png", f"Samples of {name}."),
            ),
        ]
    if not parts:
        return html.paragraph("No scores yet: `evaluate` computes those of config.evaluation.metrics.")
    note = "Data against data: one half of the data against the other, as a perfect model would score."
    return html.join([html.paragraph(note), *parts])


def _levels(run: Run) -> Html:
    levels = run.levels
    last = next((line for line in reversed(run.lines) if "loss" in line), {})

    def mean(name: str, t: int) -> float | None:
        return last.get(f"{name}/level_{t}")

    def gap(t: int) -> float | None:
        negative, positive = mean("negative", t), mean("positive", t)
        return None if negative is None or positive is None else negative - positive

    shown = _some(range(levels.num_levels), _MAX_ROWS)
    rows = [
        [
            f"t = {t}",
            float(levels.a_cum[t]),
            float(levels.sigma_cum[t]),
            float(levels.sigma[t + 1]),
            float(levels.step_squared[t]),
            float(levels.temperature[t]),
            gap(t),
            mean("displacement", t),
            mean("gradient_norm", t),
        ]
        for t in shown
    ]
    header = ["level", *map(html.symbols, ("ā_t", "σ̄_t", "σ_{t+1}", "s_t²")), "temperature", *_MEANS]
    part = "" if len(shown) == levels.num_levels else f"{len(shown)} of {levels.num_levels} levels. "
    when = f" The last three columns are means over steps up to {last['step']:,}." if last else ""
    note = (
        f"{part}x_t = ā_t x + σ̄_t ε. Level t recovers x_t from x_{{t+1}}, which has more noise of standard "
        "deviation σ_{t+1}, with the squared step size s_t². The log-density is f divided by the temperature."
        " Gap: f(samples) − f(data), which training drives to 0. Displacement: of a chain from start to end,"
        f" in units of the data. Gradient: of the log-density at the end, in nats per unit.{when}"
    )
    return html.join([html.paragraph(html.symbols(note)), html.table("Noise levels", header, rows)])


def _application(run: Run, name: str) -> Html | None:
    """The files of an application: what its JSON says, and its images. None if there are none."""
    content = read_json(run.workdir / f"{name}.json")
    names = [path.name for path in _listed(run.workdir) if path.match(f"{name}*.png")]
    if name == "detect" and content:
        names = ["detect.png", *(f"detect_level_{level}.png" for level in content["levels"])]
    images = [_image(run, each, each) for each in names]
    if not images and not content:
        return None
    return html.join([_detection(content) if name == "detect" and content else _fields(content), *images])


def _detection(result: Mapping[str, Any]) -> Html:
    """The tables of detect.json."""
    header = ["set", *(f"level {level}" for level in result["levels"])]
    tables = []
    for statistic, sets in result["auroc"].items():
        precisions = result["average_precision"][statistic]
        rows = [
            [name, *(f"{area:.3f} ({mean:.3f})" for area, mean in zip(areas, precisions[name], strict=True))]
            for name, areas in sets.items()
        ]
        title = f"AUROC (average precision) of the {statistic.replace('_', ' ')}"
        tables.append(html.table(title, header, rows))
    note = "AUROC 1: the set is told from the data; 0.5: it is not; below 0.5: it has the lower values."
    rest = {key: value for key, value in result.items() if key not in ("auroc", "average_precision")}
    return html.join([html.paragraph(note), *tables, html.details("What was compared", _fields(rest))])


def _fields(content: Mapping[str, Any]) -> Html:
    """All that a JSON file says, by key."""
    flat = schema.flatten(dict(content))
    shown = {key: value for key, value in flat.items() if not key.startswith(("versions.", "config."))}
    return html.facts((key, _text(value)) for key, value in shown.items()) if shown else Html("")


def _interruptions(run: Run) -> Html:
    parts = []
    if len(run.starts) > 1:
        rows = [
            [_time(start.time), start.step, start.last_step, _duration(start.last_time - start.time)]
            for start in run.starts
        ]
        header = ["started", "from step", "last step in its log", "until then"]
        parts.append(html.table(f"Training was started {len(run.starts)} times", header, rows))
    rollbacks = [(line["step"], each) for line in run.lines for each in line.get("rollbacks", [])]
    if rollbacks:
        rows = [[each["number"], each["from_step"], step, each["cause"]] for step, each in rollbacks]
        header = ["rollback", "diverged at step", "back to step", "cause"]
        parts.append(html.table("Training diverged and went back to a checkpoint", header, rows))
    for path in _listed(run.workdir):
        if path.name.startswith("skipped_") and (skipped := path.read_text().splitlines()):
            shown = "\n".join(skipped[:_MAX_LINES])
            title = f"{len(skipped)} damaged examples were replaced by others"
            parts.append(html.details(title, html.code(shown)))
    if parts:
        return html.join(parts)
    once = "Training was started once. " if run.starts else ""
    return html.paragraph(f"{once}It never went back to a checkpoint, and no damaged example was replaced.")


def _machine(run: Run) -> Html:
    """What made the checkpoints that are kept; where they differ, each."""
    if not run.records:
        return html.paragraph("No checkpoint is kept, which would say it.")
    found: dict[str, dict[str, list[str]]] = {}
    for step, record in run.records.items():
        named = {name: record.get(name) for name in ("machine", "commit")} | record.get("versions", {})
        for name, value in named.items():
            found.setdefault(name, {}).setdefault(value or "not known", []).append(f"{step:,}")

    def text(values: Mapping[str, list[str]]) -> str:
        if len(values) == 1:
            return next(iter(values))
        return "; ".join(f"{value} (steps {', '.join(at)})" for value, at in values.items())

    steps = ", ".join(f"{step:,}" for step in run.records)
    note = html.paragraph(f"As the checkpoints say, which are of the steps {steps}.")
    return html.join([note, html.facts((name, text(values)) for name, values in found.items())])


def _repeat(run: Run) -> Html:
    commit = next((r.get("commit") for r in reversed(run.records.values()) if r.get("commit")), None)
    lines = [f"git checkout {shlex.quote(commit)}  # in a clone of drl_jax"] if commit else []
    groups = schema.to_dict(run.config).items()
    text = "{" + ",\n".join(f'"{name}": {json.dumps(group)}' for name, group in groups) + "}"
    lines += ["mkdir -p runs/again", f"cat > runs/again/{schema.FILE} <<'END'\n{text}\nEND"]
    lines.append("drl-jax train --workdir=runs/again")
    for result in run.evaluations.values():
        flags = [f"--config.{key}={_flag(value)}" for key, value in _changes(run.config, result)]
        lines.append(shlex.join(["drl-jax", "evaluate", "--workdir=runs/again", *flags]))
    for name in _APPLICATIONS:
        given = read_json(run.workdir / f"{name}.json").get("options", {}).items()
        flags = [f"--{option}={_flag(value)}" for option, value in given if value is not None]
        if flags:
            lines.append(shlex.join(["drl-jax", name, "--model=runs/again", *flags]))
    note = "Paths in the config are those of the machine of this run; edit them where the data lie elsewhere."
    return html.join([html.code("\n".join(lines)), html.paragraph(note)])


def _changes(config: Config, result: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The keys of the config that an evaluation had other than the run, with its step."""
    before, now = (schema.flatten(each) for each in (schema.to_dict(config), result.get("config", {})))
    now["evaluation.step"] = result.get("protocol", {}).get("samples", {}).get("step")
    return [(key, value) for key, value in now.items() if key in before and before[key] != value]


def _flag(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _config(run: Run) -> Html:
    known = schema.keys(run.config.network.name)
    values = schema.flatten(schema.to_dict(run.config))
    rows = [[f"config.{key}", _text(values[key]), _text(about.default)] for key, about in known.items()]
    changed = [row for row in rows if row[1] != row[2]]
    same = html.table("As the default", ["key", "value"], [row[:2] for row in rows if row[1] == row[2]])
    return html.join(
        [
            html.table("Other than the default", ["key", "value", "default"], changed),
            html.details(f"As the default: {len(rows) - len(changed)} keys", same),
        ]
    )


def _image(run: Run, name: str, caption: str) -> Html:
    """A PNG file of the workdir; nothing if there is none."""
    try:
        content = (run.workdir / name).read_bytes()
    except OSError:
        return Html("")
    if not content.startswith(_PNG):
        return Html("")
    width = int.from_bytes(content[16:20], "big")
    return html.image(content, caption, is_plot=width > _MAX_GRID)


def _listed(folder: epath.Path) -> list[epath.Path]:
    return sorted(folder.iterdir(), key=lambda path: path.name) if files.exists(folder) else []


def _some(values: Sequence[int], count: int) -> list[int]:
    """At most `count` of the values, at equal distances, with the first and the last."""
    if len(values) <= count:
        return list(values)
    return [values[i] for i in np.linspace(0, len(values) - 1, count).round().astype(int)]


def _text(value: Any) -> str:
    """A value of a JSON file."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        shown = ", ".join(map(_text, value[:_MAX_NUMBERS]))
        return f"{shown}, … ({len(value)} in all)" if len(value) > _MAX_NUMBERS else shown or "none"
    return str(value)


def _time(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"
