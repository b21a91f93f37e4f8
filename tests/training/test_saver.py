"""A store that fails at every save: tried again and again, counted in a row, and left with 74."""

import contextlib

import jax.numpy as jnp
import pytest
from etils import epath

from clipjax.common.exits import CheckpointError
from clipjax.training.checkpoint import manage as checkpoint_manager
from clipjax.training.checkpoint import saver
from clipjax.training.checkpoint.write import Checkpoints


@pytest.fixture
def saving(tmp_path, monkeypatch):
    monkeypatch.setattr(saver, "RETRY_SECONDS", 0.01)
    made = saver.Saver(Checkpoints(str(tmp_path)))
    yield lambda step, **last: made.save(
        step, {"x": jnp.full((4,), step, jnp.float32)}, run={"step": step}, metrics={}, **last
    )
    with contextlib.suppress(CheckpointError):
        made.checkpoints.close()


def out_of_reach(folder):
    """A file in its place, which stops root, too."""
    folder.rename(folder.with_name("aside"))
    folder.write_text("")


def back(folder):
    folder.unlink()
    folder.with_name("aside").rename(folder)


def test_a_folder_that_comes_back_is_saved_to_again(saving, tmp_path, caplog):
    folder = tmp_path / "checkpoints"
    saving(1)
    saving(2)
    saving(3, last=True)
    for step in (4, 6):  # two rows of two failures, with a sound save between them
        out_of_reach(folder)
        saving(step)
        saving(step + 1)
        assert not (folder.with_name("aside") / str(step)).exists()
        back(folder)
        saving(10 * step, last=True)
        assert (folder / str(10 * step)).is_dir()
    assert caplog.text.count("failure 1 of 3 in a row") == 2
    assert caplog.text.count("failure 2 of 3 in a row") == 2
    assert not list(folder.glob("*tmp*"))


def test_the_third_failure_in_a_row_ends_the_run(saving, tmp_path):
    """Also where each save fails as it begins, so that nothing is ever under way."""
    out_of_reach(tmp_path / "checkpoints")
    saving(1)
    saving(2)
    with pytest.raises(CheckpointError, match=r"step 3 .*3 failures in a row, leaving") as ended:
        saving(3)
    assert ended.value.code == 74


def test_a_mistake_in_the_program_shows_where_it_is(saving, monkeypatch, caplog):
    def mistaken(*arguments, **settings):
        raise TypeError("a mistake of ours")

    monkeypatch.setattr(checkpoint_manager, "make_room", mistaken)
    saving(1)
    assert "a mistake of ours; training goes on" in caplog.text
    assert "in mistaken" in caplog.text, "the traceback"


def test_what_cannot_be_cleared_away_is_told(saving, tmp_path, monkeypatch, caplog):
    left = tmp_path / "checkpoints" / f"7{checkpoint_manager.UNFINISHED}"
    left.mkdir()

    def refused(self, **settings):
        raise ConnectionError("the store is away")

    monkeypatch.setattr(type(epath.Path(left)), "rmtree", refused)
    monkeypatch.setattr(checkpoint_manager.time, "sleep", lambda seconds: None)
    checkpoint_manager.remove_unfinished(epath.Path(tmp_path / "checkpoints"))
    assert f"{left}: left by a failed save, cannot be removed: the store is away" in caplog.text


def test_the_last_save_is_tried_again_until_it_is_on_disk(saving, tmp_path, monkeypatch):
    folder, waits = tmp_path / "checkpoints", []
    out_of_reach(folder)
    monkeypatch.setattr(
        saver.time, "sleep", lambda s: waits.append(s) or len(waits) < 2 or back(folder)
    )
    saving(1, last=True)
    assert (folder / "1").is_dir() and waits == [0.01, 0.02]
