"""Every mistake of a user: one line that names key, value and remedy, exit code 1, nothing written."""

import pytest
from etils import epath

from drl_jax import configuration
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
        ["train", DIGITS, "--workdir={dir}", "--config.langevin.steps=0"],
        ["config.langevin.steps=0", "at least 1"],
    ),
    "impossible levels": (
        ["train", DIGITS, "--workdir={dir}", "--config.levels.count=700"],
        ["config.levels.count=700", "1 to 501", "1000"],
    ),
    "growth of the linear chain": (
        ["train", DIGITS, "--workdir={dir}", "--config.levels.count=1000"],
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
    "batch over devices": (
        ["train", DIGITS, "--workdir={dir}", "--config.data.batch_size=6"],
        ["config.data.batch_size=6", "4 devices", "4 or 8"],
    ),
    "pictures to a network for points": (
        ["train", "--config=points.py", "--workdir={dir}", "--config.data.name=digits"],
        ["config.network.name='points'", "config.data.name='digits'"],
    ),
    "unknown density": (["train", "--config=points.py:square", "--workdir={dir}"], ["square", "ring"]),
    "data not prepared": (
        ["train", "--config=cifar10.py", "--workdir={dir}", "--config.data.data_dir={dir}/none"],
        ["data.name='cifar10'", "python -m drl_jax prepare --config=", "cifar10.py", "/none"],
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
    configuration.save(config, epath.Path(tmp_path / "config.json"))
    ended = program("train", f"--workdir={tmp_path}")
    assert ended.code == 1
    assert ended.err.count("\n") == 1, ended.err
    assert f"run: python -m drl_jax prepare --workdir={tmp_path} --config.data.data_dir=" in ended.err
    with pytest.raises(UserError, match=r"--config=.*config.json"):
        parse([f"--config={tmp_path}/config.json"])
