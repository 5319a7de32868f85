"""The config: its keys, their types and allowed values, and the file it is saved in."""

import ast
import inspect
import io
import json
import logging
import tokenize
from dataclasses import replace

import pytest
from etils import epath
from ml_collections import ConfigDict

from drl_jax.config import schema
from drl_jax.config.schema import Config, base, check, from_config_dict, load, save, to_dict
from drl_jax.errors import UserError

NETWORKS = list(schema.NETWORKS)


@pytest.fixture
def file(tmp_path):
    return epath.Path(tmp_path / "config.json")


@pytest.mark.parametrize("network", NETWORKS)
def test_base_has_every_key_with_its_default(network):
    config = from_config_dict(base(network))
    assert config == Config(network=schema.NETWORKS[network]())
    assert {f"{group}.{name}" for group, keys in base(network).items() for name in keys} == set(
        schema.keys(network)
    )
    check(config)


@pytest.mark.parametrize("network", NETWORKS)
def test_every_default_is_allowed_and_typed(network):
    for name, key in schema.keys(network).items():
        assert key.check(name, key.default) == key.default
        assert key.default is None or type(key.default) is key.type


def test_every_key_is_explained_or_names_its_unit():
    """A comment at the end of its line, but where the name says all."""
    source = inspect.getsource(schema)
    commented = {
        token.start[0]
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    groups = {type(getattr(Config, name)).__name__ for name in Config.__dataclass_fields__} | {"Points"}
    bare = {
        f"{node.name}.{field.target.id}"
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef) and node.name in groups
        for field in node.body
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if field.lineno not in commented
    }
    assert bare == {"Residual.name", "Points.name"}


WRONG = [
    # key, value of another kind or out of range, what the message says
    ("data.batch_size", None, "a whole number of at least 1"),
    ("data.batch_size", True, "a whole number of at least 1"),
    ("data.batch_size", 2.5, "a whole number of at least 1"),
    ("data.batch_size", "64", "a whole number of at least 1"),
    ("data.batch_size", 0, "a whole number of at least 1"),
    ("data.flip", 1, "True or False"),
    ("data.flip", None, "True or False"),
    ("data.name", 3, "text"),
    ("data.name", None, "text"),
    ("data.crop", (0, 0, 4.5, 4.5), "(top, left, height, width) in pixels, a square, or None"),
    ("data.crop", 4, "whole numbers"),
    ("data.timeout", False, "a finite number above 0"),
    ("network.multipliers", (1, True), "whole numbers of at least 1, at least 1 of them"),
    ("network.multipliers", None, "whole numbers of at least 1"),
    ("network.dtype", "float16", "one of float32, bfloat16"),
    ("levels.temperature", 1.0, "one of step, noise, one, or None"),
    ("levels.step_growth", float("inf"), "a finite number of at least 0, or None"),
    ("optimizer.learning_rate", None, "a finite number above 0"),
    ("optimizer.learning_rate", float("nan"), "a finite number above 0"),
    ("optimizer.learning_rate", 10**400, "a finite number above 0"),
    ("optimizer.clip_norm", "1", "a finite number above 0, or None"),
    ("evaluation.inception_sha256", "6726825", "text of 8 to 64 hex digits"),
    ("evaluation.inception_sha256", "x726825d", "text of 8 to 64 hex digits"),
]


@pytest.mark.parametrize(("key", "value", "right"), WRONG, ids=lambda value: str(value)[:24])
def test_a_value_of_another_kind_is_refused(key, value, right):
    group, name = key.split(".")
    tree = base().to_dict()
    tree[group][name] = value
    with pytest.raises(UserError, match=rf"^config\.{key}=.* is not possible: it must be ") as refused:
        from_config_dict(ConfigDict(tree))
    assert right in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_int_is_a_float_and_a_list_a_tuple():
    config = base()
    config.optimizer.clip_norm = 1
    config.network.multipliers = [1, 2]
    typed = from_config_dict(config)
    assert repr(typed.optimizer.clip_norm) == "1.0"
    assert typed.network == schema.Residual(multipliers=(1, 2))


def test_a_config_made_by_hand_is_checked():
    with pytest.raises(UserError, match=r"^config\.data\.batch_size=0 is not possible"):
        check(replace(Config(), data=schema.Data(batch_size=0)))


def _with_a_misspelt_key():
    config = base()
    config.data.imagesize = 8
    return config


def _with_a_misspelt_network_key():
    config = base("points")
    config.network.dept = 2
    return config


def _with_the_keys_of_another_network():
    config = base()
    config.network = ConfigDict({"name": "points", "multipliers": (1, 2)})
    return config


def _without_a_key():
    config = base("points")
    del config.network.depth
    return config


def _with_an_unknown_network():
    config = base()
    config.network.name = "unet"
    return config


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (_with_a_misspelt_key, "config.data.imagesize is not a key; did you mean config.data.image_size?"),
        (_with_a_misspelt_network_key, "not a key; did you mean config.network.depth?"),
        (_with_the_keys_of_another_network, "multipliers is a key of config.network.name=residual"),
        (_without_a_key, "config.network.depth is missing for config.network.name=points"),
        (_with_an_unknown_network, "'unet' is not possible: it must be one of residual, points"),
        (lambda: ConfigDict({"network": {"name": "points"}, "data": 1}), "config.data is a group of keys"),
        (ConfigDict, "config.network.name=None"),
    ],
)  # fmt: skip
def test_keys_that_are_wrong_are_named(make, expected):
    with pytest.raises(UserError, match=r"^own\.py: .*") as refused:
        from_config_dict(make(), "own.py")
    assert expected in str(refused.value)


def test_base_of_an_unknown_network():
    with pytest.raises(UserError, match="residual, points"):
        base("unet")


@pytest.mark.parametrize("network", NETWORKS)
def test_a_saved_config_is_read_back(network, file):
    changed = base(network)
    changed.data.crop = (0, 0, 8, 8)
    changed.optimizer.decay_steps = 10
    config = from_config_dict(changed)
    save(config, file)
    assert load(file) == config
    assert json.loads(file.read_text()) == to_dict(config)
    assert to_dict(config)["format"] == 1


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "config.json is not a config of this program: "),
        ("{}", "config.json is not a config of this program: it has no format number"),
        ("[1]", "config.json is not a config of this program"),
        ('{"format": 2}', "written by a newer version of drl_jax (format 2; this one reads 1)"),
        ('{"format": "1"}', "no format number"),
        ('{"format": 1, "data": 5}', "data is not a group of keys"),
        ('{"format": 1, "data": {"batch_size": null}}', "config.data.batch_size=None is not possible"),
        ('{"format": 1, "network": {"name": "unet"}}', "config.network.name='unet'"),
    ],
)
def test_a_file_that_is_no_config(content, expected, file):
    file.write_text(content)
    with pytest.raises(UserError) as refused:
        load(file)
    assert expected in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_of_bytes_that_are_no_text(file):
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is not a config"):
        load(file)


def test_missing_keys_have_their_defaults_and_unknown_ones_are_reported(file, caplog):
    tree = to_dict(Config())
    del tree["evaluation"]["score_untrained"], tree["guard"]
    tree["data"]["removed"] = 3
    file.write_text(json.dumps(tree))
    with caplog.at_level(logging.WARNING):
        assert load(file) == Config()
    assert [record.getMessage() for record in caplog.records] == [
        f"{file}: config.data.removed is unknown and is ignored"
    ]
