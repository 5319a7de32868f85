"""`evaluation` with a toy model: stored samples, the cached reference, scores during training."""

import logging
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from flax import linen as nn
from matplotlib.figure import Figure

from drl_jax.core.levels import make_levels
from drl_jax.core.mcmc import langevin
from drl_jax.core.model import Model
from drl_jax.core.transition import mcmc_transition
from drl_jax.data.sources import InMemory
from drl_jax.errors import UserError
from drl_jax.evaluation.evaluator import Evaluator
from drl_jax.evaluation.features import FeatureExtractor, Features, data_extractor
from drl_jax.evaluation.preview import IMAGES, Preview, make_kind
from drl_jax.evaluation.reference import read_reference
from drl_jax.evaluation.scores import compute_scores
from drl_jax.evaluation.store import SampleStore, draw_missing, read_samples
from drl_jax.parallel.mesh import place
from drl_jax.parallel.preemption import Stop
from drl_jax.parallel.sampler import ShardedSampler
from drl_jax.report import curves, panels
from drl_jax.training.step import LevelSums

SHAPE = (4, 4, 1)
PIXELS = data_extractor(SHAPE)


class Quadratic(nn.Module):
    """f(y, t) = −½ scale ‖y‖²."""

    @nn.compact
    def __call__(self, y, t):
        scale = self.param("scale", nn.initializers.ones, ())
        return -0.5 * scale * jnp.sum(y**2, axis=range(1, y.ndim))


@pytest.fixture(scope="module")
def model() -> Model:
    levels = make_levels(2, temperature="one", step_growth=0.0, b_squared=0.1)
    return Model(Quadratic(), levels, {"scale": jnp.ones(())}, {})


class CountingSampler(ShardedSampler):
    """Counts its batches, and stops before batch `stop_at`, as a signal would stop the program."""

    batches, stop_at = 0, -1

    def __init__(self, sampler: ShardedSampler):
        self._sampler = sampler

    def sample(self, *arguments, **settings):
        for result in self._sampler.sample(*arguments, **settings):
            if self.batches == self.stop_at:
                raise KeyboardInterrupt
            self.batches += 1
            yield result


@cache
def compiled(num_devices: int, shape: tuple[int, ...], noise_scale: float) -> ShardedSampler:
    transition = mcmc_transition(partial(langevin, noise_scale=noise_scale), num_steps=2)
    placement = place(devices=jax.devices()[:num_devices])
    return ShardedSampler(transition, shape, placement, Stop(), samples_per_device=4, seed=0)


def sampler(num_devices: int = 1, shape=SHAPE, noise_scale: float = 0.99) -> CountingSampler:
    return CountingSampler(compiled(num_devices, shape, noise_scale))


class CountingExtractor:
    """A costly extractor, as Inception is: the means of rows. `examples` counts what it was given."""

    def __init__(self, name: str = "inception"):
        self.examples = 0
        self.extractor = FeatureExtractor(name, self._extract, {"network": "rows"}, is_costly=True)

    def _extract(self, x: np.ndarray) -> Features:
        self.examples += len(x)
        vectors = x.astype(np.float32).mean(axis=(2, 3))
        return Features(vectors, 2 * vectors)


def stored(folder, drawn_by, model, count=6, save_every=4, extractors=(PIXELS,)):
    """Draws what is missing, and reads all."""
    store = SampleStore(epath.Path(folder))
    draw_missing(store, drawn_by, model, IMAGES, count, save_every=save_every)
    return read_samples(store, extractors, count, Stop())


def assert_same(one, other):
    assert one.sha256 == other.sha256
    for name, features in other.features.items():
        np.testing.assert_array_equal(one.features[name].features.vectors, features.features.vectors)
        np.testing.assert_array_equal(one.features[name].moments.covariance, features.moments.covariance)


def test_finished_samples_are_not_drawn_again(model, tmp_path):
    # 6 is not a multiple of the 4 samples that a device draws at a time.
    first = stored(tmp_path, sampler(), model)
    again = sampler()
    assert_same(stored(tmp_path, again, model), first)
    assert again.batches == 0
    assert first.features["pixels"].size == 6


@pytest.mark.parametrize(("count", "num_devices"), [(5, 1), (8, 1), (9, 4), (16, 4), (17, 4)])
def test_any_number_of_samples_can_be_drawn_twice(count, num_devices, model, tmp_path):
    first = stored(tmp_path, sampler(num_devices), model, count)
    again = sampler(num_devices)
    assert_same(stored(tmp_path, again, model, count), first)
    assert again.batches == 0


@pytest.mark.parametrize("num_devices", [1, 4])
@pytest.mark.parametrize("save_every", [1, 5, 100])
def test_neither_devices_nor_shards_change_the_samples(num_devices, save_every, model, tmp_path):
    expected = stored(tmp_path / "one", sampler(), model, 18)
    got = stored(tmp_path / "other", sampler(num_devices), model, 18, save_every)
    assert_same(got, expected)


def test_an_interrupted_evaluation_leaves_the_files_of_a_whole_one(model, tmp_path):
    expected = stored(tmp_path / "whole", sampler(), model, 18)
    interrupted = sampler()
    interrupted.stop_at = 2
    with pytest.raises(KeyboardInterrupt):
        stored(tmp_path / "parts", interrupted, model, 18)
    resumed = sampler()
    assert_same(stored(tmp_path / "parts", resumed, model, 18), expected)
    assert resumed.batches == 3  # 8 … 17
    for name in ("samples.png", "samples_process.png", "samples_0000000.npz", "samples_0000016.npz"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_more_samples_begin_with_the_stored_ones(model, tmp_path):
    expected = stored(tmp_path / "whole", sampler(), model, 11)
    stored(tmp_path / "parts", sampler(), model, 5)
    more = sampler()
    assert_same(stored(tmp_path / "parts", more, model, 11), expected)
    assert more.batches == 2
    assert (tmp_path / "parts/samples.png").read_bytes() == (tmp_path / "whole/samples.png").read_bytes()
    # Fewer are the first of them.
    assert_same(stored(tmp_path / "parts", more, model, 5), stored(tmp_path / "few", sampler(), model, 5))


def test_features_of_another_extractor_are_computed_once_and_draw_nothing(model, tmp_path):
    stored(tmp_path, sampler(), model, 10)
    rows, other = CountingExtractor(), sampler()
    first = stored(tmp_path, other, model, 10, extractors=(PIXELS, rows.extractor))
    assert (other.batches, rows.examples) == (0, 10)
    assert_same(stored(tmp_path, other, model, 10, extractors=(rows.extractor,)), first._replace(features={}))
    assert (other.batches, rows.examples) == (0, 10)
    expected = rows.extractor.extract(
        np.concatenate([s.samples for s in SampleStore(epath.Path(tmp_path)).read(10)])
    )
    np.testing.assert_array_equal(first.features["inception"].features.vectors, expected.vectors)
    np.testing.assert_array_equal(first.features["inception"].features.logits, expected.logits)
    # Fewer samples cut the features of a shard; more samples need only the features of the new ones.
    rows.examples = 0
    few = stored(tmp_path, other, model, 6, extractors=(rows.extractor,))
    assert few.features["inception"].size == 6
    stored(tmp_path, other, model, 14, extractors=(rows.extractor,))
    assert rows.examples == 4


def damage(path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def test_damaged_files_are_made_again(model, tmp_path):
    rows, drawn_by = CountingExtractor(), sampler()
    expected = stored(tmp_path, drawn_by, model, 10, extractors=(rows.extractor,))
    (features,) = tmp_path.glob("inception_*_0000004.npz")
    damage(features)
    assert_same(stored(tmp_path, drawn_by, model, 10, extractors=(rows.extractor,)), expected)
    assert rows.examples == 14
    # Samples from the damaged shard on are drawn again. Features of a shard of another size do not fit.
    damage(tmp_path / "samples_0000004.npz")
    got = stored(tmp_path, drawn_by, model, 10, save_every=100, extractors=(rows.extractor,))
    assert_same(got, expected)
    assert rows.examples == 20


def test_samples_that_are_not_finite_are_not_stored(model, tmp_path):
    with pytest.raises(UserError, match=r"of the samples 0 … 3 are not finite"):
        stored(tmp_path, sampler(noise_scale=1e38), model)
    assert list(tmp_path.glob("*.npz")) == []


def test_a_store_that_is_damaged_while_in_use(model, tmp_path):
    store = SampleStore(epath.Path(tmp_path))
    draw_missing(store, sampler(), model, IMAGES, 6, save_every=4)
    damage(tmp_path / "samples_0000004.npz")
    with pytest.raises(UserError, match="sample 4 cannot be read"):
        read_samples(store, [PIXELS], 6, Stop())


class CountingSource(InMemory):
    """Counts how often each example is read."""

    def __init__(self, examples):
        super().__init__(examples)
        self.reads = np.zeros(len(examples), int)

    def take(self, indices):
        np.add.at(self.reads, indices, 1)
        return super().take(indices)


@pytest.fixture
def examples():
    return np.random.default_rng(0).integers(0, 256, (700, *SHAPE), dtype=np.uint8)


def reference(examples, folder, *extractors, **data):
    """(the reference, reads of each example)."""
    source = CountingSource(examples)
    found = read_reference(source, extractors, epath.Path(folder), {"name": "noise", **data})
    return found, source.reads


def test_cached_features_need_no_pass_over_the_data(examples, tmp_path):
    rows = CountingExtractor()
    first, reads = reference(examples, tmp_path, rows.extractor)
    assert sorted(set(reads)) == [1, 2]  # once, and 16 of them for the fingerprint
    assert reads.sum() == 700 + 16
    again, reads = reference(examples, tmp_path, rows.extractor)
    assert reads.sum() == 16
    assert rows.examples == 700
    assert again.sha256 == first.sha256
    one, other = first.data["inception"], again.data["inception"]
    np.testing.assert_array_equal(one.features.vectors, other.features.vectors)
    np.testing.assert_array_equal(one.features.logits, other.features.logits)
    np.testing.assert_array_equal(one.moments.covariance, other.moments.covariance)
    # Another name, split or crop is another entry, as are other examples.
    assert reference(examples, tmp_path, rows.extractor, split="test")[1].sum() == 716
    assert reference(examples[:600], tmp_path, rows.extractor)[1].sum() == 616
    assert rows.examples == 2000


def test_features_of_pixels_need_one_pass(examples, tmp_path):
    rows = CountingExtractor()
    pixels, reads = reference(examples, tmp_path, PIXELS)
    assert set(reads) == {1}
    both, reads = reference(examples, tmp_path, PIXELS, rows.extractor)
    assert reads.sum() == 716
    assert both.sha256 == pixels.sha256
    assert list(both.data) == ["pixels", "inception"]
    again, reads = reference(examples, tmp_path, PIXELS, rows.extractor)
    assert reads.sum() == 716
    assert rows.examples == 700
    assert again.sha256 == both.sha256
    assert both.compared()["pixels"].size == 350
    assert both.compared()["inception"].size == 700


def test_data_that_changed_beside_the_fingerprint_are_seen_when_they_are_read(examples, tmp_path):
    rows = CountingExtractor()
    reference(examples, tmp_path, rows.extractor)
    changed = examples.copy()
    changed[1] ^= 255
    rows.examples = 0
    found, _ = reference(changed, tmp_path, PIXELS, rows.extractor)
    assert rows.examples == 700
    expected, _ = reference(changed, tmp_path / "other", rows.extractor)
    assert found.sha256 == expected.sha256
    np.testing.assert_array_equal(
        found.data["inception"].moments.mean, expected.data["inception"].moments.mean
    )
    # The cache has the new features now.
    again, reads = reference(changed, tmp_path, rows.extractor)
    assert (again.sha256, reads.sum()) == (found.sha256, 16)


def test_a_damaged_or_unwritable_cache(examples, tmp_path, caplog):
    rows = CountingExtractor()
    expected, _ = reference(examples, tmp_path, rows.extractor)
    (file,) = tmp_path.glob("*.npz")
    damage(file)
    found, _ = reference(examples, tmp_path, rows.extractor)
    assert found.sha256 == expected.sha256
    assert rows.examples == 1400
    (tmp_path / "file").write_text("no folder")
    with caplog.at_level(logging.WARNING):
        reference(examples, tmp_path / "file", rows.extractor)
    assert "cannot be written" in caplog.text


def evaluator(examples, tmp_path, drawn_by, *, metrics=("frechet_pixels",), **settings) -> Evaluator:
    extractors = [PIXELS] if metrics else []
    return Evaluator(
        IMAGES,
        drawn_by,
        num_samples=18,
        metrics=metrics,
        extractors=extractors,
        read_reference=lambda: reference(examples, tmp_path / "cache", *extractors)[0],
        **{"folder": epath.Path(tmp_path), **settings},
    )


def test_scores_during_training_do_not_depend_on_devices(examples, model, tmp_path):
    scores = [evaluator(examples, tmp_path / str(n), sampler(n))(7, model) for n in (1, 4)]
    assert scores[0] == scores[1]
    assert scores[0].keys() == {"frechet_pixels"}
    assert {path.name for path in (tmp_path / "1").glob("*.png")} == {"0000007.png", "0000007_process.png"}
    one, other = (tmp_path / n / "0000007.png" for n in "14")
    assert one.read_bytes() == other.read_bytes()
    # They are the scores of `evaluate`.
    samples = stored(tmp_path / "stored", sampler(), model, 18)
    compared = reference(examples, tmp_path, PIXELS)[0].compared()
    assert compute_scores(["frechet_pixels"], samples.features, compared) == scores[0]


def test_the_untrained_model_is_scored_on_request(examples, model, tmp_path):
    for untrained, names in (
        (None, {"frechet_pixels_data_vs_data"}),
        (model, {"frechet_pixels_data_vs_data", "frechet_pixels_untrained"}),
    ):
        drawn_by = sampler()
        bounds = evaluator(examples, tmp_path, drawn_by).bounds(untrained)
        assert bounds.keys() == names
        assert drawn_by.batches == 5 * (untrained is not None)
    assert bounds["frechet_pixels_data_vs_data"] < bounds["frechet_pixels_untrained"]


def test_without_metrics_there_are_only_previews(examples, model, tmp_path):
    evaluate = evaluator(examples, tmp_path, sampler(), metrics=())
    assert evaluate(3, model) == {}
    assert evaluate.bounds(model) == {}
    assert (tmp_path / "0000003.png").exists()
    # A process without a folder writes nothing.
    assert evaluator(examples, tmp_path, sampler(), folder=None)(4, model).keys() == {"frechet_pixels"}
    assert not (tmp_path / "0000004.png").exists()


def test_samples_that_are_not_finite_cause_a_warning(examples, model, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        evaluator(examples, tmp_path, sampler(noise_scale=1e38))(3, model)
    assert "of 18 samples are not finite" in caplog.text


def test_points_have_the_total_variation_of_every_level(model, tmp_path):
    evaluate = Evaluator(
        make_kind("gaussian"),
        sampler(shape=(2,)),
        num_samples=6,
        metrics=["total_variation"],
        extractors=[],
        read_reference=lambda: pytest.fail("no features are needed"),
        folder=epath.Path(tmp_path),
    )
    scores = evaluate(1, model)
    assert scores.keys() == {"total_variation/level_0", "total_variation/level_1"}
    assert all(0 < value < 1 for value in scores.values())
    assert {path.name for path in tmp_path.iterdir()} == {"0000001.png", "0000001_densities.png"}


def test_a_preview_keeps_only_what_it_shows():
    preview = Preview(IMAGES)
    process = np.zeros((3, 8, *SHAPE), np.float32)
    for first in range(0, 240, 60):
        preview.add(np.full((60, *SHAPE), first, np.uint8), process if first == 0 else None)
    kept = np.concatenate(preview._examples)
    assert [len(kept), kept[0, 0, 0, 0], kept[-1, 0, 0, 0]] == [100, 0, 60]


def test_what_training_records_is_no_score():
    assert set(LevelSums._fields) - {"count"} <= set(curves._NO_SCORES)


def test_curves_are_plotted_by_the_names_that_training_records(monkeypatch):
    figures = []

    def figure(**settings) -> Figure:
        figures.append(Figure(**settings))
        return figures[-1]

    monkeypatch.setattr(panels, "Figure", figure)
    lines = [
        {"step": step, "loss": 0.5, "frechet_pixels": 2.0}
        | {f"{name}/level_{t}": 1.0 for name in LevelSums._fields[1:] for t in range(2)}
        for step in (1, 2)
    ]
    assert curves.plot_levels(lines).startswith(b"\x89PNG")
    assert curves.plot_curves(lines).startswith(b"\x89PNG")
    levels, scores = figures
    for axes in (*levels.axes, *scores.axes):
        assert len(axes.lines) > 0, axes.get_title()
        assert axes.get_ylabel()
        assert axes.get_xlabel()
    assert len(levels.axes) == 3
    assert [axes.get_title() for axes in scores.axes] == ["loss", "frechet_pixels"]
