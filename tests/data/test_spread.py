"""`max_examples` of an evaluator: records spread over the set, the same ones always."""

import collections
import pickle

import pytest

from clipjax.data.source import Shards, Spread
from clipjax.data.sources.digits import Digits
from clipjax.data.sources.folder import Folder
from tests.data import fakes


def by_class(top, *, classes=10, each=20):
    for number in range(classes * each):
        path = top / f"class{number // each:02d}" / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return Folder(str(top))


@pytest.mark.parametrize("limit", [10, 36, 100, 199])
def test_every_class_of_a_sorted_set_is_met_alike(tmp_path, limit):
    source = by_class(tmp_path)
    some = Spread(source, limit)
    counts = collections.Counter(map(some.label, range(len(some))))
    assert len(some) == limit and set(counts) == set(source.labels) == set(some.labels)
    assert max(counts.values()) - min(counts.values()) <= 2
    assert some.key(limit - 1).startswith("class09/")


def test_records_are_those_of_the_source():
    source = Digits(split="test")
    some = Spread(source, 36)
    assert [some.label(i) for i in range(36)] == [some[i]["label"] for i in range(36)]
    assert some.caption(5) == some[5]["text"] and some.name == "digits"
    assert len({some[i]["key"] for i in range(36)}) == 36
    assert pickle.loads(pickle.dumps(some))[7] == some[7]  # noqa: S301 - our own bytes
    assert some.fingerprint not in (source.fingerprint, Spread(source, 37).fingerprint)
    assert some.notes == ["36 of 364 records, spread over all"]
    for outside in (-1, 36):
        with pytest.raises(IndexError):
            some[outside]


def test_more_than_there_are_is_all_in_order_and_needs_no_note():
    some = Spread(fakes.FakeSource(length=7), 100)
    assert len(some) == 7 and list(some.indices) == list(range(7)) and some.notes == []


def test_no_more_than_asked_are_taken_of_remote_shards():
    class Remote(fakes.FakeSource):
        shards = Shards((10,) * 400, (1,) * 400, is_remote=True)

    assert len(Spread(Remote(length=4000), 100)) == 100
