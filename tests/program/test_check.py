"""`check` lists every example that cannot be used, in one pass; training with `data.skip_damaged` goes on."""

import json
import os
import time

import numpy as np
import pytest

from drl_jax.data.prepare import prepare
from drl_jax.data.sources import Opened, open_source
from drl_jax.main import main
from tests.data.helpers import encode, write_cifar10_archive
from tests.helpers import run, small


def check(*flags) -> int:
    return main(["check", "--config=digits", *map(str, flags)])


def data_flags(folder) -> list[str]:
    return ["--config.data.name=folder", f"--config.data.path={folder}"]


@pytest.fixture
def images(tmp_path):
    """A folder of 200 grey images."""
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(200):
        pixels = rng.integers(256, size=(8, 8), dtype=np.uint8)
        (folder / f"{i}.png").write_bytes(encode(pixels))
    return folder


def damage(folder) -> dict[str, str]:
    """Makes five bad files of five kinds. Returns what is said of each."""
    (folder / "3.png").write_bytes((folder / "3.png").read_bytes()[:60])
    (folder / "77.png").write_bytes(b"<html>not found</html>")
    (folder / "78.png").write_bytes(b"")
    (folder / "150.png").unlink()
    (folder / "150.png").symlink_to(folder / "gone.png")
    floats = folder / "199.png"
    floats.unlink()
    (folder / "199.pfm").write_bytes(b"Pf\n8 8\n-1.0\n" + np.zeros((8, 8), np.float32).tobytes())
    return {
        "3.png": "is damaged",
        "77.png": "is not an image that can be read",
        "78.png": "is empty",
        "150.png": "is a link to nothing",
        "199.pfm": "has floating-point values",
    }


def test_check_finds_all_bad_files_in_one_pass(images, capfd):
    assert check(*data_flags(images)) == 0
    assert "all 200 examples of config.data.name='folder' can be used" in capfd.readouterr().out
    expected = damage(images)
    assert check(*data_flags(images)) == 1
    out, err = capfd.readouterr()
    lines = out.splitlines()
    assert len(lines) == 5
    for line, (name, reason) in zip(lines, expected.items(), strict=True):
        assert line.startswith(f"config.data.path: {images}/{name} {reason}")
    assert "200 of 200 read in" in err
    assert err.splitlines()[-1].startswith(
        "drl-jax: 5 of 200 examples of config.data.name='folder' cannot be used"
    )


def last_line(capfd, *flags) -> str:
    assert check(*flags) == 1
    return capfd.readouterr().err.splitlines()[-1].partition("cannot be used; ")[2]


def test_check_ends_with_what_helps(images, tmp_path, capfd, monkeypatch):
    flags = data_flags(images)
    skip, fix = "--config.data.skip_damaged=True", "fix or delete those that are damaged"
    crop = "for those that are too small set --config.data.crop=None"
    (images / "3.png").write_bytes(b"bad")
    assert last_line(capfd, *flags) == f"{fix}; or set config.data.skip_damaged=True, which replaces them"
    assert last_line(capfd, *flags, skip) == f"{fix}; in training config.data.skip_damaged=True replaces them"
    (images / "wide.png").write_bytes(encode(np.zeros((9, 9), np.uint8)))
    large = "--config.data.crop=(0,0,9,9)"  # all others are too small
    assert last_line(capfd, *flags, large).startswith(f"{fix}; {crop}; or set config.data.skip_damaged=True")
    assert last_line(capfd, *flags, "--config.data.crop=(0,0,10,10)") == f"{fix}; {crop}"  # all are bad
    (images / "3.png").unlink()
    assert last_line(capfd, *flags, "--config.data.crop=(0,0,10,10)") == crop
    assert check(*flags, "--config.data.crop=None") == 0

    def refuse(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("drl_jax.data.folder._read_file", refuse)
    assert last_line(capfd, *flags) == "the reasons why some cannot be read are above"


def test_check_of_one_image(tmp_path, capfd):
    (tmp_path / "1.png").write_bytes(encode(np.zeros((8, 8), np.uint8)))
    assert check(*data_flags(tmp_path)) == 0
    assert capfd.readouterr().out == "the only example of config.data.name='folder' can be used\n"
    (tmp_path / "1.png").write_bytes(b"bad")
    assert check(*data_flags(tmp_path)) == 1
    last = capfd.readouterr().err.splitlines()[-1]
    start = "drl-jax: the only example of config.data.name='folder' cannot be used; "
    assert last == f"{start}fix or delete those that are damaged"


def test_check_reads_arrays_digits_and_prepared_sets(tmp_path, capfd):
    write_cifar10_archive(tmp_path / "cifar-10-binary.tar.gz")
    prepare("cifar10", data_dir=str(tmp_path), path=str(tmp_path))
    np.savez(tmp_path / "samples.npz", arr_0=np.zeros((9, 8, 8, 1), np.uint8))
    assert check(*data_flags(tmp_path / "samples.npz")) == 0
    assert check() == 0
    prepared = ["--config.data.name=cifar10", f"--config.data.data_dir={tmp_path}"]
    assert check(*prepared) == 0
    assert check(*prepared, "--config.data.crop=(0,0,40,40)") == 1
    out, err = capfd.readouterr()
    assert "all 9 examples" in out
    assert "all 1,797 examples of config.data.name='digits'" in out
    assert "cifar10 train example 19" in out
    assert "all 20 examples of config.data.name='cifar10' cannot be used" in err


def test_a_disk_that_does_not_answer_ends_check(images, capfd, monkeypatch):
    monkeypatch.setattr("drl_jax.data.folder._read_file", lambda path: time.sleep(5))
    assert check(*data_flags(images), "--config.data.timeout=0.2") == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert "were not read within config.data.timeout=0.2 seconds" in err


def test_training_and_evaluation_pass_over_damaged_images_and_say_so(images, tmp_path, capfd):
    damage(images)
    workdir = tmp_path / "run"
    flags = [
        *small(evaluation__metrics="frechet_pixels", evaluation__score_untrained=False),
        *data_flags(images),
        "--config.data.channels=1",
        "--config.data.skip_damaged=True",
        f"--config.data.data_dir={tmp_path}",
        f"--workdir={workdir}",
    ]
    run("train", "--config=digits", *flags)
    err = capfd.readouterr().err
    assert err.count("drl-jax: skipped: config.data.path: ") == 5
    assert "150.png is a link to nothing" in err
    recorded = (workdir / "skipped_0.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in recorded] == ["3", "77", "78", "150", "199"]
    assert json.loads((workdir / "scores.json").read_text())["data"]["damaged_and_replaced"] == 5
    run("evaluate", *flags)
    (result,) = workdir.glob("evaluations/*/result_*.json")
    protocol = json.loads(result.read_text())["protocol"]["reference"]
    assert protocol["damaged_and_replaced"] == 5
    assert protocol["count"] == 200


def test_a_workdir_that_is_the_data_is_refused(images, capfd):
    workdir = f"{os.path.relpath(images)}/../images"
    assert main(["train", "--config=digits", *data_flags(images), f"--workdir={workdir}"]) == 1
    assert "is config.data.path too; take another folder for the run" in capfd.readouterr().err


def test_own_samples_are_a_data_set_and_no_part_of_the_data_around_them(images, tmp_path, capfd):
    workdir = images / "runs" / "mine"  # inside the data
    flags = [*data_flags(images), "--config.data.channels=1", f"--workdir={workdir}"]
    run("train", "--config=digits", *small(), *flags)
    run("sample", f"--workdir={workdir}")
    assert len(open_source("folder", path=str(images), image_size=8)) == 200
    run("train", "--config=digits", *small(training__steps=6), *flags)
    assert "left out is 1 folder of a run of this program" in capfd.readouterr().out
    source = open_source("folder", path=str(workdir / "samples.npz"), image_size=8, channels=1)
    assert isinstance(source, Opened)
    with np.load(workdir / "samples.npz") as samples:
        np.testing.assert_array_equal(source.take(np.arange(6)), samples["arr_0"])
