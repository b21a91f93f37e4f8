"""What could not be used is counted by reason and source, and too much of it ends the run."""

import ast
import inspect
import itertools

import numpy as np
import pytest

from clipjax.common.exits import DataError
from clipjax.data import captions, images, source
from clipjax.training import bad_records


def info(*bad, sources=None, keys=None):
    rows = len(bad)
    names = ("bad", "bad_key", "source")
    values = (bad, keys or [f"a.tar/{i}" for i in range(rows)], sources or ["web"] * rows)
    found = {name: np.array(value) for name, value in zip(names, values, strict=True)}
    return found | dict.fromkeys(("truncated", "cleaned"), np.zeros(rows, bool))


def test_every_reason_has_a_counter():
    raised = set()
    for module in (captions, images, source):
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            name = getattr(getattr(node, "func", None), "id", "")
            if name in ("BadImage", "BadCaption", "BadRecord"):
                raised.add(ast.literal_eval(node.args[0]))  # pyright: ignore
    assert raised == set(bad_records.REASONS)


def test_counts_by_reason_and_source():
    counter = bad_records.BadRecords(max_fraction=1.0, sources=("web", "books"))
    found = counter.count(
        info(
            *("too small", "", "too small", "empty caption"), sources=["web", "web", "books", "web"]
        )
    )
    assert {name: count for name, count in found.items() if count} == {
        "bad": 3,
        "bad/too_small": 2,
        "bad/empty_caption": 1,
        "bad/web": 2,
        "bad/books": 1,
    }
    one = bad_records.BadRecords(max_fraction=1.0, sources=("web",)).count(info("too small"))
    assert "bad/web" not in one  # all of them


def test_the_end_counts_by_reason_and_shard():
    counter = bad_records.BadRecords(max_fraction=1.0, seen=500)
    assert counter.describe() == ""
    for _ in range(2):
        counter.count(info("too small", "", "empty caption", keys=("a.tar/1", "", "b.tar/7")))
    counter.count(info("too small"))
    assert counter.describe() == (
        "5 of 7 records replaced: 3 too small, 2 empty caption; by shard, most first: web: a.tar 3,"
        " web: b.tar 2"
    )


def test_the_end_counts_all_however_many_were_read(monkeypatch):
    monkeypatch.setattr(bad_records, "MEMORY", 1000)
    counter = bad_records.BadRecords(max_fraction=1.0)
    for number in range(60):
        counter.count(info("too small", *[""] * 99, keys=(f"{number % 3}.tar/1", *[""] * 99)))
    assert counter.describe() == (
        "60 of 6,000 records replaced: 60 too small; by shard, most first: web: 0.tar 20,"
        " web: 1.tar 20, web: 2.tar 20"
    )


def test_too_many_end_the_run_and_name_the_last():
    counter = bad_records.BadRecords(max_fraction=0.1)
    for _ in range(9):
        counter.count(info("", "too small", keys=("", "b.tar/7")))
    with pytest.raises(DataError, match=r"20 of 29 .* 11 of them are in web: a.tar; the last was"):
        for _ in itertools.repeat(None, 100):
            counter.count(info("too small"))


def test_what_the_run_has_come_through_counts_as_sound():
    """Each start would else judge by its own few records: a restart could end a sound run."""
    counter = bad_records.BadRecords(max_fraction=0.1, seen=1000)
    for _ in range(100):
        counter.count(info("too small"))
    with pytest.raises(DataError, match="of 1,1"):
        for _ in range(100):
            counter.count(info("too small"))


def test_a_shard_that_goes_bad_late_is_noticed(monkeypatch):
    monkeypatch.setattr(bad_records, "MEMORY", 1000)
    counter = bad_records.BadRecords(max_fraction=0.1)
    for _ in range(1000):
        counter.count(info(*[""] * 100))
    with pytest.raises(DataError, match=r"in web: a.tar"):
        for _ in range(3):
            counter.count(info(*["too small"] * 100))


def test_the_log_names_some_and_counts_the_others(monkeypatch, caplog):
    counter = bad_records.BadRecords(max_fraction=1.0)
    counter.count(info(*["too small"] * 50))
    assert caplog.text.count("replaced") == bad_records.TOLD
    monkeypatch.setattr(bad_records, "TELL_SECONDS", 0.0)
    counter.count(info("damaged image"))
    assert "a.tar/0 replaced: damaged image (40 more since the last one named)" in caplog.text
