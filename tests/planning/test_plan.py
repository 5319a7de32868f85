"""Plans: what is compiled, what is said of it, and what does not fit."""

import json
from dataclasses import replace

import pytest
from etils import epath

from drl_jax.commands.plan import plan
from drl_jax.config.overrides import parse as parse_flags
from drl_jax.errors import UserError
from drl_jax.main import main
from drl_jax.planning import compiler as compiler_module
from drl_jax.planning import report
from drl_jax.planning.compiler import Compiler
from drl_jax.planning.flops import Flops
from drl_jax.planning.plan import make_plan, sweep
from drl_jax.planning.program import Collective, Memory
from drl_jax.planning.topologies import parse
from drl_jax.planning.worker import Compiled, Counts, out_of_memory

CONFIG = parse_flags(["--config=cifar10:t6"]).config
MIB = 2**20


class Formula(Compiler):
    """Answers as a compiler whose peak is 100 MiB, 10 per block, and 2 per row and block."""

    def __init__(self, available=4000):
        super().__init__([], [])
        self.available, self.requests = available, []

    def count(self, request):
        rows = request.rows
        return Counts(10**6, 4 * 10**6, Flops(10.0 * rows, 9.0 * rows), Flops(5.0, 5.0), 7 * rows)

    def compile_all(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        if request.what == "available":
            return Compiled(available=self.available * MIB)
        self.requests.append(request)
        blocks = request.config["network"]["blocks_per_resolution"]
        rows = request.config["data"]["batch_size"] // 16
        peak = (100 + 10 * blocks + 2 * rows * blocks) * MIB
        if peak > self.available * MIB:
            return Compiled(needed=peak, available=self.available * MIB)
        return Compiled(memory=Memory(peak, 1, 1), collectives=[Collective("all-reduce", 8, False)])


def make(rows=16, available=4000, *, is_full=False, finds_largest=False):
    config = replace(CONFIG, data=replace(CONFIG.data, batch_size=16 * rows))
    compiler = Formula(available)
    made = make_plan(config, parse("v5e:4x4"), compiler, is_full=is_full, finds_largest=finds_largest)
    return config, made, compiler


def test_the_peak_of_eight_blocks_from_two_and_three():
    _, made, compiler = make()
    assert made.peak == (100 + 80 + 2 * 16 * 8) * MIB
    assert [r.config["network"]["blocks_per_resolution"] for r in compiler.requests] == [2, 3]
    assert all(request.quick for request in compiler.requests)
    assert made.fits


def test_a_full_plan_is_for_tpus(tmp_path):
    with pytest.raises(
        UserError, match=r"^--full compiles for a TPU, and --topology=gpu:h100:8 is planned by"
    ):
        plan(CONFIG, epath.Path(tmp_path), topology="gpu:h100:8", slices=1, is_full=True, sweeps=False)


def test_a_full_plan_compiles_the_step_and_the_sampler():
    _, made, compiler = make(is_full=True)
    assert [(r.program, r.quick) for r in compiler.requests] == [("step", False), ("sampler", False)]
    assert made.peak == (100 + 80 + 2 * 16 * 8) * MIB


@pytest.mark.parametrize("is_full", [False, True])
@pytest.mark.parametrize("rows", [300, 5000])
def test_what_does_not_fit_is_refused_with_the_batch_that_would(rows, is_full):
    config, made, _ = make(rows, is_full=is_full)
    assert not made.fits
    assert made.largest == (4000 - 100 - 80) // (2 * 8)
    line = report.refusal(config, made)
    assert "\n" not in line
    assert f"config.data.batch_size={16 * rows} does not fit v5e:4x4" in line
    assert f"config.data.batch_size={16 * made.largest} fits" in line
    # 300 rows fit in 2 parts of 150; 5,000 in 25 of 200, as 238 fit at a time.
    parts = {300: 2, 5000: 25}[rows]
    assert f"config.training.microbatches={parts}" in line
    # With 300 rows the smaller steps fit, and their messages are known.
    assert (made.collectives is None) == (is_full or rows == 5000)


def test_not_even_one_row_fits():
    config, made, _ = make(16, available=50)
    assert made.largest == 0
    assert "not even one example" in report.refusal(config, made)


def test_the_largest_batch_where_the_batch_fits():
    assert make(finds_largest=True)[1].largest == (4000 - 100 - 80) // (2 * 8)


def test_a_batch_that_does_not_divide_is_refused():
    config = replace(CONFIG, data=replace(CONFIG.data, batch_size=100))
    with pytest.raises(UserError, match=r"batch_size=100 does not divide .*16 devices.* nearest: 96 or 112"):
        make_plan(config, parse("v5e:4x4"), Formula(), is_full=False, finds_largest=False)


def test_the_efficiency_of_sizes():
    config, made, _ = make()
    table = sweep(config, made)
    assert [size.topology.num_chips for size in table] == [1, 4, 8, 16, 32, 64, 128, 256]
    assert table[0].weak[1] == 1
    weak = [size.weak for size in table]
    assert all(0 < share <= 1 for _, share in weak)
    # Messages take time: of n chips less than n times one chip.
    assert all(
        speed < n.topology.num_chips * weak[0][0] for (speed, _), n in zip(weak[1:], table[1:], strict=True)
    )
    assert all(size.strong is not None for size in table)  # 256 examples divide


def test_the_text_the_json_and_the_image():
    config, made, _ = make(finds_largest=True)
    table = sweep(config, made)
    text = "\n".join(report.lines(config, made, table))
    for part in (
        "16 chips",
        "256 examples, 16 per device",
        "1,000,000",
        "1 all-reduce outside loops",
        "estimate",
    ):
        assert part in text
    values = json.loads(json.dumps(report.to_dict(config, made, table)))
    assert values["fits"] is True
    assert values["hours"] > 0
    assert len(values["sizes"]) == 8
    assert report.image(config, made, table).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        # libtpu 0.0.42 and 0.0.50.
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries "
            "(8.00T) exceeds available HBM (15.75G).",
            (8 * 2**40, 15.75 * 2**30),
        ),
        (
            "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory "
            "required for HLO temporaries (512.5M) exceeds available HBM (94.74G). HLO module: jit.\nSee …",
            (512.5 * 2**20, 94.74 * 2**30),
        ),
        ("UNIMPLEMENTED: something else (8.00T)", (0, 0)),
    ],
)
def test_what_the_compiler_says_when_a_program_does_not_fit(message, expected):
    assert out_of_memory(message) == expected


def test_without_the_compiler_of_tpus_one_line_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(compiler_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[tpu\]'"):
        plan(CONFIG, epath.Path(tmp_path), topology="v5e:4x4", slices=1, is_full=False, sweeps=False)


def test_gpus_are_planned_by_formula(tmp_path, capsys):
    # The process that counts is a real one; nothing is compiled.
    config = parse_flags(["--config=digits"]).config
    plan(config, epath.Path(tmp_path), topology="gpu:h100:8", slices=1, is_full=False, sweeps=True)
    out = capsys.readouterr().out
    assert "134,208" in out  # parameters of digits
    (file,) = tmp_path.glob("gpu_h100_8_digits_*.json")
    saved = json.loads(file.read_text())
    assert saved["available_bytes"] == 80e9
    assert saved["state_bytes"] > 4 * 4 * 134_208
    assert file.with_suffix(".png").exists()
    # The plan of another config does not replace it.
    other = parse_flags(["--config=digits", "--config.data.batch_size=32"]).config
    plan(other, epath.Path(tmp_path), topology="gpu:h100:8", slices=1, is_full=False, sweeps=False)
    assert len(list(tmp_path.glob("gpu_h100_8_digits_*.json"))) == 2


def test_the_flags_of_the_command(capsys):
    for argv, line in {
        ("plan", "--config=digits"): "--topology is missing",
        ("plan", "--config=digits", "--topology=v5e:3x3"): "--topology=v5e:3x3 does not exist",
        ("plan", "--config=digits", "--topology=v5e:2x2", "--slices=0"): "--slices=0 is not possible",
        ("train", "--config=digits", "--workdir=x", "--full"): "--full is a flag of `plan`, not of `train`",
    }.items():
        assert main(list(argv)) == 1
        assert line in capsys.readouterr().err
