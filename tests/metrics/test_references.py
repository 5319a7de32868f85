"""Inception features and scores equal those of torch-fidelity; see make_references.py."""

import io
import json
import pickle
import struct
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drl_jax.checkpoints import torch_file
from drl_jax.metrics.frechet import frechet_distance, moments
from drl_jax.metrics.inception import fold, inception, resize
from drl_jax.metrics.inception_score import inception_score
from drl_jax.metrics.kid import kid
from drl_jax.metrics.precision_recall import precision_recall
from tests.metrics import inputs

HERE = Path(__file__).parent
REFERENCES = dict(np.load(HERE / "references.npz"))


@pytest.fixture(scope="module")
def weights():
    shapes = json.loads((HERE / "inception_shapes.json").read_text())
    return jax.device_put(fold(inputs.weights(shapes)))


@pytest.mark.parametrize("side", inputs.SIDES)
def test_inception_is_that_of_torch_fidelity(side, weights):
    outputs = jax.jit(inception)(weights, jnp.asarray(inputs.images(side)))
    for got, name in ((outputs.features, "features"), (outputs.logits, "logits")):
        expected = REFERENCES[f"{name}/{side}"]
        error = np.linalg.norm(got - expected) / np.linalg.norm(expected)
        assert error < 1e-5, (name, error)  # sums of float32 in another order


def test_the_resize_interpolates_between_pixels_without_half_pixel_centres():
    ramp = np.arange(32, dtype=np.float32)[None, :, None, None] * np.ones((1, 1, 32, 3), np.float32)
    rows = np.asarray(resize(jnp.asarray(ramp)))[0, :, 0, 0]
    # TensorFlow 1: output i looks at i · 32 / 299, and the last pixel stays as it is.
    np.testing.assert_allclose(rows, np.minimum(np.arange(299) * (32 / 299), 31), atol=1e-4)


def test_scores_are_those_of_torch_fidelity():
    a, b = inputs.features()
    close = lambda got, name: np.testing.assert_allclose(got, REFERENCES[name], rtol=1e-6)
    close(frechet_distance(moments(a), moments(b)), "frechet_inception_distance")
    score = kid(a, b, subsets=20, subset_size=300)
    close(score.mean, "kernel_inception_distance_mean")
    close(score.std, "kernel_inception_distance_std")
    close(precision_recall(a, b).precision, "precision")
    close(precision_recall(a, b).recall, "recall")
    score = inception_score(inputs.logits())
    close(score.mean, "inception_score_mean")
    close(score.std, "inception_score_std")


def test_the_kid_of_one_distribution_to_itself_is_zero_on_average():
    rng = np.random.default_rng(0)
    drawn = [
        kid(rng.random((60, 8)), rng.random((60, 8)), subsets=1, subset_size=60).mean for _ in range(400)
    ]
    assert abs(np.mean(drawn)) < 4 * np.std(drawn) / np.sqrt(len(drawn))
    assert min(drawn) < 0 < max(drawn)  # an unbiased estimate of zero has either sign


def test_precision_and_recall_of_closed_cases():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((50, 3))
    assert precision_recall(x, x) == (1.0, 1.0)
    assert precision_recall(x, x + 1e3) == (0.0, 0.0)
    # Ten of fifty samples lie where the reference is; all the reference lies among the samples.
    far = np.concatenate([x[:10], x[:40] + 1e3])
    assert precision_recall(far, x).precision == 0.2
    assert precision_recall(x, x, rows=7) == (1.0, 1.0)


def test_too_few_features_for_a_subset():
    with pytest.raises(ValueError, match="fewer than the 1000 of a subset"):
        kid(np.zeros((10, 2)), np.zeros((2000, 2)))


@pytest.mark.parametrize("name", ["tiny.pth", "tiny_legacy.pth"])
def test_files_of_pytorch_are_read_without_it(name):
    read = torch_file.read((HERE / name).read_bytes())
    expected = inputs.tiny()
    expected["part"] = expected["a.weight"][1:]
    assert read.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(read[key], value)
        assert read[key].dtype == value.dtype


def zipped(program: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", program)
    return file.getvalue()


@pytest.mark.parametrize("protocol", [2, 4])
def test_code_in_a_file_is_not_run(protocol):
    program = pickle.dumps({"a.weight": inputs.Evil()}, protocol=protocol)
    for content in (program, zipped(program)):
        with pytest.raises(ValueError, match=r"would run code: .*exec"):
            torch_file.read(content)


@pytest.mark.parametrize("name", ["tiny.pth", "tiny_legacy.pth"])
def test_a_damaged_file_is_refused(name):
    content = (HERE / name).read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(content[: rng.integers(1, len(content))])
        for _ in range(rng.integers(0, 4)):
            damaged[rng.integers(len(damaged))] ^= 0xFF
        with pytest.raises(ValueError):  # noqa: PT011  every damage gives this one type of error
            torch_file.read(bytes(damaged))


@pytest.mark.parametrize("content", [b"", b"PK", b"not a file of weights", pickle.dumps([1, 2], 2)])
def test_other_files_are_refused(content):
    with pytest.raises(ValueError):  # noqa: PT011
        torch_file.read(content)


def crafted(offset, shape, strides, compression=zipfile.ZIP_STORED) -> bytes:
    """A file with one array of this place in a storage of four numbers."""

    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    def whole(*values: int) -> bytes:
        return b"".join(b"I%d\n" % value for value in values)

    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + whole(4) + b"tQ"
    place = whole(offset) + b"(" + whole(*shape) + b"t(" + whole(*strides) + b"t"
    program = b"\x80\x02}" + text("a") + b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + place + b"tRs."
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("x/data.pkl", program)
        archive.writestr("x/data/0", np.arange(4, dtype=np.float32).tobytes())
        archive.writestr("x/zeros", bytes(10_000))
    return file.getvalue()


def test_a_view_is_read_where_it_is():
    np.testing.assert_array_equal(torch_file.read(crafted(1, (2,), (2,)))["a"], [1, 3])


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ((0, (2, 2), (-(2**30), 2**30)), "impossible place, shape or strides"),
        ((-3, (4,), (1,)), "impossible place, shape or strides"),
        ((0, (-2,), (1,)), "impossible place, shape or strides"),
        ((0, (2**28,), (0,)), "longer than its bytes"),
        ((3, (2,), (1,)), "longer than its bytes"),
        ((0, (4,), (1,), zipfile.ZIP_DEFLATED), "compressed"),
    ],
)
def test_no_file_is_read_beyond_its_bytes(place, message):
    with pytest.raises(ValueError, match=message):
        torch_file.read(crafted(*place))
