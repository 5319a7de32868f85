"""Cuts the committed slices from the full golden arrays: python tests/golden/make.py FOLDER

FOLDER holds the arrays that were computed with the authors' code (README.md says how), their
float64 versions in f64/. Fails where an input that authors.py draws again differs in one bit from
the array that the authors' code was given.
"""

import sys
from pathlib import Path

import authors
import numpy as np
from authors import PICTURE_STRIDE, RELU, SWISH, WEIGHT_STRIDE, thin

PREFIX = "model/net/"


def strip(arrays, prefix=""):
    """The arrays whose names start with `prefix`, without it and without the model's own prefix."""
    chosen = prefix + PREFIX
    return {name.removeprefix(chosen): arrays[name] for name in arrays if name.startswith(chosen)}


def labelled(label, arrays):
    return {f"{label}/{name}": array for name, array in arrays.items()}


def check_inputs(folder):
    """Raises ValueError unless every input is, bit for bit, what the authors' code was given."""
    network, swish = np.load(folder / "net_small.npz"), np.load(folder / "net_small_swish.npz")
    chain, loss = np.load(folder / "langevin_small.npz"), np.load(folder / "loss_small.npz")
    given = [
        (f"weights {RELU}", authors.weights(RELU), strip(network)),
        (f"weights {RELU}", authors.weights(RELU), strip(chain)),
        (f"weights {RELU}", authors.weights(RELU), strip(loss)),
        (f"weights {SWISH}", authors.weights(SWISH), strip(swish)),
        ("images", authors.images(), network),
        ("images", authors.images(), swish),
        ("chain", authors.chain(), chain),
        ("pair", authors.pair(), loss),
    ]
    for name, ours, theirs in given:
        for key, array in ours.items():
            if array.dtype != theirs[key].dtype or not np.array_equal(array, theirs[key]):
                raise ValueError(f"{name}: {key} is not what the authors' code was given")
        if authors.digest(ours) != authors.DIGESTS[name]:
            raise ValueError(f"{name}: the digest in authors.py should be {authors.digest(ours)}")


def schedules(folder):
    for count in (4, 6):
        yield from labelled(f"T{count}", np.load(folder / f"schedule_T{count}.npz")).items()


def networks(folder):
    yield "temb_sin", np.load(folder / "net_small.npz")["temb_sin"]
    for label, file in (("relu", "net_small.npz"), ("swish", "net_small_swish.npz")):
        arrays = np.load(folder / "f64" / file)
        for call in ("", "_call2", "_conv"):
            yield f"{label}/f{call}", arrays[f"f{call}"]
            gradient = arrays[f"grad_x{call}"]
            yield f"{label}/grad_x{call}", thin(gradient, PICTURE_STRIDE)
            yield f"{label}/grad_x{call}_norm", np.linalg.norm(gradient)
        for vectors in ("u_after", "u_after2", "u_conv"):
            yield from labelled(f"{label}/{vectors}", strip(arrays, f"{vectors}/")).items()


def chains(folder):
    arrays = np.load(folder / "f64" / "langevin_small.npz")
    for name in ("x_pos", "tilde_x", "frozen_u/x", "warm_frozen_u/x"):
        yield name, arrays[name]
    yield from labelled("u_warm", strip(arrays, "u_warm/")).items()
    yield "ns0.99/x", arrays["ns0.99/x"]
    yield "ns0.99/log_p_y", arrays["ns0.99/log_p_y"]
    # The first step, where a mistake is largest beside rounding, and the middle of the chain.
    for step in (1, 15):
        yield f"ns0.99/y{step}", thin(arrays["ns0.99/y"][step], PICTURE_STRIDE)


def losses(folder):
    arrays = np.load(folder / "f64" / "loss_small_normalised_once.npz")
    for name in ("warm/loss", "warm/f_pos", "warm/f_neg", "random/loss"):
        yield name, arrays[name]
    yield from labelled("u_warm", strip(arrays, "u_warm/")).items()
    for name, gradient in strip(arrays, "warm/grad/").items():
        yield f"warm/grad/{name}", thin(gradient, WEIGHT_STRIDE)
        yield f"warm/grad_norm/{name}", np.linalg.norm(gradient)
    moving = np.load(folder / "f64" / "loss_small.npz")
    yield "moving/loss", moving["loss"]
    yield from labelled("moving/u_after", strip(moving, "u_after/")).items()


def main(folder: Path) -> None:
    check_inputs(folder)
    here = Path(__file__).parent
    for name, arrays in (
        ("schedules", schedules(folder)),
        ("networks", networks(folder)),
        ("chains", chains(folder)),
        ("losses", losses(folder)),
    ):
        np.savez_compressed(here / f"{name}.npz", **dict(arrays))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
