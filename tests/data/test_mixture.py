"""Mixtures: exact shares at every position, own epochs, pure arithmetic."""

import contextlib
import itertools
import pickle
from collections import Counter

import numpy as np
import pytest

from clipjax.data import examples, loader, mixture
from clipjax.data.order import GlobalOrder
from tests.data import fakes

WEIGHTS = {"web": 0.7, "books": 0.2, "shop": 0.1}
LENGTHS = {"web": 50, "books": 7, "shop": 23}


def made(weights=WEIGHTS, *, seed=3, **changes):
    parts = {name: fakes.FakeSource(length=LENGTHS[name], name=name, **changes) for name in weights}
    orders = {
        name: (GlobalOrder(len(part), seed=seed), weights[name], len(part))
        for name, part in parts.items()
    }
    return mixture.Joined(parts), mixture.MixtureOrder(orders)


def stream(**changes):
    source, order = made(**changes)
    return examples.TrainExamples(
        source, tokenizer=fakes.FakeTokenizer(), image_size=16, seed=3, order=order
    )


@pytest.mark.parametrize(
    "weights", [WEIGHTS, {"web": 1, "books": 1, "shop": 1}, {"web": 1e-3, "books": 5, "shop": 2.5}]
)
def test_shares_are_exact_at_every_position(weights):
    _, order = made(weights)
    total = sum(weights.values())
    counts = Counter()
    for position in range(3000):
        assert [counts[name] for name in weights] == order.counts(position)
        number, own = order.part(position)
        name = order.names[number]
        assert own == counts[name]  # each part's positions come in order, none left out
        counts[name] += 1
        for name, weight in weights.items():
            assert abs(counts[name] - (position + 1) * weight / total) < len(weights)


def test_shares_far_away_and_of_decimal_weights():
    _, order = made({"web": 0.1, "books": 0.2, "shop": 0.7})
    assert order.counts(10**12) == [10**11, 2 * 10**11, 7 * 10**11]


def test_each_source_has_its_own_epochs():
    source, order = made()
    found = {name: [] for name in LENGTHS}
    for position in range(1000):
        record = source[order(position)]
        found[record["source"]].append(record["key"])
    for name, keys in found.items():
        length = LENGTHS[name]
        for first in range(0, len(keys) - length + 1, length):
            assert len(set(keys[first : first + length])) == length
    assert order.progress(1000)["books/examples"] == 200
    assert order.progress(1000)["books/epochs"] == 200 / 7


def test_substitutes_come_from_the_same_source():
    rows = [stream(broken=(1, 3))[position] for position in range(200)]
    good = [stream()[position] for position in range(200)]
    assert [row["source"] for row in rows] == [row["source"] for row in good]
    assert any(row["bad"] for row in rows)
    assert {row["bad_key"] for row in rows if row["bad"]} <= {"", "record-1", "record-3"}


def test_unreadable_records_are_named_with_their_source():
    row = next(r for r in map(stream(unreadable=(0,)).__getitem__, range(200)) if r["bad"])
    assert row["bad_key"] == f"{row['source']}: index 0"


@pytest.mark.parametrize("start", [0, 37])
def test_hosts_workers_and_restarts_change_nothing(start):
    def take(**options):
        batches = loader.train_batches(stream(), start=start, batch_size=8, **options)
        with contextlib.closing(batches):
            return [batch for batch, _ in itertools.islice(batches, 4)]

    whole = [stream()[p]["record_id"] for p in range(start, start + 32)]
    assert np.concatenate([b["record_id"] for b in take()]).tolist() == whole
    halves = [take(rows=rows) for rows in np.split(np.arange(8), 2)]
    both = [np.concatenate([b["record_id"] for b in step]) for step in zip(*halves, strict=True)]
    assert np.concatenate(both).tolist() == whole
    if start:
        again = np.concatenate([b["record_id"] for b in take(num_workers=1)])
        assert again.tolist() == whole


def test_joined_source():
    source, _ = made()
    again = pickle.loads(pickle.dumps(source))  # noqa: S301 (our own bytes)
    assert len(source) == 80 and source.name == "web+books+shop"
    assert again[52]["key"] == "record-2" and again[52]["source"] == "books"
    assert source.caption(52) == fakes.sentence(2) and source.key(52) == "books: index 2"
    assert source.fingerprint == again.fingerprint != made({"web": 1})[0].fingerprint
    for index in (-1, 80):
        with pytest.raises(IndexError):
            source[index]
