"""Where the time went: every moment counts once."""

import json
import time
import types

import pytest

from clipjax.pictures.charts import times
from clipjax.training.logging.goodput import KINDS, Goodput
from tests import tiny


def test_the_kinds_sum_to_the_wall_time(monkeypatch):
    now = [7.0]
    clock = types.SimpleNamespace(perf_counter=lambda: now[0], time=time.time)
    monkeypatch.setattr("clipjax.training.logging.goodput.time", clock)
    goodput = Goodput()
    for kind, seconds in (("compile", 5), ("train", 10), ("data_wait", 2), ("train", 10)):
        goodput.enter(kind)
        now[0] += seconds
    metrics = goodput.metrics()
    assert sum(metrics[f"time/{kind}_seconds"] for kind in KINDS) == now[0] - 7
    assert metrics["time/train_seconds"] == 20
    assert metrics["time/goodput"] == 20 / 27
    assert goodput.describe().startswith("time: train ")


@pytest.mark.long
def test_a_run_logs_where_its_time_goes_and_what_it_does_again(tmp_path):
    began = time.perf_counter()
    assert tiny.run(tiny.tiny(total="4 steps"), tmp_path) == 0
    wall = time.perf_counter() - began
    last = tiny.lines(tmp_path)[-1]
    total = sum(last[f"time/{kind}_seconds"] for kind in KINDS)
    assert 0 < total < wall  # the line is written before the last save
    first_start = last["time/clock"] - total
    assert last["time/train_seconds"] > 0 and last["time/replay_seconds"] == 0
    assert last["time/restore_seconds"] == 0, "there was nothing to restore"

    # Steps 3 and 4 were in the log, but not saved when the run was killed.
    for name in ("gone", "gone_too"):
        time.sleep(0.5)
        (tmp_path / "checkpoints" / "4").rename(tmp_path / name)
        assert tiny.run(tiny.tiny(total="4 steps"), tmp_path) == 0
        assert tiny.lines(tmp_path)[-1]["time/replay_seconds"] > 0
        assert tiny.lines(tmp_path)[-1]["time/restore_seconds"] > 0
    wall = tiny.lines(tmp_path)[-1]["time/clock"] - first_start
    spent, starts = times.read(str(tmp_path / "metrics.jsonl"))
    assert starts == 3 and spent["down"] > 1.0
    assert abs(sum(spent.values()) - wall) < 0.01 * wall
    assert "over 3 starts: " in (tmp_path / "report" / "index.html").read_text()


def line(clock, **seconds):
    named = {f"time/{kind}_seconds": value for kind, value in seconds.items()}
    return json.dumps({"step": 1, "time/clock": clock, **named}) + "\n"


def test_time_over_all_starts_by_cause(tmp_path):
    log = tmp_path / "metrics.jsonl"
    log.write_text(
        line(110, init=4, train=6)
        + line(120, init=4, train=16)
        + '{"step": 2, "eval/x": 1}\n'
        + line(155, init=5, replay=10)  # began at 140
        + line(185, init=5, replay=15, train=25)
        + line(240, init=50, train=5)  # began at 185, and had longer to begin than the one before
        + '{"torn'
    )
    spent, starts = times.read(str(log))
    assert starts == 3
    assert spent == {"init": 59, "train": 46, "replay": 15, "down": 20}
    assert sum(spent.values()) == 240 - 100
    (told,) = times.described(spent, starts)
    assert told == "time over 3 starts: init 42%, train 33%, down 14%, replay 11%"
    assert times.read(str(tmp_path / "none")) == ({}, 0) and times.described({}, 0) == []
