"""The order of training records."""

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
