"""Traces of chosen steps, asked for by setting or by touching a file."""

import pytest

from clipjax.training.profile import STEPS, Profiler


@pytest.fixture
def traced(monkeypatch):
    events = []
    monkeypatch.setattr("jax.profiler.start_trace", lambda folder: events.append("start"))
    monkeypatch.setattr("jax.profiler.stop_trace", lambda: events.append("stop"))
    return events


def steps_traced(profiler, events, steps, touch=None):
    """The steps dispatched while a trace ran."""
    found = []
    for step in steps:
        if step == touch:
            profiler.request.touch()
        profiler.before(step)
        if events[-1:] == ["start"]:
            found.append(step)
    profiler.close()
    return found


def test_a_window(tmp_path, traced):
    profiler = Profiler(str(tmp_path), window="3:5", look_every=10)
    assert steps_traced(profiler, traced, range(8)) == [3, 4]
    assert traced == ["start", "stop"]


def test_a_touch_traces_the_next_steps_and_is_taken_away(tmp_path, traced):
    profiler = Profiler(str(tmp_path), window="", look_every=10)
    assert steps_traced(profiler, traced, range(40), touch=12) == list(range(20, 20 + STEPS))
    assert not profiler.request.exists()


def test_a_run_that_ends_inside_the_window_still_writes(tmp_path, traced):
    profiler = Profiler(str(tmp_path), window="3:50", look_every=10)
    assert steps_traced(profiler, traced, range(6)) == [3, 4, 5]
    assert traced == ["start", "stop"]


def test_a_start_inside_the_window_traces_the_rest(tmp_path, traced):
    profiler = Profiler(str(tmp_path), window="3:7", look_every=10)
    assert steps_traced(profiler, traced, range(5, 9)) == [5, 6]


def test_only_a_process_that_looks_takes_the_file(tmp_path, traced):
    profiler = Profiler(str(tmp_path), window="", look_every=0)
    assert steps_traced(profiler, traced, range(8), touch=2) == []
    assert profiler.request.exists()


def test_a_real_trace_lies_where_tensorboard_looks(tmp_path):
    profiler = Profiler(str(tmp_path), window="0:1", look_every=10)
    steps_traced(profiler, ["start"], range(2))
    assert list((tmp_path / "tensorboard" / "plugins" / "profile").rglob("*.xplane.pb"))
