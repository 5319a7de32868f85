"""Writes the README's table of results from the files in docs/results, which `drl-jax evaluate` wrote.

    python docs/table.py           writes the table
    python docs/table.py --check   exit code 1 if the table does not match the files

To add a result, copy result_N.json of an evaluation to docs/results/NAME.json. A setting that was run with
several seeds has NAME_0.json, NAME_1.json, …
"""

import json
import math
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
BEGIN, END = "<!-- results: written by docs/table.py -->\n", "<!-- end of results -->"


class Setting(NamedTuple):
    """A row of the table.

    Attributes:
      what: what was run.
      name: of its files in docs/results.
      command: that runs it; empty if the program cannot yet.
      published: figures of the paper.
    """

    what: str
    name: str
    command: str
    published: str = "–"


T6 = "train --config=cifar10:t6"
SETTINGS = [
    Setting("digits 8x8", "digits", "train --config=digits"),
    Setting("digits 8x8, T1k (K = 0)", "digits_t1k", "train --config=digits:t1k"),
    Setting("digits 8x8, T1k by denoising score matching", "digits_t1k_dsm", "train --config=digits:t1k_dsm"),
    Setting("Fashion-MNIST 28x28", "fashion_mnist", "train --config=fashion_mnist"),
    *(
        Setting(what, density, f"train --config=points:{density}")
        for what, density in (
            ("ring of eight Gaussians", "ring"),
            ("checkerboard", "checkerboard"),
            ("two spirals", "spirals"),
        )
    ),
    Setting("CIFAR-10, T6, 2 blocks, 64 channels", "cifar10_light", "train --config=cifar10:light"),
    Setting("CIFAR-10, T6, 2 blocks", "cifar10_small", "train --config=cifar10:small"),
    Setting("CIFAR-10, T6 (K = 30)", "cifar10_t6", T6, "FID 9.58, IS 8.30"),
    Setting("CIFAR-10, T6, K = 10", "cifar10_t6_k10", "train --config=cifar10:k10"),
    Setting("CIFAR-10, T6, K = 50", "cifar10_t6_k50", "train --config=cifar10:k50"),
    Setting("CIFAR-10, T = 1, K = 180", "cifar10_t1", "train --config=cifar10:t1"),
    Setting("CIFAR-10, T1k (K = 0)", "cifar10_t1k", "train --config=cifar10:t1k"),
    Setting("CIFAR-10, T1k by denoising score matching", "cifar10_t1k_dsm", "train --config=cifar10:t1k_dsm"),
    Setting("CelebA 64, T6", "celeba64", "train --config=celeba64", "FID 5.98"),
    *(
        Setting(f"LSUN {side} {what}", f"lsun{side}_{what}", f"train --config=lsun{side}:{what}")
        for side in (64, 128)
        for what in ("church", "bedroom")
    ),
]
# Scores in the table: a pattern of the score's name, how the table calls it, and whether the score of data
# against data stands beside it.
SHOWN = [
    (r"fid_(\d+)", "FID of {}", False),
    ("inception_score", "IS", False),
    ("frechet_pixels", "Fréchet distance of pixels", True),
    ("total_variation/level_0", "total variation", False),
]


def table(folder: Path) -> str:
    """Makes the table of the results in a folder, as Markdown."""
    lines = ["| setting | command | published | ours | cost of ours |", "|---|---|---|---|---|"]
    for setting in SETTINGS:
        found = _results(folder, setting.name)
        command = f"`{setting.command}`" if setting.command else "not in the program yet"
        ours = _ours(found) if found else "not run"
        cells = [setting.what, command, setting.published, ours, _cost(found)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def write(readme: str, folder: Path) -> str:
    """Returns the README with a new table in it."""
    before, rest = readme.split(BEGIN)
    return before + BEGIN + table(folder) + END + rest.split(END, 1)[1]


def _results(folder: Path, name: str) -> list[dict[str, Any]]:
    files = sorted(f for f in folder.glob("*.json") if re.fullmatch(rf"{name}(_\d+)?", f.stem))
    return [json.loads(file.read_text()) for file in files]


def _ours(found: list[dict[str, Any]]) -> str:
    cells = []
    for pattern, title, with_data in SHOWN:
        for name in found[0]["scores"]:
            match = re.fullmatch(pattern, name)
            if match is None:
                continue
            values = ", ".join(_number(result["scores"][name]) for result in found)
            data = f" (data against data: {_number(found[0]['data_vs_data'][name])})" if with_data else ""
            cells.append(f"{title.format(*match.groups())} {values}{data}")
    seeds = [str(result["config"]["training"]["seed"]) for result in found]
    return "; ".join(cells) + (f" (seeds {', '.join(seeds)})" if len(found) > 1 else "")


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _cost(found: list[dict[str, Any]]) -> str:
    if not found:
        return ""
    minutes = [result["training"]["seconds"] / 60 for result in found if result["training"]["seconds"]]
    if not minutes:
        return found[0]["training"]["machine"]
    machine = found[0]["training"]["machine"]
    if len(found) == 1:
        return f"{minutes[0]:.1f} min, {machine}"
    return f"at most {math.ceil(max(minutes) * 10) / 10:.1f} min each, {machine}"


def main() -> None:
    old = README.read_text()
    new = write(old, HERE / "results")
    if "--check" in sys.argv[1:]:
        sys.exit("the table in README.md does not match docs/results: run docs/table.py" if new != old else 0)
    README.write_text(new)


if __name__ == "__main__":
    main()
