"""`sample` and `evaluate` with --model: of a model that ships, of a workdir, and of a file of weights."""

import json

import numpy as np
import pytest

import drl_jax
from drl_jax import pretrained
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


def test_show_prints_the_config_of_a_model(program):
    outcome = program("sample", "--model=digits", "--show", "--config.sampler.noise_scale=1")
    assert json.loads(outcome.out)["sampler"]["noise_scale"] == 1
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
    "no such model": (("--model=digit",), "'digit' is no model"),
    "an empty name": (("--model=",), "--model is missing"),
    "neither": ((), "--config is missing"),
    "no workdir": (("--config=digits.py",), "needs the folder of a run, or --model=NAME"),
    "trained otherwise": (("--model=digits", "--config.levels.count=3"), "config.levels.count"),
    "a step": (("--model=digits", "--config.evaluation.step=3"), "config.evaluation.step=3 is of a workdir"),
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
