"""A run continues under every config it was saved with, and under those that change nothing it depends on."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from etils import epath

from drl_jax.checkpoints.orbax import FOLDER
from drl_jax.config import schema
from drl_jax.config.resume import changes_in_workdir, validate
from drl_jax.config.schema import Config, to_dict
from drl_jax.errors import UserError

WORKDIR = epath.Path("runs/x")
SAVED = sorted((Path(__file__).parent / "saved").glob("*.json"))
# What may change in a run, besides checkpoint, guard and evaluation.
FREE = {
    "data.skip_damaged",
    "data.data_dir",
    "data.path",
    "data.timeout",
    "sampler.noise_scale",
    "sampler.steps",
    "sampler.extra_steps",
    "spectral.iterations",
    "training.steps",
    "training.log_every",
    "training.energy_penalty",
    "training.microbatches",
    "training.remat",
    "network.precision",
}


def saved_as(config):
    """As JSON gives it back."""
    return json.loads(json.dumps(to_dict(config)))


def changed(config, key, value):
    group, name = key.split(".")
    return replace(config, **{group: replace(getattr(config, group), **{name: value})})


OTHER = {  # another value for keys whose default is None, or text
    "data.crop": (0, 0, 8, 8),
    "data.density": "ring",
    "network.activation": "smooth",
    "network.dtype": "bfloat16",
    "network.precision": "highest",
    "levels.temperature": "one",
    "training.objective": "score",
    "training.level_proportions": (1, 2),
    "evaluation.inception_sha256": "0123456789",
}


def other_value(name, key):
    if name in OTHER:
        return OTHER[name]
    if key.default is None:
        return {int: 7, float: 7.0, str: "other"}[key.type]
    change = {
        bool: lambda value: not value,
        int: lambda value: value * 2 or 1,
        float: lambda value: value / 2 if 0 < value < 1 else value + 1,
        str: lambda value: f"{value}2",
        tuple: lambda value: (*value, 8),
    }
    return change[key.type](key.default)


def test_an_equal_config_continues():
    assert validate(saved_as(Config()), Config(), WORKDIR) == []


@pytest.mark.parametrize("file", SAVED, ids=lambda file: file.name)
def test_committed_configs_of_each_format_load_and_continue(file):
    config = schema.load(epath.Path(file))
    assert validate(json.loads(file.read_text()), config, WORKDIR) == []
    assert config.data.name == file.name.split("_")[0]


@pytest.mark.parametrize("file", SAVED, ids=lambda file: file.name)
def test_a_key_that_the_saved_config_lacks_counts_with_its_default(file):
    """As for a workdir that is older than the key. The network's name is older than any workdir."""
    saved = json.loads(file.read_text())
    kind = saved["network"]["name"]
    for name, key in schema.keys(kind).items():
        if name == "network.name":
            continue
        group, last = name.split(".")
        older = {**saved, group: {k: v for k, v in saved[group].items() if k != last}}
        today = schema.from_values({**schema.complete(saved, ""), name: key.default}, "")
        assert validate(older, today, WORKDIR) == []
    for group in saved.keys() - {"format", "network"}:
        older = {k: v for k, v in saved.items() if k != group}
        today = replace(schema.load(epath.Path(file)), **{group: getattr(Config(), group)})
        assert validate(older, today, WORKDIR) == []


def test_a_new_key_that_is_set_is_no_default():
    older = saved_as(Config())
    del older["optimizer"]["epsilon"]
    with pytest.raises(UserError, match=r"config\.optimizer\.epsilon was 1e-07 and is 0\.001"):
        validate(older, changed(Config(), "optimizer.epsilon", 1e-3), WORKDIR)


def test_a_key_that_is_gone_from_the_program_is_ignored():
    older = saved_as(Config())
    older["data"]["removed"] = 3
    older["removed"] = {"whole": 1}
    assert validate(older, Config(), WORKDIR) == []


@pytest.mark.parametrize("network", schema.NETWORKS)
def test_each_key_may_change_or_is_refused_by_name(network):
    config = Config(network=schema.NETWORKS[network]())
    for name, key in schema.keys(network).items():
        if name == "network.name":
            continue
        value = other_value(name, key)
        now = changed(config, name, value)
        line = f"config.{name} was {key.default!r} and is {value!r}"
        if name in FREE or name.split(".")[0] in ("checkpoint", "guard", "evaluation"):
            assert validate(saved_as(config), now, WORKDIR) == [line]
        else:
            with pytest.raises(UserError) as refused:
                validate(saved_as(config), now, WORKDIR)
            assert f"--workdir={WORKDIR} holds a run with other settings: {line};" in str(refused.value)


def test_all_refused_keys_are_named():
    now = changed(changed(Config(), "data.batch_size", 2), "levels.count", 3)
    with pytest.raises(UserError, match=r"data\.batch_size was 256 and is 2; .*levels\.count was 6 and is 3"):
        validate(saved_as(Config()), now, WORKDIR)


def test_another_network_is_refused_by_its_name():
    with pytest.raises(
        UserError, match=r"config\.network\.name was 'residual' and is 'points'; take the old"
    ):
        validate(saved_as(Config()), Config(network=schema.Points()), WORKDIR)


@pytest.mark.parametrize("saved", [{"format": 2}, {}, {"format": None}])
def test_a_saved_config_that_cannot_be_read(saved):
    with pytest.raises(UserError, match=f"--workdir={WORKDIR}"):
        validate(saved, Config(), WORKDIR)


def test_settings_are_free_until_a_checkpoint_is_saved(tmp_path):
    workdir = epath.Path(tmp_path)
    now = changed(Config(), "data.batch_size", 2)
    assert changes_in_workdir(workdir, now) == []
    schema.save(Config(), workdir / schema.FILE)
    assert changes_in_workdir(workdir, now) == []
    (workdir / FOLDER / "10").mkdir(parents=True)
    with pytest.raises(UserError, match=r"config\.data\.batch_size was 256 and is 2"):
        changes_in_workdir(workdir, now)
    later = changed(Config(), "training.steps", 5)
    assert changes_in_workdir(workdir, later) == ["config.training.steps was 240000 and is 5"]
    (workdir / schema.FILE).unlink()
    assert changes_in_workdir(workdir, now) == []
