"""The program `clipjax.dataset`: each verb as a user types it, and mistakes in one line."""

import json
import os
import re
import subprocess
import sys

import pytest

from clipjax.common import exits
from clipjax.curation import check
from clipjax.data.sources.table import open_tables
from tests import processes
from tests.data import tars


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "clipjax.dataset", *map(str, arguments)],
        cwd=processes.ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=processes.TIMEOUT,
        check=False,
    )


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    for shard in range(2):
        tars.write(folder / f"{shard}.tar", tars.pairs(30, start=30 * shard))
    return folder


def test_check(shards, tmp_path):
    ended = command("check", "--source=tar", f"--path={shards}", f"--output={tmp_path}/out")
    assert ended.returncode == 0, ended.stderr
    assert f"source                         tar, {shards}\n" in ended.stdout
    assert "looked at                      60" in ended.stdout
    assert json.loads((tmp_path / "out" / "check.json").read_text())["broken"] == 0
    assert (tmp_path / "out" / "sheet.png").stat().st_size > 1000


def test_index_then_train_on_it(shards, tmp_path):
    from clipjax import config
    from clipjax.build import data as build_data

    out = tmp_path / "index"
    ended = command(
        "index", "--source=tar", f"--path={shards}", f"--output={out}", "--num_workers=2"
    )
    assert ended.returncode == 0, ended.stderr
    assert "60 records in 2 shards, 2 indexes" in ended.stdout
    data = config.records(source="tar", path=str(shards), index=str(out))
    source = build_data.source(data, image_size=16, seed=0)
    plain = build_data.source(config.records(source="tar", path=str(shards)), image_size=16, seed=0)
    assert source.fingerprint == plain.fingerprint and source[59] == plain[59]


def test_convert_bench_and_tokenizer(shards, tmp_path):
    out = tmp_path / "converted"
    ended = command(
        "convert", "--source=tar", f"--path={shards}", f"--output={out}", "--num_workers=0"
    )
    assert ended.returncode == 0 and "60 records written" in ended.stdout, ended.stderr
    ended = command("bench", "--source=tfds", f"--path={out}", "--limit=60", "--rate=20000")
    assert ended.returncode == 0 and "num_workers=" in ended.stdout, ended.stderr
    made = tmp_path / "tokenizer"
    ended = command(
        "tokenizer", "--source=tfds", f"--path={out}", f"--output={made}", "--vocab_size=280"
    )
    assert ended.returncode == 0, ended.stderr
    assert (made / "sentencepiece.model").exists()


def test_queries_balance_and_dedup(shards, tmp_path):
    (tmp_path / "words.txt").write_text("text 1 text 2 text 3\n" * 5)
    listed, kept = tmp_path / "queries.txt", tmp_path / "balanced.keep"
    ended = command(
        "queries", f"--text={tmp_path}/words.txt", "--min_count=5", f"--output={listed}"
    )
    assert ended.returncode == 0, ended.stderr
    assert listed.read_text().splitlines() == ["text", "1", "2", "3"]
    data = ("--source=tar", f"--path={shards}", "--num_workers=0")
    ended = command("balance", *data, f"--queries={listed}", "--per_query=10", f"--output={kept}")
    assert ended.returncode == 0, ended.stderr
    assert "'text' 60 → " in ended.stdout
    assert {p.name for p in tmp_path.glob("balanced*")} == {
        "balanced.keep",
        "balanced.counts.tsv",
        "balanced.png",
    }
    ended = command("dedup", *data, f"--against=tar:{shards}/1.tar", f"--output={tmp_path}/d.keep")
    assert ended.returncode == 0, ended.stderr
    assert f"in tar:{shards}/1.tar: 30" in ended.stdout
    ended = command("check", *data, f"--keep={tmp_path}/d.keep")
    assert ended.returncode == 0 and "left out by the source" in ended.stdout, ended.stderr


def test_a_path_says_itself_what_it_is(shards, tmp_path):
    (tmp_path / "pictures" / "cats").mkdir(parents=True)
    (tmp_path / "pictures" / "cats" / "a.jpg").write_bytes(tars.picture(0))
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "a.csv").write_text("filepath,title\n")
    expected = {
        f"{shards}": "tar",
        f"{shards}/{{0..1}}.tar::{shards}/1.tar": "tar",
        "x/*.CSV": "table",
        "train.tsv": "table",
        "a.jsonl": "table",
        "https://a.b/{0..9}.parquet?key=a.tar": "parquet",
        "train.tfrecord-00000-of-00010": "tfrecord",
        f"{tmp_path}/tables": "table",
        f"{tmp_path}/pictures": "folder",
    }
    code = (
        "import sys; from absl import flags; from clipjax.build import named_data\n"
        "for path in sys.argv[1:]:\n"
        "    flags.FLAGS(['x', f'--path={path}'])\n"
        "    print(named_data.settings(image_size=32)[0].source)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, *expected], capture_output=True, text=True, check=True
    )
    assert ended.stdout.split() == list(expected.values())


def test_check_of_a_table_by_its_path_alone(tmp_path):
    (tmp_path / "0.jpg").write_bytes(tars.picture(0))
    rows = ["0.jpg,a fox", "0.jpg,a fox, red", "1.jpg,a dog", '0.jpg,"x']
    (tmp_path / "a.csv").write_text("filepath,title\n" + "\n".join(rows) + "\n")
    ended = command("check", f"--path={tmp_path}/a.csv", "--num_workers=0")
    assert ended.returncode == 0, ended.stderr
    assert re.search(r"broken +3\n", ended.stdout)
    for told in (
        "wrong number of fields: 1, no such file: 1, broken quotes: 1",
        "a.csv/1 (wrong number of fields (line 3: 3 where the head has 2))",
        "lacking image or text          none (left out by the source",
        "captions cut or cleaned        0",
        "--output=FOLDER keeps this as check.json, with a contact sheet",
    ):
        assert told in ended.stdout
    named = command("check", "--source=csv", f"--path={tmp_path}/a.csv", "--num_workers=0")
    assert named.stdout == ended.stdout


def test_check_tells_of_a_tsv_with_quotes(tmp_path):
    """They belong to the captions: a TSV has no quoting."""
    (tmp_path / "0.jpg").write_bytes(tars.picture(0))
    texts = ['"the ""red"" fox"', '"quoted" and "again"', '"all of it"', 'a 5" nail', '""']
    rows = "".join(f"0.jpg\t{text}\n" for text in texts)
    (tmp_path / "a.tsv").write_text(f"filepath\ttitle\n{rows}")
    source = open_tables(tmp_path / "a.tsv")
    assert [source.caption(n) for n in range(len(texts))] == texts
    found, _ = check.check(source, limit=0, num_workers=0, show=False)
    summed = check.summary(found, source=source)
    assert (summed["captions quoted as in a CSV"], summed["broken"]) == (1, 0)


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        ((), exits.BAD_CONFIG, "say what to do first: check, bench"),
        (("chekc",), exits.BAD_CONFIG, '"chekc" is no verb (did you mean "check"?)'),
        (("check",), exits.BAD_CONFIG, "no data are named"),
        (("check", "--path={}/no.csv"), exits.BAD_CONFIG, "clipjax: --path: "),
        (("check", "--path={}/0.tag"), exits.BAD_CONFIG, "no ending that tells; add --source, one"),
        (("check", "--path=a.csv.gz"), exits.BAD_CONFIG, "no source reads *.gz; uncompress it"),
        (
            ("check", "--path=coco.json"),
            exits.BAD_CONFIG,
            "no source reads *.json; write an object a line",
        ),
        (("check", "--source=csvv", "--path=a"), exits.BAD_CONFIG, 'clipjax: --source: "csvv" is'),
        (("check", "--path={}", "--text_key=.cap"), exits.BAD_DATA, "set --image_key to one of"),
        (("index", "--source=scenes", "--output=x"), exits.BAD_CONFIG, "has no shards"),
        (("check", "--source=tar", "--path={}", "--text_key=.cap"), exits.BAD_DATA, "seen: jpg"),
        (("check", "--path={}", "--side=9"), exits.BAD_CONFIG, "--side: has no effect on check"),
        (("check", "--source=tar", "--path={}", "--name=x"), exits.BAD_CONFIG, "source tar reads"),
        (("check", "--source=digits", "--path={}"), exits.BAD_CONFIG, "source digits reads none"),
    ],
)
def test_mistakes_are_one_line(arguments, code, told, shards):
    ended = command(*(argument.format(shards) for argument in arguments))
    assert ended.returncode == code, ended.stderr
    assert told in ended.stderr and len(ended.stderr.strip().splitlines()) == 1
