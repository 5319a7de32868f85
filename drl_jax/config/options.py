"""The options of the applications: for each its flags, with type, default, allowed values and meaning."""

from dataclasses import dataclass, fields
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, get_type_hints

from drl_jax.config.rules import SEED, Key, Rule, above, at_least, make_key, unwrap

_RECTANGLE = Rule(
    lambda value: len(value) == 4 and min(value[:2]) >= 0 and min(value[2:]) >= 1,
    "TOP,LEFT,HEIGHT,WIDTH in pixels",
)
_LEVELS = Rule(
    lambda value: len(value) >= 1 and min(value) >= 0 and len(set(value)) == len(value),
    "levels from 0 on, with commas, each once",
)

_INCREASING = Rule(
    lambda value: len(value) > 0 and all(a < b for a, b in zip((0, *value), value, strict=False)),
    "of at least 1 that increase",
)
_BETWEEN_0_AND_1 = Rule(lambda value: 0 < value < 1, "between 0 and 1")


class Shown(NamedTuple):
    """How an option is shown.

    Attributes:
      value: what follows its =, such as FILE.
      default: its default in words, if the value None stands for it.
    """

    value: str = ""
    default: str = ""


_IMAGES = Shown("FILE,N,…")
_SPLIT = Shown("SPLIT", "test, or else that of the config")
_MIDDLE = Shown("N", "half of the levels")
_ALL = Shown(default="all, or nine of many")


@dataclass(frozen=True)
class Interpolate:
    """Options of `interpolate`."""

    count: Annotated[int, at_least(2), "images in a row, with both ends"] = 8
    rows: Annotated[int, at_least(1), "number of rows; row i has the seed --seed + i"] = 4
    between: Annotated[
        str | None,
        Shown("FILE,FILE", "two samples"),
        "the two ends: files, or numbers of examples of the data",
    ] = None
    level: Annotated[
        int | None, at_least(1), _MIDDLE, "where given images are mixed: at x_N, N from 1 on"
    ] = None
    noise: Annotated[
        Literal["mixed", "shared"], "the noise of Langevin steps: mixed too, or equal in a row"
    ] = "mixed"
    seed: Annotated[int, SEED, "seed of all noise"] = 0


@dataclass(frozen=True)
class Inpaint:
    """Options of `inpaint`."""

    images: Annotated[str, _IMAGES, "images: files, and numbers of examples of the data"] = "0"
    mask: Annotated[str | None, Shown("FILE"), "an image: white pixels are known, black ones are drawn"] = (
        None
    )
    rectangle: Annotated[
        tuple[int, ...] | None,
        _RECTANGLE,
        Shown("TOP,LEFT,HEIGHT,WIDTH"),
        "the part that is drawn, in pixels",
    ] = None
    count: Annotated[int, at_least(1), "completions of each image"] = 8
    seed: Annotated[int, SEED, "seed of all noise; image i has --seed + i"] = 0


@dataclass(frozen=True)
class Denoise:
    """Options of `denoise`."""

    images: Annotated[str, _IMAGES, "images: files, and numbers of examples of the data"] = "0"
    level: Annotated[
        int | None, at_least(1), _MIDDLE, "how much noise images get: that of x_N, N from 1 on"
    ] = None
    count: Annotated[int, at_least(1), "draws for each image"] = 4
    seed: Annotated[int, SEED, "seed of all noise"] = 0


@dataclass(frozen=True)
class Energy:
    """Options of `energy`."""

    images: Annotated[str, _IMAGES, "images: files, and numbers of examples of the data"] = "0"
    levels: Annotated[tuple[int, ...] | None, _LEVELS, _ALL, "levels whose energies are computed"] = None
    seed: Annotated[int, SEED, "seed of the noise that images get"] = 0


@dataclass(frozen=True)
class Likelihood:
    """Options of `likelihood`."""

    levels: Annotated[tuple[int, ...], _LEVELS, "levels whose log Z is estimated"] = (0,)
    chains: Annotated[int, at_least(16), "chains; the standard error falls with their square root"] = 64
    steps: Annotated[int, at_least(1), "steps on the way to the density; more have less bias"] = 1000
    leapfrog_steps: Annotated[int, at_least(1), "steps of a transition of HMC"] = 5
    examples: Annotated[int, at_least(2), "examples of the data, at most, whose density is computed"] = 1000
    split: Annotated[str | None, _SPLIT, "split of the data"] = None
    seed: Annotated[int, SEED, "seed of all chains, and of the noise of the data"] = 0


@dataclass(frozen=True)
class Detect:
    """Options of `detect`."""

    against: Annotated[str, Shown("NAME,PATH,…"), "the other sets: made, data sets by name, and paths"] = (
        "made"
    )
    levels: Annotated[tuple[int, ...] | None, _LEVELS, _ALL, "levels whose energies are used"] = None
    count: Annotated[int, at_least(1), "images of each set, at most"] = 1000
    draws: Annotated[int, at_least(1), "draws of the noise of a level, for each image"] = 4
    split: Annotated[str | None, _SPLIT, "split of the data of the model"] = None
    seed: Annotated[int, SEED, "seed of the choice of images, and of all noise"] = 0


@dataclass(frozen=True)
class Chain:
    """Options of `chain`."""

    method: Annotated[Literal["langevin", "mala", "hmc", "nuts"], "how the chains move"] = "langevin"
    target: Annotated[
        Literal["levels", "recovery", "marginal"],
        "what they follow: all levels, or a density of one",
    ] = "levels"
    level: Annotated[int | None, at_least(0), Shown("N"), "the level of recovery or marginal, from 0 on"] = (
        None
    )
    steps: Annotated[tuple[int, ...], _INCREASING, "numbers of steps after which the chains are measured"] = (
        100,
        300,
        1000,
    )
    chains: Annotated[int, at_least(1), "number of chains; they are the samples of the scores"] = 256
    group: Annotated[int, at_least(1), "number of chains with the same start, which R-hat compares"] = 1
    start: Annotated[
        Literal["samples", "data", "noise"],
        "where chains at one level begin: the model's draws, or others",
    ] = "samples"
    step_size: Annotated[
        float | None,
        above(0),
        Shown("X", "1 for langevin, else adapted"),
        "step size in units of s_t",
    ] = None
    acceptance: Annotated[float, _BETWEEN_0_AND_1, "mean acceptance to which the step size is adapted"] = 0.65
    warmup: Annotated[int, at_least(1), "steps of the adaptation, at each level"] = 200
    leapfrog_steps: Annotated[int, at_least(1), "leapfrog steps in a step of hmc"] = 5
    seed: Annotated[int, SEED, "seed of all noise"] = 0


@dataclass(frozen=True)
class Diagnose:
    """Options of `diagnose`."""

    levels: Annotated[tuple[int, ...] | None, _LEVELS, _ALL, "levels whose chains are measured"] = None
    steps: Annotated[
        tuple[int, ...] | None,
        _INCREASING,
        Shown("N,N,…", "1, 2 and 4 times sampler.steps"),
        "numbers of steps of the chain at a level",
    ] = None
    method: Annotated[
        Literal["langevin", "mala", "hmc"] | None,
        Shown("langevin|mala|hmc", "sampler.name"),
        "how the chain at a level moves",
    ] = None
    count: Annotated[int, at_least(2), "number of chains; they are the samples of the scores"] = 500
    seed: Annotated[int, SEED, "seed of the choice of examples, and of all noise"] = 0


Options = Interpolate | Inpaint | Denoise | Energy | Chain | Diagnose | Likelihood | Detect
COMMANDS: dict[str, type[Options]] = {
    "interpolate": Interpolate,
    "inpaint": Inpaint,
    "denoise": Denoise,
    "energy": Energy,
    "chain": Chain,
    "diagnose": Diagnose,
    "likelihood": Likelihood,
    "detect": Detect,
}


@cache
def keys(command: str) -> dict[str, Key]:
    """Returns what is right for each option of a command, by its name."""
    cls = COMMANDS[command]
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: make_key(hints[field.name], field.default) for field in fields(cls)}


class Row(NamedTuple):
    """An option in a table.

    Attributes:
      form: how it is written, --NAME=VALUE.
      default: in words, or as it is written; empty if there is none.
      meaning: what it is.
    """

    form: str
    default: str
    meaning: str


def rows(command: str) -> list[Row]:
    """Returns a table of the options of a command.

    Args:
      command: an application.
    """
    found, hints = [], get_type_hints(COMMANDS[command], include_extras=True)
    for name, key in keys(command).items():
        marks = unwrap(hints[name])[1]
        (meaning,) = (mark for mark in marks if isinstance(mark, str))
        shown = next((mark for mark in marks if isinstance(mark, Shown)), Shown())
        default = shown.default if key.default is None else _text(key.default)
        found.append(Row(f"--{name}={shown.value or _value(key)}", default, meaning))
    return found


def usage(command: str) -> str:
    """Returns one line for each option of a command: the option, what it means, and the default.

    Args:
      command: an application.
    """
    return "\n".join(
        f"  {form:<34} {meaning}{default and f' ({default})'}" for form, default, meaning in rows(command)
    )


def _value(key: Key) -> str:
    """What follows the = of an option."""
    if key.choices:
        return "|".join(key.choices)
    return {int: "N", float: "X", bool: "BOOL", tuple: "N,N,…"}.get(key.type, "TEXT")


def _text(default: Any) -> str:
    return ",".join(map(str, default)) if isinstance(default, tuple) else str(default)
