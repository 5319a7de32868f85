"""The least time that a training step can take, from published peak figures."""

from math import prod
from typing import NamedTuple

from drl_jax.config.schema import Config
from drl_jax.planning.topologies import BETWEEN_NODES, BETWEEN_SLICES, GPUS_PER_NODE, TPUS, Topology

_PASSES = {"default": 1, "high": 3, "highest": 6}  # products of bfloat16 for one of float32, on a TPU


class Times(NamedTuple):
    """Seconds of a training step.

    Attributes:
      compute: all operations at the chip's peak.
      memory: reading the weights for each pass of the network, and reading and writing the state once.
      messages: adding up the gradient over all chips.
    """

    compute: float
    memory: float
    messages: float

    @property
    def step(self) -> float:
        """Seconds of a step: operations and memory overlap, messages do not."""
        return max(self.compute, self.memory) + self.messages


def step_times(
    config: Config, topology: Topology, *, flops_per_row: float, rows: float, parameters: int
) -> Times:
    """Computes the least seconds of a training step.

    Args:
      config: the config.
      topology: the devices, with published figures.
      flops_per_row: operations per row of a batch.
      rows: of a batch on each device.
      parameters: how many numbers.

    Source: the roofline model (Williams et al. 2009); all-reduce over rings as in "How to scale your model"
      (2025).
    """
    chip = topology.chip
    assert chip is not None
    per_chip = topology.devices_per_chip
    passes = passes_of_step(config)
    item = 2 if getattr(config.network, "dtype", "float32") == "bfloat16" or topology.kind == "tpu" else 4
    # Parameters, their average and two moments: read and written; the gradient: written and read.
    traffic = parameters * (passes * config.training.microbatches * item + 10 * 4)
    return Times(
        compute=flops_per_row * rows * per_chip / peak(config, topology),
        memory=traffic * per_chip / chip.memory_speed,
        messages=all_reduce_seconds(4 * parameters, topology),
    )


def passes_of_step(config: Config) -> int:
    """Returns how often a training step reads the parameters, forward or backward."""
    if config.training.objective == "score":
        return 7  # ∇f takes two, its gradient four; f at the mean of a draw
    draws = 1 if config.sampler.name == "normal" else config.sampler.steps
    return 2 * draws + 4  # the gradients of the chain, then data with samples, twice


def peak(config: Config, topology: Topology) -> float:
    """Returns the operations per second of a chip with the config's types and precision."""
    assert topology.chip is not None
    figures, precision = topology.chip.peak, config.network.precision
    is_float32 = getattr(config.network, "dtype", "float32") == "float32"
    if topology.kind == "tpu":
        return figures["bfloat16"] / (_PASSES[precision] if is_float32 else 1)
    if not is_float32:
        return figures["bfloat16"]
    return figures["float32" if precision == "highest" else "tf32"]


def all_reduce_seconds(size: float, topology: Topology) -> float:
    """Computes the seconds of adding up vectors over all chips.

    Args:
      size: bytes of a vector.
      topology: the devices.
    """
    assert topology.chip is not None
    if topology.kind == "tpu":
        chips, groups, between = prod(topology.shape), topology.slices, BETWEEN_SLICES
    else:
        chips = min(topology.num_chips, GPUS_PER_NODE)
        groups, between = topology.num_chips / chips, BETWEEN_NODES
    # Inside a slice or node; then each chip exchanges its part with the same chip of the others.
    inside = 2 * size * (chips - 1) / chips / _speed(topology) if chips > 1 else 0.0
    return inside + 2 * (size / chips) * (groups - 1) / groups / between


def _speed(topology: Topology) -> float:
    """Bytes per second at which a chip takes part in an all-reduce."""
    assert topology.chip is not None
    if topology.kind != "tpu":
        return topology.chip.link
    ring = TPUS[topology.name.partition(":")[0]].ring
    # Along each axis, in both directions where the ends are linked.
    links = sum(2 if side >= ring else 1 for side in topology.shape if side > 1)
    return links * topology.chip.link
