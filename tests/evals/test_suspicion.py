"""Classes in another order than their names are suspected; ordinary mistakes are not."""

import numpy as np
import pytest

from clipjax.evals import notes

NAMES = tuple(f"class {i}" for i in range(37))


def confusion(order, *, right=0.87, each=40, seed=0):
    """Of a model that is right so often, if names were in the order of the labels."""
    rng = np.random.default_rng(seed)
    classes = len(order)
    counts = np.zeros((classes, classes), int)
    for true in range(classes):
        hits = rng.random(each) < right
        chosen = np.where(hits, true, rng.integers(0, classes, each))
        np.add.at(counts, (np.full(each, true), np.asarray(order)[chosen]), 1)
    return counts


def told(counts):
    return notes.of_confusion(counts, names=NAMES[: len(counts)])


def test_a_right_order_is_not_suspected():
    for right in (0.0, 0.05, 0.3, 0.6, 1.0):
        assert told(confusion(np.arange(37), right=right)) == ""
    assert told(np.zeros((3, 3), int)) == ""


def test_classes_that_are_hard_to_tell_apart_are_not_suspected():
    counts = confusion(np.arange(10), right=0.9)
    counts[3] = 0
    counts[3, [3, 4]] = 10, 30  # one class is mostly taken for its sister
    assert told(counts) == ""


@pytest.mark.parametrize("moved", [2, 33, 37])
def test_another_order_is_suspected_though_accuracy_is_above_guessing(moved):
    order = np.arange(37)
    order[:moved] = np.roll(order[:moved], 1)
    found = told(confusion(order))
    assert found.startswith(f"class order? {moved} classes are mostly taken for one other class")
    assert "'class 0' as " in found and "label keys" in found


def test_an_accuracy_far_below_guessing_is_suspected():
    rng = np.random.default_rng(0)
    counts = np.zeros((4, 4), int)
    for true in range(4):  # all over the other classes, none to its own
        others = [i for i in range(4) if i != true]
        np.add.at(counts[true], rng.choice(others, 90), 1)
    found = told(counts)
    assert found.startswith("class order? accuracy 0.00%") and "far below guessing, 25.00%" in found
