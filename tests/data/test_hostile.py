"""Mutated files and bombs: no crash, no hang, little memory; captions that mean harm."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from clipjax.data import captions, tokenizers
from clipjax.data.tokenizers import sentencepiece as sentencepiece_tokenizer
from tests import processes
from tests.data import fakes, hostile, test_clip_tokenizer
from tests.weights import vocabulary

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="needs /proc")
FINE = ("webp of 1,000 frames",)  # its first frame is decoded, the others are not


def run(*arguments):
    paths = os.pathsep.join(path for path in sys.path if path)
    ended = subprocess.run(
        [sys.executable, hostile.__file__, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=processes.TIMEOUT,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "count", [600, pytest.param(20_000, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_mutated_files(tmp_path, count):
    found = run("fuzz", count, 1, tmp_path)
    print(found)
    assert sum(found["outcomes"].values()) == count + 1
    assert found["slowest"] < 1 and found["growth"] < 200
    assert len(found["outcomes"]) >= 4


def test_bombs(tmp_path):
    found = run("bombs", tmp_path)
    assert len(found) == 13
    for name, (outcome, seconds, growth) in found.items():
        assert (outcome == "fine") == (name in FINE), name
        assert seconds < 1 and growth < 100, (name, seconds, growth)


@pytest.mark.slow
def test_a_tar_of_a_million_members(tmp_path):
    """It may be meant; the rule is that of `tar_index`."""
    samples, seconds, growth = run("members", 10**6, tmp_path)
    print(f"{seconds:.1f} s, {growth:.0f} MB")
    assert samples == 10**6 and seconds < 60 and growth < 250 * 1.2


CAPTIONS = {
    "invalid UTF-8": b"a fox \xff\xfe\x80",
    "lone surrogates": "a fox \ud800\udfff",
    "NUL": "a\0fox",
    "right to left": "\u202eثعلب\u202c fox",
    "1 MB single word": "x" * 10**6,
    "1 MB of spaces": " " * 10**6 + "fox",
    "10,000 combining marks": "a" + "\u0301" * 10_000,
    "emoji": "👩‍🚀🦊" * 500,
    "text decoded wrongly again and again": "Ã©â€œ" * 2000,
    "nothing but HTML": "&amp;" * 2000,
    "control words": "<s></s><pad><|endoftext|><0x00>",
}


UNUSABLE = {
    "empty": "",
    "white space and NUL": " \0\t\u200b",
    "1 MB that is no UTF-8": b"\xff" * 10**6,
}


@pytest.fixture(scope="module", params=tokenizers.KINDS)
def tokenizer(request, tmp_path_factory):
    if request.param == "sentencepiece":
        texts = [fakes.sentence(i) for i in range(300)]
        model = sentencepiece_tokenizer.train_sentencepiece(texts, vocab_size=300)
    elif request.param == "clip":
        model = test_clip_tokenizer.MERGES
    else:
        make = {"siglip": vocabulary.t5_like, "gemma": vocabulary.gemma_like}[request.param]
        model = make(tmp_path_factory.mktemp("vocabulary"), vocab_size=400).read_bytes()
    made = tokenizers.KINDS[request.param](model, context_length=77)
    made.encode(["warm up: é"])
    return made


@pytest.mark.parametrize("name", CAPTIONS)
def test_hostile_captions_become_ids_at_once(name, tokenizer):
    """In 10 ms of CPU time each; what is quadratic in a megabyte takes hours."""
    began = time.process_time()
    text, _ = captions.choose(CAPTIONS[name], rng=np.random.default_rng(0))
    ids, _ = tokenizer.encode([text])
    assert time.process_time() - began < 0.5
    assert ids.shape == (1, 77) and ids.min() >= 0 and ids.max() < tokenizer.vocab_size
    row = ids[0].tolist()
    end = row.index(tokenizer.end_id)
    assert set(row[end + 1 :]) <= {tokenizer.pad_id}, "one end, and nothing but padding after it"
    if tokenizer.start_id is not None:
        assert row[0] == tokenizer.start_id and row.count(tokenizer.start_id) == 1


@pytest.mark.parametrize("name", UNUSABLE)
def test_captions_without_text_are_bad_at_once(name):
    began = time.process_time()
    with pytest.raises(captions.BadCaption, match="empty caption"):
        captions.choose(UNUSABLE[name], rng=np.random.default_rng(0))
    assert time.process_time() - began < 0.5
