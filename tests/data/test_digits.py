import os
import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from drl_jax.data.sources import open_source
from drl_jax.errors import UserError
from tests.data.tiny_sets import read_by_the_library


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    directory = str(tmp_path_factory.mktemp("tfds"))
    open_source("digits", data_dir=directory)
    return directory


def test_digits_are_those_of_scikit_learn_in_order(data_dir):
    source = open_source("digits", channels=1, data_dir=data_dir)
    rows, _ = load_digits(return_X_y=True)
    pixels = source.take(np.arange(1797))
    assert pixels.shape == (1797, 8, 8, 1)
    expected = np.round(np.asarray(rows).reshape(-1, 8, 8, 1) * 255 / 16)
    np.testing.assert_array_equal(pixels, expected)


def test_digits_and_labels_are_read_by_the_library_alone(data_dir):
    records = read_by_the_library("digits", "train", data_dir)
    _, labels = load_digits(return_X_y=True)
    assert [records[i]["label"] for i in range(100)] == list(labels[:100])
    assert records[0]["image"].shape == (8, 8, 1)


def test_a_second_opening_writes_nothing(data_dir):
    files = {(e.path, e.stat().st_mtime_ns) for e in os.scandir(f"{data_dir}/digits/1.0.0")}
    open_source("digits", data_dir=data_dir)
    assert {(e.path, e.stat().st_mtime_ns) for e in os.scandir(f"{data_dir}/digits/1.0.0")} == files


def test_processes_that_start_at_once_share_one_set(tmp_path):
    program = (
        "import numpy as np; from drl_jax.data.sources import open_source; "
        f"print(open_source('digits', data_dir={str(tmp_path)!r}).take(np.arange(1797)).sum())"
    )
    processes = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) for _ in range(2)]
    sums = {process.communicate(timeout=60)[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    assert len(sums) == 1
    assert os.listdir(tmp_path) == ["digits"]
    assert os.listdir(tmp_path / "digits") == ["1.0.0"]


def test_a_data_directory_that_cannot_be_written_is_named(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(UserError, match=rf"data.data_dir: cannot write to {file}/.*Not a dir"):
        open_source("digits", data_dir=str(file / "tfds"))
