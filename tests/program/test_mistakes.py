"""Every mistake of a user: one line that names key, value and remedy, exit code 1, nothing written."""

import os
import signal
import sys
import time

import pytest
from etils import epath

from drl_jax.config import schema
from drl_jax.config.build import build
from drl_jax.errors import UserError
from drl_jax.main import parse
from tests.program.conftest import CONFIGS, small

DIGITS = "--config=digits.py"

MISTAKES = {
    "unknown command": (["tarin"], ["tarin", "train", "sample", "prepare"]),
    "no config": (["train", "--workdir={dir}"], ["--config", "configs/digits.py"]),
    "no workdir": (["train", DIGITS], ["--workdir"]),
    "no such file": (["train", "--config=nope.py", "--workdir={dir}"], ["nope.py", "no such file"]),
    "unknown argument": (["train", "--config=cifar10.py:t7", "--workdir={dir}"], ["t7", "t6, small"]),
    "unknown key": (
        ["train", DIGITS, "--workdir={dir}", "--config.data.batchsize=3"],
        ["batchsize", "batch_size"],
    ),
    "unknown group": (["train", DIGITS, "--workdir={dir}", "--config.nope.x=3"], ["--config: no key nope"]),
    "a group for a key": (
        ["train", DIGITS, "--workdir={dir}", "--config.network=abc"],
        ["--config.network=abc", "group of keys"],
    ),
    "argument of a config that takes none": (
        ["train", "--config=digits.py:8", "--workdir={dir}"],
        ["digits.py takes no argument '8'"],
    ),
    "unknown flag": (["train", DIGITS, "--wrkdir={dir}", "--workdir={dir}"], ["wrkdir", "workdir"]),
    "stray word": (["train", DIGITS, "--workdir={dir}", "fast"], ["fast", "--config.KEY=VALUE"]),
    "wrong type": (
        ["train", DIGITS, "--workdir={dir}", "--config.data.batch_size=6.5"],
        ["config.data.batch_size", "6.5"],
    ),
    "negative": (
        ["train", DIGITS, "--workdir={dir}", "--config.sampler.steps=0"],
        ["config.sampler.steps=0", "at least 1"],
    ),
    "impossible levels": (
        ["train", DIGITS, "--workdir={dir}", "--config.levels.count=700"],
        ["config.levels.count=700", "1 to 501", "1000"],
    ),
    "growth of the linear chain": (
        ["train", DIGITS, "--workdir={dir}", "--config.levels.count=1000", "--config.levels.step_growth=1"],
        ["config.levels", "growth", "1000"],
    ),
    "one of several names": (
        ["train", DIGITS, "--workdir={dir}", "--config.levels.temperature=hot"],
        ["config.levels.temperature='hot'", "step, noise, one"],
    ),
    "side that cannot be halved": (
        ["train", DIGITS, "--workdir={dir}", "--config.data.image_size=9"],
        ["config.data.image_size=9", "config.network.multipliers=(1, 2)", "divisible by 2"],
    ),
    "an unset variable for a workdir": (["train", DIGITS, "--workdir="], ["--workdir is missing"]),
    "mirrored points": (
        ["train", "--config=points.py", "--workdir={dir}", "--config.data.flip=True"],
        ["config.data.flip=True", "points"],
    ),
    "attention where there is no such side": (
        ["train", DIGITS, "--workdir={dir}", "--config.network.attention=(10,)"],
        ["config.network.attention=(10,)", "8, 4"],
    ),
    "frequencies that fall": (
        ["train", "--config=points.py", "--workdir={dir}", "--config.network.min_frequency=50.0"],
        ["config.network.min_frequency=50.0", "config.network.max_frequency=20.0"],
    ),
    "batch over devices": (
        ["train", DIGITS, "--workdir={dir}", "--config.data.batch_size=6"],
        ["config.data.batch_size=6", "4 devices", "4 or 8"],
    ),
    "images to a network for points": (
        ["train", "--config=points.py", "--workdir={dir}", "--config.data.name=digits"],
        ["config.network.name='points'", "config.data.name='digits'"],
    ),
    "unknown density": (["train", "--config=points.py:square", "--workdir={dir}"], ["square", "ring"]),
    "data not prepared": (
        ["train", "--config=cifar10.py", "--workdir={dir}", "--config.data.data_dir={dir}/none"],
        ["data.name='cifar10'", f"{sys.executable} -m drl_jax prepare --config=", "cifar10.py", "/none"],
    ),
    "other data not prepared": (
        [
            "train",
            "--config=cifar10.py",
            "--workdir={dir}",
            "--config.data.name=mnist",
            "--config.data.data_dir={dir}/none",
        ],
        [
            "data.name='mnist'",
            "prepare --config=",
            " --config.data.name=mnist --config.data.data_dir=",
            "/none",
        ],
    ),
    "folder not given": (["train", "--config=lsun64.py", "--workdir={dir}"], ["data.path"]),
    "sample without a run": (["sample", DIGITS, "--workdir={dir}"], ["holds no run", "train"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_ends_in_one_line(mistake, program, tmp_path):
    arguments, expected = MISTAKES[mistake]
    workdir = tmp_path / "run"
    ended = program(*(a.format(dir=workdir) for a in arguments))
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
    ("digits.py", "network.blocks_per_resolution=0", "at least 1"),
    ("digits.py", "data.crop=(0,0,4.5,4.5)", "(top, left, height, width)"),
    ("digits.py", "data.crop=('a',0,1,1)", "(top, left, height, width)"),
    ("digits.py", "data.crop=(0,0,4,5)", "a square"),
    ("digits.py", "optimizer.beta1=1.0", "at least 0 and below 1"),
    ("digits.py", "optimizer.beta2=1.0", "at least 0 and below 1"),
    ("digits.py", "optimizer.learning_rate=inf", "above 0, and finite"),
    ("digits.py", "optimizer.learning_rate=nan", "above 0, and finite"),
    ("digits.py", "training.ema_decay=1.0", "at least 0 and below 1"),
    ("digits.py", "levels.step_growth=inf", "at least 0, and finite"),
    ("digits.py", "evaluation.samples_per_device=0", "at least 1"),
    ("points.py", "network.width=0", "at least 1"),
    ("points.py", "network.depth=-1", "at least 0"),
    ("points.py", "network.min_frequency=0.0", "above 0"),
]


@pytest.mark.parametrize(("config", "given", "right"), IMPOSSIBLE, ids=lambda value: value.split("=")[0])
def test_an_impossible_value_is_refused_before_anything_else(config, given, right):
    key = given.split("=")[0]
    with pytest.raises(UserError, match=rf"^config\.{key}=.* is not possible: it must be ") as refused:
        build(parse([f"--config={CONFIGS}/{config}", f"--config.{given}"]).config)
    assert right in str(refused.value)


OWN_FILES = {
    "def get_config():\n    return {'data': 1}": ["get_config returns a dict", "ConfigDict"],
    "from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict({'data': {}})": [
        "lacks config.checkpoint.best_of"
    ],
    "from drl_jax.configuration import base\ndef get_config():\n    c = base()\n    c.data.sise = 3\n"
    "    return c": ["has an unknown key config.data.sise"],
    "x = 1": ["it has no function get_config()"],
}


@pytest.mark.parametrize("number", range(len(OWN_FILES)))
def test_a_config_file_that_makes_no_config(number, program, tmp_path, monkeypatch):
    # All config files are loaded under this name, into the module that is there.
    monkeypatch.delitem(sys.modules, "config_config", raising=False)
    content, expected = list(OWN_FILES.items())[number]
    file = tmp_path / "own.py"
    file.write_text(content)
    ended = program("train", f"--config={file}", f"--workdir={tmp_path}/run")
    assert ended.code == 1
    assert ended.err.count("\n") == 1, ended.err
    for text in [f"--config={file}", *expected]:
        assert text in ended.err, ended.err


@pytest.mark.parametrize(
    ("count", "index", "told"),
    [("two", "0", "JAX_NUM_PROCESSES=two"), ("2", "x", "JAX_PROCESS_ID=x"), ("2", "2", "JAX_PROCESS_ID=2")],
)
def test_a_job_that_cannot_be(count, index, told, program, tmp_path, monkeypatch):
    for name, value in (("NUM_PROCESSES", count), ("PROCESS_ID", index), ("COORDINATOR_ADDRESS", "x:1")):
        monkeypatch.setenv(f"JAX_{name}", value)
    ended = program("train", DIGITS, f"--workdir={tmp_path}/run", f"--config.data.data_dir={tmp_path}")
    assert ended.code == 1
    assert told in ended.err
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
    assert ended.err == "drl-jax: stopped, nothing half done is left; start again to go on\n"
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(number) == before


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


def test_data_that_are_gone_and_a_config_that_is_no_program(program, tmp_path):
    config = parse([f"--config={CONFIGS}/digits.py", "--config.data.name=mnist"]).config
    config.data.data_dir = str(tmp_path / "none")
    schema.save(config, epath.Path(tmp_path / "config.json"))
    ended = program("train", f"--workdir={tmp_path}")
    assert ended.code == 1
    assert ended.err.count("\n") == 1, ended.err
    assert (
        f"run: {sys.executable} -m drl_jax prepare --workdir={tmp_path} --config.data.data_dir=" in ended.err
    )
    with pytest.raises(UserError, match=r"--config=.*config.json"):
        parse([f"--config={tmp_path}/config.json"])
