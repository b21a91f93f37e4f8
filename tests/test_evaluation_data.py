"""What evaluators measure on: what is set, and told where the model is trained on it."""

import json
import os
import shutil

import pytest
from PIL import Image

from clipjax import config, evaluate
from clipjax.build import data as build_data
from clipjax.build import tokenizer as build_tokenizer
from clipjax.common import exits
from clipjax.common.exits import ConfigError
from clipjax.data.sources import shared_records
from clipjax.data.sources.folder import Folder
from clipjax.data.sources.scenes import Scenes
from clipjax.data.sources.table import open_tables
from clipjax.data.sources.tar import open_tars
from clipjax.parallel import mesh as meshes
from tests import tiny
from tests.data import tars


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Three shards of 8 to train on, and one of 5 held out, beside them."""
    folder = tmp_path_factory.mktemp("shards")
    for shard in range(3):
        tars.write(folder / f"{shard}.tar", tars.pairs(8, start=8 * shard))
    tars.write(folder / "held_out" / "3.tar", tars.pairs(5, start=24))
    return folder


def training_on(shards, **evaluators):
    c = tiny.tiny(total="2 steps")
    c.model.text.vocab_size = 280
    c.data.source, c.data.path = "tar", f"{shards}/{{0..2}}.tar"
    for name, settings in evaluators.items():
        c.evals[name] = config.evaluator("retrieval", every="2 steps", **settings)
    return c


def opened(c):
    mesh = meshes.make_mesh({"data": 1, "fsdp": 8, "tensor": 1})
    source = build_data.source(c.data, image_size=32, seed=0)
    tokenizer = build_tokenizer.tokenizer(c, source=source, workdir=c.workdir)
    same = {"mesh": mesh, "tokenizer": tokenizer, "training": source}
    return {name: build_data.evaluator(c, name, **same) for name in c.evals}


def test_the_shards_that_are_named_are_measured(shards, tmp_path):
    c = training_on(
        shards,
        named={"path": f"{shards}/held_out/3.tar"},
        folder={"path": f"{shards}/held_out"},
        usual={},
        half={"path": f"{shards}/2.tar::{shards}/held_out/3.tar"},
        cut={"path": f"{shards}/2.tar", "max_examples": 3},
    )
    with c.unlocked():
        c.workdir = str(tmp_path)
    found = {name: (len(e.source), e.n, next(iter(e.of_data), "")) for name, e in opened(c).items()}
    assert found == {
        "named": (5, 5, ""),
        "folder": (5, 5, ""),
        "usual": (24, 24, "measured on training data"),
        "half": (13, 13, "8 of 13 records are training data"),
        "cut": (3, 3, "measured on training data"),
    }


def test_errors_name_the_evaluators_setting(shards):
    c = training_on(shards, x={"path": f"{shards}/held_out/4.tar"})
    with pytest.raises(ConfigError, match=r"^config\.evals\.x\.path: .*4.tar matches no file"):
        build_data.evaluation_source(c, "x")
    c.evals.x = config.evaluator("retrieval", source="table", path=f"{shards}/none.csv")
    with pytest.raises(ConfigError, match=r"^config\.evals\.x\.path: "):
        build_data.evaluation_source(c, "x")


@pytest.mark.long
def test_a_run_says_what_it_measures_on_beside_the_figures(shards, tmp_path, capfd):
    """At the start, with each evaluation, in the last table, on the page and in `evaluate`."""
    c = training_on(shards, named={"path": f"{shards}/held_out/3.tar"}, usual={})
    assert tiny.run(c, tmp_path / "run") == exits.DONE
    said = capfd.readouterr().out
    lines = said.splitlines()
    assert (
        f"named: retrieval on 5 records of held_out, {shards}/held_out/3.tar; every 2 step" in said
    )
    assert [line.split()[1] for line in lines if line.startswith("evaluator")] == [
        "named:",
        "usual:",
    ]
    (warning,) = [line for line in lines if line.startswith("warning     config.evals")]
    assert warning.startswith("warning     config.evals.usual: measured on training data; ")
    noted = "note: usual: measured on training data"
    assert lines.count(noted) == 2, "with the evaluation, and below the last table"
    page = (tmp_path / "run" / "report" / "index.html").read_text()
    assert "usual: measured on training data" in page and "named: measured" not in page
    last = [line for line in tiny.lines(tmp_path / "run") if "eval/usual/notes" in line]
    assert [line["eval/usual/notes"] for line in last] == ["measured on training data"]

    assert evaluate.run(str(tmp_path / "run")) == exits.DONE
    assert noted in capfd.readouterr().out.splitlines()
    (file,) = (tmp_path / "run" / "evaluations").glob("*.json")
    found = json.loads(file.read_text())["evaluations"]
    notes = {name: (each["n"], each["notes"]) for name, each in found.items()}
    assert notes["named"] == (5, []) and notes["usual"] == (24, ["measured on training data"])


def test_shared_records_of_shards(shards, tmp_path):
    whole, one = open_tars(f"{shards}/{{0..2}}.tar"), open_tars(f"{shards}/1.tar")
    assert shared_records.count(one, whole) == 8 and shared_records.count(whole, one) == 8
    assert shared_records.count(open_tars(f"{shards}/held_out"), whole) == 0
    os.symlink(shards / "2.tar", tmp_path / "other_name.tar")
    assert shared_records.count(open_tars(str(tmp_path / "other_name.tar")), whole) == 8
    for shard in range(3):
        shutil.copy(shards / f"{shard}.tar", tmp_path)
    assert shared_records.count(open_tars(f"{tmp_path}/{{0..2}}.tar"), whole) == 24, "a copy"
    # As long as the first ones, byte for byte of other pictures.
    grey = [tmp_path / "grey" / "0.tar", tmp_path / "black" / "0.tar"]
    for level, file in zip((90, 0), grey, strict=True):
        image = bytes([level]) * 100
        tars.write(file, [("0.jpg", image), ("0.txt", b"text")])
    one, other = map(open_tars, map(str, grey))
    assert one.fingerprint == other.fingerprint and shared_records.count(one, other) == 0


def test_shared_records_of_folders_tables_and_demos(tmp_path):
    for name in ("train/cat/a.png", "train/dog/b.png", "test/cat/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (len(name), 3, 3)).save(tmp_path / name)
    train = Folder(str(tmp_path / "train"))
    assert shared_records.count(Folder(str(tmp_path / "test")), train) == 0
    assert shared_records.count(Folder(str(tmp_path / "train" / "dog")), train) == 1
    for name in ("train", "test"):
        (tmp_path / f"{name}.csv").write_text("filepath,title\ntrain/cat/a.png,a cat\n")
    one, other = (open_tables(str(tmp_path / f"{name}.csv")) for name in ("train", "test"))
    assert shared_records.count(one, other) == 0 and shared_records.count(one, one) == 1
    assert shared_records.count(Scenes(split="test"), Scenes(split="train")) == 0
    assert shared_records.count(Scenes(split="train"), Scenes(split="train")) == 1_000_000


def test_shared_records_of_mixtures_and_selections(shards):
    c = training_on(shards)
    c.data.mixture.web = config.part(1, source="tar", path=f"{shards}/0.tar")
    c.data.mixture.more = config.part(1, source="tar", path=f"{shards}/2.tar")
    mixed = build_data.source(c.data, image_size=32, seed=0)
    assert shared_records.count(open_tars(f"{shards}/{{1..2}}.tar"), mixed) == 8
    assert shared_records.count(Scenes(split="test"), mixed) == 0
