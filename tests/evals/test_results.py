"""Result files: whole or not at all, the same when read back, measured anew when damaged."""

import json
import math

import numpy as np
import pytest

from clipjax.evals.metrics import Estimate, share
from clipjax.evals.suites import results


def record():
    made = results.Measurement(
        metric="top1_accuracy",
        figures={"top1_accuracy": share(3, 4), "top5_accuracy": share(0, 0)},
        details={"confusion": np.eye(2, dtype=np.int64), "loss": np.float32(math.inf)},
        key=results.key_of({"weights": "a"}),
        settings={"weights": "a"},
        seconds=1.5,
        time=results.now(),
    )
    return results.Record("mnist", "MNIST", measurements={"zero_shot": made})


def test_a_record_comes_back_as_it_was(tmp_path):
    file = tmp_path / "suite" / "mnist.json"
    results.write(record(), file)
    found = results.read(file)
    made = found.measurements["zero_shot"]
    assert found.set == "mnist" and made.main == share(3, 4) and made.seconds == 1.5
    assert math.isnan(made.figures["top5_accuracy"].value)
    assert made.details == {"confusion": [[1, 0], [0, 1]], "loss": None}
    results.write(found, tmp_path / "again.json")
    assert (tmp_path / "again.json").read_text() == file.read_text()
    assert [path.name for path in file.parent.iterdir()] == ["mnist.json"]


def test_the_file_is_strict_json(tmp_path):
    results.write(record(), tmp_path / "x.json")

    def refuse(constant):
        raise AssertionError(constant)

    json.loads((tmp_path / "x.json").read_text(), parse_constant=refuse)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"set": "a"}', '{"measurements": 3}'])
def test_what_is_no_record_is_none(tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    assert results.read(tmp_path / "x.json") is None
    assert results.read(tmp_path / "none.json") is None


def test_the_key_changes_with_any_setting_and_not_with_their_order():
    key = results.key_of({"weights": "a", "prompts": ["x", 1]})
    assert key == results.key_of({"prompts": ["x", 1], "weights": "a"})
    assert key != results.key_of({"weights": "a", "prompts": ["x", 2]})


def test_an_estimate_reads_well():
    assert str(Estimate(0.5, 0.25, 0.75, 1000)) == "50.00% (25.00% … 75.00%, n = 1,000)"
