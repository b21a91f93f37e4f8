"""The order of training records."""

import itertools
import pickle

import numpy as np
import pytest

from clipjax.data import order


def epoch(number, *, seed, length):
    positions = range(number * length, (number + 1) * length)
    return [order.record_index(position, seed=seed, length=length) for position in positions]


@pytest.mark.parametrize("length", [1, 2, 3, 7, 64, 1000, 4097])
def test_every_epoch_visits_each_record_once(length):
    for number in range(3):
        assert sorted(epoch(number, seed=5, length=length)) == list(range(length))


def test_epochs_and_seeds_differ():
    orders = [epoch(e, seed=s, length=500) for e in range(3) for s in range(3)]
    agreement = [np.mean(np.equal(a, b)) for i, a in enumerate(orders) for b in orders[:i]]
    assert max(agreement) < 0.02  # chance is 0.002


def test_order_is_mixed():
    indices = np.array(epoch(0, seed=1, length=5000))
    assert abs(np.corrcoef(np.arange(5000), indices)[0, 1]) < 0.05
    # Each record of a batch of 100 comes from its own part of the source about as often as chance.
    parts = [len(set(batch // 50)) for batch in indices.reshape(50, 100)]
    assert abs(np.mean(parts) - 100 * (1 - (1 - 1 / 100) ** 100)) < 2


def test_order_does_not_change_between_releases():
    assert epoch(0, seed=0, length=10) == GOLDEN[0]
    assert epoch(1, seed=0, length=10) == GOLDEN[1]


def test_sources_beyond_32_bits():
    length = 10**11
    indices = [order.record_index(position, seed=2, length=length) for position in range(200)]
    assert len(set(indices)) == 200
    assert max(indices) > 2**33 and max(indices) < length


GOLDEN = {
    0: [9, 6, 0, 4, 5, 2, 7, 1, 8, 3],
    1: [6, 2, 5, 3, 4, 8, 9, 7, 0, 1],
}


SHARDS = [5, 0, 9, 1, 30, 7, 7, 12, 3, 8, 0]


@pytest.mark.parametrize("window", [1, 2, 3, 11, 100])
def test_windows_visit_each_record_once_an_epoch(window):
    made = order.WindowOrder(SHARDS, window=window, seed=4)
    length = sum(SHARDS)
    epochs = [[made(p) for p in range(e * length, (e + 1) * length)] for e in range(3)]
    assert all(sorted(epoch) == list(range(length)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_windows_read_few_shards_at_a_time():
    lengths = [10] * 40
    made = order.WindowOrder(lengths, window=4, seed=0)
    for epoch in range(2):
        firsts = []
        for window in range(10):
            begin = epoch * 400 + window * 40
            shards = {made(p) // 10 for p in range(begin, begin + 40)}
            assert len(shards) == 4
            firsts += sorted(shards)
            told = {index // 10 for index in made.upcoming(begin + 13)}
            following = {made(p) // 10 for p in range(begin + 40, begin + 80)}
            assert told == shards | following
        assert sorted(firsts) == list(range(40)) != firsts  # shards in another order too
    mixed = [made(p) // 10 for p in range(40)]
    assert sum(a != b for a, b in itertools.pairwise(mixed)) > 20


def test_window_order_is_arithmetic():
    made = order.WindowOrder(SHARDS, window=3, seed=7)
    again = pickle.loads(pickle.dumps(made))  # noqa: S301 (our own bytes)
    far = 10**15
    assert [again(p) for p in (far, 3, 200)] == [made(p) for p in (far, 3, 200)]
    rng = np.random.default_rng(0)
    near = {made.substitute(40, rng=rng) for _ in range(3000)}
    window = {made(p) for p in range(82) if made.upcoming(p) == made.upcoming(40)}
    assert near == window
    other = order.WindowOrder(SHARDS, window=3, seed=8)
    assert [other(p) for p in range(20)] != [made(p) for p in range(20)]


def test_window_order_does_not_change_between_releases():
    made = order.WindowOrder([3, 2, 4, 1], window=2, seed=0)
    assert [made(p) for p in range(10)] == WINDOWED


def test_progress():
    assert order.GlobalOrder(40, seed=0).progress(60) == {"epochs": 1.5}
    assert order.WindowOrder([10, 30], window=1, seed=0).progress(60) == {"epochs": 1.5}


WINDOWED = [9, 3, 4, 7, 1, 5, 0, 8, 6, 2]
