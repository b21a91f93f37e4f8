"""A run that is asked to stop after any step goes on as if it had not been, bit by bit."""

import pytest

from clipjax.common import exits
from clipjax.parallel.preemption import Preemption
from tests import tiny
from tests.data import tars

pytestmark = pytest.mark.slow  # fifteen runs
STEPS, SAVE_EVERY, EPOCH = 7, 3, 5


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Of a run whose data begin again after step `EPOCH`."""
    folder = tmp_path_factory.mktemp("data")
    tars.write(folder / "0.tar", tars.pairs(EPOCH * 16))
    c = tiny.tiny(total=f"{STEPS} steps")
    c.data.source, c.data.path, c.data.cache_dir = "tar", str(folder), str(folder / "cache")
    c.model.text.vocab_size = 280
    c.checkpoint.every = f"{SAVE_EVERY} steps"
    return c


@pytest.fixture(scope="module")
def straight(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "straight"
    assert tiny.run(config, workdir) == exits.DONE
    values = tiny.values(workdir)
    assert [values[step]["data/epochs"] for step in (EPOCH - 1, EPOCH, EPOCH + 1)] == [
        0.8,
        1.0,
        1.2,
    ]
    return values


@pytest.mark.parametrize("after", [0, 1, SAVE_EVERY - 1, SAVE_EVERY, SAVE_EVERY + 1, EPOCH, STEPS])
def test_stopped_and_gone_on(config, straight, tmp_path, monkeypatch, after):
    polls = []
    with monkeypatch.context() as patch:
        patch.setattr(Preemption, "poll", lambda self: polls.append(1) or len(polls) > after)
        assert tiny.run(config, tmp_path) == exits.PREEMPTED
    assert (tmp_path / "checkpoints" / str(after)).is_dir()
    assert tiny.run(config, tmp_path) == exits.DONE
    assert tiny.values(tmp_path) == straight
    steps = [line["step"] for line in tiny.lines(tmp_path) if "train/loss" in line]
    assert steps == list(range(1, STEPS + 1)), "none twice"
