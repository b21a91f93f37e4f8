"""Who holds up the others is named; ordinary noise is not."""

import numpy as np
import pytest

from clipjax.parallel import distributed
from clipjax.training.logging import straggler

HOSTS = 4


@pytest.fixture
def stragglers(monkeypatch):
    rows = [np.frombuffer(f"host-{i}".encode().ljust(64), np.uint8) for i in range(HOSTS)]
    monkeypatch.setattr(distributed, "gather", lambda values: np.stack(rows))
    return straggler.Stragglers()


def test_fifty_milliseconds_a_step_are_named_within_forty_steps(stragglers, caplog):
    for _ in range(2 * straggler.WINDOW):
        waited = np.where(np.arange(HOSTS) == 2, 0.05, 0.001)
        named = stragglers.note(waited, steps=1, seconds=0.2)
    assert named == 2
    assert "process 2 on host-2 holds up all others: it waits 50 ms" in caplog.text
    for _ in range(straggler.WINDOW):
        named = stragglers.note(np.zeros(HOSTS), steps=1, seconds=0.15)
    assert named == -1


def test_noise_and_a_slow_start_are_not(stragglers, caplog):
    rng = np.random.default_rng(0)
    stragglers.note(np.array([3.0, 0, 0, 0]), steps=1, seconds=3.2)
    for _ in range(1000):
        waited = rng.exponential(0.004, HOSTS)
        assert stragglers.note(waited, steps=1, seconds=0.2) == -1
    assert not caplog.records
