"""A run that is asked to stop after any step goes on as if it had not been, bit by bit."""

import pytest
import tiny

from clipjax.common import exits
from clipjax.parallel.preemption import Preemption

pytestmark = pytest.mark.slow  # twelve runs
STEPS, SAVE_EVERY = 6, 3


def config():
    c = tiny.tiny(total=f"{STEPS} steps")
    c.checkpoint.every = f"{SAVE_EVERY} steps"
    return c


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "straight"
    assert tiny.run(config(), workdir) == exits.DONE
    return tiny.values(workdir)


@pytest.mark.parametrize("after", [0, 1, SAVE_EVERY - 1, SAVE_EVERY, SAVE_EVERY + 1, STEPS])
def test_stopped_and_gone_on(straight, tmp_path, monkeypatch, after):
    polls = []
    with monkeypatch.context() as patch:
        patch.setattr(Preemption, "poll", lambda self: polls.append(1) or len(polls) > after)
        assert tiny.run(config(), tmp_path) == exits.PREEMPTED
    assert (tmp_path / "checkpoints" / str(after)).is_dir()
    assert tiny.run(config(), tmp_path) == exits.DONE
    assert tiny.values(tmp_path) == straight
    steps = [line["step"] for line in tiny.lines(tmp_path) if "train/loss" in line]
    assert steps == list(range(1, STEPS + 1)), "none twice"
