"""The page about a run: all of it is in one file, its numbers are those of the files, nothing is changed."""

import base64
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from etils import epath

from drl_jax.commands.report import FILE, Run, page, report
from drl_jax.config import schema
from drl_jax.config.overrides import parse
from drl_jax.errors import UserError
from drl_jax.main import main
from drl_jax.report import metrics_log
from drl_jax.report.images import save_grid

CONFIG = parse(["--config=digits", "--config.training.steps=40", "--config.data.timeout=61.5"]).config
MACHINE = "2 <b>cpu</b> devices & \"quotes\", 'Ünïcode' 処理"
OPTIONS = {"chains": 8, "levels": [0, 2], "data": "a b", "of": None}
VOID = {"meta", "img"}


class Page(HTMLParser):
    """A page that is read: its elements, its texts, and the cells of its tables."""

    def __init__(self, content: str):
        super().__init__()
        self.open, self.links, self.sources, self.tags, self.ids = [], [], [], [], []
        self.texts, self.tables = [], []
        self.feed(content)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        for name, value in attrs:
            assert not name.startswith("on")
            if name in ("src", "href", "srcset", "action", "data", "poster", "background"):
                (self.links if name == "href" else self.sources).append(value)
            if name == "id":
                self.ids.append(value)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data


def make_run(folder: Path):
    """What a run of 40 steps leaves that was started twice and went back once."""
    workdir = epath.Path(folder) / "run & <more>"
    schema.save(CONFIG, workdir / schema.FILE)
    values = {"loss": 0.25, "negative/level_1": 0.5, "positive/level_1": 2.0, "gradient_norm/level_1": 31.25}
    with metrics_log.open_log(workdir) as log:
        log.truncate(0, 0)
        log.write(10, {**values, "steps_per_second": 0.1, "evaluation_seconds": 21.0})
    (first,) = (workdir / "tensorboard").iterdir()
    first.rename(first.parent / "events.out.tfevents.0000000001.host")  # a second start comes later
    with metrics_log.open_log(workdir) as log:
        log.truncate(10, 0)
        log.note_rollback(10, 1, from_step=15, cause="loss of 1e9 <at level 3>")
        log.write(40, {**values, "loss/level_1": 1.0, "steps_per_second": 0.5, "frechet_pixels": 0.5})
    for step, jax in ((20, "0.1"), (40, "0.2")):
        record = {
            "machine": MACHINE,
            "commit": "c0ffee",
            "versions": {"jax": jax, "numpy": "2.0"},
            "data": {"examples": 1797},
            "arrays": {"params/a": {"shape": [30, 50]}, "params/b": {"shape": []}, "opt/a": {"shape": [9]}},
        }
        file = workdir / f"checkpoints/{step}/record/data.json"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(record))
    scores = {"frechet_pixels": 0.512345678, "frechet_pixels_data_vs_data": 0.25, "kid_pixels": -0.0012}
    (workdir / "scores.json").write_text(
        json.dumps({"step": 40, "scores": scores, "evaluation": {"num_samples": 898}})
    )
    for step in (20, 40):
        save_grid(np.full((4, 8, 8, 1), step, np.uint8), workdir / f"samples/{step:07}.png")
    result = {
        "scores": {"frechet_pixels": 0.498765},
        "data_vs_data": {"frechet_pixels": 0.2468},
        "protocol": {"samples": {"count": 50, "step": 40, "note": "a < b"}, "metrics": {}},
        "versions": {"drl_jax": "0"},
        "commit": "c0ffee",
        "config": schema.to_dict(CONFIG) | {"evaluation": {"num_samples": 50, "metrics": "frechet_pixels"}},
    }
    file = workdir / "evaluations/0000040_abc/result_50.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(result))
    (workdir / "skipped_0.txt").write_text("images/<1>.png is damaged\n")
    likelihood = {"log_z": [1.5, 2.5], "what": {"bits": 3.25}, "options": OPTIONS}
    (workdir / "likelihood.json").write_text(json.dumps(likelihood))
    areas, means = ({"energy": {"<noise>": [area, 0.5]}} for area in (0.123456, 0.75))
    detect = {"levels": [0, 3], "auroc": areas, "average_precision": means, "options": {"draws": 4}}
    (workdir / "detect.json").write_text(json.dumps(detect))
    for name in ("inpainting", "detect", "detect_level_0", "detect_level_5"):  # the last is an old one
        save_grid(np.zeros((4, 8, 8, 1), np.uint8), workdir / f"{name}.png")
    return workdir


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def content(workdir) -> str:
    return written(workdir)


def written(workdir: epath.Path) -> str:
    return page(Run(workdir, schema.load(workdir / schema.FILE)))


def test_all_of_it_is_in_one_file(content):
    parsed = Page(content)
    assert {"script", "link", "iframe", "object", "base", "form"}.isdisjoint(parsed.tags)
    assert re.search(r"url\(|@import", content) is None
    for source in parsed.sources:
        kind, _, data = source.partition(";base64,")
        assert kind == "data:image/png"
        assert base64.b64decode(data, validate=True).startswith(b"\x89PNG")
    assert len(parsed.sources) == 7  # curves, levels, two grids of samples, inpainting, two of detect
    assert parsed.links == [f"#{name}" for name in parsed.ids]
    assert len(set(parsed.ids)) == len(parsed.ids)
    assert parsed.tags.count("h1") == 1
    assert parsed.tags.count("h2") == len(parsed.ids)
    images = re.findall(r"<img [^>]*>", content)
    assert all(re.search(r'alt="[^"]+"', each) for each in images)


def test_numbers_are_those_of_the_files(content):
    tables = Page(content).tables
    rows = {tuple(row) for table in tables for row in table}
    assert ("frechet_pixels", "0.51235", "0.25") in rows
    assert ("kid_pixels", "-0.0012", "–") in rows
    assert ("frechet_pixels", "0.49877", "0.2468") in rows
    assert ("1", "15", "10", "loss of 1e9 <at level 3>") in rows
    assert ("<noise>", "0.123 (0.750)", "0.500 (0.500)") in rows
    levels = next(table for table in tables if table[0][0] == "level")
    expected = ["t = 1", "0.94612", "0.32382", "0.5165", "0.017328", "0.017328", "-1.5", "–", "31.25"]
    assert levels[2] == expected
    assert [row[6] for row in levels[1:]] == ["–", "-1.5", "–", "–", "–", "–"]
    starts = next(table for table in tables if table[0][0] == "started")
    assert [row[1:3] for row in starts[1:]] == [["0", "10"], ["10", "40"]]


def test_facts_of_the_run(content):
    text = " ".join(" ".join(Page(content).texts).split())
    # 10 steps at 0.1 and 30 at 0.5 per second, and an evaluation.
    assert "time 3 min 1 s of training" in text
    assert "step 40 of 40 " in text
    assert "1,501 weights" in text
    assert "jax 0.1 (steps 20); 0.2 (steps 40) numpy 2.0" in text
    assert "log_z 1.5, 2.5 what.bits 3.25" in text
    assert "1 damaged examples" in text


def test_texts_are_escaped(content, workdir):
    text = "".join(Page(content).texts)
    for each in (MACHINE, str(workdir), "loss of 1e9 <at level 3>", "images/<1>.png is damaged", "a < b"):
        assert each in text
    assert "<b>" not in content
    assert "<1>" not in content


def test_the_config_with_what_differs_first(content):
    tables = [table for table in Page(content).tables if table[0][0] == "key"]
    changed, same = ({row[0]: row[1:] for row in table[1:]} for table in tables)
    assert changed["config.training.steps"] == ["40", "240000"]
    assert changed["config.data.timeout"] == ["61.5", "600"]
    assert same["config.guard.rollbacks"] == ["5"]
    assert changed.keys() | same.keys() == {f"config.{key}" for key in schema.keys("residual")}


def test_the_commands_repeat_the_run(content, tmp_path):
    text = "".join(Page(content).texts)
    saved = text.partition("cat > runs/again/config.json <<'END'\n")[2].partition("\nEND\n")[0]
    (tmp_path / "again.json").write_text(saved)
    assert schema.load(epath.Path(tmp_path) / "again.json") == CONFIG
    assert "git checkout c0ffee" in text
    flags = "--config.evaluation.num_samples=50 --config.evaluation.metrics=frechet_pixels"
    line = f"drl-jax evaluate --workdir=runs/again {flags} --config.evaluation.step=40"
    assert line in text
    assert "drl-jax likelihood --model=runs/again --chains=8 --levels=0,2 '--data=a b'\n" in text + "\n"


def test_a_run_that_has_only_begun(tmp_path):
    workdir = epath.Path(tmp_path)
    schema.save(CONFIG, workdir / schema.FILE)
    text = " ".join(Page(written(workdir)).texts)
    for part in ("Nothing is logged yet", "No samples yet", "No scores yet", "No checkpoint is kept"):
        assert part in text
    assert "step 0 of 40: not finished" in text
    assert "Likelihood" not in text


def test_damaged_files_are_left_out(tmp_path):
    workdir = make_run(tmp_path)
    for name in ("scores.json", "checkpoints/40/record/data.json", "likelihood.json", "inpainting.png"):
        (workdir / name).write_text("{")
    (workdir / metrics_log.FILE).write_text('{"step": 10, "loss": 0.5}\n{"st')
    for path in (workdir / "tensorboard").iterdir():
        path.write_bytes(path.read_bytes()[:-3])
    parsed = Page(written(workdir))
    assert "0.51235" not in "".join(parsed.texts)
    assert len(parsed.sources) == 6
    assert len(Run(workdir, CONFIG).starts) == 2


def test_the_workdir_is_only_read(workdir, tmp_path, capsys):
    before = {path: path.stat().st_mtime_ns for path in Path(workdir).rglob("*")}
    assert main(["report", f"--workdir={workdir}", f"--output={tmp_path / 'out'}"]) == 0
    assert {path: path.stat().st_mtime_ns for path in Path(workdir).rglob("*")} == before
    assert os.listdir(tmp_path / "out") == [FILE]
    assert f"written to {tmp_path / 'out' / FILE}" in capsys.readouterr().out


def test_mistakes(workdir, tmp_path):
    other = parse(["--config=digits"]).config
    with pytest.raises(UserError, match="leave --config and its keys out"):
        report(other, workdir, workdir)
    with pytest.raises(UserError, match="holds no run"):
        report(CONFIG, epath.Path(tmp_path) / "none", workdir)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/report.html cannot be written: .*; name a folder"):
        report(CONFIG, workdir, epath.Path(tmp_path) / "file")
