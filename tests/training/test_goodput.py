"""Where the time went: every moment counts once."""

import time

import tiny

from clipjax.training.goodput import KINDS, Goodput


def test_the_kinds_sum_to_the_wall_time():
    began = time.perf_counter()
    goodput = Goodput()
    for kind, seconds in (("compile", 0.05), ("train", 0.1), ("data_wait", 0.02), ("train", 0.1)):
        goodput.enter(kind)
        time.sleep(seconds)
    found = goodput.metrics()
    wall = time.perf_counter() - began
    total = sum(found[f"time/{kind}_seconds"] for kind in KINDS)
    assert abs(total - wall) < 0.01 * wall
    assert 0.2 <= found["time/train_seconds"] < 0.25
    assert found["time/goodput"] == found["time/train_seconds"] / total
    assert goodput.describe().startswith("time: train ")


def test_a_run_logs_where_its_time_goes_and_what_it_does_again(tmp_path):
    began = time.perf_counter()
    assert tiny.run(tiny.tiny(total="4 steps"), tmp_path) == 0
    wall = time.perf_counter() - began
    last = tiny.lines(tmp_path)[-1]
    total = sum(last[f"time/{kind}_seconds"] for kind in KINDS)
    assert 0.5 * wall < total < wall  # the line is written before the last save
    assert last["time/train_seconds"] > 0 and last["time/replay_seconds"] == 0

    # Steps 3 and 4 were in the log, but not saved when the run was killed.
    (tmp_path / "checkpoints" / "4").rename(tmp_path / "gone")
    assert tiny.run(tiny.tiny(total="4 steps"), tmp_path) == 0
    assert tiny.lines(tmp_path)[-1]["time/replay_seconds"] > 0
