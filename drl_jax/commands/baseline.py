"""`check`: the scores of data against themselves, to hold a model's against, and to try the metrics on."""

from drl_jax.commands.common import (
    about_data,
    make_spaces,
    metrics_of,
    protocol_lines,
    read_reference,
    voices,
)
from drl_jax.config.build import build, open_data
from drl_jax.config.schema import Config
from drl_jax.data.sources import has_split
from drl_jax.errors import UserError
from drl_jax.evaluation import measures
from drl_jax.evaluation.features import PUBLIC_SHA256
from drl_jax.parallel import devices
from drl_jax.parallel.preemption import Stop
from drl_jax.report import provenance

# What others measured of the images of CIFAR-10 by the same network: the distance of the test set from
# the training set, and the score of the training set.
_KNOWN = {"cifar10": {"fid_10000": 3.15, "inception_score": 11.24}}


def check(config: Config, prepare_command: str, stop: Stop) -> None:
    """Measures the test split against the one that the config names where there are both, and halves of
    the data against each other where not."""
    experiment, metrics = build(config), metrics_of(config, samples=False)
    metrics = [name for name in metrics if name != measures.TOTAL_VARIATION]
    if not metrics:
        raise UserError(
            f"config.evaluation.metrics={config.evaluation.metrics}: no metric of samples is among them"
        )
    source = open_data(config, prepare_command)
    devices.start()
    stop.linger = devices.linger()
    placement, (say, warn) = devices.place(), voices()
    spaces = make_spaces(config, metrics, experiment.shape, placement)

    data = read_reference(config, source, metrics, spaces, warn)
    told = {"reference": about_data(config, source, data), **{space.name: space.about for space in spaces}}
    told["metrics"] = {name: measures.protocol_of(name) for name in metrics}
    say("\n".join(protocol_lines(told, provenance.versions())))
    _tell(say, "one half against the other", measures.floor(metrics, data.data), {})
    known = _KNOWN.get(config.data.name, {}) if _is_as_known(config) else {}
    scores = measures.measure([m for m in metrics if m == "inception_score"], data.data, data.data)
    if scores:
        _tell(say, f"{config.data.split} alone", scores, known)
    if not has_split(config.data.name, "test", data_dir=config.data.data_dir):
        return
    test = config.copy_and_resolve_references()
    test.data.split = "test"
    other = open_data(test, prepare_command)
    held_out = read_reference(config, other, metrics, spaces, warn)
    say(f"{len(other)} examples of {config.data.name} test, sha256 {held_out.sha256}")
    others = [name for name in metrics if name != "inception_score"]
    scores = measures.measure(others, held_out.data, data.data)
    _tell(say, f"test against {config.data.split}", scores, known)


def _is_as_known(config: Config) -> bool:
    data, weights = config.data, config.evaluation.inception_sha256
    whole = (data.split, data.image_size, data.channels, data.crop) == ("train", 32, 3, None)
    return whole and weights.startswith(PUBLIC_SHA256)


def _tell(say, what: str, scores: dict[str, float], known: dict[str, float]) -> None:
    say(f"{what}:")
    for name, value in scores.items():
        beside = f"  (known: {known[name]})" if name in known else ""
        say(f"  {name:<34} {value:.5g}{beside}")
