"""Measures Inception features: seconds for 100 images and peak memory, beside torch-fidelity.

    python tests/benchmarks/features.py [--torch=PYTHON]

PYTHON is the interpreter of an environment with torch and torch-fidelity (for their versions see
tests/metrics/make_references.py). Weights and images are drawn from seeds. Each measurement runs in its own
process, and the two programs take turns.
"""

import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
SIDE, TURNS, HUNDREDS = 32, 3, 2
BATCH = 64  # images that `evaluate` or torch-fidelity are given at a time


def ours(count: int) -> None:
    """Prints seconds (but for the first batch, which compiles) and the process's peak of memory in GiB."""
    import tempfile

    from drl_jax.evaluation.features import inception_extractor
    from drl_jax.evaluation.scores import accumulate
    from drl_jax.parallel.mesh import place
    from drl_jax.parallel.startup import start_devices
    from tests.metrics import inputs

    start_devices()
    shapes = json.loads((ROOT / "tests/metrics/inception_shapes.json").read_text())
    with tempfile.NamedTemporaryFile(suffix=".pth") as file:
        file.write(inputs.pth(inputs.weights(shapes)))
        file.flush()
        extractor = inception_extractor(file.name, "", place())
    extractor.extract(images(0, BATCH))
    seconds = []

    def parts():
        for first in range(0, count, BATCH):
            batch = images(first, min(BATCH, count - first))
            began = time.perf_counter()
            features = extractor.extract(batch)
            seconds.append(time.perf_counter() - began)
            yield features

    feature_set = accumulate(parts())
    assert feature_set.size == count
    report(sum(seconds), count)


def torchs(count: int) -> None:
    """The same by torch-fidelity's own network."""
    sys.path.insert(0, str(ROOT / "tests/metrics"))
    import torch  # pyright: ignore[reportMissingImports]
    from make_references import network  # pyright: ignore[reportMissingImports]

    net = network()
    with torch.no_grad():
        net(torch.from_numpy(images(0, BATCH).transpose(0, 3, 1, 2).copy()))
        seconds = 0.0
        for first in range(0, count, BATCH):
            batch = torch.from_numpy(images(first, min(BATCH, count - first)).transpose(0, 3, 1, 2).copy())
            began = time.perf_counter()
            net(batch)
            seconds += time.perf_counter() - began
    report(seconds, count)


def images(first: int, count: int):
    import numpy as np

    return np.random.default_rng(first).integers(0, 256, (count, SIDE, SIDE, 3)).astype(np.uint8)


def report(seconds: float, count: int) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"seconds": seconds * 100 / count, "peak": peak}))


def measured(python: str, which: str, count: int) -> dict[str, float]:
    printed = subprocess.run(
        [python, __file__, which, str(count)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return json.loads(printed.stdout.splitlines()[-1])


def main() -> None:
    torch = next((a.split("=", 1)[1] for a in sys.argv if a.startswith("--torch=")), None)
    programs = {"ours": sys.executable, **({"torchs": torch} if torch else {})}
    turns = {which: [] for which in programs}
    for _ in range(TURNS):
        for which, python in programs.items():
            turns[which].append(measured(python, which, 100 * HUNDREDS))
            print(which, turns[which][-1], flush=True)
    for which, measurements in turns.items():
        seconds = statistics.median(m["seconds"] for m in measurements)
        print(f"{which}: {seconds:.2f} s for 100 images of {SIDE} x {SIDE} (median of {TURNS})")
    for count in (500, 2000):
        print(
            f"ours, {count} images: peak {measured(sys.executable, 'ours', count)['peak']:.2f} GiB",
            flush=True,
        )


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] in ("ours", "torchs"):
        sys.path.insert(0, str(ROOT))
        (ours if sys.argv[1] == "ours" else torchs)(int(sys.argv[2]))
    else:
        main()
