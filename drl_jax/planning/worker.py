"""The process that compiles for a TPU which is not here. Requests and answers are lines of JSON.

It is a process of its own because the TPU's compiler writes to standard error and reads variables that must
be set before JAX is imported. `planning.compiler` starts it.
"""

import json
import re
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies

from drl_jax.config import schema
from drl_jax.config.build import Components, build, make_sampler, set_precision
from drl_jax.config.schema import Config
from drl_jax.core import spectral
from drl_jax.core.model import bind
from drl_jax.core.types import Tree
from drl_jax.parallel.mesh import Placement, place
from drl_jax.parallel.preemption import Stop
from drl_jax.planning import flops, program
from drl_jax.planning.flops import Flops

_UNITS = {"B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class Request(NamedTuple):
    """What to find out.

    Attributes:
      what: "count" operations and parameters, "compile" a program, or name the memory "available".
      config: as `schema.to_dict` gives it.
      platform: "tpu", "cuda" or "cpu", for which operations are counted.
      rows: of a batch on one device, for which they are counted.
      topology: the name, for JAX.
      options: for `jax.experimental.topologies.get_topology_desc`.
      program: "step" or "sampler".
      quick: let the compiler optimise less. Memory is then some percent higher, and cycles mean nothing.
    """

    what: str
    config: dict[str, Any]
    platform: str = "tpu"
    rows: int = 1
    topology: str = ""
    options: Mapping[str, Any] = {}
    program: str = "step"
    quick: bool = True


class Counts(NamedTuple):
    """What a config computes and stores on one device.

    Attributes:
      parameters: how many numbers.
      state: bytes of a run's state.
      step, sampler: operations of a training step, and of drawing `samples_per_device` samples.
      residuals: bytes that the gradient in the parameters stores between its two passes.
    """

    parameters: int
    state: int
    step: Flops
    sampler: Flops
    residuals: int


class Compiled(NamedTuple):
    """What a compilation said.

    Attributes:
      needed: bytes that a device would need, where the program does not fit; else 0.
      available: bytes of a device, where the compiler named them; else 0.
      memory: bytes on a device; None where the program does not fit.
      collectives: messages between devices.
      cycles: the compiler's estimate of a call's cycles; None where it says nothing.
      seconds: that the compilation took.
      process_memory: bytes that this process has taken so far.
    """

    needed: float = 0
    available: float = 0
    memory: program.Memory | None = None
    collectives: Sequence[program.Collective] = ()
    cycles: float | None = None
    seconds: float = 0
    process_memory: int = 0


def answer(request: Request) -> Counts | Compiled:
    """Answers a request."""
    config = schema.from_values(schema.complete(request.config, "the config"), "the config")
    set_precision(config)
    if request.what == "count":
        return _count(request, config, build(config))
    jax.config.update("jax_optimization_level", "O0" if request.quick else "UNKNOWN")
    devices = topologies.get_topology_desc(request.topology, "tpu", **request.options).devices
    if request.what == "available":
        return _compile(_too_large(devices), is_quick=True)
    return _compile(_lower(request.program, config, build(config), devices), is_quick=request.quick)


def _count(request: Request, config: Config, parts: Components) -> Counts:
    # What a device computes does not depend on how many others there are.
    placement = place(request.rows, devices=jax.devices()[:1])
    alone = replace(config, data=replace(config.data, batch_size=request.rows))
    state = jax.eval_shape(parts.init_state, jax.random.key(0))
    rows = 2 * request.rows // config.training.microbatches  # data and samples
    y = jax.ShapeDtypeStruct((rows, *parts.shape), np.float32)
    t = jax.ShapeDtypeStruct((rows,), np.int32)

    def residuals(params: Tree, vectors: Tree, y: jax.Array, t: jax.Array) -> Any:
        f = lambda params: bind(parts.gradient_network, spectral.normalize(params, vectors)[0])(y, t)
        return jax.vjp(f, params)[1]

    return Counts(
        parameters=sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        state=_bytes(state),
        step=flops.count(trace_step(alone, parts, placement), request.platform),
        sampler=flops.count(trace_sampler(config, parts, placement), request.platform),
        residuals=_bytes(jax.eval_shape(residuals, state.params, state.spectral, y, t)),
    )


def _compile(lowered: jax.stages.Lowered, *, is_quick: bool) -> Compiled:
    began = time.monotonic()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        needed, available = out_of_memory(str(error))
        if not needed:
            raise
        return Compiled(needed, available, seconds=time.monotonic() - began, process_memory=_process_memory())
    seconds = time.monotonic() - began
    text = compiled.as_text() or ""
    return Compiled(
        memory=program.memory(compiled),
        collectives=program.collectives(text),
        cycles=None if is_quick else program.estimated_cycles(text),
        seconds=seconds,
        process_memory=_process_memory(),
    )


def _too_large(devices: Sequence[Any]) -> jax.stages.Lowered:
    """A program that fits no device: the compiler's refusal names the memory that there is."""
    sharding = jax.sharding.SingleDeviceSharding(devices[0])
    x = jax.ShapeDtypeStruct((2**40,), np.float32, sharding=sharding)
    return jax.jit(lambda x: x + 1).trace(x).lower()


def _lower(name: str, config: Config, parts: Components, devices: Sequence[Any]) -> jax.stages.Lowered:
    if name == "step":
        placement = place(config.data.batch_size, microbatches=config.training.microbatches, devices=devices)
        return trace_step(config, parts, placement).lower()
    return trace_sampler(config, parts, place(devices=devices)).lower()


def trace_step(config: Config, parts: Components, placement: Placement) -> jax.stages.Traced:
    """Traces the training step of a config."""
    state = placement.abstract(jax.eval_shape(parts.init_state, jax.random.key(0)))

    def rows(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, np.float32, sharding=placement.batched)

    batch, flags = rows(config.data.batch_size, *parts.shape), rows(placement.num_devices)
    return placement.data_parallel(parts.train_step()).trace(state, batch, flags)


def trace_sampler(config: Config, parts: Components, placement: Placement) -> jax.stages.Traced:
    """Traces the program that draws `samples_per_device` samples on each device."""
    state = jax.eval_shape(parts.init_state, jax.random.key(0))
    sampler = make_sampler(config, parts, placement, Stop())
    return sampler.trace(placement.abstract(state.averaged_model(parts.network, parts.levels)))


def out_of_memory(message: str) -> tuple[float, float]:
    """Returns the (needed, available) bytes that the compiler's refusal names; zeros for other errors.

    Args:
      message: of the error.
    """
    size = r"\(([\d.]+)([BKMGT])\)"
    refusal = rf"RESOURCE_EXHAUSTED.*Ran out of memory.*?{size} exceeds available \w+ {size}"
    match = re.search(refusal, message, re.DOTALL)
    if match is None:
        return 0.0, 0.0
    needed, unit, available, unit_available = match.groups()
    return float(needed) * _UNITS[unit], float(available) * _UNITS[unit_available]


def _bytes(tree: Any) -> int:
    """The size of all arrays of a tree, keys of random numbers left out."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)]
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


def _process_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Answers the requests of standard input until it ends."""
    jax.config.update("jax_enable_compilation_cache", False)  # programs for a topology cannot be read back
    for line in sys.stdin:
        print(json.dumps(answer(Request(*json.loads(line)))), flush=True)


if __name__ == "__main__":
    main()
