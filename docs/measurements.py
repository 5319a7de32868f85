"""Writes the tables of speed and of changes of a config from the measurements in docs/results.

    python docs/measurements.py           writes the tables and images/costs.png
    python docs/measurements.py --check   exit code 1 if the tables do not match the files

In docs/results/h200, tests/benchmarks/accelerator.py wrote `t6.json`, `small.json` and
`small_options.json`, and peers.py wrote `peers.json` and `peers_2.json`. In docs/results/cpu, peers.py wrote
`peers_32.json` and `peers_64.json`; step.py wrote `step_32.json` and `step_64.json`; costs.py, host.py and
busy.py wrote the files of their names. Kernels and single convolutions are in the files, not in the tables.
In docs/results/quality, sweep.py wrote the files.
"""

import json
import re
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

HERE = Path(__file__).parent
PAGES = [HERE / "performance.md", HERE / "quality.md", HERE.parent / "README.md"]
FORMS = {
    "base": "bfloat16",
    "tf32": "float32, products in TF32: the default on a GPU",
    "float32": "float32, `config.network.precision=highest`",
    "own_gradients": "bfloat16, gradients of convolutions as on a CPU",
    "graph": "bfloat16, whole chains as one CUDA graph",
    "conv_fusion": "bfloat16, `xla_gpu_experimental_enable_conv_fusion`",
    "runtime_fusion": "bfloat16, `xla_gpu_use_runtime_fusion`",
    "nhwc": "bfloat16, `xla_gpu_force_conv_nhwc`",
}
PEERS = {
    "drl_jax": "drl_jax",
    "eager": "PyTorch, eager",
    "compiled": "PyTorch, blocks by `torch.compile`",
    "graphs": "PyTorch, the same, and each gradient of a chain as one CUDA graph",
}


def table(header: str, rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    columns = header.count("|") + 1
    lines = [f"| {header} |", "|" + "---|" * columns, *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines) + "\n"


def forms(reports: dict[str, Any]) -> str:
    """The step in each form."""
    rows = []
    runs = ("t6", "8 blocks"), ("small", "2 blocks"), ("small_options", "2 blocks, another run")
    for name, network in runs:
        for form, row in reports[name]["forms"].items():
            share = f"{row['share_of_floor']:.0%}" if "share_of_floor" in row else ""
            cells = f"{row['seconds']:.3f}", f"{row['tflops']:.0f}", share, f"{row['peak_mib'] / 1024:.1f}"
            rows.append((network, FORMS[form], *cells))
    return table(
        "network | computation | seconds | TFLOP/s | share of the convolutions' own speed | GiB", rows
    )


def ceilings(reports: dict[str, Any]) -> str:
    """What the machine can do."""
    rows = [(what, f"{value:.3g}") for what, value in reports["t6"]["ceilings"].items()]
    convolutions = [row for row in reports["t6"]["convolutions"] if row["rows"] == 256 and row["inputs"] > 3]
    for side in (32, 16, 8, 4):
        speeds = [row["tflops"] for row in convolutions if row["side"] == side]
        label = f"3x3 convolutions of {side}x{side} pixels, 256 images, bfloat16, TFLOP/s"
        rows.append((label, f"{min(speeds):.0f} to {max(speeds):.0f}"))
    return table("what | measured", rows)


def peers(reports: dict[str, Any]) -> str:
    """The step beside PyTorch's."""
    rows = []
    for run, file in enumerate(("peers", "peers_2"), 1):
        report = reports[file]
        own = report["step"]["drl_jax"]["median"]
        for name in (name for name in PEERS if name in report["step"]):
            row = report["step"][name]
            quartiles = " to ".join(f"{seconds:.3f}" for seconds in row["quartiles"])
            ready = f"{report['prepared'][name]['seconds']:.0f}"
            memory = f"{report['memory'][name] / 2**30:.1f}"
            ratio = f"{row['median'] / own:.2f}"
            rows.append((str(run), PEERS[name], f"{row['median']:.3f}", quartiles, ratio, ready, memory))
    return table("run | program | seconds | quartiles | against ours | ready after, s | GiB", rows)


def blocks(network: dict[str, Any]) -> str:
    """The size of a network."""
    return f"{network['width']} channels, {network['blocks_per_resolution']} per resolution"


def cpu(reports: dict[str, Any]) -> str:
    """The step and sampling on a CPU, beside PyTorch's."""
    rows = []
    for name in ("cpu/peers_32", "cpu/peers_64"):
        report = reports[name]
        size = blocks(report["network"])
        for what, title in (("step", "training step"), ("sample", f"{report['batch']} samples")):
            own, eager = (report[what][program]["median"] for program in ("drl_jax", "eager"))
            rows.append((size, title, f"{own:.3f}", f"{eager:.3f}", f"{eager / own:.2f}"))
    return table("blocks | what | drl_jax, s | PyTorch, eager, s | ratio", rows)


def share(reports: dict[str, Any]) -> str:
    """The step on a CPU beside its convolutions alone."""
    rows = []
    for name in ("32", "64"):
        report, size = reports[f"cpu/step_{name}"], blocks(reports[f"cpu/peers_{name}"]["network"])
        alone, step = report["convolutions_seconds"], report["step_seconds"]
        rates = (f"{seconds:.3f} s, {report['gflop'] / seconds:.0f} GFLOP/s" for seconds in (alone, step))
        rows.append((size, *rates, f"{alone / step:.0%}"))
    return table("blocks | the convolutions alone | the whole step | share", rows)


def profile(reports: dict[str, Any]) -> str:
    """What the time of a step on a CPU goes into."""
    names = "32", "64"
    items = [reports[f"cpu/step_{name}"]["items_seconds"] for name in names]
    rows = [
        (item, *(f"{1e3 * each[item]:.1f} ms, {each[item] / sum(each.values()):.1%}" for each in items))
        for item in items[0]
    ]
    sizes = " | ".join(blocks(reports[f"cpu/peers_{name}"]["network"]) for name in names)
    return table(f"item | {sizes}", rows)


def costs(reports: dict[str, Any]) -> str:
    """The step on a CPU, with one key at a time at another value."""
    report, rows = reports["cpu/costs"], []
    for name, row in report["rows"].items():
        low, high = row["quartiles"]
        seconds = f"{row['seconds']:.3f}", f"{low:.3f} to {high:.3f}"
        rates = f"{row['gflops']:.0f}", f"{row['images_per_second']:.1f}"
        label = name if name == "as it is" else f"`{name}`"
        rows.append((label, *seconds, f"{row['gflop']:.1f}", *rates))
    return table("config | seconds | quartiles | GFLOP | GFLOP/s | images/s", rows)


def host(reports: dict[str, Any]) -> str:
    """What the host and another program cost on a CPU."""
    report, busy = reports["cpu/host"], reports["cpu/busy"]
    rows = [
        (f"input pipeline alone, {what}", f"{speed:,.0f} images/s")
        for what, speed in report["images_per_second"].items()
    ]
    used, step = report["used_images_per_second"], np.median(report["step_seconds"])
    low, high = report["host_share_quartiles"]
    own = report["loop_thread_seconds"] - report["step_thread_seconds"]
    rows += [
        ("what the step consumes", f"{used:.1f} images/s"),
        (
            "the training loop beside its compiled step",
            f"{report['host_share']:+.1%} (quartiles {low:+.1%} and {high:+.1%})",
        ),
        (
            "CPU time of the loop's thread beside a thread that only calls the step",
            f"{1e3 * own:+.1f} ms per step: {own / step:.1%} of one core",
        ),
        ("a step while another program keeps one core busy", f"{busy['ratio']:.2f} times as long"),
    ]
    return table("what | measured", rows)


def speed(reports: dict[str, Any]) -> str:
    """The step and sampling beside PyTorch's best form that needs no change of its program."""
    rows = []
    for name, machine in (
        ("cpu/peers_32", "2 CPU cores"),
        ("cpu/peers_64", "2 CPU cores"),
        ("peers_2", "H200, bfloat16"),
    ):
        report = reports[name]
        size = blocks(report["network"])
        for what, title in (("step", f"step of {report['batch']}"), ("sample", f"{report['batch']} samples")):
            found = {form: row["median"] for form, row in report[what].items() if form != "graphs"}
            if own := found.pop("drl_jax", None):
                best = min(found, key=found.__getitem__)
                label = "eager" if best == "eager" else "`torch.compile`"
                ratio = f"{found[best] / own:.2f}"
                rows.append((machine, size, title, f"{own:.3f}", f"{found[best]:.3f} ({label})", ratio))
    return table("machine | blocks | what | drl_jax, s | PyTorch, s | ratio", rows)


SCORES = "frechet_pixels", "precision_pixels", "recall_pixels"


def score_cells(scores: dict[str, float]) -> list[str]:
    """The scores of a model of images."""
    return [f"{scores[name]:.3f}" for name in SCORES]


# Sweeps of the digits: the table's name, and the keys that it shows.
SWEEPS = {
    "steps": ("levels.count", "sampler.steps", "levels.b_squared", "training.steps"),
    "changes": ("network.activation", "training.coupled", "training.level_proportions"),
    "tried": ("levels.count", "levels.step_growth", "sampler.steps", "training.steps"),
    "budget": ("training.steps", "training.level_proportions", "sampler.extra_steps", "sampler.noise_scale"),
}


def of_sweep(name: str, reports: dict[str, Any]) -> str:
    """The values of keys and the scores of each run of a sweep."""
    rows, keys = [], SWEEPS[name]
    for run in reports[f"quality/digits_{name}"]:
        if "scores" in run:
            outcome = score_cells(run["scores"])
        else:
            outcome = [*re.findall(r"diverged at step \d+", run["failed"]), "", ""]
        values = [run["values"].get(key) for key in keys]
        shown = [",".join(map(str, value)) if isinstance(value, list) else str(value) for value in values]
        rows.append((*shown, str(run["seed"]), *outcome))
    names = " | ".join(f"`{key}`" for key in keys)
    return table(f"{names} | seed | Fréchet distance | precision | recall", rows)


def seeds(reports: dict[str, Any]) -> str:
    """Digits with the config as it is."""
    first, others = reports["digits"], reports["quality/digits_seeds"]
    rows = [("0", *score_cells(first["scores"]))]
    rows += [(str(run["seed"]), *score_cells(run["scores"])) for run in others]
    rows.append(("data against data", *score_cells(first["data_vs_data"])))
    return table("seed | Fréchet distance | precision | recall", rows)


TABLES = {
    "ceilings": ceilings,
    "forms": forms,
    "peers": peers,
    "cpu": cpu,
    "share": share,
    "profile": profile,
    "costs": costs,
    "host": host,
    "speed": speed,
    **{name: partial(of_sweep, name) for name in SWEEPS},
    "seeds": seeds,
}


def plot_costs(report: dict[str, Any], file: Path) -> None:
    """Draws speed against each key of the table of costs."""
    base = report["base"]
    figure, axes = plt.subplots(1, len(base), figsize=(3 * len(base), 2.6), sharey=True, layout="constrained")
    for key, panel in zip(base, axes, strict=True):
        points = [(base[key], report["rows"]["as it is"]["gflops"])]
        for name, row in report["rows"].items():
            if name.startswith(f"{key}="):
                points.append((int(name.partition("=")[2]), row["gflops"]))
        panel.plot(*zip(*sorted(points), strict=True), "o-")
        panel.set(xscale="log", xlabel=key)
        panel.set_xticks([value for value, _ in points], [str(value) for value, _ in points])
        panel.minorticks_off()
    axes[0].set(ylabel="GFLOP/s", ylim=(0, None))
    figure.savefig(file, dpi=120, metadata={"Software": None})


def write(page: str, folder: Path) -> str:
    """Returns the page with new tables in it."""
    reports = {file.stem: json.loads(file.read_text()) for file in (folder / "h200").glob("*.json")}
    reports |= {f"cpu/{file.stem}": json.loads(file.read_text()) for file in (folder / "cpu").glob("*.json")}
    for file in (folder / "quality").glob("*.jsonl"):
        reports[f"quality/{file.stem}"] = [json.loads(line) for line in file.read_text().splitlines()]
    reports["digits"] = json.loads((folder / "digits.json").read_text())
    for name, make in TABLES.items():
        begin, end = f"<!-- {name}: written by docs/measurements.py -->\n", f"<!-- end of {name} -->"
        if begin in page:
            before, rest = page.split(begin)
            page = before + begin + make(reports) + end + rest.split(end, 1)[1]
    return page


def main() -> None:
    pages = {page: write(page.read_text(), HERE / "results") for page in PAGES}
    if "--check" in sys.argv[1:]:
        wrong = [page.name for page, text in pages.items() if page.read_text() != text]
        sys.exit(f"{', '.join(wrong)}: does not match docs/results: run docs/measurements.py" if wrong else 0)
    for page, text in pages.items():
        page.write_text(text)
    plot_costs(json.loads((HERE / "results/cpu/costs.json").read_text()), HERE / "images/costs.png")


if __name__ == "__main__":
    main()
