"""The commands of the applications: what they write, and one line for what is wrong."""

import jax
import numpy as np
import pytest
from PIL import Image

import drl_jax
from drl_jax.data.sources import open_source
from drl_jax.main import main


def arrays(file):
    with np.load(file) as opened:
        return dict(opened)


@pytest.fixture(scope="module")
def model():
    return drl_jax.load("digits")


@pytest.fixture(scope="module")
def digits():
    return open_source("digits", image_size=8, channels=1).take(np.arange(4))


def test_interpolations_are_those_of_the_api(model, digits, tmp_path, capsys):
    common = ["interpolate", "--model=digits", f"--output={tmp_path}", "--count=3", "--rows=2"]
    assert main([*common, "--seed=4"]) == 0
    assert str(tmp_path / "interpolation.png") in capsys.readouterr().out
    rows = arrays(tmp_path / "interpolation.npz")["arr_0"]
    np.testing.assert_array_equal(rows, [model.interpolate(seed, 3) for seed in (4, 5)])
    with Image.open(tmp_path / "interpolation.png") as image:
        assert image.width > image.height  # three columns, two rows
    Image.fromarray(digits[1, ..., 0]).save(tmp_path / "one.png")
    assert main([*common, "--noise=shared"]) == 0
    rows = arrays(tmp_path / "interpolation.npz")["arr_0"]
    np.testing.assert_array_equal(rows[0], model.interpolate(0, 3, noise="shared"))
    assert main([*common, f"--between=0,{tmp_path}/one.png", "--level=2"]) == 0
    rows = arrays(tmp_path / "interpolation.npz")["arr_0"]
    ends = (digits[0], digits[1])
    np.testing.assert_array_equal(rows[1], model.interpolate(1, 3, between=ends, level=2))


def test_completions_are_those_of_the_api(model, digits, tmp_path, capsys):
    known = np.ones((8, 8), bool)
    known[4:8, 2:5] = False
    Image.fromarray(255 * known.astype(np.uint8)).save(tmp_path / "mask.png")
    common = ["inpaint", "--model=digits", f"--output={tmp_path}", "--images=1,3", "--count=3"]
    for part in ("--rectangle=4,2,4,3", f"--mask={tmp_path}/mask.png"):
        (tmp_path / "inpainting.npz").unlink(missing_ok=True)
        assert main([*common, part]) == 0
        assert "3 completions of 2 images" in capsys.readouterr().out
        found = arrays(tmp_path / "inpainting.npz")
        np.testing.assert_array_equal(found["images"], digits[[1, 3]])
        np.testing.assert_array_equal(found["known"], known)
        completions = found["completions"]
        np.testing.assert_array_equal(completions[1], model.inpaint(1, digits[3], known, 3))
        np.testing.assert_array_equal(completions[0][:, known], [digits[1][known]] * 3)
        np.testing.assert_allclose(found["mean"], completions.mean(axis=1))
        assert not found["spread"][:, known].any()
    assert (tmp_path / "inpainting.png").exists()


def test_denoising_is_that_of_the_api(model, digits, tmp_path, capsys):
    argv = ["denoise", "--model=digits", f"--output={tmp_path}", "--images=1,3", "--count=3", "--level=2"]
    assert main([*argv, "--seed=5"]) == 0
    assert "3 draws for each of 2 images at level 2" in capsys.readouterr().out
    found = arrays(tmp_path / "denoising.npz")
    of_noise, of_chains = jax.random.split(jax.random.key(5))
    noisy = model.diffuse(of_noise, digits[[1, 3]], 2)
    np.testing.assert_array_equal(found["noisy"], noisy)
    draws = model.denoise(of_chains, np.repeat(noisy, 3, axis=0), 2)
    np.testing.assert_array_equal(found["draws"], draws.reshape(2, 3, 8, 8, 1))
    assert len(np.unique(draws[:3], axis=0)) == 3  # each draw has noise of its own
    with Image.open(tmp_path / "denoising.png") as image:
        assert image.width > 2 * image.height  # six columns, two rows


def test_energies_are_those_of_the_api(model, digits, tmp_path, capsys):
    argv = ["energy", "--model=digits", f"--output={tmp_path}", "--images=0,2", "--levels=4,0"]
    assert main(argv) == 0
    printed = capsys.readouterr().out
    found = arrays(tmp_path / "energy.npz")
    assert found["levels"].tolist() == [4, 0]
    for i, level in enumerate((4, 0)):
        x = model.diffuse(0, digits[[0, 2]], level)
        np.testing.assert_array_equal(found["x"][i], x)
        np.testing.assert_array_equal(found["energy"][i], model.energy(x, level))
        np.testing.assert_array_equal(found["score"][i], model.score(x, level))
        assert f"{model.energy(x, level)[1]:.2f}" in printed
    assert (tmp_path / "energy.png").exists()


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (
            "denoise --model=digits --level=7",
            "--level=7 is not possible: it must be a whole number from 1 to 6",
        ),
        ("denoise --model=digits --images=no.png", "--images=no.png cannot be read"),
        ("energy --model=digits --levels=6", "--levels=6 is not possible: the levels are 0 to 5"),
        (
            "interpolate --model=nobody",
            "--model=nobody is no model: it must be one that ships (cifar10, digits",
        ),
        ("interpolate --model=/", "--model=/ is no model: it has no config.json, which a run has"),
        ("interpolate --model=digits --level=2", "--level=2 is for given images; give --between=FILE,FILE"),
        ("interpolate --model=digits --noise=both", "--noise='both' is not possible"),
        ("interpolate --model=digits --between=1", "names 1 images; right is FILE,FILE"),
        ("interpolate --model=digits --between=1,2 --level=9", "--level=9 is not possible"),
        ("interpolate --model=digits --between=1,1797", "the data have 1797 examples, from 0 on"),
        ("interpolate --model=digits --between=1,no.png", "--between=no.png cannot be read: No such file"),
        (
            "interpolate --model=digits --config.evaluation.step=3",
            "step=3 is possible only with the workdir of a run, and --model=digits is none",
        ),
        (
            "interpolate --model=digits --config.levels.count=3",
            "digits was made with other settings: config.l",
        ),
        # 3 would be impossible in any config. That is not what is wrong here.
        (
            "interpolate --model=digits --config.network.width=3",
            "digits was made with other settings: config.network.width was 32 and is 3; take the old values",
        ),
        ("chain --model=digits --steps=0", "--steps=0 is not possible: it must be whole numbers of at least"),
        (
            "chain --model=digits --steps=3",
            "--steps=3 is too few: the model has 6 levels, and each needs a s",
        ),
        ("chain --model=digits --target=marginal", "--target=marginal needs --level, a whole number from 0"),
        ("chain --model=digits --target=marginal --level=9", "--level=9 is not possible"),
        (
            "chain --model=digits --group=3 --target=marginal --level=1",
            "--group=3 does not divide --chains=2",
        ),
        ("interpolate --model=digits --config.sampler.stepz=3", "did you mean config.sampler.steps?"),
        ("inpaint --model=digits", "needs the part that is drawn"),
        ("inpaint --model=digits --rectangle=5,0,4,8", "is not inside the 8x8 pixels"),
        ("inpaint --model=digits --rectangle=0,0,4,8 --mask=x", "--mask=x and --rectangle both say what"),
    ],
)
def test_what_is_wrong(argv, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(argv.split()) == 1
    message = capsys.readouterr().err
    assert expected in message
    assert len(message.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_mask_without_holes(tmp_path, capsys):
    Image.new("L", (8, 8), 255).save(tmp_path / "mask.png")
    argv = ["inpaint", "--model=digits", f"--mask={tmp_path}/mask.png", f"--output={tmp_path}/o"]
    assert main(argv) == 1
    assert (
        f"--mask={tmp_path}/mask.png has no black pixel; what is drawn must be black in it"
        in capsys.readouterr().err
    )
