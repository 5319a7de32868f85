"""The schema of a run's configuration: every key, its type, its unit, and the paper's value.

A config file takes `base()` and sets what differs. The composition root (`experiment`) turns the tree
into plain arguments; nothing below it sees a ConfigDict.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from drl_jax import files
from drl_jax.errors import UserError

Config = Any
"""A ConfigDict: its keys are checked as it is read, which no type checker could."""

FILE = "config.json"  # in the workdir

# What a checkpoint's state depends on, in shape or in meaning: a workdir holds one run, and these may not
# change within it …
FIXED = ("data", "network", "levels", "sampler", "optimizer", "spectral", "training")
# … but for these, which act on what follows alone.
FREE = (
    "data.data_dir",
    "data.path",
    "data.timeout",
    "sampler.noise_scale",
    "sampler.steps",
    "spectral.iterations",
    "training.steps",
    "training.log_every",
    "training.energy_penalty",
)


def base() -> Config:
    """The settings of the paper's CIFAR-10 run (T6), as the authors' code has them."""
    config: Config = ConfigDict()

    config.data = ConfigDict()
    config.data.name = "cifar10"  # cifar10, celeb_a, digits, points, folder, or a tensorflow-datasets name
    config.data.split = "train"  # of a tensorflow-datasets set
    config.data.data_dir = placeholder(str)  # folder of prepared data sets; none: $TFDS_DATA_DIR
    config.data.path = placeholder(str)  # of data.name = folder: a folder or a zip of images
    config.data.density = placeholder(str)  # of data.name = points: ring, checkerboard, spirals, …
    config.data.image_size = 32  # pixels
    config.data.channels = 3  # 3 RGB, 1 grey
    config.data.crop = placeholder(tuple)  # (top, left, height, width) in pixels; none: central square
    config.data.flip = True  # mirror half of the images, left to right
    config.data.batch_size = 256  # examples a step, over all devices
    config.data.timeout = 600.0  # seconds that reading a batch may take

    config.network = ConfigDict()
    config.network.name = "residual"  # residual (images) or points
    config.network.width = 128  # ch, the width at the first resolution
    config.network.multipliers = (1, 2, 2, 2)  # of ch, one per resolution
    config.network.blocks_per_resolution = 8  # residual blocks per resolution
    config.network.attention = ()  # sides, in pixels, at which attention follows each block
    config.network.conv_shortcut = True  # 3x3 shortcuts where channels change (authors' default)
    config.network.dtype = "float32"  # of the computation: float32 or bfloat16

    config.levels = ConfigDict()
    config.levels.count = 6  # T: 1 … 501, or 1000
    config.levels.b_squared = 2e-4  # b²: s_t² = b² σ²_{t+1} (σ_cum[t] / σ_cum[0])^step_growth
    config.levels.step_growth = placeholder(float)  # 1, or 0 with 1000 levels, if not given
    config.levels.temperature = placeholder(str)  # F = f / it: step (s_t²), noise (σ_cum[t+1]) or one;
    # step, or noise with 1000 levels, if not given

    config.sampler = ConfigDict()
    config.sampler.name = "langevin"  # langevin, or mala: Metropolis-adjusted
    config.sampler.steps = 30  # K, per level
    config.sampler.step_range = placeholder(float)  # given: Metropolis-adjusted, s² / spread … s² (ours)
    config.sampler.noise_scale = 0.99  # η when sampling (authors' evaluation); 1 in training

    config.optimizer = ConfigDict()
    config.optimizer.learning_rate = 1e-4
    config.optimizer.warmup_steps = 1000  # linear from 0
    config.optimizer.decay_steps = placeholder(int)  # given: along a cosine to 0 at this step
    config.optimizer.beta1 = 0.9  # 0.5 for CelebA and LSUN-128
    config.optimizer.beta2 = 0.999
    config.optimizer.epsilon = 1e-7  # added to √v before bias correction, as TensorFlow does
    config.optimizer.clip_norm = placeholder(float)  # of the whole gradient; none in the paper

    config.spectral = ConfigDict()
    config.spectral.iterations = 1  # power iterations per training step
    config.spectral.init_iterations = 100  # power iterations before the first step (ours)

    config.training = ConfigDict()
    config.training.steps = 240_000  # iterations (authors' code)
    config.training.seed = 0  # of weights, levels, noise and data order
    config.training.ema_decay = 0.999  # of the weights that sample; no bias correction
    config.training.energy_penalty = 0.0  # c of c · mean(f²), added to the loss; 0 in the paper
    config.training.log_every = 100  # steps between two records in metrics.jsonl

    config.checkpoint = ConfigDict()
    config.checkpoint.every = 5000  # steps (authors' code)
    config.checkpoint.keep = 3  # newest checkpoints kept
    config.checkpoint.keep_every = placeholder(int)  # given: those of every so many steps stay too
    config.checkpoint.best_of = placeholder(str)  # given: so does that with the lowest value of this score

    config.guard = ConfigDict()  # against divergence (ours); docs/divergence.md
    config.guard.rollbacks = 5  # how often a run may go back to its last checkpoint
    config.guard.spike = 100.0  # times its recent size, for loss, gradient norm, reach and energies
    config.guard.loss = 1e6  # |loss| (the authors' code stops below −1e6)
    config.guard.max_abs = 1e3  # |x| of a sample; data are in [-1, 1]

    config.evaluation = ConfigDict()
    config.evaluation.every = 5000  # steps between two grids of samples (and at the end)
    config.evaluation.num_samples = 64
    config.evaluation.samples_per_device = (
        16  # samples that a device draws at once: their last digits depend on it
    )
    config.evaluation.save_every = 64  # samples that `evaluate` draws between two saves of what it has
    config.evaluation.seed = 0  # sample i is a function of (weights, seed, i)
    config.evaluation.metrics = "none"  # fid, kid, inception_score, precision_recall, frechet_pixels, …
    config.evaluation.inception_weights = placeholder(str)  # torch-fidelity's file, or fetch (the public one)
    config.evaluation.inception_sha256 = "6726825d"  # how its SHA-256 begins
    config.evaluation.step = placeholder(int)  # of the checkpoint to sample and evaluate; none: the newest
    return config


def require_keys(config: Any, file: str) -> None:
    """Raises UserError if a config file of a user's own did not make a config of this program."""
    if not isinstance(config, ConfigDict):
        made = type(config).__name__
        raise UserError(
            f"--config={file}: get_config returns a {made}; a ConfigDict is expected, as "
            "drl_jax.config.base() makes it"
        )
    keys, expected = (
        # Each network has keys of its own; its constructor knows them.
        {key for key, _ in flatten(each) if key == "network.name" or not key.startswith("network.")}
        for each in (config, base())
    )
    for wrong, what in ((expected - keys, "lacks"), (keys - expected, "has an unknown key")):
        if wrong:
            raise UserError(f"--config={file} {what} config.{min(wrong)}; drl_jax.config.base() has all keys")


def check(config: Config) -> None:
    """Raises UserError for the first value that no run could have."""
    values = dict(flatten(config))
    for key, (is_right, right) in _RULES.items():
        value = values.get(key)
        if key in values and not is_right(value):
            raise UserError(f"config.{key}={value!r} is not possible: it must be {right}")


def save(config: Config, path: epath.Path) -> None:
    """Writes a config as JSON."""
    files.write(path, json.dumps(config.to_dict(), indent=1) + "\n")


def load(path: epath.Path) -> Config:
    """Reads what `save` wrote, with the types of `base`. Raises UserError if it is not that."""
    try:
        saved = json.loads(path.read_text())
        config = base()
        config.network = ConfigDict(saved["network"])  # each network has its own keys
        config.update(_with_tuples(saved))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a config of this program: {' '.join(str(error).split())}") from None
    return config


def _with_tuples(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _with_tuples(value) for key, value in tree.items()}
    return tuple(tree) if isinstance(tree, list) else tree


def flatten(config: Config, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every leaf; sequences as tuples, so that JSON's lists compare equal."""
    for name, value in config.items():
        if isinstance(value, ConfigDict | Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", tuple(value) if isinstance(value, list | tuple) else value


def changes(old: Config | Mapping[str, Any], config: Config, workdir: str) -> list[str]:
    """What is not as it was when the run in `workdir` began, a line a key.

    Raises UserError, naming each key that may not change within a run, if one did.
    """
    before, now = dict(flatten(old)), dict(flatten(config))
    changed = {
        key: f"config.{key} was {before.get(key)!r} and is {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    }
    refused = [line for key, line in changed.items() if key.split(".")[0] in FIXED and key not in FREE]
    if refused:
        raise UserError(
            f"--workdir={workdir} holds a run with other settings: {'; '.join(refused)}; "
            "take another --workdir, or the old values"
        )
    return list(changed.values())


def _number(low: float, high: float | None = None, *, without_low: bool = False):
    def is_right(value) -> bool:
        above = low < value if without_low else low <= value
        return above and value <= (sys.float_info.max if high is None else high)

    if high is None:
        return is_right, f"{'above' if without_low else 'at least'} {low}, and finite"
    return is_right, f"between {low} and {high}"


def _decay():
    return (lambda value: 0 <= value < 1), "at least 0 and below 1"


def _whole_numbers(*, fewest: int = 0):
    """A tuple of positive ints."""

    def is_right(value) -> bool:
        return len(value) >= fewest and all(isinstance(v, int) and v >= 1 for v in value)

    return is_right, "whole numbers of at least 1" + (f", at least {fewest} of them" if fewest else "")


def _crop():
    def is_right(value) -> bool:
        return (
            len(value) == 4
            and all(isinstance(v, int) for v in value)
            and min(value[:2]) >= 0
            and value[2] == value[3] > 0
        )

    return is_right, "(top, left, height, width) in pixels, a square"


def _one_of(*names: str):
    return (lambda value: value in names), f"one of {', '.join(names)}"


def _if_given(rule):
    return (lambda value: value is None or rule[0](value)), f"{rule[1]}, or not given"


_RULES = {
    "data.image_size": _number(1),
    "data.channels": ((lambda value: value in (1, 3)), "3 (RGB) or 1 (grey)"),
    "data.crop": _if_given(_crop()),
    "data.batch_size": _number(1),
    "data.timeout": _number(0, 1e6, without_low=True),
    "network.name": _one_of("residual", "points"),
    "network.width": (
        (lambda value: value >= 4 and value % 2 == 0),
        "even and at least 4: half of them are sines of the level, half cosines",
    ),
    "network.multipliers": _whole_numbers(fewest=1),
    "network.blocks_per_resolution": _number(1),
    "network.attention": _whole_numbers(),
    "network.dtype": _one_of("float32", "bfloat16"),
    "network.depth": _number(0),
    "network.num_frequencies": _number(1),
    "network.min_frequency": _number(0, without_low=True),
    "network.max_frequency": _number(0, without_low=True),
    "levels.count": (
        (lambda value: 1 <= value <= 501 or value == 1000),
        "1 to 501 (levels cut out of the chain of 1000), or 1000",
    ),
    "levels.b_squared": _number(0, without_low=True),
    "levels.step_growth": _if_given(_number(0)),
    "levels.temperature": _if_given(_one_of("step", "noise", "one")),
    "sampler.steps": _number(1),
    "sampler.noise_scale": _number(0),
    "sampler.step_range": _if_given(_number(1)),
    "optimizer.learning_rate": _number(0, without_low=True),
    "optimizer.warmup_steps": _number(0),
    "optimizer.decay_steps": _if_given(_number(1)),
    "optimizer.beta1": _decay(),
    "optimizer.beta2": _decay(),
    "optimizer.epsilon": _number(0),
    "optimizer.clip_norm": _if_given(_number(0, without_low=True)),
    "spectral.iterations": _number(1),
    "spectral.init_iterations": _number(0),
    "training.steps": _number(1),
    "training.seed": _number(0, 2**31 - 1),
    "training.ema_decay": _decay(),
    "training.energy_penalty": _number(0),
    "training.log_every": _number(1),
    "checkpoint.every": _number(1),
    "checkpoint.keep": _number(1),
    "checkpoint.keep_every": _if_given(_number(1)),
    "guard.rollbacks": _number(0),
    "guard.spike": _number(1, without_low=True),
    "guard.loss": _number(0, without_low=True),
    "guard.max_abs": _number(0, without_low=True),
    "evaluation.every": _number(1),
    "evaluation.num_samples": _number(1),
    "evaluation.samples_per_device": _number(1),
    "evaluation.save_every": _number(1),
    "evaluation.seed": _number(0, 2**31 - 1),
    "evaluation.step": _if_given(_number(0)),
    "evaluation.inception_sha256": (
        (lambda value: 8 <= len(value) <= 64 and set(value.lower()) <= set("0123456789abcdef")),
        "8 to 64 hex digits",
    ),
}
