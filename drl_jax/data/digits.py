"""Handwritten digits, 8 x 8: the 1,797 that come with scikit-learn, as a set that needs no network.

Small enough that every part of the project can be tried on real images in minutes.
"""

import contextlib
import io
import os

import numpy as np
import tensorflow_datasets as tfds

from drl_jax.data.downloads import Originals
from drl_jax.data.tfds_build import build


class Digits(tfds.core.GeneratorBasedBuilder):
    """The test part of E. Alpaydin and C. Kaynak's optical digits (UCI, 1998), 8 x 8 and grey."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="1,797 handwritten digits of 8 x 8 pixels, from scikit-learn.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1), encoding_format="png"),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            homepage="https://archive.ics.uci.edu/dataset/80",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        # Imported here: it takes seconds, and only the first use needs it.
        from sklearn.datasets import load_digits

        rows, labels = load_digits(return_X_y=True)
        images = np.asarray(rows).reshape(-1, 8, 8, 1)  # of 0 to 16
        pixels = np.round(images * (255 / 16)).astype(np.uint8)
        for i, (image, label) in enumerate(zip(pixels, labels, strict=True)):
            yield i, {"image": image, "label": int(label)}


def ensure_prepared(data_dir: str) -> None:
    """Writes the set under `data_dir` unless it is there; any number of processes may try at once.

    Raises:
      UserError: `data_dir` cannot be written.
    """
    if os.path.isdir(os.path.join(data_dir, "digits", str(Digits.VERSION))):
        return
    builder = Digits(data_dir=data_dir, file_format="array_record")
    # Written in a moment: not worth the builder's words.
    with contextlib.redirect_stderr(io.StringIO()):
        build(builder, Originals(builder.name, {}, data_dir, path=None))
