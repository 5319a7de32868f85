"""The training step on an accelerator: its ceilings, and which form of the step is the fastest.

    python tests/benchmarks/accelerator.py --config=cifar10:t6 --output=FILE.json [--forms=base,graph,…]
        [--repeats=10] [--profile=FOLDER] [--config.network.dtype=bfloat16]

Measures
  the ceilings  matrix products, copies of memory, and every convolution of the network by itself: forward,
                gradient in the images, gradient in the kernel; added up, the floor of a step
  the step      in the forms of `FORMS`: compilation, seconds, operations per second, share of the
                floor, memory

All forms compile at the same time, before anything is timed; calls of them alternate. A form that fails, or
that has not compiled within `--limit` seconds, is reported with the reason. Data do not matter to speed and
are noise. `--profile` also adds up the time of each kernel of one step, of the first form.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from drl_jax.config.build import Components, build
from drl_jax.config.overrides import parse
from drl_jax.config.schema import Config
from drl_jax.core.networks import convolution, layers
from drl_jax.parallel.mesh import Placement, place
from drl_jax.parallel.startup import start_devices
from drl_jax.planning import flops
from drl_jax.report import provenance
from drl_jax.training.step import TrainState

GRAPH = "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,CONVOLUTION,DYNAMIC_SLICE_FUSION,CONDITIONAL,WHILE"
COPIES = 16  # operations per timed call, so that the start of a call does not count
WARM_UP = 2
SLOW = 2.0  # seconds; a step that takes longer is timed three times only


class Form(NamedTuple):
    """How a step is computed.

    Attributes:
      options: of XLA, name and value.
      precision: of products of float32 numbers.
      dtype: of the network's computation; None takes that of the config.
      own_gradients: the convolution's gradients are forward convolutions, as on a CPU.
      unroll: steps of the chain per turn of its loop.
      random: the random number generator.
    """

    options: tuple[tuple[str, Any], ...] = ()
    precision: str = "default"
    dtype: str | None = None
    own_gradients: bool = False
    unroll: int = 1
    random: str = "threefry2x32"


FORMS = {
    "base": Form(),
    "float32": Form(dtype="float32", precision="highest"),
    "tf32": Form(dtype="float32"),
    "own_gradients": Form(own_gradients=True),
    "rbg": Form(random="rbg"),
    "unroll_2": Form(unroll=2),
    "unroll_5": Form(unroll=5),
    "nhwc": Form(options=(("xla_gpu_force_conv_nhwc", True),)),
    "runtime_fusion": Form(options=(("xla_gpu_use_runtime_fusion", True),)),
    "conv_fusion": Form(options=(("xla_gpu_experimental_enable_conv_fusion", True),)),
    "no_graph": Form(options=(("xla_gpu_enable_command_buffer", ""),)),
    "graph": Form(options=(("xla_gpu_enable_command_buffer", GRAPH),)),
}


def main() -> None:
    """Prints the tables and writes the JSON file."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--profile", type=Path)
    parser.add_argument("--forms", default=",".join(FORMS))
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--limit", type=float, default=3600.0)
    parser.add_argument("--ceilings", action=argparse.BooleanOptionalAction, default=True)
    own, rest = parser.parse_known_args()
    config = parse(rest).config
    start_devices(config.data.batch_size, threads_per_device=1)
    placement = place(config.data.batch_size)
    report: dict[str, Any] = {"machine": machine(), "config": rest, "batch_size": config.data.batch_size}
    print(report["machine"], flush=True)

    start, pool = time.perf_counter(), ThreadPoolExecutor()
    compiler = StepCompiler(config, placement, pool)
    single = compile_convolutions(config, pool) if own.ceilings else {}
    ceilings = compile_ceilings(pool) if own.ceilings else {}
    steps = {name: pool.submit(compiler.compile, FORMS[name]) for name in own.forms.split(",")}

    def results(futures: dict[Any, Future]) -> dict[Any, Any]:
        """What the futures return, or one line about each failure."""
        found = {}
        for key, future in futures.items():
            try:
                found[key] = future.result(timeout=max(0.0, start + own.limit - time.perf_counter()))
            except TimeoutError:
                found[key] = f"not compiled after {own.limit:g} s"
            except Exception as error:  # XLA's own errors have many types
                found[key] = _line(error)
        return found

    single, ceilings, steps = results(single), results(ceilings), results(steps)
    report["compile_seconds"] = time.perf_counter() - start
    print(f"all compiled in {report['compile_seconds']:.0f} s", flush=True)

    def save() -> None:
        if own.output:
            own.output.write_text(json.dumps(report, indent=1) + "\n")

    if own.ceilings:
        report["ceilings"] = {name: c if isinstance(c, str) else c() for name, c in ceilings.items()}
        for name, value in report["ceilings"].items():
            print(f"{name:<34} {_short(value)}", flush=True)
        report["convolutions"] = rows = [time_convolution(*item) for item in single.items()]
        for row in rows:
            print(_line_of(row))
        report["floor_seconds"] = floor_of_step(rows, config.sampler.steps)
        print(f"{'the convolutions alone':<34} {report['floor_seconds']:.4f} s", flush=True)
        save()

    report["forms"] = time_steps(steps, own.repeats)
    report["init_seconds"] = compiler.init_seconds
    for name, row in report["forms"].items():
        if "seconds" in row and own.ceilings and not FORMS[name].dtype:
            row["share_of_floor"] = report["floor_seconds"] / row["seconds"]
        print(f"{name:<16} {_line_of(row)}", flush=True)
    save()

    if own.profile:
        name, step = next(iter(steps.items()))
        report["profile"] = {"form": name, "kernels": time_kernels(step.call, own.profile)}
        for kernel in report["profile"]["kernels"][:25]:
            print(f"{kernel['ms']:10.2f} ms {kernel['calls']:7d}  {kernel['name'][:90]}", flush=True)
        save()
    os._exit(0)  # does not wait for what has not compiled


def machine() -> dict[str, Any]:
    """Describes what runs this."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        gpu = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        gpu = platform.processor() or platform.machine()
    return {
        "machine": provenance.machine(),
        "gpu": gpu,
        **provenance.versions(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
    }


# The ceilings.


def seconds_of(call: Callable[[], Any], turns: int = 10, rounds: int = 5) -> float:
    """Seconds of a call: the median of rounds of several calls that wait for the last one only."""
    jax.block_until_ready(call())
    found = []
    for _ in range(rounds):
        start, out = time.perf_counter(), None
        for _ in range(turns):
            out = call()
        jax.block_until_ready(out)
        found.append((time.perf_counter() - start) / turns)
    return float(np.median(found))


def compile_ceilings(pool: ThreadPoolExecutor) -> dict[str, Future]:
    """For each ceiling a function that measures it."""
    size, length = (8192, 2**30) if jax.devices()[0].platform != "cpu" else (512, 2**20)

    def product(dtype: str, precision: Any) -> Callable[[], float]:
        a, b = (jax.random.normal(key, (size, size), dtype) for key in jax.random.split(jax.random.key(0)))
        call = jax.jit(partial(jnp.matmul, precision=precision)).lower(a, b).compile()
        return lambda: 2 * size**3 / seconds_of(lambda: call(a, b)) / 1e12

    def copy() -> Callable[[], float]:
        x = jax.random.normal(jax.random.key(0), (length,), jnp.float32)
        call = jax.jit(jnp.negative).lower(x).compile()
        return lambda: 2 * x.nbytes / seconds_of(lambda: call(x)) / 1e12

    return {
        "product bfloat16, TFLOP/s": pool.submit(product, "bfloat16", "default"),
        "product tf32, TFLOP/s": pool.submit(product, "float32", "default"),
        "product float32, TFLOP/s": pool.submit(product, "float32", "highest"),
        "copy, TB/s": pool.submit(copy),
    }


class Shape(NamedTuple):
    """One convolution of a step.

    Attributes:
      direction: forward, images (the gradient in them), or kernel.
      rows, side, inputs, outputs: of the images.
      times: how often the network has it.
    """

    direction: str
    rows: int
    side: int
    inputs: int
    outputs: int
    times: int


def convolutions(parts: Components) -> list[tuple[int, int, int]]:
    """(side, inputs, outputs) of the 3x3 convolutions of one call of the network."""
    found: list[tuple[int, int, int]] = []

    def record(next_method, args, kwargs, context):
        out = next_method(*args, **kwargs)
        if isinstance(context.module, layers.Convolution) and context.method_name == "__call__":
            found.append((args[0].shape[1], args[0].shape[-1], out.shape[-1]))
        return out

    with nn.intercept_methods(record):
        x = jax.ShapeDtypeStruct((1, *parts.shape), np.float32)
        t = jax.ShapeDtypeStruct((1,), np.int32)
        jax.eval_shape(parts.network.init, jax.random.key(0), x, t)
    return found


def compile_convolutions(config: Config, pool: ThreadPoolExecutor) -> dict[Shape, Future]:
    """A call for every convolution of a step."""
    batch, found = config.data.batch_size, Counter(convolutions(build(config)))
    directions = [("forward", 1), ("images", 1), ("forward", 2), ("images", 2), ("kernel", 2)]
    shapes = [
        Shape(direction, times_batch * batch, *shape, times)
        for shape, times in found.items()
        for direction, times_batch in directions
    ]
    return {shape: pool.submit(compile_convolution, shape, dtype_of(config)) for shape in shapes}


def compile_convolution(shape: Shape, dtype: Any) -> Callable[[], Any]:
    """A call of COPIES convolutions with different kernels; of one gradient in a kernel."""
    keys = jax.random.split(jax.random.key(0), 3)
    images = shape.rows, shape.side, shape.side
    x = jax.random.normal(keys[0], (*images, shape.inputs), dtype)
    g = jax.random.normal(keys[1], (*images, shape.outputs), dtype)
    kernels = jax.random.normal(keys[2], (COPIES, 3, 3, shape.inputs, shape.outputs), dtype)

    def compute(x, g, kernels):
        match shape.direction:
            case "forward":
                return [convolution._plain(x, kernel) for kernel in kernels]
            case "images":
                return [convolution._plain_input_gradient(x, kernel, g) for kernel in kernels]
            case _:
                return convolution._plain_kernel_gradient(x, kernels[0], g)

    call = jax.jit(compute).lower(x, g, kernels).compile()
    return lambda: call(x, g, kernels)


def time_convolution(shape: Shape, call: Callable[[], Any] | str) -> dict[str, Any]:
    """One row of the table of convolutions."""
    if isinstance(call, str):
        return shape._asdict() | {"seconds": float("nan"), "failed": call}
    seconds = seconds_of(call) / (1 if shape.direction == "kernel" else COPIES)
    operations = 18 * shape.rows * shape.side**2 * shape.inputs * shape.outputs
    return shape._asdict() | {"seconds": seconds, "tflops": operations / seconds / 1e12}


def floor_of_step(rows: list[dict[str, Any]], steps: int) -> float:
    """Seconds of all convolutions of a step: K gradients in the images of one batch, one gradient in the
    kernels of two."""
    batch = min(row["rows"] for row in rows)
    return sum(row["times"] * row["seconds"] * (steps if row["rows"] == batch else 1) for row in rows)


# The step.


class Step(NamedTuple):
    """A compiled step.

    Attributes:
      call: makes one step and returns its seconds.
      compile_seconds: of XLA alone, beside the compilation of the other forms.
      tflop: 10¹² operations of one step.
      peak_mib: memory that the program takes.
    """

    call: Callable[[], float]
    compile_seconds: float
    tflop: float
    peak_mib: float


class StepCompiler:
    """Compiles the step in several forms at the same time."""

    def __init__(self, config: Config, placement: Placement, pool: ThreadPoolExecutor):
        """Starts to compute the first state, once for all forms."""
        self._config, self._placement = config, placement
        self._lowered: dict[Form, tuple[Any, float]] = {}
        self._tracing = threading.Lock()
        self._state = pool.submit(self._initial_state)
        self.init_seconds = float("nan")

    def _initial_state(self) -> TrainState:
        start = time.perf_counter()
        init = jax.jit(build(self._config).init_state, out_shardings=self._placement.replicated)
        state = jax.block_until_ready(init(self._placement.replicate(jax.random.key(0))))
        self.init_seconds = time.perf_counter() - start
        return state

    def compile(self, form: Form) -> Step:
        """Compiles a step in one form."""
        with self._tracing:  # forms share traces, and two threads would only take turns
            lowered, tflop = self._lower(form._replace(options=()))
        start = time.perf_counter()
        compiled = lowered.compile(compiler_options=dict(form.options))
        seconds = time.perf_counter() - start
        memory = compiled.memory_analysis()
        peak = memory.temp_size_in_bytes + memory.argument_size_in_bytes
        if jax.default_backend() != "cpu":  # whose own number leaves out what the step works with
            peak = getattr(memory, "peak_memory_in_bytes", 0) or peak
        x, flags, state = self._batch(), self._placement.stop_flags(False), None

        def call() -> float:
            nonlocal state
            if state is None:
                state = self._copy(form)
            start = time.perf_counter()
            state, metrics, _ = compiled(state, x, flags)
            jax.block_until_ready((state, metrics))
            return time.perf_counter() - start

        return Step(call, seconds, tflop, peak / 2**20)

    def _lower(self, form: Form) -> tuple[Any, float]:
        """(the lowered step, 10¹² operations)."""
        if form not in self._lowered:
            parts = build(self._config)
            if form.dtype:
                parts = parts._replace(
                    network=parts.network.clone(dtype=jnp.dtype(form.dtype)),
                    gradient_network=parts.gradient_network.clone(dtype=jnp.dtype(form.dtype)),
                )
            key = jax.eval_shape(lambda: jax.random.key(0, impl=form.random))
            state = jax.eval_shape(parts.init_state, jax.random.key(0)).replace(key=key)
            arguments = self._placement.abstract(state), self._batch(), self._placement.stop_flags(False)
            scan, chosen = jax.lax.scan, layers.convolve
            try:
                if form.unroll > 1:
                    jax.lax.scan = partial(_unrolled, scan, form.unroll)
                if form.own_gradients:
                    layers.convolve = _convolve_own
                with jax.default_matmul_precision(form.precision):
                    traced = self._placement.data_parallel(parts.train_step()).trace(*arguments)
            finally:
                jax.lax.scan, layers.convolve = scan, chosen
            # Those of one device, in the forms of the mathematics and not of a CPU.
            useful = flops.count(traced, "cuda").useful * self._placement.num_devices
            self._lowered[form] = traced.lower(), useful / 1e12
        return self._lowered[form]

    def _batch(self) -> jax.Array:
        shape = (self._config.data.batch_size, *build(self._config).shape)
        rows = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
        return self._placement.shard_local(rows)

    def _copy(self, form: Form) -> TrainState:
        """The first state with a key of its own: a step takes the memory of its state."""
        key = jax.device_put(jax.random.key(0, impl=form.random), self._placement.replicated)
        return jax.tree.map(jnp.copy, self._state.result().replace(key=None)).replace(key=key)


def time_steps(steps: dict[str, Step | str], repeats: int) -> dict[str, dict[str, Any]]:
    """One row per form; calls of the forms alternate."""
    rows, working, seconds = {}, {}, {}
    for name, step in steps.items():
        if isinstance(step, str):
            rows[name] = {"failed": step}
            continue
        rows[name] = {field: getattr(step, field) for field in ("compile_seconds", "tflop", "peak_mib")}
        try:
            first = [step.call() for _ in range(WARM_UP)]
            print(f"{name}: first calls {first[0]:.2f} s, {first[1]:.2f} s", flush=True)
            working[name], seconds[name] = step, []
        except Exception as error:  # XLA's own errors have many types
            rows[name]["failed"] = _line(error)
    for turn in range(repeats):
        for name, times in seconds.items():
            if turn < 3 or np.median(times) < SLOW:
                times.append(working[name].call())
    for name, times in seconds.items():
        low, middle, high = np.quantile(times, [0.25, 0.5, 0.75])
        rows[name] |= {"seconds": middle, "quartiles": [low, high], "tflops": rows[name]["tflop"] / middle}
    return rows


def dtype_of(config: Config) -> Any:
    """The dtype of the network's computation."""
    return jnp.dtype(getattr(config.network, "dtype", "float32"))


def _unrolled(scan: Any, unroll: int, f: Any, init: Any, xs: Any, **kwargs: Any) -> Any:
    """Unrolls the loop over the steps of a chain, whose input is random keys."""
    is_chain = isinstance(xs, jax.Array) and jnp.issubdtype(xs.dtype, jax.dtypes.prng_key)
    return scan(f, init, xs, unroll=unroll if is_chain else 1, **kwargs)


@jax.custom_vjp
def _convolve_own(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return convolution._plain(x, kernel)


def _own_backward(saved, g):
    x, kernel = saved
    return convolution._input_gradient(x, kernel, g), convolution._kernel_gradient(x, kernel, g)


_convolve_own.defvjp(lambda x, kernel: (convolution._plain(x, kernel), (x, kernel)), _own_backward)


# Kernels.


def time_kernels(call: Callable[[], Any], folder: Path) -> list[dict[str, Any]]:
    """Adds up the time of each kernel of one call; the longest first."""
    with jax.profiler.trace(str(folder)):
        call()
    file = max(folder.rglob("*.xplane.pb"), key=lambda file: file.stat().st_mtime)
    milliseconds, calls = Counter(), Counter()
    for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
        if not plane.name.startswith("/device:GPU"):
            continue
        for line in plane.lines:
            if line.name.startswith("Stream"):
                for event in line.events:
                    milliseconds[event.name] += event.duration_ns / 1e6
                    calls[event.name] += 1
    return [{"name": name, "ms": ms, "calls": calls[name]} for name, ms in milliseconds.most_common(200)]


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _line_of(row: dict[str, Any]) -> str:
    return " ".join(f"{key}={_short(value)}" for key, value in row.items())


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "/".join(map(_short, value)) if isinstance(value, list) else str(value)


if __name__ == "__main__":
    main()
