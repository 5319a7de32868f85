"""`evaluate` and `baseline`: the same numbers whatever the circumstances, and one line for each mistake."""

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
from etils import epath
from PIL import Image

from drl_jax.commands import job
from drl_jax.data.prepare import prepare
from drl_jax.data.sources import open_source
from drl_jax.errors import UserError
from drl_jax.evaluation import features
from drl_jax.evaluation.scores import TOTAL_VARIATION
from drl_jax.evaluation.store import IDENTITY, SampleStore
from drl_jax.metrics.precision_recall import precision_recall
from drl_jax.parallel.mesh import place
from drl_jax.pixels import to_unit
from drl_jax.report import provenance
from tests.data.helpers import write_cifar10_archive
from tests.helpers import CONFIGS, POINTS, run, small
from tests.metrics import inputs

PIXELS = "frechet_pixels,kid_pixels,precision_recall_pixels"
COUNT = 70  # 16 at a time: 4 on each of four devices


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    """The workdir of a short run, with checkpoints of steps 2 and 4."""
    workdir, data = (tmp_path_factory.mktemp(name) for name in ("digits", "data"))
    run(
        "train", f"--config={CONFIGS}/digits.py", f"--workdir={workdir}", f"--config.data.data_dir={data}",
        *small(),
    )  # fmt: skip
    return workdir


@pytest.fixture
def copied(digits, tmp_path) -> Path:
    """A copy of it, for a test of its own."""
    return shutil.copytree(digits, tmp_path / "run")


def measuring(workdir, *, count=COUNT, save_every=64, metrics=PIXELS, seed=0) -> list[str]:
    values = {"num_samples": count, "save_every": save_every, "metrics": metrics, "seed": seed}
    return ["evaluate", f"--workdir={workdir}", *(f"--config.evaluation.{k}={v}" for k, v in values.items())]


def result(workdir, count=COUNT) -> dict:
    (file,) = Path(workdir).glob(f"evaluations/*/result_{count}.json")
    return json.loads(file.read_text())


@pytest.fixture(scope="module")
def whole(digits, tmp_path_factory) -> Path:
    """The workdir of an evaluation of 70 samples, on four devices and without an interruption."""
    workdir = shutil.copytree(digits, tmp_path_factory.mktemp("whole") / "run")
    run(*measuring(workdir))
    return workdir


@pytest.fixture(scope="module")
def expected(whole) -> dict:
    """The result of that evaluation."""
    return result(whole)


def assert_same(got: dict, expected: dict) -> None:
    """Identical samples; the same scores to 1e-9."""
    assert got["protocol"] == expected["protocol"]
    for kind in ("scores", "data_vs_data"):
        assert got[kind].keys() == expected[kind].keys()
        for name, value in expected[kind].items():
            np.testing.assert_allclose(got[kind][name], value, rtol=1e-9, atol=1e-12, err_msg=name)


def assert_nothing_is_drawn(ended, count=COUNT) -> None:
    assert ended.code == 0, ended.err
    assert f"{count} of {count} samples exist already" in ended.out
    assert "\nsample " not in ended.out


def image_of(workdir, name="samples") -> bytes:
    (file,) = Path(workdir).glob(f"evaluations/*/{name}.png")
    return file.read_bytes()


@pytest.mark.parametrize("save_every", [7, 33])
def test_the_size_of_a_shard_does_not_matter(save_every, copied, program, expected):
    assert program(*measuring(copied, save_every=save_every)).code == 0
    assert_same(result(copied), expected)


def test_the_devices_do_not_matter(copied, program, expected, monkeypatch):
    monkeypatch.setattr(job, "place", partial(place, devices=jax.devices()[:1]))
    assert program(*measuring(copied)).code == 0
    assert_same(result(copied), expected)


def test_an_evaluation_of_finished_samples_draws_nothing(copied, program):
    # 6 is not a multiple of the 4 samples of a device.
    assert program(*measuring(copied, count=6)).code == 0
    first = result(copied, 6)
    assert_nothing_is_drawn(program(*measuring(copied, count=6)), 6)
    assert_same(result(copied, 6), first)


def test_an_evaluation_continues_where_it_was_interrupted(copied, program, whole, expected, monkeypatch):
    write = SampleStore.write

    def failing(self, shard):
        if shard.first >= 32:
            raise UserError("the disk is full")
        write(self, shard)

    with monkeypatch.context() as patched:
        patched.setattr(SampleStore, "write", failing)
        assert program(*measuring(copied, save_every=16)).code == 1
    assert not list(copied.glob("evaluations/*/result_*"))
    ended = program(*measuring(copied, save_every=16))
    assert ended.code == 0, ended.err
    assert "32 of 70 samples exist already" in ended.out
    assert_same(result(copied), expected)
    for name in ("samples", "samples_process"):
        assert image_of(copied, name) == image_of(whole, name)


def test_more_samples_begin_with_the_stored_ones(copied, program, whole, expected):
    # Two shards, one of them damaged.
    assert program(*measuring(copied, count=30, save_every=12)).code == 0
    shards = sorted(copied.glob("evaluations/*/samples_*.npz"))
    assert [p.name for p in shards] == ["samples_0000000.npz", "samples_0000016.npz"]
    shards[1].write_bytes(shards[1].read_bytes()[:-1])
    ended = program(*measuring(copied, save_every=32))
    assert ended.code == 0
    assert "16 of 70 samples exist already" in ended.out
    assert_same(result(copied), expected)
    assert image_of(copied) == image_of(whole)


def test_another_commit_or_metric_draws_nothing(copied, program, expected, monkeypatch):
    assert program(*measuring(copied, metrics="frechet_pixels")).code == 0
    before = provenance.versions()
    after = {"commit": "f" * 40, "versions": {**before["versions"], "grain": "9", "orbax-checkpoint": "9"}}
    monkeypatch.setattr(provenance, "versions", lambda: after)
    ended = program(*measuring(copied, metrics="kid_pixels,precision_recall_pixels"))
    assert_nothing_is_drawn(ended)
    assert "frechet" not in ended.out
    # The file keeps what was measured on the same samples before, and by which commit.
    merged = result(copied)
    assert_same(merged, expected)
    commits = {
        "frechet_pixels": before["commit"],
        "kid_pixels": "f" * 40,
        "precision_recall_pixels": "f" * 40,
    }
    assert merged["evaluation"]["commits"] == commits
    assert merged["commit"] == "f" * 40


def test_the_samples_of_an_evaluation_can_be_read(whole, expected):
    (file,) = whole.glob(f"evaluations/*/{IDENTITY}")
    identity = json.loads(file.read_text())
    assert identity.items() <= expected["protocol"]["samples"].items()
    for name in ("weights_sha256", "seed", "samples_per_device", "sampler.noise_scale", "jax", "device"):
        assert name in identity
    shards = list(SampleStore(epath.Path(file.parent)).read(COUNT))
    samples = np.concatenate([shard.samples for shard in shards])
    assert (samples.shape, samples.dtype) == ((COUNT, 8, 8, 1), np.uint8)
    digests = b"".join(hashlib.sha256(sample.tobytes()).digest() for sample in samples)
    assert hashlib.sha256(digests).hexdigest() == expected["protocol"]["samples"]["sha256"]


def test_what_a_number_comes_with(copied, program, expected):
    protocol = expected["protocol"]
    assert protocol["samples"]["count"] == COUNT
    assert protocol["samples"]["sampler.noise_scale"] == 0.99
    assert protocol["samples"]["step"] == 4
    assert protocol["reference"]["count"] == 1797
    assert protocol["reference"]["examples_in_pixels"] == 898
    assert expected["training"]["seconds"] > 0
    assert "4 cpu devices" in expected["training"]["machine"]
    # `train` prints the same distance of the halves of the digits; see test_runs.py.
    assert 0.2 < expected["data_vs_data"]["frechet_pixels"] < 0.4
    ended = program(*measuring(copied, count=20))
    assert "frechet_pixels has 64 dimensions, and 20 samples have a singular covariance" in ended.err
    for text in (
        "frechet_pixels ",
        "frechet_pixels_data_vs_data ",
        "noise_scale 0.99",
        "weights_sha256",
        "commit",
    ):
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
    workdir = f"--workdir={tmp_path}"
    without = "--config.evaluation.metrics=none"
    assert program("train", "--config=points.py:ring", workdir, *POINTS, without).code == 0
    metrics = "total_variation,frechet_points,kid_points"
    ended = program("evaluate", workdir, f"--config.evaluation.metrics={metrics}")
    assert ended.code == 0, ended.err
    scores = result(tmp_path, 40)["scores"]
    assert 0 < scores[f"{TOTAL_VARIATION}/level_0"] < 1
    assert {"frechet_points", "kid_points"} <= scores.keys()
    names = {path.name for path in tmp_path.glob("evaluations/*/*.png")}
    assert names == {"samples.png", "model_densities.png"}


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    """A file of weights, drawn from a seed."""
    shapes = json.loads((Path(inputs.__file__).parent / "inception_shapes.json").read_text())
    file = tmp_path_factory.mktemp("weights") / "inception.pth"
    file.write_bytes(inputs.pth(inputs.weights(shapes)))
    return str(file)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> tuple[Path, Path]:
    """The workdir and the data directory of a short run on a folder of 24 grey images."""
    folder, workdir, data = (tmp_path_factory.mktemp(name) for name in ("images", "run", "data"))
    rng = np.random.default_rng(0)
    for i in range(24):
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / f"{i}.png")
    run(
        "train", f"--config={CONFIGS}/digits.py", f"--workdir={workdir}", *small(training__steps=1),
        "--config.data.name=folder", f"--config.data.path={folder}", f"--config.data.data_dir={data}",
    )  # fmt: skip
    return workdir, data


INCEPTION = "fid,inception_score,kid,precision_recall"


def test_scores_of_inception(images, weights, program, monkeypatch):
    monkeypatch.setattr(features, "_ROWS", 3)  # images of a device: 12 images need not cost as much as 64
    workdir, data = images
    sha256 = hashlib.sha256(Path(weights).read_bytes()).hexdigest()
    given = [
        f"--config.evaluation.inception_weights={weights}",
        f"--config.evaluation.inception_sha256={sha256}",
    ]

    def scores(**settings):
        ended = program(*measuring(workdir, count=12, **{"metrics": INCEPTION, **settings}), *given)
        assert ended.code == 0, ended.err
        return result(workdir, 12), ended

    first, ended = scores()
    assert "fid has 2048 dimensions, and 12 samples have a singular covariance" in ended.err
    assert {"fid_12", "inception_score", "kid", "precision", "recall"} <= first["scores"].keys()
    assert all(np.isfinite(value) for value in first["scores"].values())
    assert first["protocol"]["inception"]["weights_sha256"] == sha256
    assert first["protocol"]["reference"]["examples_in_inception"] == 24
    (cached,) = data.glob("features/inception_*.npz")
    # Scores of another extractor draw nothing, and join those in the file.
    both, ended = scores(metrics=PIXELS)
    assert_nothing_is_drawn(ended, 12)
    assert first["scores"].keys() | {"frechet_pixels", "kid_pixels"} <= both["scores"].keys()
    assert both["protocol"]["reference"]["examples_in_inception"] == 24
    assert both["protocol"]["reference"]["examples_in_pixels"] == 12
    # The features of the samples are stored: they need no network. (The Fréchet distance takes longest.)
    before, quick = cached.stat().st_mtime_ns, INCEPTION.removeprefix("fid,")
    again, ended = scores(metrics=quick)
    assert_nothing_is_drawn(ended, 12)
    assert "features of sample" not in ended.out
    assert_same(again, both)
    # From the start, in other shards, with the features of the data from the cache: the same.
    shutil.rmtree(workdir / "evaluations")
    assert_same(scores(save_every=7)[0], first)
    assert cached.stat().st_mtime_ns == before
    # A damaged cache is made again.
    cached.write_bytes(cached.read_bytes()[:1000])
    assert_same(scores(metrics=quick)[0], first)
    assert cached.stat().st_size > 1000


def test_data_against_themselves(program, copied, expected):
    ended = program("baseline", f"--workdir={copied}", f"--config.evaluation.metrics={PIXELS}")
    assert ended.code == 0, ended.err
    value = expected["data_vs_data"]["frechet_pixels"]
    assert f"{value:.5g}" in ended.out
    for text in ("name digits, split train", "count 1797", "scale 0 … 255 to -1 … 1", "code: commit"):
        assert text in ended.out


def test_the_test_split_against_the_training_split(program, tmp_path):
    write_cifar10_archive(tmp_path / "cifar-10-binary.tar.gz", per_batch=12)
    prepare("cifar10", data_dir=str(tmp_path), path=str(tmp_path))
    metrics = "kid_pixels,precision_recall_pixels"
    ended = program(
        "baseline", "--config=cifar10.py", f"--config.data.data_dir={tmp_path}",
        f"--config.evaluation.metrics={metrics}",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert "name cifar10, split train" in ended.out
    # In the order in which data are read for the metrics: random and always the same.
    opened = {"image_size": 32, "data_dir": str(tmp_path)}
    sources = [open_source("cifar10", split=split, **opened) for split in ("train", "test")]
    drawn = [source.take(np.random.default_rng(0).permutation(len(source))) for source in sources]
    train, test = (to_unit(x).reshape(-1, 3072) for x in drawn)
    printed = ended.out.split("test against train:")[1]
    value = float(re.search(r"kid_pixels +(\S+)", printed)[1])  # pyright: ignore[reportOptionalSubscript]
    rng = np.random.RandomState(2020)  # the mean over 100 subsets, which differ on the larger side
    draws = [
        kid_of(test[rng.choice(12, 12, replace=False)], train[rng.choice(60, 12, replace=False)])
        for _ in range(100)
    ]
    np.testing.assert_allclose(value, np.mean(draws), rtol=1e-4)
    shares = precision_recall(test, train)
    assert f"{shares.precision:.5g}" in printed
    assert f"{shares.recall:.5g}" in printed


def test_samples_are_compared_with_the_split_that_is_named(program, tmp_path):
    write_cifar10_archive(tmp_path / "cifar-10-binary.tar.gz", per_batch=12)
    prepare("cifar10", data_dir=str(tmp_path), path=str(tmp_path))
    workdir = tmp_path / "run"
    flags = [
        "--config=cifar10.py:small",
        f"--workdir={workdir}",
        f"--config.data.data_dir={tmp_path}",
        *small(),
    ]
    assert program("train", *flags, "--config.evaluation.metrics=kid_pixels").code == 0
    for split in ("train", "test"):
        ended = program(
            *measuring(workdir, count=12, metrics="kid_pixels"), f"--config.evaluation.split={split}"
        )
        assert ended.code == 0, ended.err
        assert f"name cifar10, split {split}" in ended.out
    test, train = (
        json.loads((folder / name).read_text())
        for folder in workdir.glob("evaluations/*")
        for name in ("result_12_test.json", "result_12.json")
    )
    # Of the same samples, with other data: 12 test images, 60 training images, of which a half is compared.
    assert test["protocol"]["samples"] == train["protocol"]["samples"]
    about = [each["protocol"]["reference"] for each in (test, train)]
    assert [each["count"] for each in about] == [12, 60]
    assert [each["examples_in_pixels"] for each in about] == [6, 30]
    assert test["scores"]["kid_pixels"] != train["scores"]["kid_pixels"]
    # The scores of a training run too.
    again = [
        "--config.evaluation.split=test",
        "--config.evaluation.metrics=kid_pixels",
        "--config.training.steps=8",
    ]
    assert program("train", *flags, *again).code == 0
    ended = program(*measuring(workdir), "--config.evaluation.split=validation")
    assert (
        "config.evaluation.split=validation is not possible: the data set cifar10 has no such split"
        in ended.err
    )


def kid_of(x, y) -> float:
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
    with pytest.raises(UserError, match=r"cannot download .*SHA-256.*; download the file by other"):
        features.fetch_weights(folder)
    assert list(folder.iterdir()) == []
    monkeypatch.setattr(features, "PUBLIC_SHA256", hashlib.sha256(b"the public weights").hexdigest())
    path = features.fetch_weights(folder)
    served.unlink()
    assert features.fetch_weights(folder) == path
    assert Path(path).read_bytes() == b"the public weights"


MISTAKES = {
    "unknown metric": ({"metrics": "fdi"}, ["'fdi' is not a metric of images", "fid"]),
    "nothing to measure": ({"metrics": "none"}, ["config.evaluation.metrics=none"]),
    "metric of points": ({"metrics": "total_variation"}, ["is not a metric of images"]),
    "too few samples": (
        {"count": 4, "metrics": PIXELS},
        ["config.evaluation.num_samples=4", "must be at least 5"],
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
    assert not list(copied.glob("evaluations/*/*.npz"))
    given = ["--config.sampler.noise_scale=1e38", "--config.evaluation.num_samples=5"]
    ended = program("sample", f"--workdir={copied}", *given)
    assert ended.code == 0
    assert "of 5 samples are not finite" in ended.err


def test_fewer_samples_than_a_shard_are_saved_all_at_once(program, copied):
    ended = program(*measuring(copied, count=10, save_every=64))
    assert ended.code == 0
    line = "config.evaluation.save_every=64 is more than the 10 samples: they are saved all at once"
    assert ended.out.splitlines()[0] == line
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
        "baseline", "--config=digits.py", "--config.data.name=folder", f"--config.data.path={tmp_path}/empty"
    )
    assert_one_line(ended, ["holds no images"])
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "empty/one.png")
    ended = program(
        "baseline", "--config=digits.py", "--config.data.name=folder", f"--config.data.path={tmp_path}/empty"
    )
    assert_one_line(ended, ["needs at least 10 examples", "config.data has 1"])


@pytest.mark.parametrize(
    ("metrics", "count", "least"),
    [("frechet_pixels", 3, 4), ("kid_pixels", 3, 4), ("precision_recall_pixels", 9, 10)],
)
def test_too_few_examples_are_refused_before_training(metrics, count, least, program, tmp_path):
    (tmp_path / "few").mkdir()
    for index in range(count):
        Image.fromarray(np.full((8, 8), index, np.uint8)).save(tmp_path / f"few/{index}.png")
    given = [*small(data__name="folder", data__path=tmp_path / "few"), "--config=digits.py"]
    line = [f"metrics='{metrics}' needs at least {least} examples", f"config.data has {count}"]
    measured = f"--config.evaluation.metrics={metrics}"
    assert_one_line(program("train", *given, f"--workdir={tmp_path}/run", measured), line)
    assert not (tmp_path / "run").exists()
    few = f"--config.evaluation.num_samples={least // 2 - 1}"
    line = [f"config.evaluation.num_samples={least // 2 - 1} is too small", f"at least {least // 2}"]
    assert_one_line(program("train", *given, f"--workdir={tmp_path}/run", measured, few), line)
    # Nothing is measured, so any number will do.
    assert program("train", *given, f"--workdir={tmp_path}/run").code == 0


def state_of(folder) -> dict[str, tuple[int, int]]:
    """The time and the size of every file and folder."""
    paths = [Path(folder), *Path(folder).rglob("*")]
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in paths}


def test_a_shared_model_is_only_read(copied, program, expected, whole, tmp_path, monkeypatch):
    before = state_of(copied)
    assert program(*measuring(copied), f"--output={tmp_path}/mine/scores").code == 0
    assert_same(result(tmp_path / "mine/scores"), expected)
    assert image_of(tmp_path / "mine/scores") == image_of(whole)
    assert_nothing_is_drawn(program(*measuring(copied), f"--output={tmp_path}/mine/scores"))
    monkeypatch.chdir(tmp_path)
    assert program("sample", f"--workdir={copied}", "--output", "mine").code == 0
    written = {path.name for path in (tmp_path / "mine").iterdir()}
    assert written == {"samples.npz", "samples.png", "samples_process.png", "scores"}
    assert state_of(copied) == before


def test_a_folder_that_cannot_be_written_is_named_before_sampling(
    digits, program, tmp_path, open_to_all, as_nobody, monkeypatch
):
    def fails(*_, **__):
        raise AssertionError("samples are drawn")

    monkeypatch.setattr("drl_jax.parallel.sampler.ShardedSampler.sample", fails)
    workdir = shutil.copytree(digits, open_to_all / "run")
    workdir.chmod(0o700)
    for command in ("sample", "evaluate", "train"):
        ended = as_nobody(program, command, f"--workdir={workdir}")
        assert_one_line(ended, [f"{workdir}/config.json: Permission denied"])
    workdir.chmod(0o755)
    (workdir / "checkpoints").chmod(0)
    ended = as_nobody(program, "sample", f"--workdir={workdir}")
    assert_one_line(ended, [f"{workdir}/checkpoints: Permission denied"])
    (workdir / "checkpoints").chmod(0o755)
    (open_to_all / "out").mkdir(mode=0o777)
    # A file that may not be read is no damage, and no reason to take an earlier checkpoint.
    for hidden in (workdir / "checkpoints/4/state/d", next((workdir / "checkpoints/4").rglob("*.json"))):
        mode = hidden.stat().st_mode
        hidden.chmod(0)
        ended = as_nobody(program, "sample", f"--workdir={workdir}", f"--output={open_to_all}/out")
        assert ended.code == 1
        assert f"{hidden}: Permission denied; the checkpoint cannot be read" in ended.err
        hidden.chmod(mode)
    writing = ["sample"], ["evaluate", f"--config.evaluation.metrics={PIXELS}"]
    for command, *given in writing:
        if command == "sample":  # `evaluate` reads data, which a user without rights may not see here
            ended = as_nobody(program, command, f"--workdir={workdir}")
            remedy = "name another folder for what is written with --output=DIR"
            assert_one_line(ended, [f"--workdir={workdir} cannot be written: Permission denied; {remedy}"])
        (tmp_path / "file").write_text("")
        ended = program(command, f"--workdir={workdir}", f"--output={tmp_path}/file", *given)
        assert_one_line(ended, [f"--output={tmp_path}/file cannot be written: ", "name another folder"])
        ended = program(command, f"--workdir={workdir}", "--output=", *given)
        assert_one_line(ended, ["--output has no folder; name one, as in --output=DIR"])
        ended = program(command, f"--workdir={workdir}", "--output=s3://x/y", *given)
        assert_one_line(ended, ["--output=s3://x/y is not possible", "not on s3://"])
    ended = program("train", f"--workdir={workdir}", "--output=there")
    assert_one_line(ended, ["--output is a flag of `sample`, `evaluate`, `export`", "not of `train`"])


def test_samples_are_not_written_among_the_data(program, tmp_path):
    images, workdir = tmp_path / "images", tmp_path / "run"
    images.mkdir()
    for index in range(12):
        Image.fromarray(np.full((8, 8), index, np.uint8)).save(images / f"{index}.png")
    (tmp_path / "link").symlink_to(images)
    run(
        "train", f"--config={CONFIGS}/digits.py", f"--workdir={workdir}",
        *small(data__name="folder", data__path=images, training__steps=2),
    )  # fmt: skip
    for output in (images, images / "drawn", tmp_path / "link" / "drawn"):
        ended = program("sample", f"--workdir={workdir}", f"--output={output}")
        assert_one_line(ended, [f"--output={output} is inside config.data.path={images}", "become data"])
    assert len(list(images.iterdir())) == 12
    assert program("sample", f"--workdir={workdir}", f"--output={tmp_path}/images_drawn").code == 0
