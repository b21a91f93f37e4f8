"""Charts of the protocols: they draw what they are given, extremes included."""

import math

import numpy as np
import pytest

from clipjax.pictures.charts import distances as distance_chart
from clipjax.pictures.charts import few_shot, overlap, probe, robustness
from clipjax.pictures.sheets import near_pairs

ZERO_SHOT = (0.62, 0.6, 0.64)
POINTS = {n: (0.4 + 0.08 * k, 0.38 + 0.08 * k, 0.43 + 0.08 * k) for k, n in enumerate((1, 2, 4, 8))}


def has_color(picture, color):
    wanted = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])
    return bool((np.abs(np.asarray(picture).astype(int) - wanted).max(axis=-1) < 12).any())


@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_shot_curves(count):
    panel = few_shot.Panel("$set$", POINTS, ZERO_SHOT, (500, (0.9, 0.88, 0.92)), (6.8, 4, 9))
    bare = few_shot.Panel("bare", POINTS)
    made = few_shot.curves([panel, bare, panel, bare, panel][:count], title="t", ylabel="y")
    assert made.width == (660 if count == 1 else 330 * min(count, 4))
    assert has_color(made, "#0072b2") and has_color(made, "#e69f00")


def test_crossovers_that_are_never_reached_or_not_surely():
    rows = [
        {"name": "a", "value": 5.4, "low": 3, "high": math.inf},
        {"name": "b", "value": None, "low": 0, "high": 0, "most": 400},
        {"name": "c", "value": 0.9, "low": 0.6, "high": 1.5},
    ]
    tall, flat = (few_shot.crossovers(r, title="t") for r in (rows, rows[:1]))
    assert tall.height > flat.height and has_color(tall, "#56b4e9")


def test_the_chosen_penalty_is_marked():
    searched = {10.0**k: (0.5 + 0.01 * k, 0.45, 0.6) for k in range(-6, 7, 2)}
    made = probe.draw(searched, chosen=1e6, title="t", ylabel="y")
    assert has_color(made, "#d55e00")


def test_robustness_with_and_without_a_line():
    standard = {f"m{k}": (0.6 + 0.03 * k, 0.4 + 0.04 * k) for k in range(6)}
    grid = np.linspace(0.6, 0.8, 5)
    panel = robustness.Panel(
        "v2",
        "before",
        "after",
        standard,
        line=(grid, grid - 0.2, grid - 0.25, grid - 0.15),
        others={"published": {"NS": (0.88, 0.8)}},
        ours={"zero-shot": ((0.7, 0.69, 0.71), (0.68, 0.66, 0.7))},
    )
    collapsed = robustness.Panel("v", "b", "a", {}, ours={"x": ((0, 0, 0.1), (1, 0.9, 1))})
    for panels in ([panel], [panel, collapsed, panel]):
        made = robustness.draw(panels, title="t", standard="trained on it")
        assert has_color(made, "#e69f00") and has_color(made, "#009e73")


def test_overlap_of_sets_with_and_without_any():
    some = overlap.Row(
        "some", 500, {"file": 3, "look": 20, "embedding": 30, "any": 35},
        difference=(0.05, -0.02, 0.1), change=(0.003, -0.001, 0.006), p_value=0.01,
    )  # fmt: skip
    none = overlap.Row("none", 90, dict.fromkeys(overlap.DETECTORS, 0), *[(0, 0, 0)] * 2, 1)
    assert has_color(overlap.draw([some, none], title="t"), "#009e73")
    assert not has_color(overlap.draw([none], title="t"), "#d55e00")


def test_pairs_are_the_highest_and_then_spread_over_the_scores():
    scores = np.concatenate([np.linspace(0, 0.5, 200), [0.9, 0.95, -np.inf, 0.7]])
    chosen = near_pairs.spread(scores, count=10)
    assert chosen[:3].tolist() == [201, 200, 203] and len(chosen) == 10
    shown = scores[chosen]
    assert (np.diff(shown) <= 0).all() and shown[-1] == 0 and np.isfinite(shown).all()
    assert near_pairs.spread(scores[:3], count=10).tolist() == [2, 1, 0]


def test_pairs_above_the_threshold_are_framed():
    image = np.full((30, 40, 3), 90, np.uint8)
    pairs = [(image, image)] * 3
    arguments = {"scores": [0.9, 0.8, 0.2], "notes": ["same file", "", ""], "title": "t"}
    framed = near_pairs.draw(pairs, **arguments, threshold=0.5)
    assert has_color(framed, "#009e73")
    assert not has_color(near_pairs.draw(pairs, **arguments), "#009e73")


def test_distances_without_a_place():
    distances = np.array([0.0, 3, 500, 20_000, np.nan])
    shares = {1: (0.2, 0.0, 0.7), 2500: (0.6, 0.1, 0.9)}
    made = distance_chart.draw(
        distances, shares=shares, published={"x": {1: 0.1, 25: 0.3}}, title="t"
    )
    assert made.size == (820, 480) and has_color(made, "#e69f00")
