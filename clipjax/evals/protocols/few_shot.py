"""Few-shot probes: how many labelled images a class are worth as much as its name (section 3.1.5).

Logistic regression on the features of 1, 2, 4, 8 and 16 images of each class, several times with
other images. The paper does not say how it chose the penalty: here the search of `probe.penalty`,
on up to four further images of each class, which are then left out.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh
from scipy.special import erfinv

from clipjax.evals import classification, embed
from clipjax.evals.evaluated import EvaluatedSet
from clipjax.evals.metrics import LEVEL, Estimate
from clipjax.evals.probe import folds, logistic, penalty, splits
from clipjax.evals.protocols.registry import Protocol, metric_of
from clipjax.evals.suites import set_data
from clipjax.evals.suites.results import Measurement

SHOTS = (1, 2, 4, 8, 16)
DRAWS = 3
FURTHER = 4  # images of each class, at most as many as shots, that the penalty is chosen on
SIMULATED = 2000  # curves, for the crossover's interval


@dataclasses.dataclass(frozen=True)
class Curve:
    """What few-shot probes reach.

    Attributes:
      points: shots → the metric's mean over the draws.
      draws: shots → the metric of each draw.
      penalties: shots → the penalty chosen in each draw.
      left_out: shots → why there is no point.
    """

    points: dict[int, Estimate]
    draws: dict[int, list[float]]
    penalties: dict[int, list[float]]
    left_out: dict[int, str]


def curve(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    classes: int,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    metric: str,
    mesh: Mesh,
    shots: Sequence[int] = SHOTS,
    draws: int = DRAWS,
    seed: int = 0,
    poll: embed.Poll = embed.go_on,
) -> Curve:
    """Fit and measure the probes.

    Args:
      features: float [N, D], of the training rows.
      labels: int [N], their classes; every class needs images for a number of shots to count.
      classes: C.
      test_features, test_labels: float [M, D] and int [M].
      metric: see `classification.measure`.
      mesh: rows are split over its batch axes.
      shots: images of each class.
      draws: how often, with other images each time; the images of fewer shots are among those of
        more, so that curves are smooth.
      seed: of the draws.
      poll: asked every few iterations; embed.Preempted if it says to give up.
    """
    finite = np.isfinite(features).all(axis=1)
    groups = [np.flatnonzero(finite & (labels == c)) for c in range(classes)]
    fewest = min(map(len, groups))
    left_out = {
        count: f"a class has only {fewest} images, and {count} + {min(count, FURTHER)} are needed"
        for count in shots
        if fewest < count + min(count, FURTHER)
    }
    result = Curve({}, {}, {}, left_out)
    kept = [count for count in shots if count not in left_out]
    longest = classes * max([count + min(count, FURTHER) for count in kept], default=0)
    for count in kept:
        reached, further = [], min(count, FURTHER)
        apart = np.tile(np.arange(count + further) >= count, classes)
        for draw in range(draws):
            rng = np.random.default_rng((seed, draw))
            orders = [rng.permutation(group) for group in groups]
            drawn = np.concatenate(
                [np.r_[order[:count], order[len(order) - further :]] for order in orders]
            )
            own, known = features[drawn], labels[drawn]
            rows = logistic.Rows(own, known, classes=classes, mesh=mesh, length=longest)
            searched = penalty.fit_and_search(
                rows, own, known, apart=apart, metric=metric, poll=poll
            )
            fit = searched.fits[searched.best]
            scores = fit.scores(test_features)
            reached.append(classification.measure(metric, scores, test_labels))
            result.penalties.setdefault(count, []).append(fit.penalty)
        result.draws[count] = [estimate.value for estimate in reached]
        result.points[count] = folds.mean_over(reached)
    return result


def crossover(
    points: Mapping[int, Estimate], *, zero_shot: Estimate, seed: int = 0
) -> Estimate | None:
    """Images of each class at which the probe is as good as zero-shot (figure 7).

    Linear between the logarithms of the shots; below the first two, on their line, as the paper's
    values under 1 show.

    Args:
      points: images of each class → the probe's metric, the whole training set among them.
      zero_shot: the same metric, by the classes' names.
      seed: of the curves that are drawn within their intervals.

    Returns:
      The number with the interval of 95 %, `n` the test images; None where the probe does not get
      there. An upper end of infinity: some curves within the intervals do not.
    """
    shots = np.log([float(count) for count in sorted(points)])
    if len(shots) < 2:
        return None
    ordered = [points[count] for count in sorted(points)]
    value = _crossing(shots, np.array([point.value for point in ordered]), zero_shot.value)
    if value is None:
        return None
    rng = np.random.default_rng(seed)
    spread = 2 * math.sqrt(2) * float(erfinv(LEVEL))
    curves = np.stack(
        [rng.normal(p.value, (p.high - p.low) / spread, SIMULATED) for p in ordered], axis=1
    )
    level = rng.normal(zero_shot.value, (zero_shot.high - zero_shot.low) / spread, SIMULATED)
    crossings = [_crossing(shots, row, goal) for row, goal in zip(curves, level, strict=True)]
    drawn = np.array([math.inf if crossing is None else crossing for crossing in crossings])
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="nearest")
    return Estimate(value, min(float(low), value), max(float(high), value), zero_shot.n)


def _crossing(shots: np.ndarray, values: np.ndarray, goal: float) -> float | None:
    """exp of where the broken line first reaches the goal."""
    for k in range(len(shots)):
        if values[k] >= goal:
            left = max(k - 1, 0)
            right = left + 1
            rise = values[right] - values[left]
            if rise <= 0:  # flat, or falling after a first point that is high enough
                return float(np.exp(shots[k]))
            share = (goal - values[left]) / rise
            return float(np.exp(shots[left] + share * (shots[right] - shots[left])))
    return None


def settings(evaluated: EvaluatedSet) -> dict[str, Any]:
    """The training data, the metric, shots and draws."""
    return {
        "metric": evaluated.data.metric,
        "classes": len(evaluated.data.keys),
        "features": splits.FEATURES,
        **splits.fingerprints(evaluated),
        "shots": [SHOTS, DRAWS, FURTHER],
        "prompts": evaluated.prompts.hash,
    }


def check(evaluated: EvaluatedSet) -> None:
    """Raise DataError for labels that give the set's metric no figure."""
    set_data.check_classes(evaluated.data)


def measure(evaluated: EvaluatedSet) -> Measurement:
    """Probes of 1 to 16 images of each class, against the classes' names."""
    data, training = evaluated.data, splits.training(evaluated)
    features, labels = splits.labelled_features(evaluated, training)
    metric = metric_of(data.metric, protocol="few_shot", kind=data.kind)
    fitted = curve(
        features,
        labels,
        classes=len(data.keys),
        test_features=evaluated.features(data),
        test_labels=data.labels,
        metric=metric,
        mesh=evaluated.model.mesh,
    )
    if not fitted.points:
        raise set_data.Missing(f"{training[0].where}: {next(iter(fitted.left_out.values()))}")
    scores = evaluated.image_embed @ evaluated.classifier.ensemble.T
    zero_shot = classification.measure(metric, scores, data.labels)
    crossing = crossover(fitted.points, zero_shot=zero_shot)
    figures = {f"{n}_shot_{metric}": point for n, point in fitted.points.items()}
    details = {
        "features": splits.FEATURES,
        "classes": len(data.keys),
        "draws": {str(n): values for n, values in fitted.draws.items()},
        "penalties": {str(n): values for n, values in fitted.penalties.items()},
        "penalty_chosen_on": f"up to {FURTHER} further images of each class",
        "crossover": crossing
        and {
            "value": crossing.value,
            "low": crossing.low,
            "high": None if np.isinf(crossing.high) else crossing.high,
        },
    }
    warnings = [f"no {n}-shot probe: {why}" for n, why in fitted.left_out.items()]
    return Measurement(
        f"{max(fitted.points)}_shot_{metric}",
        figures | {f"zero_shot_{metric}": zero_shot},
        details,
        warnings + splits.metric_warnings(data, metric=metric),
    )


PROTOCOL = Protocol(measure, settings, check, prompted=True)
