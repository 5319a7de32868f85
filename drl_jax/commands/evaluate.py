"""`evaluate`: the scores of a trained model, with everything that they depend on."""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import jax
from etils import epath

from drl_jax import files
from drl_jax.checkpoints.packing import digest
from drl_jax.commands.common import (
    about_data,
    load_weights,
    make_domain,
    make_sampler,
    make_spaces,
    metrics_of,
    protocol_lines,
    read_reference,
    voices,
)
from drl_jax.config.build import build, open_data
from drl_jax.config.schema import Config
from drl_jax.errors import UserError
from drl_jax.evaluation import measures
from drl_jax.evaluation.evaluator import Domain, Gallery
from drl_jax.evaluation.features import Space
from drl_jax.evaluation.measures import Population
from drl_jax.evaluation.reference import hash_of
from drl_jax.evaluation.store import Part, Parts, digests, join
from drl_jax.parallel import devices
from drl_jax.parallel.devices import everywhere, from_first
from drl_jax.parallel.preemption import Stop
from drl_jax.parallel.sampler import Sampler, Weights, not_finite
from drl_jax.report import metrics_log, provenance
from drl_jax.training.loop import Say

FOLDER = "evaluations"  # in the workdir: one folder per set of samples


def evaluate(config: Config, workdir: epath.Path, prepare_command: str, stop: Stop) -> None:
    """Draws samples from the averaged weights of a checkpoint and measures them.

    Sample i is a function of (weights, seed, i). What was drawn stays, as features: the same line goes on
    where it was interrupted, and more samples begin with those that are there.
    """
    experiment, metrics = build(config), metrics_of(config)
    if not metrics:
        raise UserError(
            "config.evaluation.metrics=none leaves nothing to measure; fid,kid or frechet_pixels are possible"
        )
    source = open_data(config, prepare_command)
    devices.start()
    stop.linger = devices.linger()
    placement, (say, warn) = devices.place(), voices()
    checkpoint, weights = load_weights(workdir, config, experiment, placement, warn)
    spaces = make_spaces(config, metrics, experiment.shape, placement)
    sampler, domain = make_sampler(config, experiment, placement, stop), make_domain(config, experiment)
    count, batch = config.evaluation.num_samples, config.evaluation.save_every
    if batch > count:
        say(
            f"config.evaluation.save_every={batch}: {count} samples do not fill a batch, and are saved as one"
        )

    drawn_from = {
        **({} if config.data.name == "points" else {"bytes": "by truncation"}),
        "step": checkpoint.step,
        "weights": f"average with decay {config.training.ema_decay:g}",
        "weights_sha256": digest(weights),
        "levels": config.levels.count,
        "b_squared": config.levels.b_squared,
        "growth": config.levels.step_growth,
        "temperature": config.levels.temperature,
        "langevin_steps": config.sampler.steps,
        "langevin_spread": config.sampler.step_range,
        "noise_scale": config.sampler.noise_scale,
        "seed": config.evaluation.seed,
        "drawn_at_once": config.evaluation.samples_per_device,
        "device": jax.devices()[0].device_kind,
    }
    versions = provenance.versions()
    about = {space.name: space.about for space in sorted(spaces, key=lambda space: space.name)}
    identity = [drawn_from, about, versions]
    folder = workdir / FOLDER / f"{checkpoint.step:07}_{hash_of(identity)}"
    first = jax.process_index() == 0
    with ExitStack() as opened:
        devices.by_first(lambda: opened.enter_context(files.held(folder, "evaluation")))
        _draw(sampler, weights, count, domain, spaces, folder, say, save_every=batch)
        reference = read_reference(config, source, metrics, spaces, warn)
        scores = {}
        if measures.TOTAL_VARIATION in metrics:
            scores = domain.scores(weights, folder / "model" if first else None)
        if first:
            samples, sha256 = _read(folder, count, spaces)
            for name in metrics:
                if measures.is_frechet(name) and samples[measures.space_of(name)].moments.is_singular:
                    warn(_few(samples[measures.space_of(name)], name))
            result = {
                "scores": scores | measures.measure(metrics, samples, reference.populations()),
                "halves_of_the_data": measures.floor(metrics, reference.data),
                "protocol": {
                    "samples": {"count": count, "sha256": sha256, **drawn_from},
                    "reference": about_data(config, source, reference),
                    **about,
                    "metrics": {name: measures.protocol_of(name) for name in metrics},
                },
                "training": {
                    "seconds": _training_seconds(workdir, checkpoint.step),
                    "machine": checkpoint.record["machine"],
                    "commit": checkpoint.record["commit"],
                },
                "evaluation": {"machine": provenance.machine()},
                **versions,
                "config": config.to_dict(),
            }
            say(_told(result))
            file = folder / f"result_{count}.json"
            files.write(file, json.dumps(_with_earlier(file, result), indent=1) + "\n")
            say(f"written to {file}")
    everywhere(True)  # the first process is at work longer than the others


def _draw(
    sampler: Sampler,
    weights: Weights,
    count: int,
    domain: Domain,
    spaces: Sequence[Space],
    folder: epath.Path,
    say: Say,
    *,
    save_every: int,
) -> None:
    """Leaves the features of the first `count` samples in the folder: of those that are not there yet.

    Raises UserError for samples that are not finite.
    """
    parts, first = Parts(folder), jax.process_index() == 0
    start = from_first(sum(len(part.digests) for part in parts.read(count)) if first else 0)
    if start:
        say(f"{start} of {count} samples are there already")
    done, began = start, time.monotonic()
    told, unsaved, gallery = began, [], Gallery(domain)
    for x, process in sampler.draw(weights, count, start=start):
        if broken := not_finite(x):
            raise UserError(
                f"{broken} of the samples {done} … {done + len(x) - 1} are not finite: their chains "
                "diverged, and a score of the others would be of another model"
            )
        samples = domain.examples(x)
        if start == 0:
            gallery.add(samples, process)
        unsaved.append(Part({space.name: space.extract(samples) for space in spaces}, digests(samples)))
        done += len(samples)
        waiting = sum(len(part.digests) for part in unsaved)
        if waiting >= save_every or done == count:
            if first:
                parts.write(done - waiting, join(unsaved))
            unsaved.clear()
        now = time.monotonic()
        if now - told > 10 or done == count:
            told, speed = now, (done - start) / (now - began)
            say(f"sample {done}/{count}  {speed:.3g} samples/s  {(count - done) / speed:.0f} s left")
    if first:
        gallery.show(folder / "samples")


def _read(folder: epath.Path, count: int, spaces: Sequence[Space]) -> tuple[dict[str, Population], str]:
    """The samples in each space, and the SHA-256 of their own, one after the other."""
    gatherings = {space.name: measures.Gathering() for space in spaces}
    sha256, read = hashlib.sha256(), 0
    for part in Parts(folder).read(count):
        sha256.update(part.digests.tobytes())
        read += len(part.digests)
        for space, gathering in gatherings.items():
            gathering.add(part.features[space])
    if read < count:
        raise UserError(f"{folder} was damaged while it was in use: {read} of {count} samples can be read")
    populations = {space: gathering.population() for space, gathering in gatherings.items()}
    return populations, sha256.hexdigest()


def _few(population: Population, metric: str) -> str:
    return (
        f"{population.size} samples have a singular covariance in the {len(population.moments.mean)} "
        f"dimensions of {metric}: their distance is finite, and far above that of more samples"
    )


def _with_earlier(file: epath.Path, result: dict[str, Any]) -> dict[str, Any]:
    """A result, with the scores of other metrics that were measured of the same samples and data."""
    try:
        earlier = json.loads(file.read_text())
        same = all(earlier["protocol"][part] == result["protocol"][part] for part in ("samples", "reference"))
        if not same:
            return result
        merged = {kind: {**earlier[kind], **result[kind]} for kind in ("scores", "halves_of_the_data")}
        metrics = {**earlier["protocol"]["metrics"], **result["protocol"]["metrics"]}
        protocol = {**earlier["protocol"], **result["protocol"], "metrics": metrics}
    except (OSError, ValueError, KeyError, TypeError):  # there is none, or it is damaged
        return result
    return {**result, **merged, "protocol": protocol}


def _training_seconds(workdir: epath.Path, step: int) -> float:
    """How long the run took to come to a step, evaluations included and interruptions left out."""
    seconds, before = 0.0, 0
    for line in metrics_log.read(workdir):
        if line["step"] > step:
            break
        if line.get("steps_per_second"):
            seconds, before = seconds + (line["step"] - before) / line["steps_per_second"], line["step"]
        seconds += line.get("evaluation_seconds") or 0.0
    return seconds


def _told(result: Mapping[str, Any]) -> str:
    """The scores, those of one half of the data against the other, and the protocol."""
    halves = {f"{name}_halves": value for name, value in result["halves_of_the_data"].items()}
    lines = [f"{name:<36} {value:.5g}" for name, value in (result["scores"] | halves).items()]
    lines += protocol_lines(result["protocol"], result)
    return "\n".join(lines)
