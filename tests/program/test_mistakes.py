"""A mistake of a user ends in one line with key, value and remedy, exit code 1, and nothing written."""

import os
import signal
import sys
import time

import pytest
from etils import epath

from drl_jax.config import schema
from drl_jax.config.overrides import parse
from drl_jax.errors import UserError
from tests.helpers import CONFIGS, small

DIGITS = "--config=digits.py"

RUN = "--workdir={dir}"

MISTAKES = {
    # Of the command line alone; tests/config has more.
    "unknown command": (["tarin"], ["'tarin' is not a command", "did you mean train?", "sample", "prepare"]),
    "a flag before the command": ([DIGITS, "train"], ["is not a command", "the command comes first"]),
    "no config": (["train", RUN], ["--config is missing", "--config=digits"]),
    "no workdir": (["train", DIGITS], ["--workdir is missing", "train"]),
    "an unset variable for a workdir": (["train", DIGITS, "--workdir="], ["--workdir is missing"]),
    "no such file": (["train", "--config=nope.py", RUN], ["nope.py", "no such file"]),
    "unknown argument": (["train", "--config=cifar10.py:t7", RUN], ["t7", "t6, small"]),
    "unknown key": (
        ["train", DIGITS, RUN, "--config.data.batchsize=3"],
        ["config.data.batchsize", "did you mean config.data.batch_size?"],
    ),
    "unknown flag": (["train", DIGITS, "--wrkdir={dir}", RUN], ["--wrkdir", "did you mean --workdir="]),
    "wrong type": (
        ["train", DIGITS, RUN, "--config.data.batch_size=6.5"],
        ["config.data.batch_size=6.5", "a whole number of at least 1"],
    ),
    # Of the config.
    "impossible value": (
        ["train", DIGITS, RUN, "--config.sampler.steps=0"],
        ["config.sampler.steps=0", "config.sampler.name=langevin", "at least 1"],
    ),
    "no value where one belongs": (
        ["train", DIGITS, RUN, "--config.sampler.steps=None"],
        ["config.sampler.steps=None", "a whole number of at least 0"],
    ),
    "one of several names": (
        ["train", DIGITS, RUN, "--config.levels.temperature=hot"],
        ["config.levels.temperature='hot'", "step, noise, one"],
    ),
    "impossible levels": (
        ["train", DIGITS, RUN, "--config.levels.count=700"],
        ["config.levels.count=700", "1 to 501", "1000"],
    ),
    # Of several keys together.
    "step_growth of a thousand levels": (
        ["train", "--config=cifar10.py", RUN, "--config.levels.count=1000", "--config.levels.step_growth=1"],
        ["config.levels", "step_growth", "1000"],
    ),
    "proportions of other levels": (
        ["train", DIGITS, RUN, "--config.training.level_proportions=1,2"],
        [
            "config.training.level_proportions=(1, 2) has 2 numbers",
            "config.levels.count=6 needs 6, or --config",
        ],
    ),
    "side that cannot be halved": (
        ["train", DIGITS, RUN, "--config.data.image_size=9"],
        ["config.data.image_size=9", "config.network.multipliers=(1, 2)", "divisible by 2"],
    ),
    "attention where there is no such side": (
        ["train", DIGITS, RUN, "--config.network.attention=(10,)"],
        ["config.network.attention=(10,)", "8, 4"],
    ),
    "frequencies in the wrong order": (
        ["train", "--config=points.py", RUN, "--config.network.min_frequency=50.0"],
        ["config.network.min_frequency=50.0", "config.network.max_frequency=20.0"],
    ),
    "unknown sampler": (
        ["train", DIGITS, RUN, "--config.sampler.name=hmc"],
        ["config.sampler.name='hmc'", "langevin, mala, normal"],
    ),
    "a normal approximation for large noise": (
        ["train", DIGITS, RUN, "--config.sampler.name=normal"],
        ["config.sampler.name=normal", "config.levels.count=6", "config.levels.count=1000"],
    ),
    "score matching for large noise": (
        ["train", DIGITS, RUN, "--config.training.objective=score"],
        ["config.training.objective=score", "config.levels.count=6", "it needs 1000"],
    ),
    "a noise scale for mala": (
        ["train", DIGITS, RUN, "--config.sampler.name=mala"],
        ["config.sampler.noise_scale=0.99", "config.sampler.name=mala", "it must be 1"],
    ),
    "the noise of a chain that is not Langevin's": (
        ["train", DIGITS, RUN, "--config.sampler.name=mala", "--config.sampler.noise_scale=1.0"],
        ["config.training.coupled=True", "config.sampler.name=mala", "it needs langevin"],
    ),
    "flipped points": (
        ["train", "--config=points.py", RUN, "--config.data.flip=True"],
        ["config.data.flip=True", "points"],
    ),
    "images to a network for points": (
        ["train", "--config=points.py", RUN, "--config.data.name=digits"],
        ["config.network.name='points'", "config.data.name='digits'"],
    ),
    "points to a network for images": (
        ["train", DIGITS, RUN, "--config.data.name=points", "--config.data.density=ring"],
        ["config.network.name='residual'", "config.data.name='points'"],
    ),
    "the network for points with the keys of the other": (
        ["train", DIGITS, RUN, "--config.data.name=points", "--config.network.name=points"],
        ["config.network.name=points", "whose network is residual"],
    ),
    "the network for images with the keys of the other": (
        ["train", "--config=points.py", RUN, "--config.data.name=digits", "--config.network.name=residual"],
        ["config.network.name=residual", "whose network is points"],
    ),
    # Of the machine, the data and the workdir.
    "batch over devices": (
        ["train", DIGITS, RUN, "--config.data.batch_size=6"],
        ["config.data.batch_size=6", "4 devices", "4 or 8"],
    ),
    "unknown density": (["train", "--config=points.py:square", RUN], ["square", "ring"]),
    "data not prepared": (
        ["train", "--config=cifar10.py", RUN, "--config.data.data_dir={dir}/none"],
        [
            "config.data.name='cifar10'",
            f"{sys.executable} -m drl_jax prepare --config=",
            "cifar10.py",
            "/none",
        ],
    ),
    "other data not prepared": (
        [
            *("train", "--config", "{configs}/cifar10.py", RUN),
            *("--config.data.name", "mnist", "--config.data.data_dir", "{dir}/none"),
        ],
        [
            "config.data.name='mnist'",
            "prepare --config=",
            " --config.data.name=mnist --config.data.data_dir=",
            "/none",
        ],
    ),
    "folder not given": (["train", "--config=lsun64.py", RUN], ["config.data.path"]),
    "sample without a run": (["sample", DIGITS, RUN], ["holds no run", "train"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_ends_in_one_line(mistake, program, tmp_path):
    arguments, expected = MISTAKES[mistake]
    workdir = tmp_path / "run"
    ended = program(*(a.format(dir=workdir, configs=CONFIGS) for a in arguments))
    assert ended.code == 1
    assert ended.out == ""
    assert ended.err.startswith("drl-jax: ")
    assert ended.err.count("\n") == 1, ended.err
    for text in expected:
        assert text in ended.err, ended.err
    assert not workdir.exists()


IMPOSSIBLE = [
    ("digits.py", "network.width=0", "even and at least 4"),
    ("digits.py", "network.width=5", "even and at least 4"),
    ("digits.py", "network.multipliers=()", "whole numbers of at least 1, at least 1 of them"),
    ("digits.py", "network.multipliers=(1,1.5)", "whole numbers of at least 1"),
    ("digits.py", "network.multipliers=('a',)", "whole numbers of at least 1"),
    ("digits.py", "network.attention=(0,)", "whole numbers of at least 1"),
    ("digits.py", "network.blocks_per_resolution=0", "at least 1"),
    ("digits.py", "data.channels=2", "3 (RGB) or 1 (grey)"),
    ("digits.py", "data.crop=(0,0,4.5,4.5)", "(top, left, height, width)"),
    ("digits.py", "data.crop=('a',0,1,1)", "(top, left, height, width)"),
    ("digits.py", "data.crop=(0,0,4,5)", "a square"),
    ("digits.py", "data.timeout=0", "above 0 and at most 1000000"),
    ("digits.py", "optimizer.beta1=1.0", "at least 0 and below 1"),
    ("digits.py", "optimizer.beta2=1.0", "at least 0 and below 1"),
    ("digits.py", "optimizer.learning_rate=inf", "a finite number above 0"),
    ("digits.py", "optimizer.learning_rate=nan", "a finite number above 0"),
    ("digits.py", "training.ema_decay=1.0", "at least 0 and below 1"),
    ("digits.py", "training.seed=-1", "between 0 and 2147483647"),
    ("digits.py", "levels.step_growth=inf", "a finite number of at least 0, or None"),
    ("digits.py", "sampler.step_range=0.5", "at least 1"),
    ("digits.py", "evaluation.samples_per_device=0", "at least 1"),
    ("points.py", "network.width=0", "at least 1"),
    ("points.py", "network.depth=-1", "at least 0"),
    ("points.py", "network.min_frequency=0.0", "above 0"),
]


@pytest.mark.parametrize(("config", "given", "right"), IMPOSSIBLE, ids=lambda value: value.split("=")[0])
def test_an_impossible_value_is_refused_before_anything_else(config, given, right):
    key = given.split("=")[0]
    with pytest.raises(UserError, match=rf"^config\.{key}=.* is not possible: it must be ") as refused:
        parse([f"--config={CONFIGS}/{config}", f"--config.{given}"])
    assert right in str(refused.value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("def get_config():\n    return {'data': 1}", "get_config returns a dict; a ConfigDict is expected"),
        (
            "from drl_jax.config.schema import base\n"
            "def get_config():\n    c = base('points')\n    c.network.dept = 3\n    return c",
            "config.network.dept is not a key; did you mean config.network.depth?",
        ),
    ],
)
def test_a_config_file_that_makes_no_config(content, expected, program, tmp_path):
    file = tmp_path / "own.py"
    file.write_text(content)
    ended = program("train", f"--config={file}", f"--workdir={tmp_path}/run")
    assert ended.code == 1
    assert ended.err == f"drl-jax: --config={file}: {ended.err.split(': ', 2)[2]}"
    assert ended.err.count("\n") == 1, ended.err
    assert expected in ended.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("count", "index", "expected"),
    [("two", "0", "JAX_NUM_PROCESSES=two"), ("2", "x", "JAX_PROCESS_ID=x"), ("2", "2", "JAX_PROCESS_ID=2")],
)
def test_a_job_that_cannot_be(count, index, expected, program, tmp_path, monkeypatch):
    for name, value in (("NUM_PROCESSES", count), ("PROCESS_ID", index), ("COORDINATOR_ADDRESS", "x:1")):
        monkeypatch.setenv(f"JAX_{name}", value)
    ended = program("train", DIGITS, f"--workdir={tmp_path}/run", f"--config.data.data_dir={tmp_path}")
    assert ended.code == 1
    assert expected in ended.err
    assert ended.err.count("\n") == 1, ended.err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_nothing_half_prepared(number, program, tmp_path, monkeypatch):
    def begin(builder, originals):
        unpacked = tmp_path / "downloads" / builder.name / f"unpacked.{os.getpid()}"
        unpacked.mkdir(parents=True)
        (unpacked / "part").write_text("half")
        os.kill(os.getpid(), number)
        time.sleep(30)

    monkeypatch.setattr("drl_jax.data.prepare.build", begin)
    before = signal.getsignal(number)
    ended = program("prepare", "--config=cifar10.py", f"--config.data.data_dir={tmp_path}")
    assert ended.code == 42
    assert ended.err == "drl-jax: stopped, nothing half-finished is left; start again to continue\n"
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("value", ["two", "0", "-1", ""])
def test_a_number_of_devices_that_cannot_be(value, program, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", value)
    ended = program("train", DIGITS, f"--workdir={tmp_path}/run")
    assert ended.code == 1
    assert ended.err == (
        f"drl-jax: JAX_NUM_CPU_DEVICES={value} is not possible: it must be a whole number, at least 1\n"
    )


def test_a_workdir_that_cannot_be_written(program, tmp_path):
    (tmp_path / "file").write_text("")
    ended = program("train", DIGITS, f"--workdir={tmp_path}/file/run", *small())
    assert ended.code == 1
    assert ended.err.count("\n") == 1
    assert "--workdir=" in ended.err


def test_a_workdir_with_another_run(program, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    ended = program("train", f"--workdir={tmp_path}")
    assert ended.code == 1
    assert "config.json is not a config" in ended.err


@pytest.mark.parametrize("help_", [[], ["--help"], ["-h"], ["train", "--help"]])
def test_help_lists_the_commands_with_a_line_each(help_, program):
    ended = program(*help_)
    assert ended.code == 0
    for command in ("train", "sample", "prepare"):
        assert sum(line.strip().startswith(command + " ") for line in ended.out.splitlines()) == 1


def test_data_that_are_gone(program, tmp_path):
    data_dir = tmp_path / "none"
    given = ["--config.data.name=mnist", f"--config.data.data_dir={data_dir}"]
    schema.save(parse([f"--config={CONFIGS}/digits.py", *given]).config, epath.Path(tmp_path / schema.FILE))
    ended = program("train", f"--workdir={tmp_path}")
    assert ended.code == 1
    assert ended.err.count("\n") == 1, ended.err
    command = (
        f"run: {sys.executable} -m drl_jax prepare --workdir={tmp_path} --config.data.data_dir={data_dir}"
    )
    assert command in ended.err


def test_the_config_of_a_run_is_no_config_file(program, tmp_path):
    ended = program("train", f"--config={tmp_path}/config.json", f"--workdir={tmp_path}")
    assert ended.code == 1
    assert ended.err.count("\n") == 1, ended.err
    assert f"--config={tmp_path}/config.json: there is no such file" in ended.err
    schema.save(schema.Config(), epath.Path(tmp_path / schema.FILE))
    ended = program("train", f"--config={tmp_path}/config.json", f"--workdir={tmp_path}")
    assert "a config file ends in .py; the config of a run is that of --workdir=DIR" in ended.err
