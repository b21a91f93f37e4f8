"""Logistic regression against scikit-learn on real digits; the search of the penalty."""

import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from clipjax.evals import classification, embed, metrics
from clipjax.evals.probe import logistic, penalty, solver
from clipjax.evals.protocols import linear_probe
from clipjax.parallel import mesh as meshes


@pytest.fixture(scope="module")
def mesh():
    return meshes.make_mesh({"data": 2, "fsdp": 4, "tensor": 1})


@pytest.fixture(scope="module")
def one():
    return meshes.make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def digits():
    """(train features, train labels, test features, test labels), 1,437 and 360 real digits."""
    features, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    train, test = order[:1437], order[1437:]
    return features[train], labels[train], features[test], labels[test]


@pytest.fixture(scope="module")
def rows(digits, mesh):
    return logistic.Rows(digits[0], digits[1], classes=10, mesh=mesh)


def objective(weights, bias, penalty, features, labels):
    """In float64, a row at a time."""
    logits = features @ np.asarray(weights, np.float64) + np.asarray(bias, np.float64)
    most = logits.max(axis=1)
    losses = most + np.log(np.exp(logits - most[:, None]).sum(axis=1))
    losses -= logits[np.arange(len(labels)), labels]
    return (losses.sum() + penalty / 2 * (np.asarray(weights, np.float64) ** 2).sum()) / len(labels)


@pytest.mark.parametrize("penalty", [1e4, pytest.param(1e2, marks=pytest.mark.slow)])
def test_equals_scikit_learn_on_real_digits(rows, digits, penalty):
    x, y, test_x, test_y = digits
    fit = rows.fit(penalty)
    theirs = LogisticRegression(C=1 / penalty, max_iter=10_000, tol=1e-6).fit(x, y)
    loss = objective(fit.weights, fit.bias, penalty, x, y)
    best = objective(theirs.coef_.T, theirs.intercept_, penalty, x, y)
    assert loss == pytest.approx(best, abs=1e-5) and loss == pytest.approx(fit.loss, abs=1e-6)
    right = int(np.sum(classification.rank(fit.scores(test_x), test_y) == 0))
    assert abs(right - int(np.sum(theirs.predict(test_x) == test_y))) <= 1
    assert fit.converged and fit.iterations < theirs.n_iter_[0] and fit.rows == 1437


def test_a_chosen_part_of_the_rows_is_a_fit_of_its_own_and_compiles_nothing(rows, digits, mesh):
    x, y, *_ = digits
    used = np.arange(len(y)) % 3 > 0
    rows.fit(1e3)
    compiled = solver.advance._cache_size()
    part = rows.fit(1e3, used=used, start=rows.fit(1e4))
    assert solver.advance._cache_size() == compiled
    alone = logistic.Rows(x[used], y[used], classes=10, mesh=mesh, length=len(y)).fit(1e3)
    assert part.rows == alone.rows == used.sum()
    np.testing.assert_allclose(part.weights, alone.weights, atol=2e-5)
    np.testing.assert_allclose(part.scores(x), alone.scores(x), atol=2e-3)


def test_two_classes_are_scikit_learns_one_vector(digits, one):
    x, y, *_ = digits
    x, y = x[y < 2], y[y < 2]
    fit = logistic.Rows(x, y, classes=2, mesh=one).fit(1e3)
    theirs = LogisticRegression(C=1e-3, max_iter=10_000, tol=1e-6).fit(x, y)
    np.testing.assert_allclose(fit.weights[:, 1] - fit.weights[:, 0], theirs.coef_[0], atol=1e-5)
    assert fit.bias[1] - fit.bias[0] == pytest.approx(theirs.intercept_[0], abs=1e-4)


def test_several_labels_are_one_question_each_and_difficult_rows_do_not_count(digits, one):
    x, y, *_ = digits
    x, y = x[:400], y[:400]
    targets = np.stack([y % 2 == 0, y > 6, y < 3], axis=1).astype(np.int8)
    targets[::7, 1] = -1
    fit = logistic.Rows(x, targets, classes=3, mesh=one).fit(1e3)
    for c in range(3):
        kept = targets[:, c] >= 0
        theirs = LogisticRegression(C=1e-3, max_iter=10_000, tol=1e-6)
        theirs.fit(x[kept], targets[kept, c])
        np.testing.assert_allclose(fit.weights[:, c], theirs.coef_[0], atol=1e-5)


def test_rows_that_are_no_numbers_are_left_out_of_fits_and_wrong_in_tests(digits, mesh):
    x, y, test_x, test_y = (part[:200].copy() for part in digits)
    test_y[0] = 0  # the class of an argmax over NaN
    x[3], x[9, 2], test_x[0, 5] = np.nan, np.inf, np.nan
    fit = logistic.Rows(x, y, classes=10, mesh=mesh, length=1437).fit(1e3)
    clean = np.isfinite(x).all(axis=1)
    rest = logistic.Rows(x[clean], y[clean], classes=10, mesh=mesh, length=1437).fit(1e3)
    assert fit.rows == 198
    np.testing.assert_allclose(fit.weights, rest.weights, atol=1e-5)
    scores = fit.scores(test_x)
    assert np.isnan(scores[0]).all() and np.isfinite(scores[1:]).all()
    assert classification.rank(scores, test_y)[0] == 9


def test_the_mesh_does_not_matter(digits, mesh, one):
    x, y = digits[0][:203], digits[1][:203]
    here, there = (
        logistic.Rows(x, y, classes=10, mesh=m, length=1437).fit(1e2) for m in (mesh, one)
    )
    np.testing.assert_allclose(here.weights, there.weights, atol=1e-4)


def test_losses_near_zero_keep_their_digits():
    logits = np.array([[20.0, 0.0, -3.0], [0.0, 90.0, 2.0], [1.0, 2.0, 3.0]], np.float32)
    labels = np.array([0, 1, 0], np.int32)
    loss, gradient = solver.softmax(logits, labels)
    exact = logits.astype(np.float64)
    odds = np.exp(exact - exact[np.arange(3), labels][:, None])
    wrong = odds.sum(axis=1) - 1
    np.testing.assert_allclose(loss, np.log1p(wrong), rtol=1e-6)
    shares = odds / odds.sum(axis=1, keepdims=True)
    shares[np.arange(3), labels] = -wrong / (1 + wrong)
    np.testing.assert_allclose(gradient, shares, rtol=1e-5, atol=1e-30)


def test_polling_ends_a_fit(rows):
    with pytest.raises(embed.Preempted):
        rows.fit(1.0, poll=lambda: True)


@pytest.mark.parametrize("peak", [0, 1, 37, 48, 55, 96])
def test_the_search_finds_a_peak_in_fifteen_fits(peak):
    asked = []

    def value(step):
        asked.append(step)
        return metrics.Estimate(1 - abs(step - peak) / 200, 0, 1, 9)

    best, found = penalty.search(value)
    assert best == peak and len(asked) == len(set(asked)) == len(found) <= 15
    assert sorted(asked[:7]) == [0, 16, 32, 48, 64, 80, 96] and asked[0] == 96


def test_of_equal_values_the_larger_penalty_wins_and_nan_never():
    best, _ = penalty.search(lambda step: metrics.Estimate(np.nan if step > 60 else 0.5, 0, 1, 9))
    assert best == 60
    grid = [penalty.penalty_at(step) for step in (0, 44, 48, 96)]
    assert grid == pytest.approx([1e-6, 10**-0.5, 1, 1e6])


def test_a_probe_of_real_digits(digits, one):
    x, y, test_x, test_y = digits
    made = linear_probe.probe(
        x, y, classes=10, test_features=test_x, metric="top1_accuracy", mesh=one
    )
    found = classification.measure("top1_accuracy", made.scores, test_y)
    assert found.value > 0.95 and found.n == 360
    assert made.trained + made.validated == 1437 == made.fit.rows and made.validated == 288
    assert made.fit.penalty in made.searched and made.fits == len(made.searched) + 1
    best = max(estimate.value for estimate in made.searched.values())
    assert made.searched[made.fit.penalty].value == best and made.dropped == 0


def test_validation_is_drawn_from_every_class():
    labels = np.repeat([0, 1, 2, 3], [50, 10, 2, 1])
    chosen = linear_probe.drawn_validation(labels, seed=3)
    assert np.bincount(labels[chosen], minlength=4).tolist() == [10, 2, 1, 0]
    np.testing.assert_array_equal(chosen, linear_probe.drawn_validation(labels, seed=3))
    assert (chosen != linear_probe.drawn_validation(labels, seed=4)).any()


def test_metrics_of_scores():
    scores = np.array([[0.9, 0.1], [0.2, 0.2], [np.nan, 0.5], [0.1, 0.4]])
    labels = np.array([0, 1, 1, 1])
    assert classification.rank(scores, labels).tolist() == [0, 1, 1, 0]
    measured = {
        name: classification.measure(name, scores, labels).value
        for name in ("top1_accuracy", "mean_per_class_accuracy", "mean_top1_top5")
    }
    assert measured == {
        "top1_accuracy": 0.5,
        "mean_per_class_accuracy": pytest.approx(2 / 3),
        "mean_top1_top5": 0.75,
    }
    with pytest.raises(ValueError, match="no metric"):
        classification.measure("f1", scores, labels)
