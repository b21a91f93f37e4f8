"""Few-shot probes on real digits, and where they overtake a zero-shot score."""

import math

import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits

from clipjax.evals import metrics
from clipjax.evals.metrics import Estimate
from clipjax.evals.probe import solver
from clipjax.evals.protocols import few_shot
from clipjax.parallel import mesh as meshes


@pytest.fixture(scope="module")
def mesh():
    return meshes.make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def digits():
    features, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    return features[order] / 16, labels[order]


def test_real_digits_get_better_with_shots_and_compile_once(digits, mesh):
    x, y = digits
    before = solver.advance._cache_size()
    made = few_shot.curve(
        x[:1000],
        y[:1000],
        classes=10,
        test_features=x[1000:],
        test_labels=y[1000:],
        metric="top1_accuracy",
        mesh=mesh,
        shots=(1, 4, 80, 200),
        draws=2,
    )
    assert solver.advance._cache_size() == before + 1
    values = [made.points[count].value for count in (1, 4, 80)]
    assert values == sorted(values) and values[0] > 0.3 and values[-1] > 0.9
    assert list(made.left_out) == [200] and "200 + 4 are needed" in made.left_out[200]
    assert made.points[4].value == pytest.approx(np.mean(made.draws[4])) and made.points[4].n == 797
    assert len(set(made.draws[1])) == 2 == len(made.penalties[1])
    assert made.points[1].low < min(made.draws[1]) < max(made.draws[1]) < made.points[1].high


def points(*values, width=0.0):
    shots = (1, 2, 4, 8, 16)
    return {
        count: Estimate(value, value - width, value + width, 100)
        for count, value in zip(shots, values, strict=False)
    }


def test_the_crossover_is_between_the_logarithms_of_the_shots():
    curve = points(0.2, 0.3, 0.5, 0.6, 0.7)
    found = few_shot.crossover(curve, zero_shot=Estimate(0.4, 0.4, 0.4, 100))
    assert found.value == pytest.approx(2 * math.sqrt(2)) == found.low == found.high
    exact = few_shot.crossover(curve, zero_shot=Estimate(0.6, 0.6, 0.6, 100))
    assert exact.value == pytest.approx(8)
    below = few_shot.crossover(curve, zero_shot=Estimate(0.15, 0.15, 0.15, 100))
    assert below.value == pytest.approx(math.sqrt(0.5))  # figure 7 has 0.9 for EuroSAT
    assert few_shot.crossover(curve, zero_shot=Estimate(0.9, 0.9, 0.9, 100)) is None
    with_all = curve | {300.0: Estimate(0.95, 0.95, 0.95, 100)}
    found = few_shot.crossover(with_all, zero_shot=Estimate(0.9, 0.9, 0.9, 100))
    assert 16 < found.value < 300
    assert few_shot.crossover(points(0.2), zero_shot=Estimate(0.1, 0.1, 0.1, 100)) is None


def test_the_crossovers_interval_grows_with_the_curves():
    zero_shot = metrics.share(40, 100)
    narrow, wide = (
        few_shot.crossover(points(0.2, 0.3, 0.5, 0.6, 0.7, width=w), zero_shot=zero_shot)
        for w in (0.01, 0.1)
    )
    assert narrow.low < narrow.value < narrow.high < wide.high and wide.low < narrow.low
    nearly = few_shot.crossover(points(0.2, 0.3, 0.35, 0.38, 0.41), zero_shot=zero_shot)
    assert nearly.high == math.inf  # within its interval zero-shot is better than all of them
