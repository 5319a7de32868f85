"""`evaluate` and `check`: the same numbers however they come about, and one line for each mistake."""

import hashlib
import json
import pickle
import re
import shutil
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from drl_jax.evaluation.measures import TOTAL_VARIATION
from drl_jax.metrics.sample_scores import precision_recall
from etils import epath
from PIL import Image

from drl_jax.data.prepare import prepare
from drl_jax.data.sources import open_source
from drl_jax.errors import UserError
from drl_jax.evaluation import features
from drl_jax.main import main
from drl_jax.parallel import devices
from drl_jax.pixels import to_unit
from tests.data.helpers import write_cifar10_archive
from tests.helpers import CONFIGS, small
from tests.metrics import inputs

PIXELS = "frechet_pixels,kid_pixels,precision_recall_pixels"
COUNT = 70


def run(*arguments) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    assert ended.value.code == 0


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    """The workdir of a short run, with checkpoints of steps 2 and 4."""
    workdir, data = (tmp_path_factory.mktemp(name) for name in ("digits", "data"))
    run(
        "train", f"--config={CONFIGS}/digits.py", f"--workdir={workdir}", *small(),
        f"--config.data.data_dir={data}",
    )  # fmt: skip
    return workdir


@pytest.fixture
def copied(digits, tmp_path) -> Path:
    """A copy of it, for a test of its own."""
    return shutil.copytree(digits, tmp_path / "run")


def measuring(workdir, *, count=COUNT, batch=64, metrics=PIXELS, seed=0) -> list[str]:
    values = {"num_samples": count, "batch_size": batch, "metrics": metrics, "seed": seed}
    return ["evaluate", f"--workdir={workdir}", *(f"--config.evaluation.{k}={v}" for k, v in values.items())]


def result(workdir, count=COUNT) -> dict:
    (file,) = Path(workdir).glob(f"evaluations/*/result_{count}.json")
    return json.loads(file.read_text())


@pytest.fixture(scope="module")
def expected(digits, tmp_path_factory) -> dict:
    """What 70 samples score, measured in one go on four devices."""
    workdir = shutil.copytree(digits, tmp_path_factory.mktemp("expected") / "run")
    run(*measuring(workdir))
    return result(workdir)


def assert_same(got: dict, expected: dict) -> None:
    """Identical images; the same scores to 1e-9."""
    assert got["protocol"] == expected["protocol"]
    for kind in ("scores", "halves_of_the_data"):
        assert got[kind].keys() == expected[kind].keys()
        for name, value in expected[kind].items():
            np.testing.assert_allclose(got[kind][name], value, rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("batch", [7, 33])
def test_the_batch_does_not_matter(batch, copied, program, expected):
    assert program(*measuring(copied, batch=batch)).code == 0
    assert_same(result(copied), expected)


def test_the_devices_do_not_matter(copied, program, expected, monkeypatch):
    monkeypatch.setattr(devices, "place", partial(devices.place, devices=jax.devices()[:1]))
    assert program(*measuring(copied)).code == 0
    assert_same(result(copied), expected)


def test_an_evaluation_goes_on_where_it_was_interrupted(copied, program, expected):
    # As long as it got: two of its parts, and one that is damaged.
    assert program(*measuring(copied, count=30, batch=12)).code == 0
    parts = sorted(copied.glob("evaluations/*/part_*.npz"))
    assert [p.name for p in parts] == ["part_0000000.npz", "part_0000012.npz", "part_0000024.npz"]
    content = bytearray(parts[2].read_bytes())
    content[len(content) // 2] ^= 1
    parts[2].write_bytes(content)
    ended = program(*measuring(copied, batch=32))
    assert ended.code == 0
    assert "24 of 70 samples are there already" in ended.out
    assert_same(result(copied), expected)
    # All is there: nothing is drawn. What was measured of the same samples stays in the file.
    again = program(*measuring(copied, metrics="kid_pixels"))
    assert "70 of 70 samples are there already" in again.out
    assert "frechet" not in again.out
    assert_same(result(copied), expected)


def test_what_a_number_comes_with(copied, program, expected):
    protocol = expected["protocol"]
    assert protocol["samples"]["count"] == COUNT
    assert protocol["samples"]["noise_scale"] == 0.99
    assert protocol["samples"]["step"] == 4
    assert protocol["reference"]["count"] == 1797
    assert protocol["reference"]["examples_in_pixels"] == 898
    assert expected["training"]["seconds"] > 0
    assert "4 cpu devices" in expected["training"]["machine"]
    # The distance of the halves of the digits is that which `train` prints; see test_runs.py.
    assert 0.2 < expected["halves_of_the_data"]["frechet_pixels"] < 0.4
    ended = program(*measuring(copied, count=20))
    assert "20 samples have a singular covariance in the 64 dimensions of frechet_pixels" in ended.err
    for text in ("frechet_pixels ", "frechet_pixels_halves ", "noise_scale 0.99", "weights_sha256", "commit"):
        assert text in ended.out
    with Image.open(next(copied.glob("evaluations/*/samples.png"))) as grid:
        assert grid.mode == "L"


def test_other_weights_and_seeds_are_other_samples(copied, program, expected):
    assert program(*measuring(copied, seed=1)).code == 0
    other = result(copied)
    assert other["protocol"]["samples"]["sha256"] != expected["protocol"]["samples"]["sha256"]
    assert program(*measuring(copied), "--config.evaluation.step=2").code == 0
    assert len(list(copied.glob("evaluations/*/result_70.json"))) == 2


def test_points_are_measured_by_their_density(program, tmp_path):
    few = ["--config.data.batch_size=4", "--config.evaluation.num_samples=40", "--config.levels.count=2"]
    workdir = f"--workdir={tmp_path}"
    short = ["--config.training.steps=1", "--config.evaluation.metrics=none", *few]
    assert program("train", "--config=points.py:ring", workdir, *short).code == 0
    metrics = "total_variation,frechet_points,kid_points"
    ended = program("evaluate", workdir, f"--config.evaluation.metrics={metrics}")
    assert ended.code == 0, ended.err
    scores = result(tmp_path, 40)["scores"]
    assert 0 < scores[f"{TOTAL_VARIATION}/level_0"] < 1
    assert {"frechet_points", "kid_points"} <= scores.keys()


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    """A file of weights, drawn from a seed."""
    shapes = json.loads((Path(inputs.__file__).parent / "inception_shapes.json").read_text())
    file = tmp_path_factory.mktemp("weights") / "inception.pth"
    file.write_bytes(inputs.pth(inputs.weights(shapes)))
    return str(file)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> list[str]:
    """The workdir of a short run on a folder of 24 images."""
    folder, workdir, data = (tmp_path_factory.mktemp(name) for name in ("images", "run", "data"))
    rng = np.random.default_rng(0)
    for i in range(24):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    given = [
        f"--config={CONFIGS}/digits.py", f"--workdir={workdir}", *small(training__steps=1),
        "--config.data.name=folder", f"--config.data.path={folder}", f"--config.data.data_dir={data}",
        "--config.data.channels=3",
    ]  # fmt: skip
    run("train", *given)
    return given


INCEPTION = "fid,inception_score,kid,precision_recall"


def test_scores_of_inception(images, weights, program, monkeypatch):
    monkeypatch.setattr(features, "_ROWS", 3)  # a device's batch: twelve images shall not cost as much as 64
    workdir, data = (Path(images[i].split("=", 1)[1]) for i in (1, -2))
    sha256 = hashlib.sha256(Path(weights).read_bytes()).hexdigest()
    given = [
        f"--config.evaluation.inception_weights={weights}",
        f"--config.evaluation.inception_sha256={sha256}",
    ]

    def scores(**settings):
        ended = program(*measuring(workdir, count=12, metrics=INCEPTION, **settings), *given)
        assert ended.code == 0, ended.err
        assert "12 samples have a singular covariance in the 2048 dimensions of fid" in ended.err
        return result(workdir, 12)

    first = scores(batch=64)
    assert {"fid_12", "inception_score", "kid", "precision", "recall"} <= first["scores"].keys()
    assert all(np.isfinite(value) for value in first["scores"].values())
    assert first["protocol"]["inception"]["weights_sha256"] == sha256
    assert first["protocol"]["reference"]["examples_in_inception"] == 24
    (cached,) = data.glob("features/inception_*.npz")
    # From the start, in other batches, with the features of the data from the cache: the same.
    shutil.rmtree(workdir / "evaluations")
    before = cached.stat().st_mtime_ns
    assert_same(scores(batch=7), first)
    assert cached.stat().st_mtime_ns == before
    # A damaged cache is made again.
    cached.write_bytes(cached.read_bytes()[:1000])
    assert_same(scores(batch=7), first)
    assert cached.stat().st_size > 1000


def test_data_against_themselves(program, copied, expected):
    ended = program("check", f"--workdir={copied}", f"--config.evaluation.metrics={PIXELS}")
    assert ended.code == 0, ended.err
    value = expected["halves_of_the_data"]["frechet_pixels"]
    assert f"{value:.5g}" in ended.out
    for text in ("name digits, split train", "count 1797", "scale 0 … 255 to -1 … 1", "code: commit"):
        assert text in ended.out


def test_the_test_split_against_the_training_split(program, tmp_path):
    write_cifar10_archive(tmp_path / "cifar-10-binary.tar.gz", per_batch=12)
    prepare("cifar10", data_dir=str(tmp_path), path=str(tmp_path))
    metrics = "kid_pixels,precision_recall_pixels"
    ended = program(
        "check", "--config=cifar10.py", f"--config.data.data_dir={tmp_path}",
        f"--config.evaluation.metrics={metrics}",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert "name cifar10, split train" in ended.out
    # In the order in which data are measured, which is random and always the same.
    sources = [
        open_source("cifar10", image_size=32, split=split, data_dir=str(tmp_path))
        for split in ("train", "test")
    ]
    drawn = [source.take(np.random.default_rng(0).permutation(len(source))) for source in sources]
    train, test = (to_unit(x).reshape(-1, 3072) for x in drawn)
    told = ended.out.split("test against train:")[1]
    value = float(re.search(r"kid_pixels +(\S+)", told)[1])  # pyright: ignore[reportOptionalSubscript]
    rng = np.random.RandomState(2020)  # whose subsets of the larger side differ: the mean of 100
    draws = [
        kernel_distance_of(test[rng.choice(12, 12, replace=False)], train[rng.choice(60, 12, replace=False)])
        for _ in range(100)
    ]
    np.testing.assert_allclose(value, np.mean(draws), rtol=1e-4)
    shares = precision_recall(test, train)
    assert f"{shares.precision:.5g}" in told
    assert f"{shares.recall:.5g}" in told


def kernel_distance_of(x, y) -> float:
    """The unbiased squared discrepancy, written out."""
    kernel = lambda a, b: (a.astype(float) @ b.T.astype(float) / a.shape[1] + 1) ** 3
    n, xx, yy = len(x), kernel(x, x), kernel(y, y)
    within = (xx.sum() - np.trace(xx) + yy.sum() - np.trace(yy)) / (n * (n - 1))
    return within - 2 * kernel(x, y).mean()


def test_the_public_weights_are_fetched_once_and_checked(tmp_path, monkeypatch):
    served = tmp_path / "weights.pth"
    served.write_bytes(b"the public weights")
    folder = epath.Path(tmp_path / "data")
    monkeypatch.setattr(features, "PUBLIC_URL", served.as_uri())
    with pytest.raises(UserError, match=r"cannot download .*its SHA-256 is .*; download it by other"):
        features.fetch_weights(folder)
    assert list(folder.iterdir()) == []
    monkeypatch.setattr(features, "PUBLIC_SHA256", hashlib.sha256(b"the public weights").hexdigest()[:8])
    path = features.fetch_weights(folder)
    served.unlink()
    assert features.fetch_weights(folder) == path
    assert Path(path).read_bytes() == b"the public weights"


MISTAKES = {
    "unknown metric": ({"metrics": "fdi"}, ["'fdi' is no metric of images", "fid"]),
    "nothing to measure": ({"metrics": "none"}, ["config.evaluation.metrics=none"]),
    "metric of points": ({"metrics": "total_variation"}, ["no metric of images"]),
    "too few samples": (
        {"count": 4, "metrics": PIXELS},
        ["config.evaluation.num_samples=4", "5 are the least"],
    ),
    "no weights": ({"metrics": "fid"}, ["config.evaluation.inception_weights", "fetch"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_ends_in_one_line(mistake, program, copied):
    settings, expected = MISTAKES[mistake]
    ended = program(*measuring(copied, **settings))
    assert_one_line(ended, expected)
    assert not (copied / "evaluations").exists()


def assert_one_line(ended, expected):
    assert ended.code == 1
    assert ended.err.startswith("drl-jax: ")
    assert ended.err.count("\n") == 1, ended.err
    for text in expected:
        assert text in ended.err, ended.err


def test_a_step_without_a_checkpoint(program, copied):
    ended = program(*measuring(copied), "--config.evaluation.step=3")
    assert_one_line(ended, ["config.evaluation.step=3", "2, 4"])


def test_samples_that_are_not_finite_have_no_score(program, copied):
    ended = program(*measuring(copied, count=10), "--config.sampler.noise_scale=1e38")
    assert_one_line(ended, ["of the samples 0 … ", "are not finite", "diverged"])
    assert not list(copied.glob("evaluations/*/result_*"))
    ended = program("sample", f"--workdir={copied}", "--config.sampler.noise_scale=1e38")
    assert ended.code == 0
    assert "of 4 samples are not finite" in ended.err


def test_fewer_samples_than_a_batch_are_drawn_all_the_same(program, copied):
    ended = program(*measuring(copied, count=10, batch=64))
    assert ended.code == 0
    said = "config.evaluation.save_every=64: 10 samples do not fill a batch, and are saved as one"
    assert ended.out.splitlines()[0] == said
    assert result(copied, 10)["protocol"]["samples"]["count"] == 10


def evil(path: Path) -> None:
    path.write_bytes(pickle.dumps({"a.weight": inputs.Evil()}, protocol=2))


@pytest.mark.parametrize(
    ("damage", "sha256", "expected"),
    [
        (lambda path: path.unlink(), "6726825d", ["cannot be read", "No such file"]),
        (lambda path: path.write_bytes(b"other"), "6726825d", ["SHA-256", "6726825d", "torch-fidelity"]),
        (lambda path: path.write_bytes(path.read_bytes()[:10_000]), None, ["does not hold the weights"]),
        (evil, None, ["would run code", "exec"]),
    ],
)
def test_a_bad_file_of_weights(damage, sha256, expected, weights, program, copied, tmp_path):
    file = tmp_path / "weights.pth"
    shutil.copy(weights, file)
    damage(file)
    sha256 = sha256 or hashlib.sha256(file.read_bytes()).hexdigest()[:8]
    given = [
        f"--config.evaluation.inception_weights={file}",
        f"--config.evaluation.inception_sha256={sha256}",
    ]
    assert_one_line(program(*measuring(copied, metrics="fid"), *given), [str(file), *expected])


def test_data_without_examples(program, tmp_path):
    (tmp_path / "empty").mkdir()
    ended = program(
        "check", "--config=digits.py", "--config.data.name=folder", f"--config.data.path={tmp_path}/empty"
    )
    assert_one_line(ended, ["holds no images"])
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "empty/one.png")
    ended = program(
        "check", "--config=digits.py", "--config.data.name=folder", f"--config.data.path={tmp_path}/empty"
    )
    assert_one_line(ended, ["1 examples are too few data", "10 are the least"])
