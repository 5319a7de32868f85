import numpy as np
import pytest
from scipy import stats

from drl_jax.data import densities
from drl_jax.errors import UserError

NAMES = list(densities.DENSITIES)
LEVELS = [(1.0, 0.0), (0.8, 0.1), (0.4, 0.9)]  # (a, sigma): data, a little noise, mostly noise


def grid_of_cells(low: float, high: float, cells: int) -> tuple[np.ndarray, float]:
    """Centres [cells², 2] of a square grid, and the area of a cell."""
    width = (high - low) / cells
    centres = low + width * (np.arange(cells) + 0.5)
    x, y = np.meshgrid(centres, centres, indexing="ij")
    return np.stack([x.ravel(), y.ravel()], axis=1), width**2


def bounds(density: densities.Density, a: float, sigma: float) -> tuple[float, float]:
    low, high = density.box
    return a * low - 6 * sigma, a * high + 6 * sigma


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("a", "sigma"), LEVELS)
def test_the_density_integrates_to_one(name, a, sigma):
    density = densities.by_name(name)
    x, area = grid_of_cells(*bounds(density, a, sigma), cells=160)
    total = np.exp(density.log_density(x, a, sigma)).sum() * area
    # At most 1e-5 lies outside of the box; the error of the midpoint rule on 160 cells is far smaller.
    assert total == pytest.approx(1.0, abs=2e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("a", "sigma"), LEVELS)
def test_samples_follow_the_density(name, a, sigma):
    density, n, cells, fine = densities.by_name(name), 200_000, 16, 16
    rng = np.random.default_rng(1)
    points = a * density.sample(rng, n).astype(np.float64) + sigma * rng.standard_normal((n, 2))

    low, high = bounds(density, a, sigma)
    edges = np.linspace(low, high, cells + 1)
    counts = np.histogram2d(points[:, 0], points[:, 1], bins=[edges, edges])[0]

    x, area = grid_of_cells(low, high, cells * fine)
    mass = np.exp(density.log_density(x, a, sigma)) * area
    expected = n * mass.reshape(cells, fine, cells, fine).sum(axis=(1, 3))

    # Pearson's statistic: cells with few points are joined, so that it is nearly chi-square distributed.
    large = expected >= 10
    observed = np.append(counts[large], n - counts[large].sum())
    model = np.append(expected[large], n - expected[large].sum())
    keep = model > 1
    statistic = ((observed[keep] - model[keep]) ** 2 / model[keep]).sum()
    # The seed is fixed, so this passes always or never.
    assert stats.chi2.sf(statistic, keep.sum() - 1) > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_samples_have_positive_density_and_lie_in_the_box(name):
    density = densities.by_name(name)
    points = density.sample(np.random.default_rng(2), 200_000)
    low, high = density.box
    assert points.dtype == np.float32
    assert np.isfinite(density.log_density(points)).all()
    assert ((points < low) | (points > high)).any(axis=1).mean() < 5e-5


@pytest.mark.parametrize("name", NAMES)
def test_scaling_without_noise_is_a_change_of_variables(name):
    density = densities.by_name(name)
    points = density.sample(np.random.default_rng(3), 1000).astype(np.float64)
    scaled = density.log_density(0.5 * points, a=0.5)
    # Scaling by a power of two is exact, so points on an edge of a cell stay on it.
    np.testing.assert_allclose(scaled, density.log_density(points) - 2 * np.log(0.5), rtol=1e-9)


def test_the_checkerboard_is_zero_on_light_cells_and_outside():
    light_dark_outside = np.array([[-0.75, -0.25], [-0.75, -0.75], [1.5, 0.0]])
    value = densities.CHECKERBOARD.log_density(light_dark_outside)
    np.testing.assert_allclose(value, [-np.inf, np.log(0.5), -np.inf], rtol=1e-12)


def test_the_checkerboard_with_noise_is_finite_far_away():
    far = np.array([[30.0, 0.1], [-30.0, -40.0]])  # nearest to the second one is a dark corner
    value = densities.CHECKERBOARD.log_density(far, a=1.0, sigma=0.1)
    # To leading order this depends only on the distance to the board: -(29 / 0.1)² / 2 for the first.
    leading = -0.5 * np.array([29**2, 29**2 + 39**2]) / 0.1**2
    np.testing.assert_allclose(value, leading, rtol=1e-3)


def test_the_gaussian_has_the_density_of_scipy():
    x = np.random.default_rng(4).normal(size=(50, 2))
    covariance = 0.7**2 * densities.GAUSSIAN.covariance + 0.2**2 * np.eye(2)
    expected = stats.multivariate_normal.logpdf(x, cov=covariance)  # pyright: ignore
    np.testing.assert_allclose(densities.GAUSSIAN.log_density(x, a=0.7, sigma=0.2), expected)


def test_many_points_have_the_density_that_they_have_in_parts():
    x, _ = grid_of_cells(-1.0, 1.0, cells=60)
    whole = densities.SPIRALS.log_density(x)
    parts = [densities.SPIRALS.log_density(part) for part in np.array_split(x, 7)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))


def test_neighbouring_arms_of_the_spirals_are_a_third_apart():
    ray = np.stack([np.linspace(0.05, 1.1, 2000), np.zeros(2000)], axis=1)
    value = densities.SPIRALS.log_density(ray)
    peaks = np.flatnonzero((value[1:-1] > value[:-2]) & (value[1:-1] > value[2:])) + 1
    np.testing.assert_allclose(np.diff(ray[peaks, 0]), 0.95 / 3, atol=0.02)


def test_the_message_about_an_unknown_density_lists_all_names():
    with pytest.raises(
        UserError, match=r"config.data.density='rings' is not a density; choose.* ring, checkerboard"
    ):
        densities.by_name("rings")
