"""A plan: what a config needs on a topology."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from math import floor
from typing import NamedTuple

from drl_jax.config import schema
from drl_jax.config.schema import Config
from drl_jax.errors import UserError
from drl_jax.planning.compiler import Compiler
from drl_jax.planning.program import Collective
from drl_jax.planning.roofline import Times, step_times
from drl_jax.planning.topologies import Topology, sizes
from drl_jax.planning.worker import Compiled, Counts, Request

_SMALL = (2, 3)  # blocks per resolution that are compiled instead of more
_PLATFORMS = {"tpu": "tpu", "gpu": "cuda", "cpu": "cpu"}


class Plan(NamedTuple):
    """What a run needs. All of it is an estimate.

    Attributes:
      topology: the devices.
      batch_size: rows of a batch.
      rows: of a batch on each device.
      counts: operations, parameters and bytes on a device.
      peak: bytes that a training step holds at a time on a device.
      peak_from: where this number comes from.
      available: bytes of a device, by its compiler or its maker.
      largest: the most rows on a device that fit; None if that was not asked.
      times: the least seconds of a step; None for a CPU.
      collectives: messages between devices in a training step; None by formula.
      step: the compiled training step; None if it was not compiled as a whole.
      sampler: the compiled sampler; None if it was not compiled.
      seconds: that planning took.
      process_memory: bytes that planning took.
    """

    topology: Topology
    batch_size: int
    rows: int
    counts: Counts
    peak: float
    peak_from: str
    available: float
    largest: int | None
    times: Times | None
    collectives: list[Collective] | None
    step: Compiled | None
    sampler: Compiled | None
    seconds: float
    process_memory: int

    @property
    def fits(self) -> bool:
        """Whether the training step fits the memory of a device."""
        return self.peak <= self.available or not self.available


class Size(NamedTuple):
    """A size of the hardware.

    Attributes:
      topology: the devices.
      strong: with the config's batch: (images per second, share of what one chip reaches, times the chips);
        None where the batch does not divide.
      weak: the same with the config's rows per chip.
    """

    topology: Topology
    strong: tuple[float, float] | None
    weak: tuple[float, float]


def make_plan(
    config: Config, topology: Topology, compiler: Compiler, *, is_full: bool, finds_largest: bool
) -> Plan:
    """Plans a run.

    Args:
      config: the config.
      topology: the devices.
      compiler: answers requests.
      is_full: compile the whole step and the sampler, instead of a smaller step.
      finds_largest: find the most rows on a device that fit, also where the config's rows fit.

    Raises:
      UserError: the batch does not divide over the devices.
    """
    began = time.monotonic()
    rows = _rows(config, topology)
    counts = compiler.count(_request("count", config, topology, rows=rows))
    step = sampler = None
    small: list[Compiled] = []

    @cache
    def compile_smaller(batch_size: int) -> list[Compiled]:
        return [
            compiler.compile(_request("compile", c, topology))
            for c in _smaller(_with_batch(config, batch_size))
        ]

    if topology.kind != "tpu":
        available = topology.chip.memory if topology.chip else 0.0
        peak = _peak_by_formula(config, counts)
        peak_from = "state, gradient and stored activations, by formula"
        collectives = None
    else:
        available = compiler.compile(_request("available", config, topology)).available
        if is_full:
            step = compiler.compile(_request("compile", config, topology, is_quick=False))
            peak, peak_from = _peak(step), "the compiled step"
            collectives = list(step.collectives)
            if step.memory is not None:
                request = _request("compile", config, topology, program="sampler", is_quick=False)
                sampler = compiler.compile(request)
        else:
            small = compile_smaller(config.data.batch_size)
            peak = _extrapolate(config, small)
            peak_from = "the step, compiled with less effort"
            if len(small) > 1:
                peak_from += f" and with {_SMALL[0]} and {_SMALL[1]} blocks per resolution"
            collectives = list(small[-1].collectives)
    largest = None
    if finds_largest or (available and peak > available):

        def peak_of(rows: int) -> float:
            if topology.kind == "tpu":
                return _extrapolate(config, compile_smaller(rows * topology.num_devices))
            request = _request("count", config, topology, rows=rows)
            return _peak_by_formula(config, compiler.count(request))

        largest = _largest(peak_of, rows, config.training.microbatches, available)
    times = None
    if topology.chip is not None:
        times = step_times(
            config, topology, flops_per_row=counts.step.total / rows, rows=rows, parameters=counts.parameters
        )
    known = [answer.process_memory for answer in (step, sampler, *small) if answer is not None]
    return Plan(
        topology,
        config.data.batch_size,
        rows,
        counts,
        peak,
        peak_from,
        available,
        largest,
        times,
        collectives,
        step,
        sampler,
        time.monotonic() - began,
        max(known, default=0),
    )


def sweep(config: Config, plan: Plan, most: int = 256) -> list[Size]:
    """Estimates speed over the sizes of the same hardware, with the config's batch and with its rows a chip.

    Args:
      config: the config.
      plan: of one size.
      most: chips.
    """
    flops_per_row = plan.counts.step.total / plan.rows

    def images_per_second(topology: Topology, rows: float) -> float:
        times = step_times(
            config, topology, flops_per_row=flops_per_row, rows=rows, parameters=plan.counts.parameters
        )
        return rows * topology.num_devices / times.step

    found = []
    for topology in sizes(plan.topology, most):
        devices = topology.num_devices
        one = sizes(plan.topology, most)[0]
        weak = images_per_second(topology, plan.rows)
        of_one = images_per_second(one, plan.rows) / one.num_devices
        strong = None
        if config.data.batch_size % (devices * config.training.microbatches) == 0:
            speed = images_per_second(topology, config.data.batch_size / devices)
            whole = images_per_second(one, config.data.batch_size / one.num_devices) / one.num_devices
            strong = (speed, speed / (devices * whole))
        found.append(Size(topology, strong, (weak, weak / (devices * of_one))))
    return found


def _rows(config: Config, topology: Topology) -> int:
    """Rows of a batch on each device. Raises UserError where the batch does not divide."""
    parts = topology.num_devices * config.training.microbatches
    rows, remainder = divmod(config.data.batch_size, parts)
    if remainder:
        below = f"{rows * parts} or " if rows else ""
        raise UserError(
            f"config.data.batch_size={config.data.batch_size} does not divide over the "
            f"{topology.num_devices} devices of --topology={topology.label}; nearest: "
            f"{below}{(rows + 1) * parts}"
        )
    return config.data.batch_size // topology.num_devices


def _request(
    what: str,
    config: Config,
    topology: Topology,
    *,
    rows: int = 1,
    program: str = "step",
    is_quick: bool = True,
) -> Request:
    is_tpu = topology.kind == "tpu"
    return Request(
        what,
        schema.to_dict(config),
        _PLATFORMS[topology.kind],
        rows,
        topology.name,
        topology.options() if is_tpu else {},
        program,
        is_quick,
    )


def _smaller(config: Config) -> list[Config]:
    """The configs that are compiled instead of this one: with fewer blocks, if it has many."""
    network = config.network
    if not isinstance(network, schema.Residual) or network.blocks_per_resolution <= _SMALL[-1]:
        return [config]
    return [replace(config, network=replace(network, blocks_per_resolution=blocks)) for blocks in _SMALL]


def _extrapolate(config: Config, small: list[Compiled]) -> float:
    """The peak of the config: a straight line through those with fewer blocks."""
    peaks = [_peak(answer) for answer in small]
    if len(peaks) == 1:
        return peaks[0]
    assert isinstance(config.network, schema.Residual)
    return peaks[0] + (peaks[1] - peaks[0]) * (config.network.blocks_per_resolution - _SMALL[0])


def _peak(answer: Compiled) -> float:
    """Bytes on a device, also of a program that does not fit."""
    return answer.needed if answer.memory is None else answer.memory.peak


def _peak_by_formula(config: Config, counts: Counts) -> float:
    gradients = 2 if config.training.microbatches > 1 else 1
    return counts.state + gradients * 4 * counts.parameters + counts.residuals


def _largest(peak_of: Callable[[int], float], rows: int, parts: int, available: float) -> int:
    """The most rows on a device that fit: a straight line through the peaks of two batches.

    A compiler saves memory where it must, so somewhat more may fit.

    Args:
      peak_of: rows -> bytes.
      rows: where to begin.
      parts: the result is a multiple of this.
      available: bytes of a device.
    """
    # Of batches that fit: the needs of others count what the compiler could not place.
    few = rows
    while few > parts and peak_of(few) > available:
        few = max(few // 4 // parts, 1) * parts
    many = 2 * few
    fixed, more = peak_of(few), peak_of(many)
    if fixed > available:
        return 0
    per_row = max((more - fixed) / (many - few), 1.0)
    return floor((few + (available - fixed) / per_row) / parts) * parts


def _with_batch(config: Config, batch_size: int) -> Config:
    return replace(config, data=replace(config.data, batch_size=batch_size))
