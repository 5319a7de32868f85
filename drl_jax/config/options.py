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


@dataclass(frozen=True)
class Interpolate:
    """Options of `interpolate`."""

    count: Annotated[int, at_least(2), "examples in a row, with both ends"] = 8
    rows: Annotated[int, at_least(1), "rows; row i has the seed --seed + i"] = 4
    between: Annotated[str | None, "two images: FILEs or numbers of examples; else two draws"] = None
    level: Annotated[int | None, at_least(1), "given images are mixed at x_level (half of the levels)"] = None
    noise: Annotated[Literal["mixed", "shared"], "each end has its own, or all have the same"] = "mixed"
    seed: Annotated[int, SEED, "of all noise"] = 0


@dataclass(frozen=True)
class Inpaint:
    """Options of `inpaint`."""

    images: Annotated[str, "FILEs and numbers of examples, with commas"] = "0"
    mask: Annotated[str | None, "an image file: white is known, black is drawn"] = None
    rectangle: Annotated[tuple[int, ...] | None, _RECTANGLE, "the part that is drawn"] = None
    count: Annotated[int, at_least(1), "completions of each"] = 8
    seed: Annotated[int, SEED, "of all noise"] = 0


@dataclass(frozen=True)
class Denoise:
    """Options of `denoise`."""

    images: Annotated[str, "FILEs and numbers of examples, with commas"] = "0"
    level: Annotated[int | None, at_least(1), "images get the noise of x_level (half of the levels)"] = None
    count: Annotated[int, at_least(1), "draws for each image"] = 4
    seed: Annotated[int, SEED, "of all noise"] = 0


@dataclass(frozen=True)
class Energy:
    """Options of `energy`."""

    images: Annotated[str, "FILEs and numbers of examples, with commas"] = "0"
    levels: Annotated[tuple[int, ...] | None, _LEVELS, "of the energies (all, or nine of many)"] = None
    seed: Annotated[int, SEED, "of the noise that images get"] = 0


@dataclass(frozen=True)
class Likelihood:
    """Options of `likelihood`."""

    levels: Annotated[tuple[int, ...], _LEVELS, "whose log Z is estimated"] = (0,)
    chains: Annotated[int, at_least(16), "of annealed importance sampling"] = 64
    steps: Annotated[int, at_least(1), "from a normal distribution to the density"] = 1000
    leapfrog_steps: Annotated[int, at_least(1), "steps of a transition of HMC"] = 5
    examples: Annotated[int, at_least(2), "of the data, at most, whose density is computed"] = 1000
    split: Annotated[str | None, "of the data; else `test`, or the one of the config if there is none"] = None
    seed: Annotated[int, SEED, "of all chains, and of the noise of the data"] = 0


@dataclass(frozen=True)
class Detect:
    """Options of `detect`."""

    against: Annotated[str, "sets of images: made, names and paths, with commas"] = "made"
    levels: Annotated[tuple[int, ...] | None, _LEVELS, "of the energies (all, or nine of many)"] = None
    count: Annotated[int, at_least(1), "images of each set, at most"] = 1000
    draws: Annotated[int, at_least(1), "of the noise of a level, for each image"] = 4
    split: Annotated[str | None, "of the model's data (test, or what it was trained on)"] = None
    seed: Annotated[int, SEED, "of the images and of all noise"] = 0


@dataclass(frozen=True)
class Chain:
    """Options of `chain`."""

    method: Annotated[Literal["langevin", "mala", "hmc", "nuts"], "how the chains move"] = "langevin"
    target: Annotated[
        Literal["levels", "recovery", "marginal"],
        "all levels, one after the other, or a density of one",
    ] = "levels"
    level: Annotated[int | None, at_least(0), "t, of recovery or marginal"] = None
    steps: Annotated[tuple[int, ...], _INCREASING, "after how many steps the chains are measured"] = (
        100,
        300,
        1000,
    )
    chains: Annotated[int, at_least(1), "how many chains; they are the samples of the scores"] = 256
    group: Annotated[int, at_least(1), "how many chains have one start; R-hat compares them"] = 1
    start: Annotated[
        Literal["samples", "data", "noise"], "where chains at one level begin: the model's own, or others"
    ] = "samples"
    step_size: Annotated[float | None, above(0), "in units of s_t; else 1 for langevin, and adapted"] = None
    acceptance: Annotated[float, _BETWEEN_0_AND_1, "to which the step size is adapted"] = 0.65
    warmup: Annotated[int, at_least(1), "steps of the adaptation, at each level"] = 200
    leapfrog_steps: Annotated[int, at_least(1), "in a step of hmc"] = 5
    seed: Annotated[int, SEED, "of all noise"] = 0


Options = Interpolate | Inpaint | Denoise | Energy | Chain | Likelihood | Detect
COMMANDS: dict[str, type[Options]] = {
    "interpolate": Interpolate,
    "inpaint": Inpaint,
    "denoise": Denoise,
    "energy": Energy,
    "chain": Chain,
    "likelihood": Likelihood,
    "detect": Detect,
}


@cache
def keys(command: str) -> dict[str, Key]:
    """Returns what is right for each option of a command, by its name."""
    cls = COMMANDS[command]
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: make_key(hints[field.name], field.default) for field in fields(cls)}


class Flag(NamedTuple):
    """How an option is shown.

    Attributes:
      form: as it is written, --NAME=VALUE.
      meaning: what it is.
      default: its default as text, empty if there is none.
    """

    form: str
    meaning: str
    default: str


def flags(command: str) -> list[Flag]:
    """Returns how each option of a command is shown."""
    shown, hints = [], get_type_hints(COMMANDS[command], include_extras=True)
    for name, key in keys(command).items():
        (meaning,) = (mark for mark in unwrap(hints[name])[1] if isinstance(mark, str))
        default = "" if key.default is None else _shown(key.default)
        shown.append(Flag(f"--{name}={_form(name, key)}", meaning, default))
    return shown


def usage(command: str) -> str:
    """Returns one line for each option of a command: the flag, what it means, and the default."""
    return "\n".join(
        f"  {form:<34} {meaning}{default and f' ({default})'}" for form, meaning, default in flags(command)
    )


def _form(name: str, key: Key) -> str:
    """What follows the = of a flag, in capitals."""
    if key.choices:
        return "|".join(key.choices)
    return {int: "N", float: "X", bool: "BOOL", tuple: "N,N,…"}.get(key.type, name.upper())


def _shown(default: Any) -> str:
    return ",".join(map(str, default)) if isinstance(default, tuple) else str(default)
