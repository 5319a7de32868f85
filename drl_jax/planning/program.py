"""Reads a compiled program: which messages travel between devices, where, and how much memory it takes."""

import re
from collections import defaultdict
from collections.abc import Mapping
from math import prod
from typing import Any, NamedTuple

import jax

COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter")
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "s64": 8, "u64": 8, "f64": 8}


class Collective(NamedTuple):
    """A message between devices.

    Attributes:
      kind: such as "all-reduce".
      bytes: of its result on a device.
      in_loop: whether it is sent at every trip of a loop.
    """

    kind: str
    bytes: int
    in_loop: bool


class Memory(NamedTuple):
    """Bytes on one device.

    Attributes:
      peak: the most that a call holds at a time.
      arguments: its inputs, among them the state of a run.
      program: the code itself.
    """

    peak: int
    arguments: int
    program: int


def memory(compiled: jax.stages.Compiled) -> Memory:
    """Returns the memory of a compiled program, as its compiler planned it."""
    planned: Any = compiled.memory_analysis()
    return Memory(
        planned.peak_memory_in_bytes, planned.argument_size_in_bytes, planned.generated_code_size_in_bytes
    )


def collectives(text: str) -> list[Collective]:
    """Finds the messages between devices in the text of a compiled program.

    Args:
      text: from `jax.stages.Compiled.as_text`.
    """
    bodies = _computations(text)
    in_loops = _reached_from_loops(bodies)
    found = []
    for name, lines in bodies.items():
        for line in lines:
            for kind in COLLECTIVES:
                if match := re.search(rf"= (.+?) {kind}(-start)?\(", line):
                    size = _bytes(match[1])
                    if match[2] and kind != "all-reduce":  # its result has the operand beside it
                        size //= 2
                    found.append(Collective(kind, size, name in in_loops))
    return found


def estimated_cycles(text: str) -> float | None:
    """Adds up the cycles that a TPU's compiler estimates, with the trips of loops; None where it has none.

    Copies and messages are not among them. Nobody has compared these estimates with hardware for us.

    Args:
      text: from `jax.stages.Compiled.as_text`.
    """
    bodies = _computations(text)
    (entry,) = (name for name in bodies if name.startswith("ENTRY "))

    def cycles(name: str) -> float:
        total = 0.0
        for line in bodies[name]:
            if match := re.search(r'"estimated_cycles":"?(\d+)', line):
                total += float(match[1])
            if match := re.search(r" while\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)", line):
                total += _trips(bodies[match[1]]) * cycles(match[2])
            elif match := re.search(r" call\(.*to_apply=%?([\w.\-]+)", line):
                total += cycles(match[1])
        return total

    return cycles(entry) or None


def _trips(condition: list[str]) -> int:
    """The bound of a loop that counts: the largest whole number in its condition."""
    numbers = re.findall(r"s32\[\]\S* constant\((\d+)\)", "\n".join(condition))
    return max(map(int, numbers), default=1)


def _computations(text: str) -> dict[str, list[str]]:
    """The lines of each computation by its name; that of the whole program begins with ENTRY."""
    bodies: dict[str, list[str]] = {}
    name = ""
    for line in text.splitlines():
        if line.endswith("{") and not line.startswith((" ", "HloModule")):
            name = line.split(" (")[0].replace("%", "")
            bodies[name] = []
        elif name:
            bodies[name].append(line)
    return bodies


def _reached_from_loops(bodies: Mapping[str, list[str]]) -> set[str]:
    """The computations that run at every trip of a loop."""
    calls: dict[str, set[str]] = defaultdict(set)
    loops: set[str] = set()
    for name, lines in bodies.items():
        for line in lines:
            called = re.findall(r"(?:calls|to_apply|body|condition|computations)=\{?%?([\w.\-]+)", line)
            called += re.findall(r", %([\w.\-]+)\}", line)
            calls[name].update(called)
            if " while(" in line:
                loops.update(called)
    reached, new = set(), loops
    while new:
        reached |= new
        new = {inner for name in new for inner in calls[name]} - reached
    return reached


def _bytes(shapes: str) -> int:
    """The size of a result such as '(f32[8,4]{1,0}, bf16[2])'."""
    return sum(
        _BYTES.get(dtype, 4) * prod(int(side) for side in sides.split(",") if side)
        for dtype, sides in re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", shapes)
    )
