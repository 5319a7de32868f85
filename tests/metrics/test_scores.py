"""Fréchet distances with closed forms, features that come in parts, and the names of scores."""

import numpy as np
import pytest
from etils import epath

from drl_jax import arrays
from drl_jax.errors import UserError
from drl_jax.evaluation import scores
from drl_jax.evaluation.features import Features, data_extractor, read_weights
from drl_jax.evaluation.scores import accumulate
from drl_jax.metrics.frechet import Moments, frechet_distance, moments


def gaussian(mean, covariance) -> Moments:
    return Moments(10_000, np.array(mean, float), np.array(covariance, float))


def test_the_distance_of_gaussians_whose_covariances_commute():
    # Σ (√a − √b)² + ‖μ‖²: Dowson & Landau for diagonal covariances.
    a, b = gaussian([0, 1, 2], np.diag([1, 4, 9])), gaussian([0, 3, 2], np.diag([4, 4, 0.25]))
    expected = (1 - 2) ** 2 + 0 + (3 - 0.5) ** 2 + 2**2
    np.testing.assert_allclose(frechet_distance(a, b), expected, rtol=1e-14)
    np.testing.assert_allclose(frechet_distance(b, a), expected, rtol=1e-14)
    np.testing.assert_allclose(frechet_distance(a, a), 0, atol=1e-13)


def test_the_distance_of_gaussians_whose_covariances_do_not_commute():
    a, b = np.array([[2.0, 1.0], [1.0, 3.0]]), np.array([[5.0, -2.0], [-2.0, 1.0]])
    # The root of a 2x2 matrix M with positive eigenvalues has the trace √(tr M + 2 √det M).
    m = a @ b
    root = np.sqrt(np.trace(m) + 2 * np.sqrt(np.linalg.det(m)))
    expected = np.trace(a) + np.trace(b) - 2 * root
    assert np.abs(a @ b - b @ a).max() > 1
    np.testing.assert_allclose(
        frechet_distance(gaussian([0, 0], a), gaussian([0, 0], b)), expected, rtol=1e-13
    )


@pytest.mark.parametrize("count", [3, 40, 64, 65])
def test_fewer_samples_than_dimensions_give_a_number(count):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((count, 64)), rng.standard_normal((5000, 64))
    one, other = moments(x), moments(y)
    distance = frechet_distance(one, other)
    assert np.isfinite(distance)
    # The true distance is 0. The missing part of the covariance adds its trace, about 64 − count.
    assert distance > max(0, 60 - count)
    np.testing.assert_allclose(distance, frechet_distance(other, one), rtol=1e-6)
    # Covariances of rank 0 or 1 do not give NaN either.
    flat = moments(np.ones((count, 64)))
    assert np.isfinite(frechet_distance(flat, other))
    np.testing.assert_allclose(frechet_distance(flat, flat), 0, atol=1e-12)


@pytest.mark.parametrize("parts", [[5000], [1, 2499, 2500], [700] * 7 + [100], [7] * 714 + [2]])
def test_features_may_come_in_any_parts(parts):
    x = np.random.default_rng(0).normal(1e4, 1, (5000, 6)).astype(np.float32)
    logits = np.random.default_rng(1).standard_normal((5000, 3))
    ends = np.cumsum(parts)
    got = accumulate(
        Features(x[end - n : end], logits[end - n : end]) for n, end in zip(parts, ends, strict=True)
    )
    whole = accumulate([Features(x, logits)])
    # To the last bit: a resumed evaluation has the scores of an uninterrupted one.
    np.testing.assert_array_equal(got.moments.mean, whole.moments.mean)
    np.testing.assert_array_equal(got.moments.covariance, whole.moments.covariance)
    np.testing.assert_array_equal(got.features.vectors, x)
    assert got.features.logits is not None
    np.testing.assert_array_equal(got.features.logits, logits)
    np.testing.assert_allclose(got.moments.mean, x.mean(axis=0, dtype=np.float64), rtol=1e-13)
    np.testing.assert_allclose(got.moments.covariance, np.cov(x.astype(float), rowvar=False), rtol=1e-9)


def test_only_so_many_features_are_kept(monkeypatch):
    monkeypatch.setattr(scores, "MAX_KEPT", 10)
    x = np.random.default_rng(0).standard_normal((24, 3))
    kept = accumulate([Features(x[:7]), Features(x[7:9]), Features(x[9:])])
    assert kept.size == 24
    np.testing.assert_allclose(kept.moments.mean, x.mean(axis=0))
    np.testing.assert_array_equal(kept.features.vectors, x[:10])
    one, other = kept.halves
    np.testing.assert_array_equal(np.concatenate([one.features.vectors, other.features.vectors]), x[:10])


def test_a_file_of_arrays_is_read_as_it_was_written_or_not_at_all(tmp_path):
    path = epath.Path(tmp_path / "arrays.npz")
    rng = np.random.default_rng(0)
    written = {"a": rng.standard_normal((64, 40)).astype(np.float32), "b": np.array(7)}
    arrays.write(path, written)
    content = path.read_bytes()
    # Every byte of the headers, and some of the arrays.
    headers = [
        i for name in (b"a.npy", b"b.npy") for i in range(content.find(name) - 30, content.find(name) + 150)
    ]
    read = 0
    for place in [*headers, *rng.integers(len(content), size=200), *range(len(content) - 200, len(content))]:
        for bit in (0, 3):
            damaged = bytearray(content)
            damaged[place] ^= 1 << bit
            path.write_bytes(bytes(damaged))
            got = arrays.read(path)
            if got is not None:  # the byte does not matter: a date, for example
                read += 1
                assert got.keys() == written.keys()
                for name, value in written.items():
                    np.testing.assert_array_equal(got[name], value)
    assert read < 400
    for end in (0, 1, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:end])
        assert arrays.read(path) is None
    path.unlink()
    assert arrays.read(path) is None


def test_samples_that_are_not_finite_have_no_distance():
    x = np.random.default_rng(0).standard_normal((20, 3))
    broken = np.where(np.arange(20)[:, None] == 3, np.nan, x)
    assert np.isnan(frechet_distance(moments(x), moments(broken)))
    assert np.isnan(frechet_distance(moments(broken), moments(x)))


def test_too_few_features_for_moments():
    with pytest.raises(ValueError, match="1 vectors"):
        moments(np.zeros((1, 4)))


def test_scores_and_their_names():
    rng = np.random.default_rng(0)
    x, y = (accumulate([Features(rng.random((n, 8)), rng.random((n, 4)))]) for n in (40, 50))
    samples, reference = ({"inception": features, "pixels": features} for features in (x, y))
    names = scores.parse("fid, inception_score,kid,precision_recall,frechet_pixels", is_points=False)
    values = scores.compute_scores(names, samples, reference)
    # The name of a FID has the number of samples.
    expected = {"fid_40", "inception_score", "inception_score_std", "kid", "precision", "recall"}
    assert values.keys() == expected | {"frechet_pixels"}
    assert values["fid_40"] == values["frechet_pixels"] == frechet_distance(x.moments, y.moments)
    assert scores.lower_is_better(names, 40, 6) == ["fid_40", "kid", "frechet_pixels"]
    assert scores.lower_is_better(["total_variation"], 40, 2) == [
        "total_variation/level_0",
        "total_variation/level_1",
    ]
    assert scores.extractors_of(names) == ["inception", "pixels"]
    assert scores.min_samples(names) == 10
    bounds = scores.data_vs_data(names, reference)
    assert bounds.keys() == (expected - {"fid_40"}) | {"frechet_pixels", "fid_25"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FID", ["fid"]),
        (" Fid , KID,", ["fid", "kid"]),
        ("(fid, kid)", ["fid", "kid"]),
        ("['fid', 'kid']", ["fid", "kid"]),
        ("fid kid fid", ["fid", "kid"]),
        ("fid;kid", ["fid", "kid"]),
        ("None", []),
        ("NULL", []),
        ("", []),
        ("()", []),
    ],
)
def test_how_metrics_may_be_written(text, expected):
    assert scores.parse(text, is_points=False) == expected


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("fid50k", "fid"),
        ("FID-50k", "fid"),
        ("fid_10000", "fid"),
        ("fid50k_full", "fid"),
        ("kid50k_full", "kid"),
        ("IS", "inception_score"),
        ("inception", "inception_score"),
        ("pr", "precision_recall"),
        ("recall", "precision_recall"),
        ("kdi", "kid"),
        ("frechet_pixel", "frechet_pixels"),
    ],
)
def test_what_a_wrong_metric_may_mean(text, meant):
    with pytest.raises(UserError) as error:
        scores.parse(text, is_points=False)
    message = str(error.value)
    assert message.startswith(
        f"config.evaluation.metrics={text!r}: {text.lower()!r} is not a metric of images; "
    )
    assert f"did you mean {meant}?" in message
    assert ("config.evaluation.num_samples" in message) == any(each.isdigit() for each in text)


def test_unknown_metrics_are_refused():
    assert scores.parse("none", is_points=False) == []
    assert scores.parse("total_variation,kid_points", is_points=True) == ["total_variation", "kid_points"]
    for text, points in (
        ("fdi", False),
        ("total_variation", False),
        ("fid", True),
    ):
        with pytest.raises(UserError, match="is not a metric of"):
            scores.parse(text, is_points=points)


def test_pixels_of_large_images_are_refused():
    for count in (2, 0):
        images = np.zeros((count, 32, 32, 3), np.uint8)
        assert data_extractor((32, 32, 3)).extract(images).vectors.shape == (count, 3072)
    with pytest.raises(UserError, match="12288 numbers"):
        data_extractor((64, 64, 3))


def test_a_file_with_other_arrays_is_not_the_weights(tmp_path):
    from tests.metrics.inputs import pth

    (tmp_path / "w.pth").write_bytes(pth({"fc.weight": np.zeros((1008, 2048), np.float32)}))
    with pytest.raises(UserError, match="does not hold the weights of Inception"):
        read_weights(str(tmp_path / "w.pth"), "")
