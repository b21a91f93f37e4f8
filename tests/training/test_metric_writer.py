"""metrics.jsonl: torn lines, what was evaluated, remote folders."""

import concurrent.futures
import errno
import glob
import json
import logging

import pytest
from tensorboardX.proto import event_pb2

from clipjax.data.sources import tfrecord
from clipjax.data.sources.shard_files import OpenFile
from clipjax.training.logging.appended_file import AppendedFile
from clipjax.training.logging.metric_writer import MetricWriter, cut_torn_line


def test_lines_survive_and_a_torn_one_is_cut(tmp_path):
    writer = MetricWriter(str(tmp_path), config={})
    writer.write(1, {"train/loss": 2.5})
    writer.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 2, "trai')
    writer = MetricWriter(str(tmp_path), config={})
    writer.write(2, {"train/loss": 2.0})
    writer.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"step": 1, "train/loss": 2.5}, {"step": 2, "train/loss": 2.0}]


def test_a_file_of_one_torn_line_becomes_empty(tmp_path):
    path = tmp_path / "x"
    path.write_text('{"step"')
    cut_torn_line(str(path))
    assert path.read_text() == ""
    cut_torn_line(str(tmp_path / "none"))


def test_evaluated_names_by_step(tmp_path):
    writer = MetricWriter(str(tmp_path), config={})
    writer.write(5, {"eval/a/loss": 1.0})
    writer.write(10, {"eval/a/loss": 1.0, "eval/b/top1_accuracy": 0.5})
    assert writer.evaluated(5) == {"a"}
    assert writer.evaluated(10) == {"a", "b"}
    assert writer.evaluated(7) == set()
    writer.close()


def test_tensorboard_reads_what_was_written(tmp_path):
    writer = MetricWriter(str(tmp_path), config={})
    writer.write(7, {"train/loss": 2.5, "eval/a/name": "text"})
    writer.close()
    (path,) = glob.glob(f"{tmp_path}/tensorboard/events.out.tfevents.*")
    file = OpenFile(path)
    places = zip(*(column.tolist() for column in tfrecord.offsets(file)), strict=True)
    events = [event_pb2.Event.FromString(file.read(size, offset=at)) for at, size in places]
    assert [event.step for event in events] == [0, 7]
    assert events[0].file_version == "brain.Event:2"
    (value,) = events[1].summary.value
    assert (value.tag, value.simple_value) == ("train/loss", 2.5)


class FullDisk:
    """A raw file on a disk that has `room` bytes left."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, data):
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        fits, self.room = data[: self.room], max(self.room - len(data), 0)
        return self.file.write(fits)

    def __getattr__(self, name):
        return getattr(self.file, name)


@pytest.mark.parametrize("room", [0, 5, 13])
def test_what_a_full_disk_refuses_comes_later_and_whole(tmp_path, room, caplog):
    file = AppendedFile(str(tmp_path / "lines"))
    file.append(b"one\n")
    disk = file.file = FullDisk(file.file, room)
    for line in (b"two, longer\n", b"three\n"):
        file.append(line)
        assert (tmp_path / "lines").read_bytes() in (b"one\n", b"one\ntwo, longer\n")
    assert caplog.text.count("training goes on") == 1
    disk.room = 1000
    file.append(b"four\n")
    file.close()
    assert (tmp_path / "lines").read_bytes() == b"one\ntwo, longer\nthree\nfour\n"


def test_a_bucket_that_fails_is_tried_again(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.WARNING)
    file = AppendedFile(str(tmp_path / "lines"))
    file.local, file.remote = str(tmp_path / "lines"), True
    file.target = tmp_path / "bucket" / "lines"
    file.uploader = concurrent.futures.ThreadPoolExecutor(1)
    file.append(b"one\n")
    file.sync()  # there is no such bucket
    assert "cannot be written" in caplog.text
    (tmp_path / "bucket").mkdir()
    file.append(b"two\n")
    file.close()
    assert (tmp_path / "bucket" / "lines").read_bytes() == b"one\ntwo\n"
