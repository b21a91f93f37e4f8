"""Class subsets, frames within ten, and what is above the line of published models."""

import numpy as np
import pytest

from clipjax.common.exits import DataError
from clipjax.evals import metrics
from clipjax.evals.protocols import pm_k, robustness


def test_classes_are_joined_by_wnid_and_the_best_of_several_stands_for_a_coarser_one():
    keys = ("n01", "n02", "n03", "n04")
    groups = robustness.groups_of({"dog": ("n04", "n02"), "cat": "n01"}, keys=keys, where="w")
    scores = np.array([[0.1, 0.2, 0.9, 0.3], [0.5, 0.1, 0.0, 0.2]])
    np.testing.assert_array_equal(robustness.pooled(scores, groups), [[0.3, 0.1], [0.2, 0.5]])
    pooled, labels = robustness.on_classes(scores, np.array([2, 3]), groups)
    assert labels.tolist() == [0] and pooled.tolist() == [[0.2, 0.5]]  # n03 is none of them


@pytest.mark.parametrize(
    ("classes", "told"),
    [
        ({"dog": "n09"}, '"dog" is n09, which the classifier does not have'),
        ({"dog": ()}, '"dog" is no wnid'),
        ({"dog": ("n01", "n02"), "cat": "n02"}, 'n02 belongs to "dog" and "cat"'),
    ],
)
def test_wrong_maps_are_named(classes, told):
    with pytest.raises(DataError, match=told):
        robustness.groups_of(classes, keys=("n01", "n02"), where="map.json")


def test_pm_k_asks_for_all_frames_around_the_anchor():
    video = np.repeat([0, 1, 2], 5)
    frame = np.tile(np.arange(5), 3)
    right = np.ones(15, bool)
    right[[4, 7]] = False  # video 0 two frames after its anchor; video 1 its anchor
    anchor = frame == 2
    share = [
        pm_k.pm_k(right, video=video, frame=frame, anchor=anchor, k=k).value for k in (0, 1, 2)
    ]
    assert share == [2 / 3, 2 / 3, 1 / 3]


def test_effective_robustness_is_what_is_above_the_line():
    before = np.array([0.5, 0.6, 0.7, 0.8])
    after = robustness.share_of(0.9 * robustness.logit(before) - 1.0)
    line = robustness.fit_line(before, after)
    assert (line.slope, line.intercept) == pytest.approx((0.9, -1.0))
    low, high = line.band(np.array([0.75]))
    assert low == pytest.approx(high)  # all models lie on it
    mine = metrics.share(60, 100)
    found = robustness.effective(metrics.share(75, 100), mine, line)
    expected = float(robustness.share_of(0.9 * np.log(3) - 1.0))
    assert found.value == pytest.approx(0.6 - expected) and found.n == 100
    assert (found.low, found.high) == pytest.approx((mine.low - expected, mine.high - expected))
    with pytest.raises(ValueError, match="through 2 models"):
        robustness.fit_line([0.5, 0.6], [0.4, 0.5])


def test_the_band_is_wider_where_models_scatter():
    rng = np.random.default_rng(0)
    before = np.linspace(0.6, 0.85, 20)
    after = robustness.share_of(robustness.logit(before) - 1 + 0.2 * rng.normal(size=20))
    low, high = robustness.fit_line(before, after).band(np.array([0.7, 0.95]))
    assert high[0] - low[0] > 0 and (low < high).all()


def test_published_clip_is_robust_and_published_standard_models_are_on_their_lines():
    """Paper, section 3.3: zero-shot CLIP is above the line on all seven."""
    for shift, (parts, base) in robustness.SHIFTS.items():
        points = robustness.standard_points(shift)
        assert len(points) >= 8
        before, after = np.array(list(points.values())).T
        line = robustness.fit_line(before, after)
        assert np.abs(line.expected(before) - after).max() < 0.07
        if base == "imagenet":
            clip = robustness.published()["paper"]["CLIP zero-shot (L/14@336)"]
            gain = np.mean([clip[part] for part in parts]) - line.expected(clip[base])
            assert gain > 0.03
    means = robustness.standard_mean_points()
    assert set(means) >= {"VGG-13", "ResNet-152"} and "ResNet-50" not in means
    assert all(after < before for before, after in means.values())


def test_a_mean_over_sets():
    found = robustness.mean_of([metrics.share(50, 100), metrics.share(90, 100)])
    assert found.value == 0.7 and found.n == 200 and 0.63 < found.low < 0.7 < found.high < 0.77
