"""Measures a folder of many small images: seconds to list and to start, peak memory, what `check` finds.

    python tests/benchmarks/folder.py [--count=N]

It makes N PNG files of 16x16 pixels (200,000 without --count) in a temporary folder, five of them bad in five
ways.
"""

import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from drl_jax.data.decoding import encode_png

PER_FOLDER = 10_000
FLAGS = ["--config=cifar10:small", "--config.data.name=folder", "--config.data.image_size=16"]


def make(folder: Path, count: int) -> list[str]:
    """Writes the images. Returns the names of the five bad ones."""
    rng = np.random.default_rng(0)
    contents = [encode_png(rng.integers(256, size=(16, 16, 3), dtype=np.uint8)) for _ in range(100)]
    for i in range(count):
        part = folder / f"part {i // PER_FOLDER}"
        if i % PER_FOLDER == 0:
            part.mkdir(parents=True)
        (part / f"{i}.png").write_bytes(contents[i % 100])
    floats = b"Pf\n16 16\n-1.0\n" + np.zeros((16, 16), np.float32).tobytes()
    bad = [contents[0][:100], b"<html></html>", b"", floats, None]
    names = []
    for place, content in zip(np.linspace(0, count - 1, 5).astype(int), bad, strict=True):
        file = folder / f"part {place // PER_FOLDER}" / f"{place}.png"
        file.unlink()
        if content is None:
            file.symlink_to("nowhere.png")
        else:
            file.write_bytes(content)
        names.append(file.name)
    return names


def opened(path: str) -> None:
    """Prints seconds to open the data, to read a first batch, and the peak of memory in MiB."""
    from drl_jax.data.sources import open_source

    before, began = peak(), time.monotonic()
    source = open_source("folder", path=path, image_size=16, skip_damaged=True)
    listed, with_names = time.monotonic() - began, peak()
    source.take(np.random.default_rng(0).integers(len(source), size=256))
    started = time.monotonic() - began
    print(f"{len(source):,} images listed in {listed:.2f} s, first batch of 256 after {started:.2f} s")
    print(f"memory: {before:.0f} MiB before, {with_names:.0f} MiB with the list, {peak():.0f} MiB at the end")


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def main() -> None:
    if sys.argv[1:2] == ["--opened"]:
        opened(sys.argv[2])
        return
    (count,) = [int(each.removeprefix("--count=")) for each in sys.argv[1:]] or [200_000]
    with tempfile.TemporaryDirectory() as parent:
        folder, began = Path(parent) / "images", time.monotonic()
        bad = make(folder, count)
        print(f"{count:,} files made in {time.monotonic() - began:.1f} s", flush=True)
        subprocess.run([sys.executable, __file__, "--opened", str(folder)], check=True)
        began = time.monotonic()
        command = [sys.executable, "-m", "drl_jax", "check", *FLAGS, f"--config.data.path={folder}"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        found = re.findall(r"/([0-9]+\.png)", process.stdout.read())
        _, status, usage = os.wait4(process.pid, 0)
        code, seconds = os.waitstatus_to_exitcode(status), time.monotonic() - began
        memory = usage.ru_maxrss / 2**10
        print(f"check: {seconds:.1f} s, at most {memory:.0f} MiB, exit code {code}, found {', '.join(found)}")
        assert sorted(found) == sorted(bad)


if __name__ == "__main__":
    main()
