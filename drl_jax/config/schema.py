"""The settings of a run: for each key its type, default, allowed values, unit and source.

A config file starts from `base()`, which has the paper's values for CIFAR-10, and sets what differs. The
program checks the result and works with a typed, frozen `Config`.

    Annotated[int, at_least(1), FREE]    an int of at least 1; FREE: it may change when a run continues
    ... | None                           the value may be absent
    (authors' code), (paper), (ours)     where a default comes from
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from typing import Annotated, Any, Literal, get_type_hints

from etils import epath
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from drl_jax import files
from drl_jax.config.rules import (
    BACKGROUND,
    CHANNELS,
    COUNT,
    CROP,
    DECAY,
    EVEN,
    FREE,
    PROPORTIONS,
    SEED,
    SHA256,
    SIZES,
    SOME_SIZES,
    TIMEOUT,
    Key,
    above,
    at_least,
    make_key,
    nearest,
    unwrap,
)
from drl_jax.errors import UserError

FILE = "config.json"  # in the workdir
FORMAT = 1  # of config.json and of the config in a checkpoint's record; grows when a key changes its meaning

Precision = Literal["default", "high", "highest"]  # as JAX names them

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Data:
    """The data set, and how it becomes batches."""

    name: str = "cifar10"  # cifar10, celeb_a, digits, points, folder, or a name of tensorflow-datasets
    split: str = "train"  # of a set of tensorflow-datasets
    data_dir: Annotated[str | None, FREE] = None  # where sets are prepared; None: $TFDS_DATA_DIR
    path: Annotated[str | None, FREE] = None  # a folder or an archive of images; prepare: original files
    density: str | None = None  # for data.name=points: ring, checkerboard, spirals, moons, gaussian
    image_size: Annotated[int, at_least(1)] = 32  # pixels; the side of the images in a batch
    channels: Annotated[int, CHANNELS] = 3  # of an image: RGB or grey
    crop: Annotated[tuple[int, int, int, int] | None, CROP] = None  # pixels; None: the central square
    background: Annotated[tuple[int, ...], BACKGROUND] = (255,)  # shows where images are transparent
    skip_damaged: Annotated[bool, FREE] = False  # the next undamaged image takes the place of a damaged one
    flip: bool = True  # mirror half of the images, left to right (authors' code)
    batch_size: Annotated[int, at_least(1)] = 256  # examples per step, over all devices (authors' code)
    timeout: Annotated[float, TIMEOUT, FREE] = 600.0  # seconds that reading a batch may take


@dataclass(frozen=True)
class Residual:
    """The paper's network, for images."""

    name: Literal["residual"] = "residual"
    width: Annotated[int, EVEN] = 128  # ch: channels before multiplication, and of the level's embedding
    multipliers: Annotated[tuple[int, ...], SOME_SIZES] = (1, 2, 2, 2)  # of the width, per resolution
    blocks_per_resolution: Annotated[int, at_least(1)] = 8  # residual blocks
    attention: Annotated[tuple[int, ...], SIZES] = ()  # sides in pixels at which attention follows a block
    conv_shortcut: bool = True  # 3x3 shortcuts where the channels change, else 1x1 (authors' code)
    activation: Literal["leaky_relu", "smooth"] = "leaky_relu"  # leaky_relu: ReLU before the sum (paper);
    # smooth: a leaky swish, and √(h² + 0.01) before the sum (ours)
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the computation; parameters are float32
    precision: Annotated[Precision, FREE] = "default"  # of products of float32 numbers: a TPU rounds the
    # factors to bfloat16, unless this is highest (float32, 4 times the cycles); high is between


@dataclass(frozen=True)
class Points:
    """A small network for points in the plane (ours)."""

    name: Literal["points"] = "points"
    width: Annotated[int, at_least(1)] = 128  # of the hidden layers
    depth: Annotated[int, at_least(0)] = 1  # hidden layers
    num_frequencies: Annotated[int, at_least(1)] = 64  # sinusoids of the coordinates
    min_frequency: Annotated[float, above(0)] = 1.0  # of the sinusoids, radians per unit
    max_frequency: Annotated[float, above(0)] = 20.0  # of the sinusoids, radians per unit
    precision: Annotated[Precision, FREE] = "default"  # of products of float32 numbers: a TPU rounds the
    # factors to bfloat16, unless this is highest (float32, 4 times the cycles); high is between


@dataclass(frozen=True)
class Levels:
    """The noise levels and the step sizes of their chains."""

    count: Annotated[int, COUNT] = 6  # T (paper)
    sigma_0: Annotated[float | None, above(0)] = None  # noise of x_0, which samples keep; None: 0.01 (paper),
    # and 0 for T = 1000. Data with constant pixels need more of it (ours, docs/divergence.md)
    b_squared: Annotated[float, above(0)] = 2e-4  # b²: s_t² = b² σ²_{t+1} (σ_cum[t] / σ_cum[0])^step_growth
    step_growth: Annotated[float | None, at_least(0)] = None  # None: 1 (authors' code), and 0 for T = 1000
    temperature: Literal["step", "noise", "one"] | None = None  # f is divided by s_t², σ_cum[t+1] or 1;
    # None: step (authors' code), and noise for T = 1000


@dataclass(frozen=True)
class Sampler:
    """How x_t is drawn from x_{t+1} at each level."""

    name: str = "langevin"  # langevin (paper); mala: Metropolis-adjusted (ours); normal: one draw from a
    # normal approximation, for 1000 levels (paper)
    steps: Annotated[int, at_least(0), FREE] = 30  # K, of the chain (paper); normal: after the draw, not in
    # training; 0 in the paper
    extra_steps: Annotated[int, at_least(0), FREE] = 0  # when sampling; samples become more precise and less
    # varied (ours, docs/quality.md)
    step_range: Annotated[float, at_least(1)] = 1.0  # mala: largest squared step divided by the smallest
    noise_scale: Annotated[float, at_least(0), FREE] = 0.99  # η when sampling (authors' code); 1 in training


@dataclass(frozen=True)
class Optimizer:
    """Adam and its schedule."""

    learning_rate: Annotated[float, above(0)] = 1e-4  # (paper)
    warmup_steps: Annotated[int, at_least(0)] = 1000  # the learning rate grows linearly from 0
    decay_steps: Annotated[int | None, at_least(1)] = None  # a cosine reaches 0 at this step; None: no decay
    beta1: Annotated[float, DECAY] = 0.9  # 0.5 for CelebA and LSUN 128x128 (authors' code)
    beta2: Annotated[float, DECAY] = 0.999  # decay of the second moment (authors' code)
    epsilon: Annotated[float, at_least(0)] = 1e-7  # added to √v before bias correction, as TensorFlow does
    clip_norm: Annotated[float | None, above(0)] = None  # of the whole gradient; None: no clipping (paper)


@dataclass(frozen=True)
class Spectral:
    """Spectral normalisation."""

    iterations: Annotated[int, at_least(1), FREE] = 1  # power iterations per training step
    init_iterations: Annotated[int, at_least(0)] = 100  # power iterations before the first step (ours)


@dataclass(frozen=True)
class Training:
    """The training loop."""

    steps: Annotated[int, at_least(1), FREE] = 240_000  # (authors' code)
    objective: Literal["recovery", "score"] = "recovery"  # recovery likelihood (paper), or denoising score
    # matching, which draws no samples and is for 1000 levels (paper's ablation)
    coupled: bool = False  # x_t has the noise of its chain: the gradient of the loss varies less (ours)
    level_proportions: Annotated[tuple[int, ...] | None, PROPORTIONS] = None  # how often each level is
    # trained, from level 0 on, as 1,3,3,3,1,1 (ours, docs/quality.md); None: equally often (paper)
    init: str | None = None  # weights to begin with: a model that ships, as digits, or a file of `export`
    seed: Annotated[int, SEED] = 0  # of weights, levels, noise and the order of the data
    ema_decay: Annotated[float, DECAY] = 0.999  # of the averaged weights, which sample; no bias correction
    energy_penalty: Annotated[float, at_least(0), FREE] = 0.0  # c of c · mean(f²), added to the loss (ours)
    microbatches: Annotated[int, at_least(1), FREE] = 1  # parts of a batch, one after another: saves memory
    remat: Annotated[bool, FREE] = False  # compute activations twice instead of storing them: saves memory
    log_every: Annotated[int, at_least(1), FREE] = 100  # steps between two lines of metrics.jsonl


@dataclass(frozen=True)
class Checkpoint:
    """Which checkpoints are saved and kept."""

    every: Annotated[int, at_least(1)] = 5000  # steps (authors' code)
    keep: Annotated[int, at_least(1)] = 3  # the newest ones
    keep_every: Annotated[int | None, at_least(1)] = None  # also keep those of every so many steps
    best_of: str | None = None  # also keep the one with the lowest value of this score


@dataclass(frozen=True)
class Guard:
    """What counts as divergence (ours); docs/divergence.md."""

    rollbacks: Annotated[int, at_least(0)] = 5  # how often a run may go back to its last checkpoint
    spike: Annotated[float, above(1)] = 100.0  # times the recent size of loss, gradient, samples and energies
    loss: Annotated[float, above(0)] = 1e6  # |loss| (the authors' code stops below −1e6)
    max_abs: Annotated[float, above(0)] = 1e3  # |x| of a sample; data are in [-1, 1]


@dataclass(frozen=True)
class Evaluation:
    """Samples and scores, during training and by the commands."""

    every: Annotated[int, at_least(1)] = 5000  # steps between two evaluations; one more at the end
    num_samples: Annotated[int, at_least(1)] = 64  # samples per evaluation, and of `sample`
    samples_per_device: Annotated[int, at_least(1)] = 16  # drawn at once; the last digits depend on it
    save_every: Annotated[int, at_least(1)] = 64  # samples that `evaluate` draws between two saves
    seed: Annotated[int, SEED] = 0  # sample i is a function of (weights, seed, i)
    metrics: str = "none"  # fid, kid, inception_score, precision_recall, frechet_pixels, …, with commas
    split: str | None = None  # of the data that samples are compared with, such as test; None: data.split
    score_untrained: bool = False  # score an untrained model at the end of training, to compare with
    inception_weights: str | None = None  # torch-fidelity's file, or fetch: the public one
    inception_sha256: Annotated[str, SHA256] = "6726825d"  # how the SHA-256 of that file begins
    step: Annotated[int | None, at_least(0)] = None  # of the checkpoint to sample; None: the newest


@dataclass(frozen=True)
class Config:
    """All settings of a run; the defaults are the paper's CIFAR-10 run T6."""

    data: Data = Data()
    network: Residual | Points = Residual()
    levels: Levels = Levels()
    sampler: Sampler = Sampler()
    optimizer: Optimizer = Optimizer()
    spectral: Spectral = Spectral()
    training: Training = Training()
    checkpoint: Annotated[Checkpoint, FREE] = Checkpoint()
    guard: Annotated[Guard, FREE] = Guard()
    evaluation: Annotated[Evaluation, FREE] = Evaluation()


NETWORKS: dict[str, type[Residual | Points]] = {"residual": Residual, "points": Points}


@cache
def keys(network: str = "residual") -> Mapping[str, Key]:
    """Returns the keys of a config with this network, such as "data.batch_size"."""
    found = {}
    for group, hint in get_type_hints(Config, include_extras=True).items():
        _, marks = unwrap(hint)
        cls = NETWORKS[network] if group == "network" else type(getattr(Config, group))
        for name, hint_of_key in get_type_hints(cls, include_extras=True).items():
            found[f"{group}.{name}"] = make_key(hint_of_key, getattr(cls, name), is_free=FREE in marks)
    return found


def base(network: str = "residual") -> Any:
    """Makes the config that a config file starts from: the settings of the paper's CIFAR-10 run T6.

    Args:
      network: "residual" (the paper's, for images) or "points"; `config.network` has its keys.

    Returns:
      A ConfigDict; the type is Any because a type checker does not know a ConfigDict's keys.

    Raises:
      UserError: there is no such network.
    """
    tree: dict[str, dict[str, Any]] = {group.name: {} for group in fields(Config)}
    for key, about in keys(known_network(network, "base()")).items():
        group, name = key.split(".")
        tree[group][name] = placeholder(about.type) if about.default is None else about.default
    return ConfigDict(tree)


def from_config_dict(config: ConfigDict, source: str = "the config") -> Config:
    """Checks what a config file made of `base()`.

    Args:
      config: every key, with a value.
      source: where it is from, for messages.

    Returns:
      The same settings, typed.

    Raises:
      UserError: a key is unknown or missing, or a value is not possible.
    """
    return from_values(config_dict_values(config, source), source)


def config_dict_values(config: object, source: str) -> dict[str, Any]:
    """Returns the values of a ConfigDict by key, unchecked. Raises UserError if it is something else."""
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"{source}: get_config returns a {type(config).__name__}; a ConfigDict is expected, as "
            "drl_jax.config.schema.base() makes it"
        )
    return flatten(config.to_dict())


def from_values(values: Mapping[str, Any], source: str) -> Config:
    """Makes a config of values by key; like `from_config_dict`."""
    name = known_network(values.get("network.name"), source)
    known = keys(name)
    for key in values:
        if key not in known:
            raise UserError(f"{source}: {unknown_key(key, name)}")
    if missing := [key for key in known if key not in values]:
        other = f" for config.network.name={name}" if missing[0].startswith("network.") else ""
        raise UserError(
            f"{source}: config.{missing[0]} is missing{other}; "
            f"drl_jax.config.schema.base({name!r}) has all keys"
        )
    typed = {key: about.check(f"config.{key}", values[key]) for key, about in known.items()}
    groups: dict[str, Any] = {}
    for group in fields(Config):
        own = {key.split(".")[1]: value for key, value in typed.items() if key.startswith(f"{group.name}.")}
        cls = NETWORKS[name] if group.name == "network" else type(getattr(Config, group.name))
        groups[group.name] = cls(**own)
    return Config(**groups)


def check(config: Config) -> None:
    """Checks a config that was made by hand.

    Raises:
      UserError: a value is not possible.
    """
    from_values(flatten(asdict(config)), "the config")


def to_dict(config: Config) -> dict[str, Any]:
    """Converts a config to what `json.dumps` takes and `json.loads` gives back, with its format."""
    values = asdict(config)
    for group in values.values():
        group |= {name: list(value) for name, value in group.items() if isinstance(value, tuple)}
    return {"format": FORMAT, **values}


def save(config: Config, path: epath.Path) -> None:
    """Writes a config as JSON."""
    files.write(path, json.dumps(to_dict(config), indent=1) + "\n")


def load(path: epath.Path) -> Config:
    """Reads what `save` wrote. A key that the file lacks has its default; one that is unknown is ignored.

    Raises:
      UserError: the file is not a config, or a value is not possible.
    """
    return from_values(load_values(path), str(path))


def load_values(path: epath.Path) -> dict[str, Any]:
    """Reads the values of a file that `save` wrote, by key; like `load`, but does not check them."""
    saved = read(path)
    values = complete(saved, str(path))
    for key in sorted(flatten(saved).keys() - values.keys() - {"format"}):
        _logger.warning("%s: config.%s is unknown and is ignored", path, key)
    return values


def read(path: epath.Path) -> Any:
    """Reads a JSON file. Raises UserError if it is damaged."""
    try:
        return json.loads(path.read_text())
    except ValueError as error:  # not JSON, or not text
        raise UserError(f"{path} is not a config of this program: {' '.join(str(error).split())}") from None


def complete(saved: Any, source: str) -> dict[str, Any]:
    """Returns the values of a saved config by key: defaults for missing keys, unknown keys left out.

    A saved config lacks the keys that were added after it was written, and may have keys that are gone.
    Neither may lock out an existing workdir.

    Args:
      saved: what `to_dict` made, in any version of the program.
      source: where it is from, for messages.

    Raises:
      UserError: it is not a config, or a newer version wrote it.
    """
    made_by = saved.get("format") if isinstance(saved, Mapping) else None
    if type(made_by) is not int:
        raise UserError(f"{source} is not a config of this program: it has no format number")
    if made_by > FORMAT:
        raise UserError(
            f"{source} was written by a newer version of drl_jax (format {made_by}; this one reads {FORMAT})"
        )
    values = flatten(saved)
    if damaged := [group.name for group in fields(Config) if group.name in values]:
        raise UserError(f"{source} is not a config of this program: {damaged[0]} is not a group of keys")
    known = keys(known_network(values.get("network.name", Residual.name), source))
    return {key: values.get(key, about.default) for key, about in known.items()}


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the leaves of nested dicts by dotted key; lists as tuples, so that JSON's compare equal."""
    leaves = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            leaves |= flatten(value, f"{prefix}{name}.")
        else:
            leaves[f"{prefix}{name}"] = tuple(value) if isinstance(value, list) else value
    return leaves


def unknown_key(key: str, network: str) -> str:
    """Returns the message about a key that does not exist, with what may have been meant."""
    known = keys(network)
    if own := [other for other in known if other.startswith(f"{key}.")]:
        return f"config.{key} is a group of keys; set them one by one, as in config.{own[0]}=…"
    for other in NETWORKS:
        if key in keys(other):
            return f"config.{key} is a key of config.network.name={other}, and the network is {network}"
    if near := nearest(key, known):
        return f"config.{key} is not a key; did you mean {' or '.join(f'config.{other}' for other in near)}?"
    group = key.partition(".")[0]
    if own := [other.partition(".")[2] for other in known if other.startswith(f"{group}.")]:
        return f"config.{key} is not a key; keys of config.{group} are {', '.join(own)}"
    return f"config.{key} is not a key; groups of keys are {', '.join(each.name for each in fields(Config))}"


def known_network(name: object, source: str) -> str:
    """Returns the name of a network if there is one. Raises UserError if not, with the source of the name."""
    if not isinstance(name, str) or name not in NETWORKS:
        names = ", ".join(NETWORKS)
        raise UserError(f"{source}: config.network.name={name!r} is not possible: it must be one of {names}")
    return name
