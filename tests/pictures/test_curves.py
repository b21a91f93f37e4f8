"""Curves from logs as runs leave them, and the confusion matrix."""

import itertools
import json
import math

import numpy as np
import pytest

from clipjax.pictures import history
from clipjax.pictures.charts import confusion, curves
from tests.pictures import synthetic


def test_history_keeps_the_last_attempt_of_a_step(tmp_path):
    path = synthetic.write_log(tmp_path / "metrics.jsonl", resume_at=150)
    known = history.read(path)
    assert known["train/loss"][0] == list(range(10, 201, 10))
    assert known["eval/held_out/text_to_image_recall_at_1"] == (
        [50, 100, 150, 200],
        [0.125, 0.25, 0.375, 0.5],
    )
    assert "note" not in known and "step" not in known
    with open(path, "a") as file:
        file.write("\n[1]\n" + json.dumps({"step": 120, "train/loss": 9.0}) + "\n")
    steps, values = history.read(path)["train/loss"]
    assert (steps[-2:], values[-1]) == ([110, 120], 9.0)  # what an abandoned attempt logged is gone


def test_history_of_no_file_and_of_a_long_one(tmp_path):
    assert history.read(str(tmp_path / "none.jsonl")) == {}
    path = synthetic.write_log(tmp_path / "long.jsonl", steps=60_000, every=10)
    known = history.read(path)
    assert len(known["train/loss"][0]) <= history.TRAIN_POINTS + 1
    assert known["train/loss"][0][-1] == 60_000
    assert len(known["eval/held_out/text_to_image_recall_at_1"][0]) == 1200


def panels(picture) -> list[np.ndarray]:
    """The six areas within the axes."""
    pixels = np.asarray(picture)
    height, width = pixels.shape[:2]
    wide, high = width // 3, height // 2
    corners = itertools.product((0, high), (0, wide, 2 * wide))
    return [pixels[y + 110 : y + high - 60, x + 80 : x + wide - 60] for y, x in corners]


@pytest.mark.parametrize(
    "log",
    [
        {"steps": 200},
        {"steps": 200, "resume_at": 150},
        {"steps": 200, "nan_at": range(50, 120)},
        {"steps": 50, "every": 50},
        {"steps": 100, "nan_at": range(101)},
    ],
)
def test_curves_fill_their_panels(tmp_path, log):
    known = history.read(synthetic.write_log(tmp_path / "metrics.jsonl", **log))
    guess = {"train/loss": 2.08, "eval/held_out/text_to_image_recall_at_1": 0.05}
    picture = curves.draw(known, title="run, step 200", chance=guess)
    assert picture.size == (1320, 700)
    for panel in panels(picture):
        assert panel.std() > 3


def test_curves_without_values_say_so_and_cope_with_half_of_them():
    empty = curves.draw({}, title="run")
    some = curves.draw(
        {"train/loss": ([5], [math.inf]), "eval/$a$/top1_accuracy": ([5], [0.5])}, title="$r$"
    )
    assert empty.size == some.size == (1320, 700)
    words = panels(empty)
    assert all(panel.std() > 1 for panel in words)  # "no values yet"
    assert np.asarray(empty).std() < np.asarray(some).std()


def test_labels():
    name = "eval/held_out/text_to_image_recall_at_1"
    assert curves.label(name) == "held_out: text to image recall at 1"
    assert curves.label("eval/birds/top1_accuracy") == "birds: top-1 accuracy"
    assert [curves.short_number(n) for n in (0, 50, 1500, 2e6, 12.8e9)] == [
        "0",
        "50",
        "1.5k",
        "2M",
        "12.8G",
    ]


def test_confusion_shows_each_class():
    counts = np.diag([8, 6, 10])
    counts[1, 2] = 4
    picture = confusion.draw(counts, names=["fox", "dog " * 30, "$cat$"], title="objects, step 20")
    pixels = np.asarray(picture).astype(int)
    shades = confusion._shade(np.array([1.0, 0.6, 0.4]))
    for shade, cells in zip(shades, (2, 1, 1), strict=True):
        area = (np.abs(pixels - shade).max(axis=-1) <= 1).sum()
        assert cells * 1500 < area < cells * 46 * 46 + 600  # the rest of a cell is its number


def test_confusion_of_many_classes_shows_the_most_confused():
    counts = 10 * np.eye(1000, dtype=int)
    counts[700, 30], counts[30, 700], counts[999, 2] = 5, 1, 4
    chosen = confusion.most_confused(counts, most=6)
    np.testing.assert_array_equal(chosen, [0, 1, 2, 30, 700, 999])
    shares = confusion.shares(counts, chosen=np.array([2, 30]))
    np.testing.assert_allclose(shares, [[1, 0, 0], [0, 10 / 11, 1 / 11]])
    picture = confusion.draw(counts, names=[f"class {i}" for i in range(1000)], title="many")
    assert max(picture.size) < 1500


def test_confusion_of_classes_without_images():
    counts = np.zeros((4, 4), int)
    assert np.asarray(confusion.draw(counts, names=list("abcd"), title="none")).std() > 3
