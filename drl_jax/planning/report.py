"""A plan as text, as JSON and as an image."""

import io
from collections import Counter
from collections.abc import Sequence
from typing import Any

from drl_jax.config import schema
from drl_jax.config.schema import Config
from drl_jax.planning.plan import Plan, Size
from drl_jax.planning.roofline import peak
from drl_jax.planning.topologies import GIB
from drl_jax.report.plotting import Figure

_CLOCKS = {
    "v4": 1.05e9,
    "v5e": 1.5e9,
    "v5p": 1.75e9,
    "v6e": 1.75e9,
}  # Hz: those that give the published peaks
_SHORT_STEP = 10e-3  # seconds
_USUAL = "many take two or three times as long"  # one H200 took 2.4 times as long
_SHORT = "so short a step takes many times as long: its kernels start one after another"


def lines(config: Config, plan: Plan, table: Sequence[Size]) -> list[str]:
    """Writes a plan as lines of text.

    Args:
      config: the config.
      plan: what it needs.
      table: of the sizes of the hardware; may be empty.
    """
    topology, counts = plan.topology, plan.counts
    per_image = counts.step.total * topology.num_devices / plan.batch_size
    per_sample = counts.sampler.total / config.evaluation.samples_per_device
    padding = 1 - counts.step.useful / counts.step.total if counts.step.total else 0.0
    rows = [
        (
            "devices",
            f"{topology.label}: {_count(topology.num_chips, 'chip')}, "
            f"{_count(topology.num_devices, 'device')} of JAX",
        ),
        ("batch", f"{plan.batch_size} examples, {plan.rows} per device"),
        ("parameters", f"{counts.parameters:,}; the state of a run is {_size(counts.state)}"),
        ("memory per device", _memory(plan)),
        ("messages per step", _messages(plan)),
        (
            "operations",
            f"{per_image / 1e12:.4g} TFLOP per example and step, of which {padding:.1%} meet the zeros "
            f"around images; {per_sample / 1e12:.4g} per sample",
        ),
        *_times(config, plan),
        *_compilations(plan),
        ("planning took", f"{plan.seconds:.0f} s{_process_memory(plan)}"),
    ]
    if plan.largest is not None:
        rows.insert(4, ("largest batch", f"about {plan.largest} examples per device"))
    width = max(len(name) for name, _ in rows)
    text = [f"{name:<{width}}  {value}" for name, value in rows]
    text.append("All of this is an estimate. None of it was measured on the hardware.")
    return [*text, *_table(table)]


def refusal(config: Config, plan: Plan) -> str:
    """Returns one line that says why a plan does not fit, and which batch would."""
    rows = plan.largest or 0
    batch = rows * plan.topology.num_devices
    parts = config.training.microbatches
    advice = f"config.data.batch_size={batch} fits ({rows} per device)"
    if not rows:
        advice = "not even one example per device and microbatch fits"
    elif fitting := [n for n in range(parts + 1, plan.rows + 1) if _fits_in(plan.rows, n, rows // parts)]:
        advice += f"; so may config.training.microbatches={fitting[0]}"
    return (
        f"config.data.batch_size={plan.batch_size} does not fit {plan.topology.label}: a device would need "
        f"{_size(plan.peak)} and has {_size(plan.available)}; {advice}"
    )


def _fits_in(rows: int, parts: int, most: int) -> bool:
    return rows % parts == 0 and rows // parts <= most


def to_dict(config: Config, plan: Plan, table: Sequence[Size]) -> dict[str, Any]:
    """Converts a plan to what `json.dumps` takes.

    Args:
      config: the config.
      plan: what it needs.
      table: of the sizes of the hardware; may be empty.
    """
    topology, times = plan.topology, plan.times
    values: dict[str, Any] = {
        "config": schema.to_dict(config),
        "topology": {"chips": topology.num_chips, "devices": topology.num_devices, **_topology(plan)},
        "batch_size": plan.batch_size,
        "rows_per_device": plan.rows,
        "parameters": plan.counts.parameters,
        "state_bytes": plan.counts.state,
        "peak_bytes": plan.peak,
        "peak_from": plan.peak_from,
        "available_bytes": plan.available,
        "largest_rows_per_device": plan.largest,
        "fits": plan.fits,
        "flops_per_step_and_device": plan.counts.step._asdict(),
        "flops_of_sampling_and_device": plan.counts.sampler._asdict(),
        "collectives": None
        if plan.collectives is None
        else [collective._asdict() for collective in plan.collectives],
        "planning_seconds": plan.seconds,
        "planning_bytes": plan.process_memory,
    }
    if times is not None:
        values["seconds_per_step"] = {**times._asdict(), "step": times.step}
        values["hours"] = times.step * config.training.steps / 3600
    for name, compiled in (("step", plan.step), ("sampler", plan.sampler)):
        if compiled is not None and compiled.memory is not None:
            values[f"compiled_{name}"] = {
                **compiled.memory._asdict(),
                "estimated_cycles": compiled.cycles,
                "compile_seconds": compiled.seconds,
            }
    if table:
        values["sizes"] = [
            {"topology": size.topology.name, "chips": size.topology.num_chips, **_speeds(size)}
            for size in table
        ]
    return values


def image(config: Config, plan: Plan, table: Sequence[Size]) -> bytes:
    """Draws a plan as PNG: memory on a device, the time of a step, and speed over sizes of the hardware.

    Args:
      config: the config.
      plan: what it needs.
      table: of the sizes of the hardware; may be empty.
    """
    panels = 1 + (plan.times is not None) + (len(table) > 1)
    figure = Figure(figsize=(4.2 * panels, 3.2), layout="constrained")
    axes = list(figure.subplots(1, panels, squeeze=False)[0])
    figure.suptitle(f"{config.data.name}, batch {plan.batch_size}, {plan.topology.label}: an estimate")

    axis = axes.pop(0)
    parts = {"state": plan.counts.state, "all, at the peak": plan.peak, "a device has": plan.available}
    parts = {name: size for name, size in parts.items() if size}
    axis.barh(list(parts), [size / GIB for size in parts.values()])
    axis.set_xlabel("GiB per device")
    axis.invert_yaxis()
    if plan.times is not None:
        axis = axes.pop(0)
        named = plan.times._asdict()
        axis.barh([*named, "step"], [1e3 * seconds for seconds in (*named.values(), plan.times.step)])
        axis.set_xlabel("ms per step, at peak")
        axis.invert_yaxis()
    if len(table) > 1:
        axis = axes.pop(0)
        chips = [size.topology.num_chips for size in table]
        axis.plot(chips, [size.weak[0] for size in table], "o-", label=f"{plan.rows} examples per device")
        strong = [(size.topology.num_chips, size.strong[0]) for size in table if size.strong]
        axis.plot(*zip(*strong, strict=True), "s--", label=f"{plan.batch_size} examples in all")
        axis.set_xscale("log", base=2)
        axis.set_yscale("log", base=2)
        axis.set_xlabel("chips")
        axis.set_ylabel("examples per second, at peak")
        axis.legend(fontsize="small")
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return file.getvalue()


def _topology(plan: Plan) -> dict[str, Any]:
    chip = plan.topology.chip
    published = {} if chip is None else {**chip._asdict(), "peak": dict(chip.peak)}
    return {"name": plan.topology.name, "slices": plan.topology.slices, **published}


def _speeds(size: Size) -> dict[str, Any]:
    names = ("examples_per_second", "efficiency")
    return {
        "same_batch": None if size.strong is None else dict(zip(names, size.strong, strict=True)),
        "same_rows_per_device": dict(zip(names, size.weak, strict=True)),
    }


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _memory(plan: Plan) -> str:
    text = f"{_size(plan.peak)} at the peak ({plan.peak_from})"
    return f"{text}, of {_size(plan.available)}" if plan.available else text


def _messages(plan: Plan) -> str:
    if plan.collectives is None:
        return f"1 all-reduce of {_size(4 * plan.counts.parameters)} outside the chain, by formula"
    if not plan.collectives:
        return "none"
    found = Counter((message.kind, message.in_loop) for message in plan.collectives)
    named = [f"{n} {kind} {'inside' if inside else 'outside'} loops" for (kind, inside), n in found.items()]
    size = sum(message.bytes for message in plan.collectives)
    if plan.step is None:  # the compiled step may be a smaller one
        size = 4 * plan.counts.parameters
    return f"{', '.join(named)}, {_size(size)}"


def _times(config: Config, plan: Plan) -> list[tuple[str, str]]:
    times, chip = plan.times, plan.topology.chip
    if times is None or chip is None:
        return [("time", "unknown: the peak of a CPU is not published")]
    found = [
        (
            "at peak",
            f"{1e3 * times.step:.3g} ms per step: operations {1e3 * times.compute:.3g} or memory "
            f"{1e3 * times.memory:.3g}, then messages {1e3 * times.messages:.3g}",
        ),
        (
            "",
            f"{_duration(times.step * config.training.steps)} for {config.training.steps:,} steps; no "
            f"program is faster, and {_SHORT if times.step < _SHORT_STEP else _USUAL}",
        ),
        (
            "peak figures",
            f"{peak(config, plan.topology) / 1e12:.4g} TFLOP/s and {chip.memory_speed / 1e9:.4g} GB/s per "
            f"chip ({chip.source})",
        ),
    ]
    if (
        plan.step is not None
        and plan.step.cycles
        and (clock := _CLOCKS.get(plan.topology.name.split(":")[0]))
    ):
        seconds = plan.step.cycles / clock + times.messages
        found.insert(
            2,
            (
                "by the compiler",
                f"{1e3 * seconds:.3g} ms per step and {_duration(seconds * config.training.steps)}: its "
                f"estimated cycles at {clock / 1e9:.4g} GHz, and the messages",
            ),
        )
    return found


def _compilations(plan: Plan) -> list[tuple[str, str]]:
    found = []
    for name, compiled in (("step", plan.step), ("sampler", plan.sampler)):
        if compiled is not None and compiled.memory is not None:
            size = f"a program of {_size(compiled.memory.program)}, {_size(compiled.memory.peak)} at the peak"
            found.append((f"compiled {name}", f"in {compiled.seconds:.0f} s: {size}"))
    return found


def _process_memory(plan: Plan) -> str:
    return f" and {_size(plan.process_memory)}" if plan.process_memory else ""


def _table(table: Sequence[Size]) -> list[str]:
    if not table:
        return []
    head = f"{'':<18}{'chips':>6}  {'same batch':>24}  {'same examples per device':>28}"
    found = [
        "",
        head,
        f"{'':<24}  {'examples/s':>12}{'efficiency':>12}  {'examples/s':>16}{'efficiency':>12}",
    ]
    for size in table:
        strong = "" if size.strong is None else f"{size.strong[0]:>12.4g}{size.strong[1]:>12.0%}"
        weak = f"{size.weak[0]:>16.4g}{size.weak[1]:>12.0%}"
        found.append(f"{size.topology.name:<18}{size.topology.num_chips:>6}  {strong:>22}  {weak}")
    return found


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 6000 else f"{seconds / 3600:.3g} h"


def _size(count: float) -> str:
    return f"{count / GIB:.2f} GiB" if count >= GIB else f"{count / 2**20:.0f} MiB"
