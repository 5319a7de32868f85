"""A plan: what a config needs on a topology."""

import time
from collections.abc import Callable
from dataclasses import replace
from math import floor
from typing import NamedTuple

from drl_jax.config import schema
from drl_jax.config.schema import Config
from drl_jax.parallel.mesh import split_batch
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
      collectives: messages between devices in a training step; None if nothing was compiled.
      step: the compiled training step; None if it was not compiled as a whole.
      sampler: the compiled sampler; None if it was not compiled.
      seconds: that planning took.
      process_memory: bytes that compiling took.
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
    rows = split_batch(
        config.data.batch_size,
        topology.num_devices,
        config.training.microbatches,
        where=f" of --topology={topology.label}",
    )
    counts = compiler.count(_request("count", config, topology, rows=rows))
    if topology.kind == "tpu":
        smaller = _SmallerSteps(config, topology, compiler)
        peak_of = smaller.peak
        available = compiler.compile(_request("available", config, topology)).available
        found = _of_whole_step(config, topology, compiler) if is_full else smaller.estimate(rows)
    else:

        def peak_of(rows: int) -> float:
            request = _request("count", config, topology, rows=rows)
            return _peak_by_formula(config, compiler.count(request))

        available = topology.chip.memory if topology.chip else 0.0
        formula = "state, gradient and stored activations, by formula"
        found = _Estimate(_peak_by_formula(config, counts), formula)
    largest = None
    if finds_largest or (available and found.peak > available):
        largest = _largest(peak_of, rows, config.training.microbatches, available)
    times = None
    if topology.chip is not None:
        flops_per_row = counts.step.total / rows
        times = step_times(
            config, topology, flops_per_row=flops_per_row, rows=rows, parameters=counts.parameters
        )
    return Plan(
        topology=topology,
        batch_size=config.data.batch_size,
        rows=rows,
        counts=counts,
        available=available,
        largest=largest,
        times=times,
        seconds=time.monotonic() - began,
        process_memory=compiler.process_memory,
        **found._asdict(),
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

    topologies = sizes(plan.topology, most)
    one, batch_size = topologies[0], config.data.batch_size

    def speed_and_efficiency(topology: Topology, rows: float, rows_of_one: float) -> tuple[float, float]:
        speed = images_per_second(topology, rows)
        of_one = images_per_second(one, rows_of_one) / one.num_devices
        return speed, speed / (topology.num_devices * of_one)

    found = []
    for topology in topologies:
        devices, strong = topology.num_devices, None
        if batch_size % (devices * config.training.microbatches) == 0:
            strong = speed_and_efficiency(topology, batch_size / devices, batch_size / one.num_devices)
        found.append(Size(topology, strong, speed_and_efficiency(topology, plan.rows, plan.rows)))
    return found


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


class _Estimate(NamedTuple):
    """What is known of the memory and the messages of a training step; see `Plan`."""

    peak: float
    peak_from: str
    collectives: list[Collective] | None = None
    step: Compiled | None = None
    sampler: Compiled | None = None


def _of_whole_step(config: Config, topology: Topology, compiler: Compiler) -> _Estimate:
    step = compiler.compile(_request("compile", config, topology, is_quick=False))
    sampler = None
    if step.memory is not None:
        sampler = compiler.compile(_request("compile", config, topology, program="sampler", is_quick=False))
    return _Estimate(_peak(step), "the compiled step", _messages(step), step, sampler)


class _SmallerSteps:
    """Training steps with fewer blocks, each compiled once, and with less effort."""

    def __init__(self, config: Config, topology: Topology, compiler: Compiler):
        network = config.network
        self._topology, self._compiler = topology, compiler
        self._configs, self._further = [config], 0  # steps of the straight line from the first config
        if isinstance(network, schema.Residual) and network.blocks_per_resolution > _SMALL[-1]:
            networks = [replace(network, blocks_per_resolution=blocks) for blocks in _SMALL]
            self._configs = [replace(config, network=network) for network in networks]
            self._further = network.blocks_per_resolution - _SMALL[0]
        self._compiled: dict[int, list[Compiled]] = {}

    def peak(self, rows: int) -> float:
        """The peak of the config with this many rows on a device: a straight line through smaller ones."""
        peaks = [_peak(answer) for answer in self._compile(rows)]
        return peaks[0] + (peaks[-1] - peaks[0]) * self._further

    def estimate(self, rows: int) -> _Estimate:
        """All that is found of the config by smaller ones."""
        last = self._compile(rows)[-1]
        source = "the step, compiled with less effort"
        if self._further:
            source += f" and with {_SMALL[0]} and {_SMALL[1]} blocks per resolution"
        return _Estimate(self.peak(rows), source, _messages(last))

    def _compile(self, rows: int) -> list[Compiled]:
        if rows not in self._compiled:
            batch_size = rows * self._topology.num_devices
            configs = [replace(c, data=replace(c.data, batch_size=batch_size)) for c in self._configs]
            requests = [_request("compile", c, self._topology) for c in configs]
            self._compiled[rows] = self._compiler.compile_all(requests)
        return self._compiled[rows]


def _messages(answer: Compiled) -> list[Collective] | None:
    """Messages between devices; None of a program that does not fit."""
    return None if answer.memory is None else list(answer.collectives)


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
