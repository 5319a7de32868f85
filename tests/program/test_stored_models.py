"""`sample` and `evaluate` with --model: of a model that ships, of a workdir, and of a file of weights."""

import errno
import json

import numpy as np
import pytest
from etils import epath

import drl_jax
from drl_jax import files, pretrained
from drl_jax.checkpoints import weights
from drl_jax.checkpoints.digests import sha256
from drl_jax.commands import job
from drl_jax.config.restore import find_model
from drl_jax.errors import UserError
from drl_jax.parallel.preemption import Stop
from tests.helpers import CONFIGS, run, small

COUNT = "--config.evaluation.num_samples=70"  # a part of the last batch


def samples(folder) -> np.ndarray:
    with np.load(folder / "samples.npz") as opened:
        return opened["arr_0"]


def result(folder) -> dict:
    (file,) = folder.glob("evaluations/*/result_*.json")
    return json.loads(file.read_text())


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run, and the file of `export` in it."""
    folder = tmp_path_factory.mktemp("run")
    run("train", f"--config={CONFIGS}/digits.py", f"--workdir={folder}", *small())
    run("export", f"--workdir={folder}")
    return folder


def test_samples_of_a_model_that_ships_are_those_of_the_api(program, tmp_path):
    outcome = program("sample", "--model=digits", f"--output={tmp_path}", COUNT)
    assert (outcome.code, outcome.err) == (0, "")
    np.testing.assert_array_equal(samples(tmp_path), drl_jax.load("digits").sample(0, 70))


def test_the_scores_of_a_model_that_ships_are_those_beside_it(program, tmp_path):
    outcome = program("evaluate", "--model=digits", f"--output={tmp_path}")
    assert (outcome.code, outcome.err) == (0, "")
    beside = json.loads((pretrained.weights_of("digits").parent / "result.json").read_text())
    found = result(tmp_path)
    assert found["data_vs_data"] == pytest.approx(beside["data_vs_data"])
    # Another machine rounds otherwise, and a few of 898 samples may take another way.
    assert found["scores"]["frechet_pixels"] == pytest.approx(beside["scores"]["frechet_pixels"], rel=0.05)
    for name in ("weights_sha256", "step", "seed", "count"):
        assert found["protocol"]["samples"][name] == beside["protocol"]["samples"][name], name
    assert found["training"]["commit"] == beside["training"]["commit"]


def test_a_workdir_and_its_export_have_the_same_samples_and_scores(program, workdir, tmp_path):
    sources = {"--workdir": workdir, "--model": workdir, "--model=file": workdir / pretrained.FILE}
    found = []
    for flag, source in sources.items():
        where = [f"{flag.partition('=')[0]}={source}", f"--output={tmp_path / flag}"]
        assert program("sample", *where).code == 0
        assert program("evaluate", *where, "--config.evaluation.metrics=frechet_pixels").code == 0
        found.append((samples(tmp_path / flag), result(tmp_path / flag)))
    for other_samples, other in found[1:]:
        np.testing.assert_array_equal(other_samples, found[0][0])
        for topic in ("scores", "data_vs_data", "training"):
            assert other[topic] == found[0][1][topic], topic


def test_a_workdir_is_where_its_samples_are_written(program, workdir, tmp_path, monkeypatch):
    (workdir / "samples.npz").unlink(missing_ok=True)
    assert program("sample", f"--model={workdir}").code == 0
    assert samples(workdir).shape[1:] == (8, 8, 1)
    monkeypatch.chdir(tmp_path)
    assert program("sample", f"--model={workdir / pretrained.FILE}").code == 0
    np.testing.assert_array_equal(samples(tmp_path), samples(workdir))


def test_a_name_is_that_of_the_model_that_ships(program, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # the second time there is a folder ./digits
        assert program("sample", "--model=digits", "--output=digits", COUNT).code == 0
    outcome = program("sample", "--model=./digits")
    assert "--model=./digits is no model: it has no config.json, which a run has" in outcome.err


def test_the_processes_of_a_job_compare_the_weights(monkeypatch):
    seen = {}

    def join(rows, facts, stop, *, threads_per_device):
        seen.update(facts())
        raise UserError("enough")

    monkeypatch.setattr(job, "join_job", join)
    stored = find_model("digits", {}, "--model=digits")
    with (
        pytest.raises(UserError, match="enough"),
        job.start_job(Stop(), "sample", stored.config, stored=stored),
    ):
        pass
    expected = sha256(drl_jax.load("digits").model)
    assert seen["the SHA-256 of the weights"] == expected


@pytest.mark.parametrize(
    ("command", "owns_process", "threads"),
    # In a notebook a program with several collectives may follow.
    [
        ("train", True, 1),
        ("sample", True, 1),
        ("evaluate", True, 1),
        ("likelihood", True, 2),
        ("train", False, 2),
    ],
)
def test_threads_for_each_device(command, owns_process, threads, monkeypatch):
    asked = []

    def join(rows, facts, stop, *, threads_per_device):
        asked.append(threads_per_device)
        raise UserError("enough")

    monkeypatch.setattr(job, "join_job", join)
    stop, stored = Stop(), find_model("digits", {}, "--model=digits")
    stop.owns_process = owns_process
    with pytest.raises(UserError, match="enough"), job.start_job(stop, command, stored.config, stored=stored):
        pass
    assert asked == [threads]


def test_a_known_time_of_training_is_kept(program, workdir, tmp_path):
    """The file of an earlier version of `export` does not say how long training took."""
    tree, about, _ = weights.find(str(workdir / pretrained.FILE))
    assert about.pop("seconds") > 0
    weights.write(epath.Path(tmp_path / "old.safetensors"), tree, about)
    metrics = "--config.evaluation.metrics=frechet_pixels"
    for source, seconds in (
        (tmp_path / "old.safetensors", None),
        (workdir, 1),
        (tmp_path / "old.safetensors", 1),
    ):
        assert program("evaluate", f"--model={source}", f"--output={tmp_path}", metrics).code == 0
        assert bool(result(tmp_path)["training"]["seconds"]) == bool(seconds)


def test_show_prints_the_config_of_a_model(program):
    outcome = program("sample", "--model=digits", "--show", "--config.sampler.noise_scale=1")
    assert json.loads(outcome.out)["sampler"]["noise_scale"] == 1
    assert json.loads(outcome.out)["data"]["name"] == "digits"
    # Of a config too, without a model.
    outcome = program("sample", "--config=digits.py", "--show")
    assert json.loads(outcome.out)["data"]["name"] == "digits"


MISTAKES = {
    "two models": (
        ("--model=digits", "--workdir=runs/a"),
        "--workdir=runs/a is not possible with --model=digits",
    ),
    "a config": (
        ("--model=digits", "--config=digits"),
        "is not possible with --model=digits; give one of them",
    ),
    "no such model": (
        ("--model=digit",),
        "--model=digit is no model: it must be one that ships (cifar10, digits",
    ),
    "an empty name": (("--model=",), "--model is missing"),
    "neither": ((), "--model is missing; name a model that ships"),
    "no workdir": (("--config=digits.py",), "--model is missing; name a model that ships"),
    "a store that cannot be read": (("--model=s3://a/b",), "--model=s3://a/b is not possible"),
    "an address of a file": (("--model=file:///a/b",), "write --model=/a/b"),
    "trained otherwise": (("--model=digits", "--config.levels.count=3"), "config.levels.count"),
    "a step": (("--model=digits", "--config.evaluation.step=3"), "step=3 is possible only with the workdir"),
}


@pytest.mark.parametrize("command", ["sample", "evaluate"])
@pytest.mark.parametrize(("flags", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes(program, tmp_path, command, flags, message):
    outcome = program(command, *flags, f"--output={tmp_path / 'out'}")
    assert outcome.code == 1
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_named(program, tmp_path):
    (tmp_path / "file").write_text("")
    outcome = program("sample", "--model=digits", f"--output={tmp_path}/file")
    assert outcome.code == 1
    assert f"--output={tmp_path}/file cannot be written" in outcome.err


def test_a_current_folder_that_cannot_be_written_is_named(program, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def check_writable(folder):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(files, "check_writable", check_writable)
    outcome = program("sample", "--model=digits")
    assert f"the current folder, {tmp_path}, cannot be written: Permission denied" in outcome.err
    assert "--output=DIR" in outcome.err
