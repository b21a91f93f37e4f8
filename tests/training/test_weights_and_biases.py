"""Weights & Biases offline: what is written and where, no secrets, no influence on the run."""

import json
import signal
import struct
import sys
import time

import pytest

from clipjax.common import exits
from clipjax.common.exits import ConfigError
from clipjax.training.logging.metric_writer import MetricWriter
from clipjax.training.logging.weights_and_biases import WeightsAndBiases, run_id
from tests import processes

wandb = pytest.importorskip("wandb")


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)


def records(content):
    """The records of a .wandb file: LevelDB's log format after a header of 7 bytes."""
    assert content.startswith(b":W&B")
    position, data = 7, b""
    while position + 7 <= len(content):
        if 32768 - position % 32768 < 7:  # the rest of a block is padding
            position += 32768 - position % 32768
        length, kind = struct.unpack_from("<HB", content, position + 4)
        data += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part of one
            yield data
            data = b""


def stored(workdir):
    """(history by step, config, run ids) of all offline files under a folder."""
    from wandb.proto import wandb_internal_pb2

    history, config, ids = {}, {}, set()
    for path in sorted(workdir.glob("wandb/offline-run-*/run-*.wandb")):
        for data in records(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "history":
                items = {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json)
                    for item in record.history.item
                }
                history.setdefault(int(items["_step"]), {}).update(items)
            elif record.WhichOneof("record_type") == "run":
                ids.add(record.run.run_id)
                config |= {u.key: json.loads(u.value_json) for u in record.run.config.update}
    return history, config, ids


def test_metrics_and_settings_of_two_starts(tmp_path):
    for steps in ((1, 2), (2, 3)):  # the second start trains step 2 again
        writer = MetricWriter(str(tmp_path), config={"a": {"b": 1}}, wandb_project="p")
        for step in steps:
            writer.write(step, {"train/loss": step / 2})
            writer.write(step, {"eval/x/loss": 1.5, "eval/x/told": "text"})
        writer.close()
        time.sleep(1.1)  # offline folders are named by the second
    history, config, ids = stored(tmp_path)
    assert {step: values["train/loss"] for step, values in history.items()} == {
        1: 0.5,
        2: 1,
        3: 1.5,
    }
    assert history[3]["eval/x/loss"] == 1.5 and config["a"] == {"b": 1}
    assert ids == {run_id(str(tmp_path))}


def test_other_folders_are_other_runs():
    ids = [run_id(path) for path in ("/a/run", "/b/run", "gs://bucket/run", "/a/run/")]
    assert ids[0] == ids[3] and len(set(ids)) == 3
    assert all(name.startswith("run-") for name in ids)
    assert "/" not in run_id("/a/x y#z") and " " not in run_id("/a/x y#z")


def test_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"pip install 'clipjax\[wandb\]'"):
        WeightsAndBiases("p", workdir=str(tmp_path), config={})


def test_without_a_key_it_is_one_line(tmp_path, monkeypatch):
    def init(**settings):
        raise wandb.errors.UsageError("No API key configured")

    monkeypatch.setattr(wandb, "init", init)
    with pytest.raises(ConfigError, match="WANDB_API_KEY"):
        WeightsAndBiases("p", workdir=str(tmp_path), config={})


@pytest.mark.parametrize("when", ["init", "log", "finish"])
def test_an_outage_ends_nothing(tmp_path, monkeypatch, when):
    class Run:
        def log(self, metrics, *, step):
            if when == "log":
                raise wandb.errors.CommError("503")

        def finish(self):
            if when == "finish":
                raise wandb.errors.CommError("503")

    def init(**settings):
        if when == "init":
            raise wandb.errors.CommError("503")
        return Run()

    monkeypatch.setattr(wandb, "init", init)
    writer = MetricWriter(str(tmp_path), config={}, wandb_project="p")
    writer.write(1, {"train/loss": 1.0})
    writer.close()
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 1


@pytest.mark.slow
def test_a_run_still_hears_sigterm_and_tells_no_secret(tmp_path):
    """wandb starts threads, processes and handlers of its own after jax has taken SIGTERM."""
    workdir = tmp_path / "run"
    process = processes.start(
        *("--config=tests/tiny.py", f"--workdir={workdir}", "--config.wandb=p"),
        *("--config.total=5000 steps", "--config.data.path=https://a:canary-1@b/c?sig=canary-4"),
        environment={"WANDB_API_KEY": "canary-2", "HF_TOKEN": "canary-3"},
    )
    processes.wait_for_lines(process, workdir / "metrics.jsonl", 3)
    process.send_signal(signal.SIGTERM)
    assert processes.finish(process) == exits.PREEMPTED, processes.output(process)
    history, config, _ = stored(workdir)
    assert history and config["seed"] == 0
    for path in (workdir / "wandb").rglob("*"):
        assert not path.is_file() or b"canary" not in path.read_bytes(), path
