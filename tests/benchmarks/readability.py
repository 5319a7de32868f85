"""How many images of digits a classifier can name, and how near they are to the data: samples beside data.

    python tests/benchmarks/readability.py runs/digits/samples.npz runs/digits/diagnose.npz

**named.** Precision says whether an image is near the data; this says whether it is one digit and not
another. Far from the data, for example for noise, it says nothing. A support vector machine learns the digits
of one half of the data, with probabilities that are calibrated by cross-validation. It names the other half,
and all images of the files: "named" is the part of them of which one digit has a probability above 0.9. Then
the halves change places, and the table has the mean.

**repeated.** For each digit of the data, take the distance to the nearest other digit. The smallest hundredth
of these distances is the limit. "repeated" is the part of the images that are nearer to a digit than this
limit: 0.01 for the data. More than that is a sign that a model repeats its data.

Files are those of `sample` (arr_0) and of `diagnose`, where each level and number of steps is a row.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestNeighbors
from sklearn.svm import SVC

CONFIDENCE = 0.9


def read(file: Path) -> Iterator[tuple[str, np.ndarray]]:
    """The names of the rows of a file, and their images [n, 64] in [0, 1]."""
    if not file.exists():
        sys.exit(f"{file} does not exist")
    with np.load(file) as arrays:
        name = "drawn" if "drawn" in arrays else "arr_0"
        if name not in arrays or arrays[name].shape[-3:] != (8, 8, 1):
            sys.exit(f"{file} has no images of digits; right is arr_0 [n, 8, 8, 1], or a file of `diagnose`")
        if name == "arr_0":
            yield file.name, arrays["arr_0"].reshape(-1, 64) / 255
            return
        for level, of_level in zip(arrays["levels"], arrays["drawn"], strict=True):
            for steps, x in zip(arrays["steps"], of_level, strict=True):
                yield f"from data at x_{level + 1}, {steps} steps", x.reshape(-1, 64) / 255


def named(x: np.ndarray, labels: np.ndarray, others: list[np.ndarray]) -> list[float]:
    """The part of each of `others` that a classifier of x names with confidence."""
    # pyright takes the types of scikit-learn's arguments from their defaults.
    machine: Any = SVC(gamma=1.0, C=10.0)  # pyright: ignore[reportArgumentType]
    machine = CalibratedClassifierCV(machine, ensemble=False, cv=5)  # pyright: ignore[reportArgumentType]
    machine.fit(x, labels)
    return [float(np.mean(machine.predict_proba(other).max(axis=1) > CONFIDENCE)) for other in others]


def repeated(x: np.ndarray, others: list[np.ndarray]) -> list[float]:
    """The part of each of `others` that is nearer to an x than nearly all x are to another."""
    neighbours = NearestNeighbors(n_neighbors=2).fit(x)
    bound = np.quantile(neighbours.kneighbors(x)[0][:, 1], 0.01)
    return [float(np.mean(neighbours.kneighbors(other, 1)[0] < bound)) for other in others]


def main() -> None:
    """Prints a table with a row for the data and for each array of images."""
    parser = argparse.ArgumentParser(allow_abbrev=False, usage=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    names, images = zip(*(row for file in parser.parse_args().files for row in read(file)), strict=True)
    digits: Any = load_digits()
    x, labels = digits.data / 16, digits.target
    halves = np.array_split(np.random.default_rng(0).permutation(len(x)), 2)
    found = [named(x[known], labels[known], [x[new], *images]) for known, new in (halves, halves[::-1])]
    rows = zip(
        ("the data", *names),
        map(len, (x, *images)),
        np.mean(found, axis=0),
        (0.01, *repeated(x, list(images))),
        strict=True,
    )
    print("| images | number | named | repeated |\n|---|---|---|---|")
    for name, size, *parts in rows:
        print(f"| {name} | {size} | {parts[0]:.3f} | {parts[1]:.3f} |")


if __name__ == "__main__":
    main()
