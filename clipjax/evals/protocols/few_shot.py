"""Few-shot probes: how many labelled images a class are worth as much as its name (section 3.1.5).

Logistic regression on the features of 1, 2, 4, 8 and 16 images of each class, several times with
other images. The paper does not say how it chose the penalty: here `linear_probe`'s search, on up
to four further images of each class, which are then left out.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from jax.sharding import Mesh

from clipjax.evals import class_scores, embed
from clipjax.evals.metrics import LEVEL, Estimate
from clipjax.evals.probe import folds, logistic
from clipjax.evals.protocols import linear_probe

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
    poll: embed.Poll = lambda: False,
) -> Curve:
    """Fit and measure the probes.

    Args:
      features: float [N, D], of the training rows.
      labels: int [N], their classes; every class needs images for a number of shots to count.
      classes: C.
      test_features, test_labels: float [M, D] and int [M].
      metric: see `class_scores.measure`.
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
    made = Curve({}, {}, {}, left_out)
    kept = [count for count in shots if count not in left_out]
    longest = classes * max([count + min(count, FURTHER) for count in kept], default=0)

    def fitted(rows: np.ndarray, apart: np.ndarray) -> logistic.Fit:
        """To those rows that are not `apart`; these choose the penalty."""
        own, known = features[rows], labels[rows]
        placed = logistic.Rows(own, known, classes=classes, mesh=mesh, length=longest)
        fits: dict[int, logistic.Fit] = {}

        def value(step: int) -> Estimate:
            penalty = linear_probe.penalty_at(step)
            start = fits[linear_probe.nearest(step, fits)] if fits else None
            fits[step] = placed.fit(penalty, used=~apart, start=start, poll=poll)
            return class_scores.measure(metric, fits[step].scores(own[apart]), known[apart])

        best, _ = linear_probe.search(value)
        return fits[best]

    for count in kept:
        found, further = [], min(count, FURTHER)
        apart = np.tile(np.arange(count + further) >= count, classes)
        for draw in range(draws):
            rng = np.random.default_rng((seed, draw))
            orders = [rng.permutation(group) for group in groups]
            rows = [
                np.concatenate([order[:count], order[len(order) - further :]]) for order in orders
            ]
            fit = fitted(np.concatenate(rows), apart)
            found.append(class_scores.measure(metric, fit.scores(test_features), test_labels))
            made.penalties.setdefault(count, []).append(fit.penalty)
        made.draws[count] = [estimate.value for estimate in found]
        made.points[count] = folds.mean_over(found)
    return made


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
    found = [points[count] for count in sorted(points)]
    value = _crossing(shots, np.array([point.value for point in found]), zero_shot.value)
    if value is None:
        return None
    rng = np.random.default_rng(seed)
    spread = 2 * math.sqrt(2) * _erfinv(LEVEL)
    curves = np.stack(
        [rng.normal(p.value, (p.high - p.low) / spread, SIMULATED) for p in found], axis=1
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


def _erfinv(x: float) -> float:
    from scipy.special import erfinv

    return float(erfinv(x))
