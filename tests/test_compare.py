"""Runs compared: by images seen, with what each needs to be as good as the weakest."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from clipjax import compare
from clipjax.common.exits import ConfigError
from clipjax.pictures.charts import compared
from tests import processes

METRIC = "eval/objects/top1_accuracy"


def run(folder, values, *, batch):
    """A run that evaluated each 10 steps."""
    folder.mkdir()
    lines = [
        {"step": 10 * (i + 1), "examples_seen": 10 * (i + 1) * batch, METRIC: value}
        for i, value in enumerate(values)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(folder)


def test_how_much_faster_is_told_in_images_not_steps(tmp_path):
    slow = run(tmp_path / "slow", [0.1, 0.2, 0.3, 0.4], batch=100)
    fast = run(tmp_path / "fast", [0.4, 0.6], batch=200)
    table = compare.compare([slow, f"{fast}/"], metric=METRIC, output=str(tmp_path / "a.png"))
    rows = [line.split() for line in table.splitlines()[1:]]
    assert rows == [
        ["slow", "0.4", "4,000", "4,000", "1.0"],
        ["fast", "0.6", "4,000", "2,000", "2.0"],
    ]
    picture = np.asarray(Image.open(tmp_path / "a.png"))
    assert picture.std() > 5


def test_between_points_and_never():
    series = ([100, 200, 300], [0.0, 0.2, 0.1])
    assert compared.examples_until(series, 0.1) == 150
    assert compared.examples_until(series, 0.3) is None
    assert compared.examples_until(([100], [0.5]), 0.25) == 50


def test_what_cannot_be_compared_is_told(tmp_path):
    one = run(tmp_path / "one", [0.1], batch=1)
    with pytest.raises(ConfigError, match=r"--metric=eval/objects/top1_acuracy: .*did you mean"):
        compare.compare([one], metric="eval/objects/top1_acuracy", output="")
    with pytest.raises(ConfigError, match=r"--metric=train/loss: falls"):
        compare.compare([one], metric="train/loss", output="")
    with pytest.raises(ConfigError, match="once"):
        compare.compare([one, one], metric=METRIC, output="")
    ended = subprocess.run(
        [sys.executable, "-m", "clipjax.compare", "--workdir=/nowhere"],
        cwd=processes.ROOT,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 64, ended.stderr
    assert ended.stderr.startswith("clipjax: --metric=eval/objects/top1_accuracy: /nowhere has")
