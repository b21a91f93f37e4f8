"""metrics.jsonl: torn lines, what was evaluated, remote folders."""

import json

from clipjax.training.metric_writer import MetricWriter, cut_torn_line


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
