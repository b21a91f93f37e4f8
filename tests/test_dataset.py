"""The program `clipjax.dataset`: each verb as a user types it, and mistakes in one line."""

import json
import os
import subprocess
import sys

import processes
import pytest
import tars

from clipjax.common import exits


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "clipjax.dataset", *map(str, arguments)],
        cwd=processes.ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
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
    assert "looked at                      60" in ended.stdout
    assert json.loads((tmp_path / "out" / "check.json").read_text())["broken"] == 0
    assert (tmp_path / "out" / "sheet.png").stat().st_size > 1000


def test_index_then_train_on_it(shards, tmp_path):
    from clipjax import build_data, config

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


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        ((), exits.BAD_CONFIG, "say what to do first: check, bench"),
        (("chekc",), exits.BAD_CONFIG, '"chekc" is no verb (did you mean "check"?)'),
        (("check",), exits.BAD_CONFIG, "no data are named"),
        (("index", "--source=scenes", "--output=x"), exits.BAD_CONFIG, "has no shards"),
        (("check", "--source=tar", "--path={}", "--text_key=.cap"), exits.BAD_DATA, "seen: jpg"),
    ],
)
def test_mistakes_are_one_line(arguments, code, told, shards):
    ended = command(*(argument.format(shards) for argument in arguments))
    assert ended.returncode == code, ended.stderr
    assert told in ended.stderr and len(ended.stderr.strip().splitlines()) == 1
