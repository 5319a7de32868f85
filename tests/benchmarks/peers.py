"""How fast the training step and sampling are beside the same in PyTorch, on the same machine.

    python tests/benchmarks/peers.py --config=cifar10:small --config.network.width=32 \
        --config.network.blocks_per_resolution=1 --config.data.batch_size=8

The PyTorch side is `torch_peer.py`, one process per form, in the interpreter that --torch_python names, or in
one that this program makes in the user's cache folder. Both sides must agree: in float64, on a small network,
in energies, their gradient, a chain without noise, the gradient of the loss, and two updates; in float32, on
the whole network, in energies. On a GPU the energies as they run there are compared too, and only reported.

Calls of all alternate, so that a change of the machine's load meets each. Data do not matter to speed and are
noise; parameters are random, and the same on both sides. One GPU is used, or the whole CPU.

Flags beside those of a config:
  --torch_python=PATH    an interpreter that has torch and numpy
  --forms=A,B            forms of PyTorch, of those in `torch_peer.FORMS`; default: eager,compiled
  --rounds=N             calls of the step, in turn; default 10
  --sample_rounds=N      calls of sampling, in turn; default 3; 0 leaves sampling out
  --compile_limit=S      seconds after which a form that is not ready is given up; default 600
  --serial               prepare one after another; else all prepare at the same time, which is sooner, but
                         then their trials of algorithms may disturb each other
  --tf32=on|off          whether PyTorch may use TF32; default: on if config.network.precision is default
  --output=FILE          a JSON file with all figures
"""

import argparse
import dataclasses
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs memory too
if (platforms := os.environ.get("JAX_PLATFORMS")) and "cpu" not in platforms.split(","):
    os.environ["JAX_PLATFORMS"] = f"{platforms},cpu"  # for the check

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util

from drl_jax.config.build import Components, build, set_precision
from drl_jax.config.overrides import parse
from drl_jax.config.schema import Config, Residual
from drl_jax.core import spectral
from drl_jax.core.mcmc import langevin
from drl_jax.core.mcmc.base import value_and_gradient
from drl_jax.core.model import Model, bind
from drl_jax.core.objective import contrast
from drl_jax.core.transition import mcmc_transition
from drl_jax.core.types import Tree
from drl_jax.errors import UserError
from drl_jax.machine import num_cores, processor
from drl_jax.parallel.mesh import Placement, place
from drl_jax.parallel.preemption import Stop
from drl_jax.parallel.sampler import ShardedSampler
from drl_jax.parallel.startup import start_devices

TORCH = "2.13.0"
# Limits of differences, relative to the largest entry. In float64; but our Adam computes 1 − β₂ᵏ in float32,
# which has five digits for the first k.
EXACT = {"energy": 1e-9, "gradient": 1e-9, "chain": 1e-9, "of_loss": 1e-9, "moved": 1e-4}
# In float32 rounding may move an activation past 0, which changes gradients there, but not the energy.
FLOAT32 = {"energy": 1e-5}
WARM_UP = 3
CHECKED = 2  # examples of the check
BUSY = 0.7  # load average per core above which ratios mean nothing
PAUSE = 0.2  # seconds between calls on a CPU: threads that wait for work keep cores busy for a while

Arrays = dict[str, np.ndarray]


def paths(tree: Tree) -> dict[str, Any]:
    return traverse_util.flatten_dict(tree, sep="/")  # pyright: ignore[reportReturnType]


def tree_of(flat: dict[str, Any]) -> Tree:
    return traverse_util.unflatten_dict(flat, sep="/")


def random_values(parts: Components) -> tuple[Tree, Tree]:
    """Parameters none of which is near zero, and converged spectral vectors."""
    x = jax.ShapeDtypeStruct((1, *parts.shape), np.float32)
    t = jax.ShapeDtypeStruct((1,), np.int32)
    shapes = jax.eval_shape(parts.network.init, jax.random.key(0), x, t)
    rng = np.random.default_rng(0)

    def draw(path: str, shape: tuple[int, ...]) -> np.ndarray:
        noise = rng.standard_normal(shape, np.float32)
        if path.endswith("kernel"):
            # Some norms are below 1 and some above, which matters to those that are only capped.
            return noise * np.float32(rng.choice([0.4, 1.0]) * np.prod(shape[:-1]) ** -0.5)
        return np.float32(1) + np.float32(0.1) * noise if path.endswith("gain") else np.float32(0.1) * noise

    def vector(kernel: np.ndarray) -> np.ndarray:
        matrix = kernel.reshape(-1, kernel.shape[-1])
        u = rng.standard_normal(matrix.shape[1], np.float32)
        for _ in range(20):
            u = matrix @ u @ matrix
            u /= np.linalg.norm(u)
        return u

    params = {path: draw(path, leaf.shape) for path, leaf in paths(shapes["params"]).items()}
    vectors = {
        path: vector(params[f"{path.rpartition('/')[0]}/kernel"]) for path in paths(shapes["spectral"])
    }
    return tree_of(params), tree_of(vectors)


def check_supported(config: Config) -> Residual:
    """The config's network; raises where `torch_peer.py` does not know a setting."""
    network = config.network
    if not isinstance(network, Residual):
        raise UserError(f"config.network.name={network.name!r} is not possible here: it must be 'residual'")
    wanted = {
        "network.attention": (network.attention, ()),
        "sampler.name": (config.sampler.name, "langevin"),
        "training.microbatches": (config.training.microbatches, 1),
        "training.energy_penalty": (config.training.energy_penalty, 0),
        "training.remat": (config.training.remat, False),
        "optimizer.decay_steps": (config.optimizer.decay_steps, None),
        "optimizer.clip_norm": (config.optimizer.clip_norm, None),
    }
    for key, (value, only) in wanted.items():
        if value != only:
            raise UserError(f"config.{key}={value!r} is not possible here: it must be {only!r}")
    return network


class Ours:
    """The step and the sampler of this project, compiled."""

    def __init__(self, parts: Components, placement: Placement, batch: int, values: tuple[Tree, Tree]):
        self.parts, self.placement, self.batch = parts, placement, batch
        self.params, self.vectors = values

    def prepare(self, sample: bool) -> dict[str, Any]:
        """Compiles and warms up."""
        began = time.perf_counter()
        parts, placement = self.parts, self.placement
        shapes = jax.eval_shape(parts.init_state, jax.random.key(0))

        def zeros(leaf: Any) -> Any:
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                return jax.random.key(0)
            return np.zeros(leaf.shape, leaf.dtype)

        state = jax.tree.map(zeros, shapes).replace(
            params=self.params, spectral=self.vectors, ema_params=self.params, ema_spectral=self.vectors
        )
        self.state = placement.replicate(state)
        rows = np.random.default_rng(0).standard_normal((self.batch, *parts.shape), np.float32)
        self.x, self.flags = placement.shard_local(rows), placement.stop_flags(False)
        step = placement.data_parallel(parts.train_step())
        self.compiled = step.lower(self.state, self.x, self.flags).compile()
        metrics = [self.step() for _ in range(WARM_UP)][-1]
        if sample:
            self.sampler = ShardedSampler(
                parts.transition,
                parts.shape,
                placement,
                Stop(),
                samples_per_device=self.batch // placement.num_devices,
                seed=0,
            )
            values = placement.replicate((self.params, self.vectors))
            self.model = Model(parts.network, parts.levels, *values)
            self.sample()
        loss = float(np.sum(metrics.sums.loss) / self.batch)
        return {"seconds": time.perf_counter() - began, "loss": loss}

    def step(self) -> Any:
        self.state, metrics, _ = self.compiled(self.state, self.x, self.flags)
        jax.block_until_ready((self.state, metrics))
        return metrics

    def sample(self) -> None:
        list(self.sampler.sample(self.model, self.batch))

    def timed(self, what: str) -> float:
        call = {"step": self.step, "sample": self.sample}[what]
        began = time.perf_counter()
        call()
        return time.perf_counter() - began

    def memory(self) -> int:
        """The bytes that XLA plans for the step."""
        plan: Any = self.compiled.memory_analysis()
        kept = plan.argument_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes
        return kept + plan.temp_size_in_bytes


def energies(parts: Components, values: tuple[Tree, Tree], inputs: Arrays, device: Any) -> Arrays:
    """f and ∇f on a device, in the type of the config."""

    def compute(params: Tree, vectors: Tree, y: jax.Array, t: jax.Array) -> Any:
        f = bind(parts.gradient_network, spectral.normalize(params, vectors)[0])
        return value_and_gradient(lambda y: f(y, t), y)

    with jax.default_device(device):
        energy, gradient = jax.jit(compute)(*values, inputs["y"], inputs["t"])
    return {"energy": np.asarray(energy), "gradient": np.asarray(gradient)}


def small(config: Config) -> Config:
    """The config with a network that float64 can run on a CPU, and with updates that exceed rounding."""
    assert isinstance(config.network, Residual)
    multipliers = tuple(min(multiplier, 2) for multiplier in config.network.multipliers)
    return dataclasses.replace(
        config,
        network=dataclasses.replace(
            config.network, width=16, blocks_per_resolution=1, multipliers=multipliers, dtype="float32"
        ),
        data=dataclasses.replace(config.data, image_size=2 ** len(multipliers)),
        sampler=dataclasses.replace(config.sampler, steps=2),
        optimizer=dataclasses.replace(config.optimizer, learning_rate=0.1, warmup_steps=1),
    )


def check_inputs(parts: Components) -> Arrays:
    """Parameters, images and gradients."""
    rng, count = np.random.default_rng(1), parts.levels.num_levels
    params, vectors = random_values(parts)
    images = {
        name: rng.uniform(-1, 1, (CHECKED, *parts.shape)).astype(np.float32)
        for name in ("y", "x_t", "x_negative")
    }
    updates = {
        f"update/{path}": rng.standard_normal(leaf.shape, np.float32) for path, leaf in paths(params).items()
    }
    t = np.arange(count - CHECKED, count).clip(0).astype(np.int32)
    return {**paths({"params": params, "spectral": vectors}), **images, **updates, "t": t}


def expected(parts: Components, inputs: Arrays) -> Arrays:
    """What `torch_peer.py` must answer to `check`."""
    network, levels, t = parts.gradient_network.clone(dtype=None), parts.levels, jnp.asarray(inputs["t"])
    chain = mcmc_transition(partial(langevin, noise_scale=0.0), num_steps=2)

    def compute(params: Tree, vectors: Tree, y: jax.Array, x_t: jax.Array, x_negative: jax.Array) -> Any:
        fixed, _ = spectral.normalize(params, vectors)
        f = bind(network, fixed)
        energy, of_y = value_and_gradient(lambda y: f(y, t), y)

        def loss(params: Tree) -> jax.Array:
            weights, _ = spectral.normalize(params, vectors, iterations=parts.power_iterations)
            return jnp.mean(contrast(bind(network, weights), levels, t, x_t, x_negative)[0])

        f = bind(network, spectral.normalize(params, vectors, iterations=parts.power_iterations)[0])
        end, _ = chain(jax.random.split(jax.random.key(0), len(t)), f, levels, t, y)
        return energy, of_y, end, jax.grad(loss)(params)

    with jax.default_device(jax.devices("cpu")[0]), jax.enable_x64(True):
        wide = {name: value.astype(np.float64) for name, value in inputs.items() if name != "t"}
        params, vectors, gradient = (
            tree_of({k.removeprefix(start): value for k, value in wide.items() if k.startswith(start)})
            for start in ("params/", "spectral/", "update/")
        )
        images = (wide[name] for name in ("y", "x_t", "x_negative"))
        energy, of_y, end, of_loss = jax.jit(compute)(params, vectors, *images)
        after, state = params, parts.optimizer.init(params)
        for _ in range(2):
            updates, state = parts.optimizer.update(gradient, state, after)
            after = optax.apply_updates(after, updates)
        moved = jax.tree.map(lambda after, before: after - before, after, params)
    result = {"energy": energy, "gradient": of_y, "chain": end}
    result |= {f"of_loss/{path}": leaf for path, leaf in paths(of_loss).items()}
    result |= {f"moved/{path}": leaf for path, leaf in paths(moved).items()}
    return {name: np.asarray(value) for name, value in result.items()}


def differences(ours: Arrays, theirs: Arrays) -> dict[str, float]:
    """The largest difference of each group of arrays, relative to the largest entry of its array."""
    worst: dict[str, float] = {}
    for name, value in ours.items():
        difference = float(np.max(np.abs(value - theirs[name])) / max(float(np.max(np.abs(value))), 1e-30))
        group = name.partition("/")[0]
        worst[group] = max(worst.get(group, 0.0), difference if np.isfinite(difference) else np.inf)
    return worst


class Peer:
    """A process of `torch_peer.py` that runs one form."""

    def __init__(self, python: str, form: str, settings: dict[str, Any], folder: Path):
        self.form, self.folder, self.error = form, folder, ""
        (folder / f"{form}.json").write_text(json.dumps({**settings, "form": form}))
        self._log = folder / f"{form}.log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [python, str(Path(__file__).with_name("torch_peer.py")), str(folder / f"{form}.json")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self._answers: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put("")

    def send(self, do: str, **arguments: Any) -> None:
        if not self.error and self._process.stdin is not None:
            self._sent = time.monotonic()
            try:
                self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
                self._process.stdin.flush()
            except OSError:
                self._fail("")

    def answer(self, limit: float) -> dict[str, Any]:
        """The answer to the last command; empty, and `error` is set, if there is none in time."""
        if self.error:
            return {}
        try:
            line = self._answers.get(timeout=max(self._sent + limit - time.monotonic(), 0.01))
        except queue.Empty:
            return self._fail(f"no answer in {limit:.0f} s")
        answer = json.loads(line) if line else {"error": ""}
        return self._fail(answer["error"]) if "error" in answer else answer

    def ask(self, do: str, limit: float, **arguments: Any) -> dict[str, Any]:
        self.send(do, **arguments)
        return self.answer(limit)

    def arrays(self, do: str, limit: float, inputs: Arrays, **arguments: Any) -> Arrays:
        """The arrays that a command answers to arrays."""
        read, written = (self.folder / f"{self.form}_{do}_{name}.npz" for name in ("in", "out"))
        np.savez(read, **inputs)  # pyright: ignore[reportArgumentType]
        self.ask(do, limit, input=str(read), output=str(written), **arguments)
        if self.error:
            return {}
        with np.load(written) as file:
            return {name: file[name] for name in file.files}

    def _fail(self, reason: str) -> dict[str, Any]:
        self.stop()
        lines = self._log.read_text().strip().splitlines()
        self.error = reason or (lines[-1] if lines else f"exit code {self._process.returncode}")
        return {}

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


def torch_interpreter(on_gpu: bool) -> str:
    """An interpreter with PyTorch in the user's cache folder, made at the first call."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "drl_jax" / f"torch-{TORCH}-{'cuda' if on_gpu else 'cpu'}"
    python, done = folder / "bin" / "python", folder / "complete"
    if not done.exists():
        wanted = [f"torch=={TORCH}"]
        if not on_gpu:
            wanted = ["--extra-index-url=https://download.pytorch.org/whl/cpu", f"torch=={TORCH}+cpu"]
        print(f"Installing PyTorch {TORCH} in {folder}", flush=True)
        venv.create(folder, with_pip=True, clear=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--retries=1", *wanted, "numpy"]
        if subprocess.run(install, check=False).returncode:
            raise UserError(
                f"PyTorch {TORCH} cannot be installed in {folder}; name an interpreter that has torch and "
                "numpy with --torch_python=PATH"
            )
        done.touch()
    return str(python)


def settings_of(
    config: Config, parts: Components, tf32: str, on_gpu: bool, parameters: Path
) -> dict[str, Any]:
    """The config of `torch_peer.py`."""
    network = check_supported(config)
    levels = {
        field.name: getattr(parts.levels, field.name).tolist() for field in dataclasses.fields(parts.levels)
    }
    return {
        "width": network.width,
        "multipliers": network.multipliers,
        "blocks_per_resolution": network.blocks_per_resolution,
        "dtype": network.dtype,
        "levels": levels,
        "num_levels": parts.levels.num_levels,
        "steps": config.sampler.steps,
        "noise_scale": config.sampler.noise_scale,
        "power_iterations": parts.power_iterations,
        "ema_decay": parts.ema_decay,
        "optimizer": vars(config.optimizer),
        "shape": parts.shape,
        "batch": config.data.batch_size,
        "device": "cuda" if on_gpu else "cpu",
        "threads": num_cores(),
        "tf32": network.precision == "default" if tf32 == "auto" else tf32 == "on",
        "parameters": str(parameters),
    }


def require(name: str, found: dict[str, float], limits: dict[str, float]) -> dict[str, float]:
    """The differences; raises if one is above its limit."""
    if wrong := {key: value for key, value in found.items() if value > limits.get(key, np.inf)}:
        raise UserError(
            f"PyTorch ({name}) and drl_jax do not agree: relative differences {wrong}, not {limits}"
        )
    return found


def summary(seconds: list[float]) -> dict[str, Any]:
    low, middle, high = np.quantile(seconds, (0.25, 0.5, 0.75)).tolist()
    return {"median": middle, "quartiles": [low, high], "seconds": seconds}


def measure(ours: Ours, peers: list[Peer], what: str, rounds: int, pause: float) -> dict[str, Any]:
    """Seconds of each side, one call each in turn."""
    seconds: dict[str, list[float]] = {"drl_jax": [], **{peer.form: [] for peer in peers}}
    for _ in range(rounds):
        time.sleep(pause)
        seconds["drl_jax"].append(ours.timed(what))
        for peer in peers:
            time.sleep(pause)
            seconds[peer.form] += peer.ask(what, 600, repeats=1).get("seconds", [])
    return {name: summary(values) for name, values in seconds.items() if values}


def flags_of(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    flags = argparse.ArgumentParser(allow_abbrev=False, usage=__doc__)
    flags.add_argument("--torch_python", default="")
    flags.add_argument("--forms", default="eager,compiled", type=lambda text: text.split(","))
    flags.add_argument("--rounds", default=10, type=int)
    flags.add_argument("--sample_rounds", default=3, type=int)
    flags.add_argument("--compile_limit", default=600.0, type=float)
    flags.add_argument("--serial", action="store_true")
    flags.add_argument("--tf32", default="auto", choices=("auto", "on", "off"))
    flags.add_argument("--output", default="", type=lambda text: Path(text) if text else None)
    return flags.parse_known_args(argv)


def compare(own: argparse.Namespace, config: Config, folder: Path, stop: list[Callable]) -> dict[str, Any]:
    """Measures everything."""
    load, cores = os.getloadavg()[0], num_cores()
    set_precision(config)
    parts, batch = build(config), config.data.batch_size
    network = check_supported(config)
    start_devices(batch, threads_per_device=1)
    device = jax.devices()[0]
    on_gpu = device.platform == "gpu"
    placement = place(batch, devices=[device] if on_gpu else None)
    python = own.torch_python or torch_interpreter(on_gpu)

    values = random_values(parts)
    parameters = folder / "parameters.npz"
    np.savez(parameters, **paths({"params": values[0], "spectral": values[1]}))
    settings = settings_of(config, parts, own.tf32, on_gpu, parameters)
    tiny = build(small(config))
    inputs = check_inputs(tiny)
    peers = [Peer(python, form, settings, folder) for form in own.forms]
    stop += [peer.stop for peer in peers]
    infos = [peer.ask("info", 120) for peer in peers]

    # The first peer computes what is checked before it compiles; our side of the check runs meanwhile.
    first, cpu = peers[0], jax.devices("cpu")[0]
    images = np.random.default_rng(3).uniform(-1, 1, (batch, *parts.shape)).astype(np.float32)
    whole = {"y": images, "t": (np.arange(batch) % parts.levels.num_levels).astype(np.int32)}
    few = {name: value[:CHECKED] for name, value in whole.items()}
    checked = settings_of(small(config), tiny, own.tf32, on_gpu, parameters)
    exact = first.arrays("check", 120, inputs, config=checked)
    narrow = first.arrays("energy", 120, few, reference=True)
    if first.error:
        raise UserError(f"PyTorch cannot compute the check: {first.error}")
    pool = ThreadPoolExecutor()
    ours_exact = pool.submit(expected, tiny, inputs)
    float32 = build(dataclasses.replace(config, network=dataclasses.replace(network, dtype="float32")))
    ours_narrow = pool.submit(energies, float32, values, few, cpu)

    here = pool.submit(energies, parts, values, whole, device)
    if own.serial:
        wait([ours_exact, ours_narrow, here])

    ours, sampled = Ours(parts, placement, batch, values), own.sample_rounds > 0
    prepared: dict[str, Any] = {}
    if not own.serial:
        for peer in peers:
            peer.send("prepare", sample=sampled)
    prepared["drl_jax"] = ours.prepare(sampled)
    for peer in peers:
        if own.serial:
            peer.send("prepare", sample=sampled)
        prepared[peer.form] = peer.answer(own.compile_limit)

    agreement = {
        "float64 on the CPU, a small network": require(
            "float64", differences(ours_exact.result(), exact), EXACT
        ),
        "float32 on the CPU": require("float32", differences(ours_narrow.result(), narrow), FLOAT32),
    }
    limits = {} if on_gpu or network.dtype != "float32" else FLOAT32
    for peer in peers:
        if theirs := peer.arrays("energy", 120, whole, reference=False):
            name = f"{peer.form} as it runs"
            agreement[name] = require(name, differences(here.result(), theirs), limits)
    pause = 0.0 if on_gpu else PAUSE
    return {
        "device": f"1 {device.device_kind}" if on_gpu else f"{processor()}, {cores} cores",
        "jax": jax.__version__,
        "backend": getattr(device.client, "platform_version", "").splitlines()[0],
        "torch": next((info for info in infos if info), {}),
        "load": load,
        "is_busy": not on_gpu and load > BUSY * cores,
        "network": {key: settings[key] for key in ("width", "blocks_per_resolution", "dtype", "tf32")},
        "batch": batch,
        "chain_steps": config.sampler.steps,
        "agreement": agreement,
        "prepared": prepared,
        "step": measure(ours, peers, "step", own.rounds, pause),
        "sample": measure(ours, peers, "sample", own.sample_rounds, pause),
        "memory": {
            "drl_jax": ours.memory(),
            **{peer.form: peer.ask("memory", 60).get("bytes") for peer in peers},
        },
        "errors": {peer.form: peer.error for peer in peers if peer.error},
    }


def table(result: dict[str, Any], forms: list[str]) -> list[str]:
    """The lines to print."""
    torch, network = result["torch"], result["network"]
    lines = [
        f"{result['device']}; load average {result['load']:.2f}",
        f"jax {result['jax']} ({result['backend']}); torch {torch.get('torch')}, CUDA {torch.get('cuda')}, "
        f"TF32 {'on' if network['tf32'] else 'off'}",
        f"batch {result['batch']}, K = {result['chain_steps']}, width {network['width']}, "
        f"{network['blocks_per_resolution']} blocks per resolution, {network['dtype']}",
        "largest difference, relative to the largest entry:",
        *(
            f"  {where}: " + ", ".join(f"{name} {value:.1e}" for name, value in found.items())
            for where, found in result["agreement"].items()
        ),
        "",
        f"{'':<8}{'':<12}{'s (median)':>12}{'quartiles':>20}{'calls':>7}{'/ drl_jax':>11}",
    ]
    for what in ("step", "sample"):
        rows = result[what]
        for name in ("drl_jax", *forms) if rows else ():
            if name not in rows:
                lines.append(f"{what:<8}{name:<12}  {result['errors'].get(name)}")
                continue
            low, high = rows[name]["quartiles"]
            ratio = rows[name]["median"] / rows["drl_jax"]["median"]
            ratio = "—" if result["is_busy"] else f"{ratio:.2f}"
            lines.append(
                f"{what:<8}{name:<12}{rows[name]['median']:>12.4f}{f'{low:.4f} to {high:.4f}':>20}"
                f"{len(rows[name]['seconds']):>7}{ratio:>11}"
            )
    for name in ("drl_jax", *forms):
        if found := result["prepared"].get(name):
            memory = result["memory"][name]
            lines.append(
                f"{name:<12} ready after {found['seconds']:.1f} s, loss of the warm-up {found['loss']:.3g}, "
                f"memory {memory / 2**20 if memory else float('nan'):.0f} MiB"
            )
    if result["is_busy"]:
        lines.append(
            f"No ratios: the load average at the start, {result['load']:.2f}, is above {BUSY} per core: "
            "other programs use this machine."
        )
    return lines


def main() -> int:
    """Prints the table."""
    own, rest = flags_of(sys.argv[1:])
    stop: list[Callable] = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            result = compare(own, parse(rest).config, Path(folder), stop)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        for call in stop:
            call()
    if own.output:
        own.output.write_text(json.dumps(result, indent=1))
    print("\n".join(table(result, own.forms)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
