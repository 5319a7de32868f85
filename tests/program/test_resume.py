"""What may change when a run continues, and what is refused. Nothing of the run is lost in any case."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from etils import epath
from PIL import Image

from drl_jax.checkpoints.orbax import steps
from drl_jax.evaluation.evaluator import Evaluator
from drl_jax.report import metrics_log
from tests.helpers import CONFIGS, run, small

DIGITS = ["--config=digits.py", *small()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The workdir of a run of 4 steps, with checkpoints of steps 2 and 4."""
    workdir = tmp_path_factory.mktemp("finished")
    run("train", f"--config={CONFIGS}/digits.py", *DIGITS[1:], f"--workdir={workdir}")
    return workdir


@pytest.fixture
def workdir(finished, tmp_path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def refused(ended, *texts: str) -> None:
    assert ended.code == 1
    assert ended.err.count("\n") == 1, ended.err
    for text in texts:
        assert text in ended.err, ended.err


def content(workdir: Path) -> dict[str, bytes]:
    return {str(p.relative_to(workdir)): p.read_bytes() for p in workdir.rglob("*") if p.is_file()}


def edit(workdir: Path, group: str, key: str, value) -> None:
    """Changes a value in config.json."""
    config = json.loads((workdir / "config.json").read_text())
    config[group][key] = value
    (workdir / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("group", "key", "value"),
    [
        ("optimizer", "learning_rate", 0.007),  # changes no shape
        ("network", "width", 16),  # changes shapes: no damage, and no advice to move the checkpoints away
        ("levels", "count", 2),
        ("network", "multipliers", [1, 2, 2]),
    ],
)
@pytest.mark.parametrize("how", ["edited", "lost", "flag"])
def test_other_settings_are_refused_key_by_key(group, key, value, how, program, workdir):
    if how == "edited":
        edit(workdir, group, key, value)
        given = []
    else:
        written = str(tuple(value)) if isinstance(value, list) else value
        given = (
            [*DIGITS, f"--config.{group}.{key}={written}"]
            if how == "lost"
            else [f"--config.{group}.{key}={written}"]
        )
    if how == "lost":
        (workdir / "config.json").unlink()
    before = content(workdir)
    ended = program("train", *given, f"--workdir={workdir}", "--config.training.steps=6")
    refused(ended, f"config.{group}.{key} was ", "take the old values, or another --workdir")
    after = content(workdir)
    assert {name: after[name] for name in before if name != "config.json"} == {
        name: text for name, text in before.items() if name != "config.json"
    }
    if how != "lost":
        refused(program("sample", *given, f"--workdir={workdir}"), f"config.{group}.{key} was ")


def test_a_key_that_an_older_run_does_not_have_takes_its_default(program, workdir):
    config = json.loads((workdir / "config.json").read_text())
    del config["optimizer"]["epsilon"]
    (workdir / "config.json").write_text(json.dumps(config))
    ended = program("train", f"--workdir={workdir}", "--config.training.steps=5")
    assert ended.code == 0, ended.err
    assert "continuing from step 4" in ended.out


def test_what_may_change_is_reported(program, workdir):
    ended = program(
        "train", f"--workdir={workdir}", "--config.training.steps=6", "--config.training.log_every=3"
    )
    assert ended.code == 0, ended.err
    assert "config.training.log_every was 2 and is 3" in ended.out


def test_fewer_steps_than_the_run_has_made(program, workdir):
    before = metrics_log.read(epath.Path(workdir)), (workdir / "config.json").read_text()
    ended = program("train", f"--workdir={workdir}", "--config.training.steps=2")
    refused(ended, "config.training.steps=2", "the run is at step 4 already")
    # A run that is refused changes nothing.
    assert (metrics_log.read(epath.Path(workdir)), (workdir / "config.json").read_text()) == before


@pytest.mark.parametrize("damage", ["{", '{"data": {}}', ""])
def test_a_config_that_is_damaged(damage, program, workdir):
    (workdir / "config.json").write_text(damage)
    refused(program("train", f"--workdir={workdir}"), f"{workdir}/config.json")


def test_a_damaged_line_of_the_log(program, workdir):
    path = workdir / "metrics.jsonl"
    whole = metrics_log.read(epath.Path(workdir))
    damaged = bytearray(path.read_bytes())
    damaged[5] = 0xFF
    path.write_bytes(damaged)
    ended = program("train", f"--workdir={workdir}", "--config.training.steps=5")
    assert ended.code == 0, ended.err
    assert ended.err.count(f"line 1 of {path} is damaged and left out") == 1
    assert [line["step"] for line in metrics_log.read(epath.Path(workdir))][: len(whole) - 1] == [4]


def test_the_best_checkpoint_is_kept(program, tmp_path, monkeypatch):
    scores = iter([3.0, 1.0, 2.0, 4.0])  # at steps 2, 4, 6, 8
    monkeypatch.setattr(Evaluator, "__call__", lambda *_: {"frechet_pixels": next(scores)})
    settings = [
        "--config.checkpoint.keep=1",
        "--config.checkpoint.best_of=frechet_pixels",
        "--config.training.steps=8",
        "--config.evaluation.every=2",
        "--config.evaluation.metrics=frechet_pixels",
    ]
    assert program("train", *DIGITS, *settings, f"--workdir={tmp_path}").code == 0
    assert steps(epath.Path(tmp_path / "checkpoints")) == [4, 8]
    ended = program("train", *DIGITS, f"--workdir={tmp_path / 'other'}", "--config.checkpoint.best_of=fid")
    refused(ended, "config.checkpoint.best_of='fid' is not measured")


def test_other_data_are_refused(program, tmp_path):
    (tmp_path / "data").mkdir()
    folder = ["--config.data.name=folder", f"--config.data.path={tmp_path / 'data'}"]
    rng = np.random.default_rng(0)

    def add(name: str) -> None:
        pixels = rng.integers(0, 256, (8, 8), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "data" / f"{name}.png")

    def train(num_steps: int):
        return program(
            "train", *DIGITS, *folder, f"--workdir={tmp_path / 'run'}", f"--config.training.steps={num_steps}"
        )

    for i in range(4):
        add(str(i))
    assert train(4).code == 0
    add("3")
    ended = train(6)
    assert ended.code == 0, ended.err
    assert "config.data: the examples are not the ones that the run began with" in ended.err
    add("4")
    refused(train(8), "there are 5 examples, and the run in")
    assert steps(epath.Path(tmp_path / "run" / "checkpoints"))[-1] == 6
    (tmp_path / "data" / "4.png").unlink()
    file = tmp_path / "data" / "0.png"
    file.write_bytes(file.read_bytes()[:60])
    refused(train(8), f"config.data.path: {file} is")
