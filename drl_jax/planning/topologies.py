"""The accelerators that a run can be planned for: which exist, and what their makers publish about them."""

import re
from collections.abc import Mapping
from math import prod
from typing import Any, NamedTuple

from drl_jax.errors import UserError

GIB = 2**30


class Chip(NamedTuple):
    """Published peak figures of one chip.

    Attributes:
      peak: operations per second by the type of their factors; a TPU has bfloat16 alone.
      memory: bytes.
      memory_speed: bytes per second.
      link: bytes per second in one direction, over one link between neighbours (TPU), or to all others (GPU).
      source: of these figures.
    """

    peak: Mapping[str, float]
    memory: float
    memory_speed: float
    link: float
    source: str


class TPU(NamedTuple):
    """A generation of TPUs.

    Attributes:
      chip: figures of one chip.
      shapes: the smaller slices, by chips along each axis.
      largest: the most chips of a slice.
      cube: larger slices are multiples of this along each axis; 0: there are none.
      devices_per_chip: as JAX counts them.
      ring: from this many chips along an axis on, the last chip is linked to the first.
      options: what `jax.experimental.topologies.get_topology_desc` needs besides the name.
    """

    chip: Chip
    shapes: tuple[str, ...]
    largest: int
    cube: int
    devices_per_chip: int
    ring: int
    options: Mapping[str, Any]


_CLOUD = "docs.cloud.google.com/tpu/docs"
_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_DEEP = ("2x2x1", "2x2x2", "2x2x4", "2x4x4")

TPUS: dict[str, TPU] = {
    "v4": TPU(
        Chip({"bfloat16": 275e12}, 32 * GIB, 1228e9, 45e9, f"{_CLOUD}/v4"),
        _DEEP, 4096, 4, 1, 4, {"chip_config_name": "megacore"},
    ),
    "v5e": TPU(
        Chip({"bfloat16": 197e12}, 16 * GIB, 819e9, 45e9, f"{_CLOUD}/v5e"),
        _FLAT, 256, 0, 1, 16, {},
    ),
    "v5p": TPU(
        Chip({"bfloat16": 459e12}, 95 * GIB, 2765e9, 90e9, f"{_CLOUD}/v5p"),
        _DEEP, 6144, 4, 1, 4, {},
    ),
    "v6e": TPU(
        Chip({"bfloat16": 918e12}, 32 * GIB, 1638e9, 90e9, f"{_CLOUD}/v6e"),
        _FLAT, 256, 0, 1, 16, {},
    ),
    "tpu7x": TPU(
        Chip({"bfloat16": 2307e12}, 192 * GIB, 7380e9, 90e9, f"{_CLOUD}/tpu7x"),
        ("1x1x1", *_DEEP), 9216, 4, 2, 4, {},
    ),
}  # fmt: skip

# Dense products. float32 with config.network.precision=default is computed as tf32 there.
GPUS: dict[str, Chip] = {
    "a100": Chip({"bfloat16": 312e12, "tf32": 156e12, "float32": 19.5e12}, 80e9, 2039e9, 300e9, "nvidia.com"),
    "h100": Chip({"bfloat16": 989e12, "tf32": 494e12, "float32": 67e12}, 80e9, 3350e9, 450e9, "nvidia.com"),
    "h200": Chip({"bfloat16": 989e12, "tf32": 494e12, "float32": 67e12}, 141e9, 4800e9, 450e9, "nvidia.com"),
    "b200": Chip({"bfloat16": 2250e12, "tf32": 1125e12, "float32": 75e12}, 180e9, 8e12, 900e9, "nvidia.com"),
}

# Bytes per second and chip between slices of TPUs (Google publishes 50 Gbit/s for v5p; we take it for all),
# and between nodes of 8 GPUs (a network card of 400 Gbit/s for each GPU, as in a3-ultragpu-8g).
BETWEEN_SLICES = 6.25e9
BETWEEN_NODES = 50e9
GPUS_PER_NODE = 8


class Topology(NamedTuple):
    """Devices that a run is planned for.

    Attributes:
      name: as given, such as "v5e:4x4".
      kind: "tpu", "gpu" or "cpu".
      chip: published figures; None for a CPU.
      shape: chips along each axis of a slice; of a GPU or CPU, their number.
      slices: how many slices.
      devices_per_chip: as JAX counts them.
    """

    name: str
    kind: str
    chip: Chip | None
    shape: tuple[int, ...]
    slices: int
    devices_per_chip: int

    @property
    def num_chips(self) -> int:
        """Chips of all slices."""
        return prod(self.shape) * self.slices

    @property
    def num_devices(self) -> int:
        """Devices of all slices, as JAX counts them."""
        return self.num_chips * self.devices_per_chip

    @property
    def label(self) -> str:
        """The name, with the number of slices."""
        return f"{self.slices} x {self.name}" if self.slices > 1 else self.name

    def options(self) -> dict[str, Any]:
        """What `jax.experimental.topologies.get_topology_desc` takes besides the name."""
        tpu = TPUS[self.name.partition(":")[0]]
        options = dict(tpu.options)
        if self.slices > 1:
            options["num_slices"] = self.slices
        if prod(self.shape) == 1:  # one chip of its host
            options["chips_per_host_bounds"] = (1, 1, 1)
        return options


def parse(text: str, slices: int = 1) -> Topology:
    """Reads the name of a topology.

    Args:
      text: such as "v5e:4x4", "v5p:2x2x2", "gpu:h100:8" or "cpu:8".
      slices: how many slices.

    Raises:
      UserError: there is no such topology.

    Example:
      >>> from drl_jax.planning.topologies import parse
      >>> parse("v5e:4x4").num_devices
      16
    """
    flag = f"--topology={text}"
    kind, _, rest = text.partition(":")
    if kind in TPUS:
        return _tpu(flag, text, TPUS[kind], rest, slices)
    if slices > 1:
        raise UserError(f"--slices={slices} is not possible with {flag}: only TPUs have slices")
    match = re.fullmatch(r"cpu:([1-9]\d*)|gpu:(\w+):([1-9]\d*)", text)
    if match is None or (match[2] and match[2] not in GPUS):
        raise UserError(
            f"{flag} is not possible; a topology is written TPU:CHIPSxCHIPS with {', '.join(TPUS)} (as in "
            f"v5e:4x4), gpu:NAME:COUNT with {', '.join(GPUS)} (as in gpu:h100:8), or cpu:COUNT"
        )
    if match[1]:
        return Topology(text, "cpu", None, (int(match[1]),), 1, 1)
    return Topology(text, "gpu", GPUS[match[2]], (int(match[3]),), 1, 1)


def _tpu(flag: str, text: str, tpu: TPU, shape: str, slices: int) -> Topology:
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", shape) or not _exists(tpu, shape):
        larger = f", and rising multiples of {tpu.cube} up to {tpu.largest} chips" if tpu.cube else ""
        raise UserError(f"{flag} does not exist; slices of this TPU are {', '.join(tpu.shapes)}{larger}")
    if slices < 1:
        raise UserError(f"--slices={slices} is not possible: it must be at least 1")
    sides = tuple(map(int, shape.split("x")))
    return Topology(text, "tpu", tpu.chip, sides, slices, tpu.devices_per_chip)


def _exists(tpu: TPU, shape: str) -> bool:
    if shape in tpu.shapes:
        return True
    sides = [int(side) for side in shape.split("x")]
    return (
        tpu.cube > 0
        and len(sides) == 3
        and sides == sorted(sides)
        and all(side % tpu.cube == 0 for side in sides)
        and prod(sides) <= tpu.largest
    )


def sizes(topology: Topology, most: int = 256) -> list[Topology]:
    """Returns the slices of the same TPU with at most `most` chips, the GPUs or CPUs in powers of two."""
    kind, _, _ = topology.name.rpartition(":")
    if topology.kind != "tpu":
        return [parse(f"{kind}:{2**i}") for i in range(most.bit_length()) if 2**i <= max(most, 1)]
    tpu = TPUS[kind]
    cubes = [f"{a}x{b}x{c}" for a, b, c in ((4, 4, 4), (4, 4, 8), (4, 8, 8), (8, 8, 8)) if tpu.cube]
    shapes = [shape for shape in (*tpu.shapes, *cubes) if prod(map(int, shape.split("x"))) <= most]
    return [parse(f"{kind}:{shape}") for shape in shapes]
