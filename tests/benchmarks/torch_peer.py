"""The training step and sampling of drl_jax in PyTorch, for `peers.py` to compare with.

    python tests/benchmarks/torch_peer.py CONFIG.json

Needs torch and numpy alone. It reads one JSON command per line from stdin and answers each with one line of
JSON on stdout; see `Worker`. `peers.py` writes the config and the parameters.

The code is what a careful user of PyTorch would write for speed:

* Weights are normalised once per step, for the chain and for the gradient together. Kernels of one shape are
  normalised as one batched product.
* What depends on the level alone is computed once per chain: the embedding, the shift of each block, and the
  readout.
* With bfloat16, normalised weights are cast once per step. State, energies and the update are float32.
* Adam is PyTorch's fused one. Its ε is divided by the bias correction, so that the update is ours exactly.
* A compiled form compiles one residual block, which all blocks of one shape share (regional compilation), and
  not the whole network. The other layers are a few kernels. A network of 32 blocks compiles 5 blocks then,
  twice: for chains and for the gradient in the parameters. The form `network` compiles the whole network,
  which takes several times as long.

It computes no metrics, which our step does, so it does a little less.
"""
# pyright: reportMissingImports=false

import json
import math
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

Tensor = Any
Tensors = dict[str, Tensor]

SLOPE = 0.2
WARM_UP = 3


class Form(NamedTuple):
    """How PyTorch runs the step.

    Attributes:
      compiles: what `torch.compile` gets: nothing, one residual block, or the network.
      mode: of `torch.compile`.
      captures: whether the gradient of a chain is a captured CUDA graph, which is replayed.
      channels_last: the memory format of images and kernels.
    """

    compiles: str = ""
    mode: str = "default"
    captures: bool = False
    channels_last: bool = True


FORMS = {
    "eager": Form(),
    "eager_nchw": Form(channels_last=False),
    "compiled": Form("block"),
    "autotune": Form("block", mode="max-autotune-no-cudagraphs"),
    "graphs": Form("block", captures=True),
    "network": Form("network"),
}


def memory_format(form: Form) -> Any:
    return torch.channels_last if form.channels_last else torch.contiguous_format


def compiled(function: Callable, form: Form) -> Callable:
    return torch.compile(function, dynamic=False, mode=form.mode)


# The network.


def convolve(x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    return F.conv2d(x, kernel, bias, padding=kernel.shape[-1] // 2)


def residual_block(x: Tensor, shift: Tensor, weights: Tensors) -> Tensor:
    """x + conv(act(conv(act(x)) + shift)) g, with a convolution of x where channels change."""
    h = convolve(F.leaky_relu(x, SLOPE), weights["conv_1/kernel"], weights["conv_1/bias"])
    h = F.leaky_relu(h + shift[:, :, None, None], SLOPE)
    h = convolve(h, weights["conv_2/kernel"], weights["conv_2/bias"])
    h = h * weights["conv_2/gain"][:, None, None]
    if "shortcut/kernel" in weights:
        x = convolve(x, weights["shortcut/kernel"], weights["shortcut/bias"])
    return x + h


def move(y: Tensor, gradient: Tensor, half: Tensor, spread: Tensor, noise: Tensor) -> Tensor:
    """One Langevin step."""
    return y + half * gradient + spread * noise


class Energy:
    """f(y, t) as a function of one dict: normalised weights, and what `condition` adds to them."""

    def __init__(self, config: dict[str, Any], form: Form):
        self._width, self._blocks = config["width"], config["blocks_per_resolution"]
        self._resolutions = len(config["multipliers"])
        self._block = compiled(residual_block, form) if form.compiles == "block" else residual_block
        self._body = compiled(self._evaluate, form) if form.compiles == "network" else self._evaluate
        self._names = [f"block_{i}_{j}" for i in range(self._resolutions) for j in range(self._blocks)]

    def condition(self, weights: Tensors, t: Tensor) -> Tensors:
        """The weights and what depends on the levels t [batch] alone."""
        half, dtype = self._width // 2, weights["level_0/kernel"].dtype
        wide = torch.promote_types(dtype, torch.float32)
        steps = torch.arange(half, device=t.device, dtype=wide)
        angles = t[:, None] * torch.exp(steps * -(math.log(1e4) / (half - 1)))

        def dense(name: str, x: Tensor) -> Tensor:
            return F.linear(x, weights[f"{name}/kernel"], weights[f"{name}/bias"])

        level = torch.cat([torch.sin(angles), torch.cos(angles)], 1).to(dtype)
        level = F.leaky_relu(dense("level_0", level), SLOPE)
        level = F.leaky_relu(dense("level_1", level), SLOPE)
        shifts = {f"{name}/shift": dense(f"{name}/level", level) for name in self._names}
        return {**weights, **shifts, "readout": dense("readout", level).to(wide)}

    def __call__(self, weights: Tensors, y: Tensor) -> Tensor:
        """f [batch], float32 or wider, of images y [batch, channels, side, side]."""
        return self._body(weights, y)

    def _evaluate(self, weights: Tensors, y: Tensor) -> Tensor:
        x = convolve(y.to(weights["input/kernel"].dtype), weights["input/kernel"], weights["input/bias"])
        for name in self._names:
            if name.endswith("_0") and not name.startswith("block_0_"):
                x = F.avg_pool2d(x, 2)
            own = [f"{layer}/{part}" for layer in ("conv_1", "conv_2", "shortcut") for part in PARTS]
            own = {key: weights[f"{name}/{key}"] for key in own if f"{name}/{key}" in weights}
            x = self._block(x, weights[f"{name}/shift"], own)
        h = torch.sum(F.relu(x), (2, 3), dtype=weights["readout"].dtype)
        return torch.sum(h * weights["readout"], 1)


PARTS = ("kernel", "bias", "gain")


# Spectral normalisation.


def unit(x: Tensor) -> Tensor:
    return x / torch.sqrt(torch.clamp(torch.sum(x**2, -1, keepdim=True), min=1e-12))


def normalize(params: Tensors, vectors: Tensors, form: Form, iterations: int) -> tuple[Tensors, Tensors]:
    """(normalised parameters, new vectors), as `drl_jax.core.spectral.normalize`."""
    groups: dict[tuple, list[str]] = {}
    for path in vectors:
        layer, _, kind = path.rpartition("/")
        groups.setdefault((kind, tuple(params[f"{layer}/kernel"].shape)), []).append(layer)
    weights, new_vectors = dict(params), {}
    for (kind, shape), layers in groups.items():
        kernels = [params[f"{layer}/kernel"] for layer in layers]
        if len(shape) == 4:  # outputs, height, width, inputs: as channels_last has them in memory
            kernels = [kernel.permute(0, 2, 3, 1) for kernel in kernels]
        stacked = torch.stack(kernels)
        matrix = stacked.flatten(2)  # [layers, outputs, inputs]
        with torch.no_grad():
            u = torch.stack([vectors[f"{layer}/{kind}"] for layer in layers])[:, None]
            v = u
            for _ in range(iterations):
                v = unit(torch.bmm(u, matrix))
                u = unit(torch.bmm(v, matrix.mT))
        sigma = torch.bmm(torch.bmm(v, matrix.mT), u.mT)
        sigma = sigma.reshape(-1, *[1] * len(shape))
        if kind == "cap":
            sigma = sigma + 1e-6
            stacked = stacked / sigma * torch.clamp(sigma, max=1)
        else:
            stacked = stacked / sigma
        for layer, kernel, vector in zip(layers, stacked.unbind(), u[:, 0].unbind(), strict=True):
            if len(shape) == 4:
                kernel = kernel.permute(0, 3, 1, 2).contiguous(memory_format=memory_format(form))
            weights[f"{layer}/kernel"], new_vectors[f"{layer}/{kind}"] = kernel, vector
    return weights, new_vectors


# Chains.


class Gradient:
    """∇ log p and log p of a recovery posterior; `begin` takes its weights and its constants."""

    def __init__(self, energy: Energy):
        self._energy, self._inputs = energy, {}

    def begin(self, inputs: Tensors) -> None:
        self._inputs = inputs

    def __call__(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return self.compute(self._inputs, y)

    def compute(self, inputs: Tensors, y: Tensor) -> tuple[Tensor, Tensor]:
        y = y.detach().requires_grad_()
        distance = torch.sum((inputs["x_next"] - y) ** 2, (1, 2, 3))
        value = self._energy(inputs, y) / inputs["temperature"] - 0.5 * inputs["precision"] * distance
        return torch.autograd.grad(value.sum(), y)[0], value.detach()


class CapturedGradient(Gradient):
    """The same as a CUDA graph, captured in the first call and replayed."""

    def __init__(self, energy: Energy):
        super().__init__(energy)
        self._fixed: Tensors = {}
        self._graph: Any = None

    def begin(self, inputs: Tensors) -> None:
        if not self._fixed:
            self._fixed = {name: value.detach().clone() for name, value in inputs.items()}
        names = list(self._fixed)
        torch._foreach_copy_([self._fixed[name] for name in names], [inputs[name] for name in names])

    def __call__(self, y: Tensor) -> tuple[Tensor, Tensor]:
        if self._graph is None:
            self._y = y.detach().clone()
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(WARM_UP):
                    self.compute(self._fixed, self._y)
            torch.cuda.current_stream().wait_stream(side)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._result = self.compute(self._fixed, self._y)
        self._y.copy_(y)
        self._graph.replay()
        return self._result


# The model, its training and its sampling.


class Model:
    """Parameters, vectors, their averages and the optimizer.

    Args:
      config: from `peers.py`.
      arrays: "params/…" and "spectral/…", as Flax has them.
      form: how it runs.
      device: where it runs.
      dtype: of the network.
    """

    def __init__(self, config: dict, arrays: dict[str, np.ndarray], form: Form, device: str, dtype: str):
        self.config, self.form, self.device, self.dtype = config, form, device, getattr(torch, dtype)
        self.energy = Energy(config, form)
        self.gradient = CapturedGradient(self.energy) if form.captures else Gradient(self.energy)
        self.move = compiled(move, form) if form.compiles else move
        self.wide = torch.promote_types(self.dtype, torch.float32)
        self.table = {
            name: torch.tensor(values, dtype=self.wide, device=device)
            for name, values in config["levels"].items()
        }
        self.params = {
            name.removeprefix("params/"): self.parameter(name, array).requires_grad_()
            for name, array in arrays.items()
            if name.startswith("params/")
        }
        self.vectors = {
            name.removeprefix("spectral/"): torch.tensor(array, device=device, dtype=self.wide)
            for name, array in arrays.items()
            if name.startswith("spectral/")
        }
        self.ema_params = {name: value.detach().clone() for name, value in self.params.items()}
        self.ema_vectors = {name: value.clone() for name, value in self.vectors.items()}
        adam = config["optimizer"]
        betas = adam["beta1"], adam["beta2"]
        self.optimizer = torch.optim.Adam(self.params.values(), betas=betas, fused=True)
        self.steps = 0

    def parameter(self, name: str, array: np.ndarray) -> Tensor:
        """A parameter with the axes that PyTorch has."""
        value = torch.tensor(array, dtype=self.wide)
        if name.endswith("shortcut/kernel") and value.ndim == 2:
            value = value[None, None]
        if value.ndim == 4:
            value = value.permute(3, 2, 0, 1).contiguous(memory_format=memory_format(self.form))
        elif value.ndim == 2:
            value = value.T.contiguous()
        return value.to(self.device)

    def images(self, array: np.ndarray) -> Tensor:
        """[batch, side, side, channels] as PyTorch has them."""
        value = torch.tensor(array, device=self.device, dtype=self.wide).permute(0, 3, 1, 2)
        return value.contiguous(memory_format=memory_format(self.form))

    def cast(self, weights: Tensors) -> Tensors:
        return {name: value.to(self.dtype) for name, value in weights.items()}

    def pick(self, name: str, t: Tensor) -> Tensor:
        """The levels' values, to broadcast against images."""
        return self.table[name][t][:, None, None, None]

    def chain(self, weights: Tensors, t: Tensor, x_next: Tensor, steps: int, noise_scale: float) -> Tensor:
        """x_t from x_{t+1} by Langevin steps."""
        step_squared = self.pick("step_squared", t)
        half, spread = 0.5 * step_squared, noise_scale * torch.sqrt(step_squared)
        precision = self.table["is_recovery"][t] / self.table["sigma"][t + 1] ** 2
        constants = {
            "x_next": x_next,
            "temperature": self.table["temperature"][t],
            "precision": precision,
        }
        with torch.no_grad():
            inputs = {**self.energy.condition(weights, t), **constants}
        self.gradient.begin(inputs)
        y = x_next
        for _ in range(steps):
            gradient, _ = self.gradient(y)
            y = self.move(y, gradient, half, spread, torch.randn_like(y))
        return y / self.pick("scale", t)

    def loss(self, weights: Tensors, t: Tensor, x_t: Tensor, x_negative: Tensor) -> Tensor:
        """The mean of (σ_1/σ_{t+1}) (f(y⁻) − f(y⁺))."""
        scale = self.pick("scale", t)
        y = torch.cat([scale * x_t, scale * x_negative])
        positive, negative = self.energy(self.energy.condition(weights, torch.cat([t, t])), y).chunk(2)
        return torch.mean(self.table["weight"][t] * (negative - positive))

    def step(self, x: Tensor) -> Tensor:
        """One training step; returns the loss."""
        config = self.config
        t = torch.randint(config["num_levels"], (len(x),), device=self.device)
        x_t = self.pick("a_cum", t) * x + self.pick("sigma_cum", t) * torch.randn_like(x)
        x_next = self.pick("a", t + 1) * x_t + self.pick("sigma", t + 1) * torch.randn_like(x)

        weights, vectors = normalize(self.params, self.vectors, self.form, config["power_iterations"])
        weights = self.cast(weights)
        fixed = {name: value.detach() for name, value in weights.items()}
        x_negative = self.chain(fixed, t, x_next, config["steps"], 1.0)

        loss = self.loss(weights, t, x_t, x_negative)
        names = list(self.params)
        for name, gradient in zip(names, torch.autograd.grad(loss, list(self.params.values())), strict=True):
            self.params[name].grad = gradient
        self.update()
        self._average(self.ema_params, self.params)
        self._average(self.ema_vectors, vectors)
        self.vectors = vectors
        return loss.detach()

    def update(self) -> None:
        """Adam with ε added before the bias correction, which divides PyTorch's ε by √(1 − β₂ᵏ)."""
        adam, group = self.config["optimizer"], self.optimizer.param_groups[0]
        warmup = adam["warmup_steps"]
        group["lr"] = adam["learning_rate"] * (min(1.0, self.steps / warmup) if warmup else 1.0)
        self.steps += 1
        group["eps"] = adam["epsilon"] / math.sqrt(1 - adam["beta2"] ** self.steps)
        self.optimizer.step()

    def _average(self, averages: Tensors, values: Tensors) -> None:
        with torch.no_grad():
            pairs = [(averages[name], values[name].detach()) for name in averages]
            torch._foreach_lerp_([a for a, _ in pairs], [v for _, v in pairs], 1 - self.config["ema_decay"])

    def sample(self, count: int) -> np.ndarray:
        """Samples [count, channels, side, side] from white noise, with the averaged parameters."""
        with torch.no_grad():
            weights = self.cast(normalize(self.ema_params, self.ema_vectors, self.form, 1)[0])
        side, _, channels = self.config["shape"]
        x = torch.randn(count, channels, side, side, device=self.device)
        x = x.contiguous(memory_format=memory_format(self.form))
        for level in reversed(range(self.config["num_levels"])):
            t = torch.full((count,), level, device=self.device)
            x = self.chain(weights, t, x, self.config["steps"], self.config["noise_scale"])
        return x.cpu().numpy()

    def value_and_gradient(self, y: Tensor, t: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """f and ∇f by the functions of the chain."""
        with torch.no_grad():
            weights = self.cast(normalize(self.params, self.vectors, self.form, 1)[0])
            ones = torch.ones_like(self.table["scale"][t])
            inputs = {**self.energy.condition(weights, t), "x_next": y, "temperature": ones}
            inputs["precision"] = torch.zeros_like(ones)
        self.gradient.begin(inputs)
        gradient, value = self.gradient(y)
        return value.cpu().numpy(), gradient.permute(0, 2, 3, 1).cpu().numpy()


def flax_form(name: str, value: Tensor) -> np.ndarray:
    """A parameter's gradient with the axes that Flax has."""
    if value.ndim == 4:
        value = value.permute(2, 3, 1, 0)
    elif value.ndim == 2:
        value = value.T
    array = value.detach().cpu().numpy()
    return array[0, 0] if name.endswith("shortcut/kernel") and array.shape[:2] == (1, 1) else array


class Worker:
    """The commands. Each method `do_NAME` answers {"do": NAME, …}.

    check: energies, their gradient, a chain without noise, the gradient of the loss and two updates of the
      network of `config`, in float64 on the CPU. Parameters and the rest are arrays in the file `input`;
      results go to the file `output`.
    energy: energies and their gradient, with `input` and `output` as above: as the form runs it, or with
      `reference` in float32 on the CPU.
    prepare: compiles and warms up the step, and sampling if `sample` is true.
    step, sample: the seconds of `repeats` calls.
    memory: the largest number of bytes since `prepare`.
    info: versions and the device.
    """

    def __init__(self, config: dict[str, Any]):
        self.config = config
        self.form = FORMS[config["form"]]
        self.on_cuda = config["device"] == "cuda"
        with np.load(config["parameters"]) as file:
            self.arrays = {name: file[name] for name in file.files}
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = config["tf32"]
        torch.set_float32_matmul_precision("high" if config["tf32"] else "highest")
        torch.set_num_threads(config["threads"])
        if self.form.compiles:
            # One compiled block serves many shapes.
            torch._dynamo.config.cache_size_limit = 64
        self.model: Any = None

    def _synchronize(self) -> None:
        if self.on_cuda:
            torch.cuda.synchronize()

    def _main(self) -> Model:
        if self.model is None:
            self.model = Model(
                self.config, self.arrays, self.form, self.config["device"], self.config["dtype"]
            )
        return self.model

    def do_info(self, _: dict) -> dict:
        device = torch.cuda.get_device_name() if self.on_cuda else "cpu"
        cuda = f"{torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}" if self.on_cuda else None
        return {
            "torch": torch.__version__,
            "cuda": cuda,
            "device": device,
            "threads": torch.get_num_threads(),
        }

    def do_check(self, command: dict) -> dict:
        with np.load(command["input"]) as file:
            arrays = {name: file[name] for name in file.files}
        config = command["config"]
        model = Model(config, arrays, Form(), "cpu", "float64")
        t = torch.tensor(arrays["t"], dtype=torch.long)
        y, x_t, x_negative = (model.images(arrays[name]) for name in ("y", "x_t", "x_negative"))
        energy, gradient = model.value_and_gradient(y, t)
        result: dict[str, np.ndarray] = {"energy": energy, "gradient": gradient}
        weights, _ = normalize(model.params, model.vectors, model.form, config["power_iterations"])
        fixed = {name: value.detach() for name, value in weights.items()}
        chain = model.chain(fixed, t, y, config["steps"], 0.0)
        result["chain"] = chain.permute(0, 2, 3, 1).numpy()
        loss = model.loss(weights, t, x_t, x_negative)
        gradients = torch.autograd.grad(loss, list(model.params.values()))
        for name, gradient in zip(model.params, gradients, strict=True):
            result[f"of_loss/{name}"] = flax_form(name, gradient)
        # Updates from given gradients: Adam's first ones turn rounding errors into changes of sign.
        before = {name: value.detach().clone() for name, value in model.params.items()}
        for name, value in model.params.items():
            value.grad = model.parameter(name, arrays[f"update/{name}"])
        for _ in range(2):
            model.update()
        for name, value in model.params.items():
            result[f"moved/{name}"] = flax_form(name, value - before[name])
        np.savez(command["output"], **result)  # pyright: ignore[reportArgumentType]
        return {}

    def do_prepare(self, command: dict) -> dict:
        began = time.perf_counter()
        model, batch = self._main(), self.config["batch"]
        rng = np.random.default_rng(0)
        self.x = model.images(rng.standard_normal((batch, *self.config["shape"]), np.float32))
        loss = model.step(self.x)
        self._synchronize()
        first = time.perf_counter() - began
        for _ in range(WARM_UP - 1):
            loss = model.step(self.x)
        if command["sample"]:
            model.sample(batch)
        self._synchronize()
        if self.on_cuda:
            torch.cuda.reset_peak_memory_stats()
        return {"first": first, "seconds": time.perf_counter() - began, "loss": float(loss)}

    def do_energy(self, command: dict) -> dict:
        # A model of its own, because steps change the parameters.
        if command["reference"]:
            model = Model(self.config, self.arrays, Form(), "cpu", "float32")
        else:
            used, form = self._main(), Form(channels_last=self.form.channels_last)
            model = Model(self.config, self.arrays, form, used.device, self.config["dtype"])
            model.energy, model.gradient = used.energy, used.gradient
        with np.load(command["input"]) as file:
            y = model.images(file["y"])
            t = torch.tensor(file["t"], dtype=torch.long, device=model.device)
        energy, gradient = model.value_and_gradient(y, t)
        np.savez(command["output"], energy=energy, gradient=gradient)
        return {}

    def do_step(self, command: dict) -> dict:
        return self._timed(lambda: self.model.step(self.x), command["repeats"])

    def do_sample(self, command: dict) -> dict:
        return self._timed(lambda: self.model.sample(self.config["batch"]), command["repeats"])

    def _timed(self, call: Callable[[], Any], repeats: int) -> dict:
        seconds = []
        for _ in range(repeats):
            self._synchronize()
            began = time.perf_counter()
            call()
            self._synchronize()
            seconds.append(time.perf_counter() - began)
        return {"seconds": seconds}

    def do_memory(self, _: dict) -> dict:
        if self.on_cuda:
            return {"bytes": torch.cuda.max_memory_allocated()}
        return {"bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def main() -> None:
    # Compilers print to stdout; only answers may go there.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with open(sys.argv[1]) as file:
        config = json.load(file)
    if config["form"] not in FORMS:
        sys.exit(f"--forms={config['form']} is not possible; forms are {', '.join(FORMS)}")
    worker = Worker(config)
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = getattr(worker, f"do_{command['do']}")(command)
        except Exception as error:
            traceback.print_exc()
            lines = str(error).strip().splitlines()
            answer = {"error": f"{type(error).__name__}: {lines[0] if lines else ''}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
