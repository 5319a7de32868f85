"""Whole runs of the program: what it leaves, that it continues where it stopped, that it samples."""

import json
import shutil

import jax
import numpy as np
import pytest
from etils import epath
from PIL import Image

from drl_jax.checkpoints.orbax import FOLDER, load
from drl_jax.config import schema
from drl_jax.config.build import build
from drl_jax.config.overrides import parse
from drl_jax.core.levels import make_levels
from drl_jax.parallel.mesh import place
from tests.helpers import CONFIGS, POINTS, small

DIGITS = ["--config=digits.py", *small()]
WALL_CLOCK = ("steps_per_second", "evaluation_seconds")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return f"--config.data.data_dir={tmp_path_factory.mktemp('data')}"


def state_of(workdir):
    """The newest checkpoint: (state as numpy, position in the data)."""
    parts = build(schema.load(epath.Path(workdir) / "config.json"))
    like = place(4).abstract(jax.eval_shape(parts.init_state, jax.random.key(0)))
    checkpoint, damaged = load(epath.Path(workdir) / FOLDER, like)
    assert checkpoint is not None
    assert not damaged
    state = checkpoint.tree.replace(key=jax.random.key_data(checkpoint.tree.key))
    return jax.tree.map(np.asarray, state), checkpoint.record["position"]


def records_of(workdir) -> list[dict]:
    """metrics.jsonl without the fields that depend on the clock."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in WALL_CLOCK} for line in lines]


def test_a_run_stopped_and_continued_is_the_run(program, tmp_path, data_dir):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert program("train", *DIGITS, data_dir, f"--workdir={whole}").code == 0
    first = program("train", *DIGITS, data_dir, f"--workdir={parts}", "--config.training.steps=2")
    assert first.code == 0
    # The same line again, with the workdir's own config and more steps.
    second = program("train", f"--workdir={parts}", "--config.training.steps=4")
    assert second.code == 0, second.err
    assert "continuing from step 2" in second.out

    (a, position_a), (b, position_b) = state_of(whole), state_of(parts)
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert position_a == position_b
    assert records_of(whole) == records_of(parts)
    assert [r["step"] for r in records_of(whole)] == [2, 4]

    again = program("train", f"--workdir={parts}")
    assert again.code == 0
    assert records_of(whole) == records_of(parts)


def test_what_a_run_prints_and_leaves(program, tmp_path, data_dir, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a workdir relative to the current folder, as in the README
    workdir = tmp_path / "run"
    ended = program("train", *DIGITS, data_dir, "--workdir=run", "--config.evaluation.metrics=frechet_pixels")
    assert ended.code == 0, ended.err
    for text in ("Total: ", "4 cpu devices in 1 process", "1797 examples of digits", "steps/s", "examples/s"):
        assert text in ended.out
    for name in ("frechet_pixels", "frechet_pixels_data_vs_data", "frechet_pixels_untrained"):
        assert name in ended.out
    scores = json.loads((workdir / "scores.json").read_text())["scores"]
    # Two random halves of the digits: between .2 and .4 (measured: .24 to .32 over five permutations).
    assert 0.2 < scores["frechet_pixels_data_vs_data"] < 0.4
    assert scores["frechet_pixels"] > scores["frechet_pixels_data_vs_data"]

    assert schema.load(epath.Path(workdir) / "config.json").levels.count == 3
    assert list((workdir / "tensorboard").glob("events.*"))
    with Image.open(workdir / "samples/0000004.png") as grid:
        assert grid.mode == "L"
    assert (workdir / "samples/0000004_process.png").exists()
    record = records_of(workdir)[0]
    assert {
        "loss",
        "loss/level_0",
        "positive/level_0",
        "displacement/level_0",
        "gradient_norm/level_0",
    } <= set(record)


def test_sampling_from_a_run(program, tmp_path, data_dir):
    workdir = tmp_path / "run"
    assert program("train", *DIGITS, data_dir, f"--workdir={workdir}").code == 0

    def samples(*overrides):
        ended = program("sample", f"--workdir={workdir}", *overrides)
        assert ended.code == 0, ended.err
        with np.load(workdir / "samples.npz") as file:
            return file["arr_0"]

    five = samples("--config.evaluation.num_samples=5")
    assert five.shape == (5, 8, 8, 1)
    assert five.dtype == np.uint8
    assert (workdir / "samples.png").exists()
    # Sample i is a function of (weights, seed, i): the batch does not matter.
    eight = ["--config.evaluation.num_samples=8", "--config.evaluation.save_every=8"]
    np.testing.assert_array_equal(samples(*eight)[:5], five)
    # … nor whether it divides over the four devices.
    np.testing.assert_array_equal(samples(*eight[:1], "--config.evaluation.save_every=3")[:5], five)
    assert (samples(*eight, "--config.evaluation.seed=1")[:5] != five).any()


def test_a_run_whose_checkpoints_are_gone(program, tmp_path, data_dir):
    workdir = tmp_path / "run"
    short = ["--config.training.steps=1", "--config.evaluation.num_samples=1"]
    assert program("train", *DIGITS, data_dir, f"--workdir={workdir}", *short).code == 0
    shutil.rmtree(workdir / "checkpoints")
    ended = program("sample", f"--workdir={workdir}")
    assert ended.code == 1
    assert "holds no checkpoint" in ended.err
    # Nothing is left that other settings could spoil.
    other = [*short, "--config.training.seed=1"]
    assert program("train", *DIGITS, data_dir, f"--workdir={workdir}", *other).code == 0
    assert schema.load(epath.Path(workdir) / "config.json").training.seed == 1


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        # The published network sizes; points and digits are ours.
        ("cifar10.py", 34_833_408),
        ("cifar10.py:small", 9_056_256),
        ("cifar10.py:t1k", 34_833_408),
        ("celeba64.py", 56_269_568),
        ("lsun64.py:bedroom", 19_153_664),
        ("lsun128.py:church", 29_119_232),
        ("lsun128.py:bedroom", 71_904_512),
        *((f"digits.py{setting}", None) for setting in ("", ":t1k", ":t1k_dsm")),
        ("points.py:spirals", None),
    ],
)
def test_every_config_builds(config, parameters):
    parts = build(parse([f"--config={CONFIGS}/{config}"]).config)
    state = jax.eval_shape(parts.init_state, jax.random.key(0))
    count = sum(x.size for x in jax.tree.leaves(state.params))
    assert parameters in (None, count)


COMMON = {
    "data.flip": True,
    "network.width": 128,
    "network.attention": (),
    "levels.b_squared": 2e-4,
    "sampler.steps": 30,
    "sampler.noise_scale": 0.99,
    "sampler.step_range": 1.0,
    "optimizer.learning_rate": 1e-4,
    "optimizer.warmup_steps": 1000,
    "optimizer.decay_steps": None,
    "optimizer.beta2": 0.999,
    "optimizer.epsilon": 1e-7,
    "optimizer.clip_norm": None,
    "spectral.iterations": 1,
    "training.steps": 240_000,
    "training.ema_decay": 0.999,
    "training.energy_penalty": 0.0,
}
PAPER = {
    # side, batch, crop, multipliers, blocks, beta1
    "cifar10.py:t6": (32, 256, None, (1, 2, 2, 2), 8, 0.9),
    "cifar10.py:small": (32, 256, None, (1, 2, 2, 2), 2, 0.9),
    "celeba64.py": (64, 128, (20, 0, 178, 178), (1, 2, 2, 2, 4), 6, 0.5),
    "lsun64.py:church": (64, 128, None, (1, 2, 2, 2, 4), 2, 0.9),
    "lsun64.py:bedroom": (64, 128, None, (1, 2, 2, 2, 4), 2, 0.9),
    "lsun128.py:church": (128, 64, None, (1, 2, 2, 2, 4, 4), 2, 0.5),
    "lsun128.py:bedroom": (128, 64, None, (1, 2, 2, 2, 4, 4), 5, 0.5),
}


@pytest.mark.parametrize("config", PAPER)
def test_configs_are_those_of_the_paper(config):
    # From the paper's appendix and, where it is silent, the authors' code.
    keys = (
        "data.image_size", "data.batch_size", "data.crop", "network.multipliers",
        "network.blocks_per_resolution", "optimizer.beta1",
    )  # fmt: skip
    expected = COMMON | dict(zip(keys, PAPER[config], strict=True))
    parsed = parse([f"--config={CONFIGS}/{config}"]).config
    got = schema.flatten(schema.to_dict(parsed))
    assert {key: got[key] for key in expected} == expected
    # Six levels with the step as temperature and growing steps: T6, whose numbers are in test_levels.py.
    levels, t6 = build(parsed).levels, make_levels(6, step_growth=1.0, temperature="step")
    for name, values in vars(t6).items():
        np.testing.assert_array_equal(getattr(levels, name), values)


def test_a_thousand_levels_need_nothing_but_their_number():
    levels = build(parse([f"--config={CONFIGS}/cifar10.py", "--config.levels.count=1000"]).config).levels
    np.testing.assert_array_equal(levels.temperature, levels.sigma_cum[1:])
    np.testing.assert_allclose(levels.step_squared, 2e-4 * levels.sigma[1:] ** 2)


@pytest.mark.parametrize(
    ("setting", "changed"),
    [
        ("k10", {"sampler.steps": 10}),
        ("k50", {"sampler.steps": 50}),
        ("t1", {"levels.count": 1, "sampler.steps": 180}),
    ],
)
def test_an_ablation_changes_nothing_else(setting, changed):
    t6, other = (
        schema.flatten(schema.to_dict(parse([f"--config={CONFIGS}/cifar10.py:{name}"]).config))
        for name in ("t6", setting)
    )
    assert {key: value for key, value in other.items() if value != t6[key]} == changed


@pytest.mark.parametrize("setting", ["t1k", "t1k_dsm"])
def test_a_thousand_levels_train_and_sample(setting, program, tmp_path):
    flags = small(sampler__steps=0, evaluation__metrics="frechet_pixels")
    flags = [flag for flag in flags if not flag.startswith("--config.levels.count")]
    ended = program("train", f"--config=digits.py:{setting}", *flags, f"--workdir={tmp_path}")
    assert ended.code == 0, ended.err
    assert ("normal approximation" if setting == "t1k" else "score matching") in ended.out
    record = records_of(tmp_path)[-1]
    assert record["frechet_pixels"] > 0
    if setting == "t1k_dsm":
        return
    # Two steps of Langevin after each draw make other samples.
    samples = []
    for steps in (0, 2):
        assert program("sample", f"--workdir={tmp_path}", f"--config.sampler.steps={steps}").code == 0
        with np.load(tmp_path / "samples.npz") as file:
            samples.append(file["arr_0"])
    assert samples[0].shape == samples[1].shape == (6, 8, 8, 1)
    assert (samples[0] != samples[1]).any()


@pytest.mark.parametrize(
    ("config", "overrides"),
    [
        ("celeba64.py", {"network__multipliers": "(1, 2)"}),
        pytest.param("cifar10.py:small", {}, marks=pytest.mark.slow),
        pytest.param("celeba64.py", {}, marks=pytest.mark.slow),
        pytest.param("lsun128.py", {}, marks=pytest.mark.slow),
    ],
)
def test_image_configs_train_when_shrunk(config, overrides, program, tmp_path):
    # Any folder of images stands in for the sets that are not at hand.
    rng = np.random.default_rng(0)
    for i in range(5):
        pixels = rng.integers(0, 256, (218, 178, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    ended = program(
        "train",
        f"--config={config}",
        *small(training__steps=1, evaluation__num_samples=1, **overrides),
        "--config.data.name=folder",
        f"--config.data.path={tmp_path}",
        f"--workdir={tmp_path / 'run'}",
    )
    assert ended.code == 0, ended.err
    assert (tmp_path / "run/samples/0000001.png").exists()


def test_a_thousand_levels_in_bfloat16_with_attention(program, tmp_path):
    flags = small(
        training__steps=1,
        levels__count=1000,
        levels__sigma_0=None,
        levels__step_growth=None,
        sampler__steps=1,
        network__dtype="bfloat16",
        network__attention="(4,)",
        network__conv_shortcut=False,
    )
    ended = program("train", "--config=digits.py", *flags, f"--workdir={tmp_path}")
    assert ended.code == 0, ended.err
    assert np.isfinite(records_of(tmp_path)[-1]["loss"])
    assert program("sample", f"--workdir={tmp_path}").code == 0
    with np.load(tmp_path / "samples.npz") as file:
        assert file["arr_0"].shape == (6, 8, 8, 1)


def test_points_train_with_one_level(program, tmp_path):
    ended = program("train", "--config=points.py:ring", f"--workdir={tmp_path}", *POINTS)
    assert ended.code == 0, ended.err
    assert "total_variation" in ended.out
    assert (tmp_path / "samples/0000002.png").exists()
    assert program("sample", f"--workdir={tmp_path}").code == 0
    with np.load(tmp_path / "samples.npz") as file:
        assert file["arr_0"].shape == (40, 2)
