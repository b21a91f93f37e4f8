"""Metrics against scikit-learn and hand-made values, and their intervals against simulation."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as oracle

from clipjax.evals import metrics


def test_shares_have_the_exact_interval():
    found = metrics.share(7, 20)
    low, high = stats.binomtest(7, 20).proportion_ci(0.95, method="exact")
    assert (found.value, found.n) == (0.35, 20)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-12)
    assert metrics.clopper_pearson(0, 10)[0] == 0.0 and metrics.clopper_pearson(10, 10)[1] == 1.0
    assert metrics.clopper_pearson(3, 10, level=0.995)[0] < metrics.clopper_pearson(3, 10)[0]


def test_nothing_measured_is_no_number_and_knows_nothing():
    none = np.zeros(3, int)
    for found in (
        metrics.share(0, 0),
        metrics.mean_per_class(none, none),
        metrics.worst_group(none, none)[0],
        metrics.macro_f1(np.zeros((3, 3), int)),
        metrics.ratio(none, none),
        metrics.mean_top1_top5(0, 0, 0),
    ):
        assert np.isnan(found.value) and (found.low, found.high, found.n) == (0.0, 1.0, 0)


def predictions(n=400, classes=7, absent=2):
    rng = np.random.default_rng(0)
    true = rng.integers(0, classes, n)
    true[true == absent] = 0
    chosen = np.where(rng.random(n) < 0.6, true, rng.integers(0, classes, n))
    confusion = np.zeros((classes, classes), int)
    np.add.at(confusion, (true, chosen), 1)
    return true, chosen, confusion


def test_class_means_are_scikit_learns_with_a_class_absent():
    true, chosen, confusion = predictions()
    found = metrics.mean_per_class(np.diagonal(confusion), confusion.sum(axis=1))
    with pytest.warns(UserWarning, match="not in y_true"):
        assert found.value == pytest.approx(oracle.balanced_accuracy_score(true, chosen))
    assert found.low < found.value < found.high and found.n == len(true)
    expected = oracle.f1_score(true, chosen, average="macro", labels=np.unique(true))
    assert metrics.macro_f1(confusion).value == pytest.approx(expected)


def test_the_worst_group_has_its_own_interval():
    found, group = metrics.worst_group([9, 3, 0, 8], [10, 6, 0, 10])
    assert group == 1 and found == metrics.share(3, 6)


def test_top1_and_top5_in_one():
    found = metrics.mean_top1_top5(40, 80, 100)
    assert found.value == pytest.approx(0.6) and found.low < 0.6 < found.high


@pytest.mark.parametrize("ties", [False, True])
def test_roc_auc_is_scikit_learns(ties):
    rng = np.random.default_rng(1)
    positive = rng.random(300) < 0.3
    scores = rng.normal(size=300) + positive
    scores = np.round(scores) if ties else scores
    found = metrics.roc_auc(scores, positive)
    assert found.value == pytest.approx(oracle.roc_auc_score(positive, scores))
    assert found.low < found.value < found.high


def test_what_is_no_number_counts_against_the_model():
    positive = np.array([True, True, False, False])
    assert metrics.roc_auc(np.full(4, np.nan), positive).value == 0.0
    assert metrics.roc_auc(np.array([np.nan, 2, 1, 0]), positive).value == 0.5
    scores = np.array([[np.nan], [2], [1], [0]])
    expected = metrics.mean_average_precision(np.array([[-9], [2], [1], [0]]), positive[:, None])
    assert metrics.mean_average_precision(scores, positive[:, None]) == expected


def eleven_point(relevant):
    """As the VOC development kit writes it, for images in order of their scores."""
    relevant = np.asarray(relevant)
    recall = np.cumsum(relevant) / relevant.sum()
    precision = np.cumsum(relevant) / np.arange(1, len(relevant) + 1)
    points = [precision[recall >= t - 1e-9] for t in np.linspace(0, 1, 11)]
    return np.mean([found.max() if len(found) else 0.0 for found in points])


def test_eleven_point_precision_on_toy_values():
    toy = np.array([1, 0, 1, 0, 0, 1], bool)  # precisions 1, 2/3, 1/2 at recalls 1/3, 2/3, 1
    scores = -np.arange(6.0)[:, None]
    found = metrics.mean_average_precision(scores, toy[:, None])
    assert found.value == pytest.approx((4 * 1 + 3 * 2 / 3 + 4 * 1 / 2) / 11) == eleven_point(toy)
    for seed in range(20):
        relevant = np.random.default_rng(seed).random(37) < 0.27
        found = metrics.mean_average_precision(-np.arange(37.0)[:, None], relevant[:, None])
        assert found.value == pytest.approx(eleven_point(relevant))
    # an image whose objects are all difficult does not count, and a class without images neither
    scores, positive = np.repeat(scores, 2, axis=1), np.stack([toy, np.zeros(6, bool)], axis=1)
    ignored = np.zeros((6, 2), bool)
    ignored[1, 0] = True
    found = metrics.mean_average_precision(scores, positive, ignored=ignored)
    assert found.value == pytest.approx(eleven_point([1, 1, 0, 0, 1]))


def test_equal_scores_are_taken_together():
    positive = np.array([1, 0, 0, 1, 0, 0, 0, 0, 0, 0], bool)[:, None]
    for score in (0.0, np.inf):
        found = metrics.mean_average_precision(np.full((10, 1), score), positive)
        assert found.value == pytest.approx(0.2)
    # two groups of equal scores: precision 1/3 at recall 1/2, then 2/10
    scores = np.array([1.0] * 3 + [0.0] * 7)[:, None]
    expected = (6 / 3 + 5 * 2 / 10) / 11
    assert metrics.mean_average_precision(scores, positive).value == pytest.approx(expected)


def test_groups_are_resampled_whole():
    rng = np.random.default_rng(0)
    right = 5 * (rng.random(200) < 0.5)  # the captions of an image are all right or all wrong
    found, alone = metrics.ratio(right, np.full(200, 5)), metrics.share(right.sum(), 1000)
    assert found.value == alone.value and found.n == 1000
    assert 1.8 < (found.high - found.low) / (alone.high - alone.low) < 2.7  # √5 is 2.24


def test_a_perfect_score_is_not_certain():
    assert metrics.mean_per_class([5, 5], [5, 5]) == metrics.share(10, 10)
    assert metrics.ratio([0, 0, 0], [5, 5, 5]).high == metrics.share(0, 3).high


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(3)
    number, truth = np.full(8, 25), np.linspace(0.3, 0.9, 8)
    held = [
        found.low <= truth.mean() <= found.high
        for found in (
            metrics.mean_per_class(rng.binomial(number, truth), number) for _ in range(200)
        )
    ]
    assert 0.9 <= np.mean(held) <= 0.99
