"""The flags of a command: their forms, the values they mean, and the config files they name."""

import json
import logging
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from etils import epath

from drl_jax.config import loading, schema
from drl_jax.config.overrides import parse
from drl_jax.errors import UserError

ROOT = Path(__file__).parents[2]
NAMES = ["celeba64", "cifar10", "digits", "fashion_mnist", "lsun128", "lsun64", "points"]


def value(key, *flags, config="digits"):
    group, name = key.split(".")
    return getattr(getattr(parse([f"--config={config}", *flags]).config, group), name)


def refused(*argv):
    with pytest.raises(UserError) as error:
        parse(argv)
    assert "\n" not in str(error.value)
    return str(error.value)


# Flags


@pytest.mark.parametrize(
    "argv",
    [
        ["--config=digits", "--workdir=runs/x", "--config.data.name=mnist"],
        ["--config", "digits", "--workdir", "runs/x", "--config.data.name", "mnist"],
        ["--config.data.name", "mnist", "--workdir=runs/x", "--config", "digits"],
    ],
)
def test_a_flag_and_its_value_are_one_word_or_two(argv):
    parsed = parse(argv)
    assert parsed.workdir == "runs/x"
    assert parsed.config.data.name == "mnist"
    assert "--config=digits --config.data.name=mnist" in parsed.prepare_command
    assert not parsed.show


@pytest.mark.parametrize(
    ("flag", "one", "other"),
    [
        ("config", "points", "digits"),
        ("config", "digits", "digits"),
        ("workdir", "a", "b"),
        ("config.data.name", "mnist", "digits"),
        ("config.network.multipliers", "(1, 2)", "2"),
        ("config.data.flip", "True", "true"),
        ("config.optimizer.clip_norm", "None", ""),
    ],
)
def test_a_flag_given_twice_is_refused(flag, one, other):
    expected = f"--{flag} is given twice ({one!r} and {other!r}); give it once"
    assert refused(f"--{flag}={one}", f"--{flag}={other}") == expected
    assert refused(f"--{flag}={one}", f"--{flag}", other or "x").startswith(f"--{flag} is given twice")


def test_a_switch_given_twice_is_refused():
    assert refused("--config=digits", "--show", "--show=1") == "--show is given twice; give it once"


def test_show():
    assert parse(["--show", "--config=digits"]).show
    assert parse(["--config=digits", "--show=1"]).show
    assert "--show=digits" in refused("--config=digits", "--show=digits")
    assert "--show takes no value" in refused("--config=digits", "--show", "true")


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], "--config is missing; name a config (celeba64, cifar10, digits, "),
        (["--config="], "--config is missing"),
        (["--workdir=nowhere"], "--workdir=nowhere does not exist; give the folder of a run"),
        (["--config=digits", "--wrkdir=x"], "--wrkdir is not a flag; did you mean --workdir=x?"),
        (["-workdir=x", "--config=digits"], "-workdir is not a flag; did you mean --workdir=x?"),
        (["--depth=1"], "did you mean --config.network.depth=1?"),
        (["--qqqq"], "--qqqq is not a flag; flags are --config, --workdir, --show and --config.KEY=VALUE"),
        (["--steps", "100"], "--config.sampler.steps=100 or --config.training.steps=100?"),
        (["--batch_size=3"], "did you mean --config.data.batch_size=3?"),
        (["--batch-size", "3"], "did you mean --config.data.batch_size=3?"),
        (["--data.batch_size=3"], "did you mean --config.data.batch_size=3?"),
        (["-config=digits"], "did you mean --config=digits?"),
        (["-config", "digits"], "did you mean --config=digits?"),
        (["steps=100"], "'steps=100' is not a flag; did you mean --config.sampler.steps=100 or "),
        (["config", "digits"], "'config' is not a flag; did you mean --config=digits?"),
        (["digits"], "'digits' is not a flag; did you mean --config=digits?"),
        (["cifar10:t6"], "did you mean --config=cifar10:t6?"),
        (["my/own.py"], "did you mean --config=my/own.py?"),
        (["/"], "did you mean --workdir=/?"),
        (["--config", "=", "digits"], "has a space before the =; write --config=digits"),
        (["--config", "=digits"], "has a space before the =; write --config=digits"),
        (["--config=", "digits"], "has a space after the =; write --config=digits"),
        (["--config = digits"], "is one word with a space in it; write --config=digits"),
        (["--config digits"], "is one word with a space in it; write --config=digits"),
        (["--config=digits", "--workdir", "My", "Run"], "a value with spaces is in quotes"),
        (["--config=digits", ""], "an empty word"),
        (["=digits"], "'=digits' is not a flag"),
        (["—config=digits"], "has '—', as a document writes it; write --config=digits"),
        (["–config=digits"], "has '–', as a document writes it; write --config=digits"),
        (["−−config=digits"], "write --config=digits"),
        (["–‑config.data.batch_size=3"], "write --config.data.batch_size=3"),
        (["--config\u00a0digits"], "write --config=digits"),
        (["--config\u200b=digits"], "write --config=digits"),
        (["--сonfig=digits"], "(U+0441) is no letter of a flag"),
        (["--config.Data.Batch_Size=3", "--config=digits"], "did you mean config.data.batch_size?"),
        (["config=digits"], "'config=digits' is not a flag; did you mean --config=digits?"),
        (["config.data.flip=1"], "did you mean --config.data.flip=1?"),
        (["--config=digits", "fast"], "'fast' is not a flag; flags are written --config.KEY=VALUE"),
        (["--config=digits", "--workdir"], "--workdir needs a value, as in --workdir=VALUE"),
        (["--workdir", "--config=digits"], "--workdir needs a value"),
        (["--config"], "--config needs a value"),
        (["--config.data.batchsize=3"], "--config is missing"),
        (["--config=digits", "--config.data.batchsize=3"], "did you mean config.data.batch_size?"),
        (["--config=digits", "--config.data.batch-size=3"], "did you mean config.data.batch_size?"),
        (["--config=digits", "--config.data.steps=3"], "config.sampler.steps or config.training.steps"),
        (["--config=digits", "--config.data.qq=3"], "keys of config.data are name, split, data_dir"),
        (["--config=digits", "--config.data.__class__=3"], "config.data.__class__ is not a key; keys of "),
        (["--config=digits", "--config.nope.x=3"], "config.nope.x is not a key; groups of keys are data, "),
        (["--config=digits", "--config.=3"], "groups of keys are data, "),
        (["--config=digits", "--config.network=x"], "config.network is a group of keys; set them one by one"),
        (["--config=digits", "--config.network.depth=1"], "a key of config.network.name=points"),
        (["--config=points", "--config.network.attention=()"], "a key of config.network.name=residual"),
    ],
)
def test_a_flag_that_is_wrong(argv, expected):
    assert expected in refused(*argv)


# Values


@pytest.mark.parametrize(
    ("key", "text", "expected"),
    [
        ("training.steps", "1000", 1000),
        ("training.steps", "1e5", 100_000),
        ("training.steps", "1000.0", 1000),
        ("training.steps", "240_000", 240_000),
        ("optimizer.learning_rate", "1e-3", 1e-3),
        ("optimizer.learning_rate", "1", 1.0),
        ("data.flip", "true", True),
        ("data.flip", "1", True),
        ("data.flip", "Yes", True),
        ("data.flip", "on", True),
        ("data.flip", "False", False),
        ("data.flip", "0", False),
        ("data.flip", "no", False),
        ("data.flip", "OFF", False),
        ("network.multipliers", "(1,2)", (1, 2)),
        ("network.multipliers", "1,2", (1, 2)),
        ("network.multipliers", "[1, 2]", (1, 2)),
        ("network.multipliers", "(3,)", (3,)),
        ("network.multipliers", "3", (3,)),
        ("network.attention", "()", ()),
        ("network.attention", "", ()),
        ("data.name", "my set", "my set"),
        ("evaluation.metrics", "none", "none"),
        ("data.path", "/a=b.zip", "/a=b.zip"),
        ("data.crop", "0,0,8,8", (0, 0, 8, 8)),
        ("levels.temperature", "noise", "noise"),
        ("levels.temperature", "NOISE", "noise"),
        ("network.dtype", "BFloat16", "bfloat16"),
        ("training.steps", " '1_000' ", 1000),
        ("training.steps", "1_0e0_5", 1_000_000),
        ("network.multipliers", "( 1 , 2.0 , 1e1 , )", (1, 2, 10)),
        ("network.attention", "None", ()),
        ("network.attention", "null", ()),
        ("evaluation.metrics", "NULL", "none"),
        ("evaluation.metrics", "", "none"),
    ],
)
def test_a_text_means_a_value_of_the_key(key, text, expected):
    got = value(key, f"--config.{key}={text}")
    assert got == expected
    assert type(got) is type(expected)


CODE = [
    "__import__('os').system('touch pwned')",
    "(lambda: open('pwned', 'w'))()",
    "[open('pwned', 'w') for _ in (1,)]",
    "data.batch_size",
    "config.data.batch-size",
    "{1: 2}",
    "2**10",
    "1 if True else 2",
    "$(touch pwned)",
    "\0",
    "(" * 3000,
]


@pytest.mark.parametrize("text", CODE, ids=lambda text: text[:12])
@pytest.mark.parametrize(
    "key", ["training.steps", "optimizer.learning_rate", "data.flip", "network.multipliers", "data.crop"]
)
def test_code_is_never_run(key, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = refused("--config=digits", f"--config.{key}={text}")
    assert message.startswith(f"config.{key}=")
    assert "is not possible: it must be " in message
    assert "ast." not in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["None", "none", "NULL", "null", "", " None ", "''"])
@pytest.mark.parametrize(
    ("config", "key"),
    [
        ("digits", "optimizer.decay_steps"),
        ("celeba64", "data.crop"),
        ("points", "optimizer.clip_norm"),
        ("points", "levels.temperature"),
        ("points", "data.density"),
    ],
)
def test_a_value_that_may_be_absent_can_be_unset(text, config, key):
    assert value(key, config=config) is not None
    assert value(key, f"--config.{key}={text}", config=config) is None


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("training.steps=None", "config.training.steps=None is not possible: it must be a whole number"),
        ("training.steps=", "config.training.steps=None is not possible: it must be a whole number"),
        ("optimizer.learning_rate=none", "config.optimizer.learning_rate=None is not possible"),
        ("data.flip=null", "config.data.flip=None is not possible: it must be True or False"),
        ("network.dtype=None", "dtype=None is not possible: it must be one of float32, bfloat16"),
        ("data.batch_size=6.5", "config.data.batch_size=6.5 is not possible: it must be a whole number"),
        ("data.batch_size=six", "config.data.batch_size='six' is not possible: it must be a whole number"),
        ("data.batch_size=1" + 5000 * "0", "is not possible: it must be a whole number"),
        ("data.batch_size=nan", "config.data.batch_size=nan is not possible: it must be a whole number"),
        ("data.flip=2", "config.data.flip='2' is not possible: it must be True or False"),
        ("optimizer.beta1=1e999", "config.optimizer.beta1=inf is not possible: it must be a finite number"),
        ("optimizer.decay_steps=soon", "a whole number of at least 1, or None"),
        ("network.multipliers=None", "config.network.multipliers=None is not possible"),
        ("data.name=", "config.data.name=None is not possible: it must be text"),
        ("data.split=NULL", "config.data.split=None is not possible: it must be text"),
        ("optimizer.learning_rate=1e−4", "write --config.optimizer.learning_rate=1e-4"),
        ("network.multipliers=“1,2”", "write --config.network.multipliers=1,2"),
        ("network.multipliers=1,,2", "config.network.multipliers=1,,2 is not possible"),
        ("network.multipliers=()", "whole numbers of at least 1, at least 1 of them"),
        ("network.multipliers=(1,1.5)", "config.network.multipliers=1,1.5 is not possible"),
        ("network.multipliers=('a',)", "whole numbers of at least 1"),
        ("data.crop=(0,0,4.5,4.5)", "(top, left, height, width)"),
        ("data.crop=(0,0,4,5)", "a square"),
        ("data.crop=(0,0,0,0)", "a square"),
        ("network.name=unet", "config.network.name='unet' is not possible: it must be one of residual, "),
    ],
    ids=lambda text: text[:24],
)  # fmt: skip
def test_a_text_that_means_no_value(given, expected):
    assert expected in refused("--config=digits", f"--config.{given}")


def test_the_network_cannot_be_exchanged_without_its_keys():
    for config, other in (("digits", "points"), ("points", "residual")):
        for name in ("points", "digits"):
            message = refused(
                f"--config={config}", f"--config.data.name={name}", f"--config.network.name={other}"
            )
            assert f"config.network.name={other} is not possible with --config={config}" in message
    assert value("network.name", "--config.network.name=points", config="points") == "points"


# Runs


def test_a_run_has_its_config_and_overrides_change_it(tmp_path):
    schema.save(
        parse(["--config=digits", "--config.training.steps=7"]).config, epath.Path(tmp_path / schema.FILE)
    )
    assert parse([f"--workdir={tmp_path}"]).config.training.steps == 7
    parsed = parse(["--workdir", str(tmp_path), "--config.data.name", "mnist", "--config.training.steps=8"])
    assert (parsed.config.data.name, parsed.config.training.steps) == ("mnist", 8)
    assert parsed.config.network.width == 32
    assert parsed.prepare_command.endswith(f" prepare --workdir={tmp_path} --config.data.name=mnist")
    assert "config.network.depth" in refused(f"--workdir={tmp_path}", "--config.network.depth=3")
    assert "training.steps=0" in refused(f"--workdir={tmp_path}", "--config.training.steps=0")


def test_a_config_and_a_run_together(tmp_path):
    schema.save(parse(["--config=points"]).config, epath.Path(tmp_path / schema.FILE))
    parsed = parse(["--config=digits", f"--workdir={tmp_path}"])
    assert parsed.config == parse(["--config=digits"]).config
    assert parsed.prepare_command.endswith(" prepare --config=digits")


def test_a_damaged_run(tmp_path):
    (tmp_path / schema.FILE).write_text("{}")
    assert f"{tmp_path / schema.FILE} is not a config of this program" in refused(f"--workdir={tmp_path}")


def test_a_run_with_a_key_that_is_gone(tmp_path, caplog):
    tree = schema.to_dict(schema.Config())
    tree["guard"]["removed"] = 1
    (tmp_path / schema.FILE).write_text(json.dumps(tree))
    with caplog.at_level(logging.WARNING):
        assert parse([f"--workdir={tmp_path}"]).config == schema.Config()
    assert "config.guard.removed is unknown and is ignored" in caplog.text


# The command that prepares the data


def test_the_prepare_command_repeats_what_concerns_the_data(monkeypatch):
    given = ["--config.data.path", "a b.zip", "--config.training.steps=3", "--config.data.data_dir=/x"]
    monkeypatch.setattr(sys, "argv", ["/venv/bin/drl-jax", "train"])
    command = parse(["--config=lsun64:church", *given]).prepare_command
    assert shlex.split(command) == [
        "/venv/bin/drl-jax", "prepare", "--config=lsun64:church", "--config.data.path=a b.zip"
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["/somewhere/drl_jax/__main__.py", "train"])
    command = parse(["--config=lsun64"]).prepare_command
    assert shlex.split(command) == [sys.executable, "-m", "drl_jax", "prepare", "--config=lsun64"]
    parsed = parse(shlex.split(command)[4:])  # and it can be run
    assert parsed.config.data.name == "folder"


# Config files


def test_configs_that_ship_have_names():
    assert loading.names() == NAMES
    for name in NAMES:
        assert parse([f"--config={name}"]).config == parse([f"--config={ROOT}/configs/{name}.py"]).config
    assert value("network.blocks_per_resolution", config="cifar10:t6") == 8
    assert value("network.blocks_per_resolution", config="cifar10:small") == 2


def test_an_installed_package_has_the_configs_inside(tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/own.py").write_text((ROOT / "configs/digits.py").read_text())
    monkeypatch.setattr(loading, "_PACKAGE", tmp_path)
    assert loading.names() == ["own"]
    assert value("data.name", config="own") == "digits"


OWN = "from drl_jax.config.schema import base\ndef get_config({}):\n    c = base()\n    {}\n    return c\n"


@pytest.fixture
def own(tmp_path):
    """Writes a config file."""

    def write(content, name="own.py"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(content)
        return file

    return write


def test_a_file_is_named_by_its_path(own, monkeypatch):
    file = own(OWN.format("size=8", "c.data.image_size = int(size)"))
    assert value("data.image_size", config=file) == 8
    assert value("data.image_size", config=f"{file}:16") == 16
    monkeypatch.chdir(file.parent)
    assert value("data.image_size", config="own.py:16") == 16
    monkeypatch.setenv("HOME", str(file.parent))
    assert value("data.image_size", config="~/own.py") == 8


def test_colons_in_a_path_and_in_an_argument(own):
    file = own(OWN.format("text='x'", "c.data.density = text"), name="a: b.c/own.py")
    assert value("data.density", config=file) == "x"
    assert value("data.density", config=f"{file}:y:z") == "y:z"
    assert value("data.density", config=f"{file}:") == ""


def test_a_file_is_run_anew_and_leaves_no_module_behind(own):
    before = set(sys.modules)
    file = own(OWN.format("", "c.data.image_size = 8"))
    assert value("data.image_size", config=file) == 8
    own(OWN.format("", "c.data.image_size = 16"))
    assert value("data.image_size", config=file) == 16
    assert set(sys.modules) - before <= {"drl_jax.data.densities"}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("x = 1", "it has no function get_config()"),
        ("get_config = 3", "it has no function get_config()"),
        ("def get_config(:", "is not a config file: "),
        ("x = '\0'", "is not a config file: "),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module' (line 1)"),
        ("raise SystemExit(3)", "SystemExit: 3 (line 1)"),
        ("def get_config():\n    return undefined", "NameError: name 'undefined' is not defined (line 2)"),
        ("def get_config():\n    raise ValueError('a\\nb')", "a b"),
        ("def get_config():\n    raise KeyError('a')", "KeyError: 'a' (line 2)"),
        ("def get_config():\n    return {'data': 1}", "get_config returns a dict; a ConfigDict is expected"),
        ("def get_config():\n    pass", "get_config returns a NoneType; a ConfigDict is expected"),
        ("def get_config(size):\n    pass", "it needs an argument, as in --config=FILE.py:ARGUMENT"),
        (OWN.format("", "c.data.sise = 3"), "config.data.sise is not a key; keys of config.data are "),
        (OWN.format("", "c.network.widht = 3"), "not a key; did you mean config.network.width?"),
        (OWN.format("", "del c.network.width"), "config.network.width is missing"),
        (OWN.format("", "del c.network"), "config.network.name=None is not possible"),
        (OWN.format("", "c.data.flip = 'no'"), "TypeError: "),
    ],
    ids=lambda text: text[:30],
)  # fmt: skip
def test_a_file_that_makes_no_config(content, expected, own):
    file = own(content)
    message = refused(f"--config={file}", "--workdir=x")
    assert message.startswith(f"--config={file}")
    assert expected in message


def test_a_number_that_is_none_in_a_file(own):
    file = own(OWN.format("", "c.data.batch_size = None"))
    assert "config.data.batch_size=None is not possible" in refused(f"--config={file}")
    # It may be what the command line sets.
    assert value("data.batch_size", "--config.data.batch_size=3", config=file) == 3


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("nope.py", "--config=nope.py: there is no such file"),
        ("nowhere/own.py:8", "there is no such file"),
        ("nowhere/own", "there is no such file"),
        ("config/digits.py", "there is no such file; did you mean --config=digits?"),
        ("DIGITS", "did you mean --config=digits?"),
        ("C:\\\\Users\\\\me\\\\own.py", "there is no such file; folders are separated by / here"),
        ("C:\\\\runs\\\\digits.py", "there is no such file; did you mean --config=digits?"),
        ("~/nope.py", "there is no such file"),
        ("~nobody/nope.py", "there is no such file"),
        ("nope", "no config has that name, and a file ends in .py; there are celeba64, cifar10, digits, "),
        ("digit", "did you mean --config=digits?"),
        (str(ROOT / "configs"), "is a folder"),
        ("celeba64:8", "celeba64.py takes no argument '8'"),
        ("cifar10:t7", "setting 't7' is unknown; settings are t6, small, light"),
        ("points:square", "square"),
        (str(ROOT / "tests/config/saved/digits_format_1.json"), "a config file ends in .py"),
    ],
)
def test_a_config_that_is_not_there(config, expected):
    message = refused(f"--config={config}", "--workdir=x")
    assert message.startswith(f"--config={config}")
    assert expected in message


def test_a_folder_as_config(own, tmp_path, monkeypatch):
    file = own(OWN.format("", ""), name="configs/own.py")
    assert f"is a folder; name a config file in it, as in --config={file}" in refused(
        f"--config={file.parent}"
    )
    without = str(file).removesuffix(".py")
    assert f"there is no such file; did you mean --config={file}?" in refused(f"--config={without}")
    schema.save(schema.Config(), epath.Path(tmp_path / schema.FILE))
    assert f"the folder of a run; write --workdir={tmp_path}" in refused(f"--config={tmp_path}")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "the folder of a run; write --workdir=~" in refused("--config=~")
    assert "is a folder; name a config file in it" in refused("--config=~/configs")


# Paths


@pytest.mark.parametrize("key", ["data.path", "data.data_dir", "evaluation.inception_weights"])
def test_a_relative_path_means_the_same_from_every_folder(key, own, tmp_path, monkeypatch):
    file = own(OWN.format("", f"c.{key} = 'in/the file'"))
    monkeypatch.chdir(tmp_path)
    assert value(key, config=file) == str(tmp_path / "in/the file")
    assert value(key, f"--config.{key}=here", config=file) == str(tmp_path / "here")
    assert value(key, f"--config.{key}=../x/", config=file) == str(tmp_path.parent / "x")
    monkeypatch.setenv("HOME", "/home/me")
    assert value(key, f"--config.{key}=~/x", config=file) == "/home/me/x"
    assert value(key, f"--config.{key}=None", config=file) is None
    # A run keeps it, and the folder may move.
    workdir = tmp_path / "run"
    schema.save(parse([f"--config={file}"]).config, epath.Path(workdir / schema.FILE))
    monkeypatch.chdir("/")
    for flags, expected in (([], tmp_path / "in/the file"), ([f"--config.{key}=moved"], "/moved")):
        config = parse([f"--workdir={workdir}", *flags]).config
        group, name = key.split(".")
        assert getattr(getattr(config, group), name) == str(expected)
    assert schema.keys()[key].is_free


def test_the_public_weights_are_no_path():
    assert value("evaluation.inception_weights", "--config.evaluation.inception_weights=fetch") == "fetch"


@pytest.mark.parametrize("key", ["data.path", "data.data_dir", "evaluation.inception_weights"])
@pytest.mark.parametrize("scheme", ["s3", "gs", "az", "hf", "http", "https", "hdfs"])
def test_data_on_an_address(key, scheme):
    message = refused("--config=digits", f"--config.{key}={scheme}://bucket/x")
    assert message.startswith(
        f"config.{key}='{scheme}://bucket/x' is not possible: {scheme}:// is not read; "
    )
    assert f"write --config.{key}=/x" in refused("--config=digits", f"--config.{key}=file:///x")


@pytest.mark.parametrize(
    ("workdir", "expected"),
    [
        (
            "gs://bucket/x",
            "--workdir=gs://bucket/x needs the package gcsfs, as the extra gcs has it: pip install gcsfs",
        ),
        ("gs:/bucket/x", "write --workdir=gs://bucket/x"),
        ("GS://bucket/x", "write --workdir=gs://bucket/x"),
        ("s3://bucket/x", "it must be a folder, or on gs://, not on s3://"),
        ("hf://bucket/x", "not on hf://"),
        ("https://host/x", "not on https://"),
        ("file:///tmp/x", "write --workdir=/tmp/x"),
    ],
)
@pytest.mark.parametrize("config", [["--config=digits"], []])
def test_a_workdir_on_an_address(workdir, expected, config, monkeypatch):
    monkeypatch.setattr("drl_jax.config.paths.find_spec", lambda name: None)
    assert expected in refused(*config, f"--workdir={workdir}")


def test_a_workdir_with_a_colon_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    schema.save(schema.Config(), epath.Path(tmp_path / "gs:x: 1/y" / schema.FILE))
    assert parse(["--workdir=gs:x: 1/y"]).config == schema.Config()


# How long a mistake takes


@pytest.mark.parametrize("argv", [["tarin"], ["train", "--config=digits", "--wrkdir=x"], ["train", "--help"]])
def test_jax_is_imported_only_after_the_command_line_is_right(argv):
    program = "import sys, drl_jax.main as m\ntry: m.program()\nfinally: assert 'jax' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", program, *argv], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert "Error" not in done.stderr, done.stderr
    assert done.returncode == (0 if "--help" in argv else 1)


@pytest.mark.parametrize("program", [["drl_jax/main.py"], ["-m", "drl_jax.main"], ["-m", "drl_jax"]])
def test_every_way_to_start_the_program(program):
    done = subprocess.run(
        [sys.executable, *program, "train", "--config=digits", "--show"],
        capture_output=True, text=True, cwd=ROOT, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert '"name": "digits"' in done.stdout
