"""Linear probe: logistic regression on frozen features (paper section 3.2, appendix A.3).

Features are the image tower's, before the projection, neither normalised nor standardised. The
penalty on the weights is searched on a validation split, as in the paper: from seven values between
1e-6 and 1e6, halving the step around the best until there are eight to a decade. The classifier is
then fitted to training and validation data together and measured on the test split.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jax.sharding import Mesh

from clipjax.evals import class_scores, embed
from clipjax.evals.metrics import Estimate
from clipjax.evals.probe import logistic

DECADES = (-6, 6)
STEPS = 8  # to a decade
COARSE = 16  # steps between the first penalties: two decades
VALIDATION = 0.2  # of each class's training rows, where the data have no validation split


@dataclasses.dataclass(frozen=True)
class Probe:
    """A fitted probe and how it came about.

    Attributes:
      fit: to training and validation rows.
      scores: float32 [N, C], of the test rows; NaN where a feature is no finite number.
      searched: penalty → the metric on the validation rows, in ascending order.
      trained, validated: rows of the search.
      dropped: training and validation rows with features that are no finite numbers, left out.
      fits: how many classifiers were fitted, and `iterations` in all.
    """

    fit: logistic.Fit
    scores: np.ndarray
    searched: dict[float, Estimate]
    trained: int
    validated: int
    dropped: int
    fits: int
    iterations: int


def probe(
    features: np.ndarray,
    targets: np.ndarray,
    *,
    classes: int,
    test_features: np.ndarray,
    metric: str,
    mesh: Mesh,
    validation: np.ndarray | None = None,
    seed: int = 0,
    poll: embed.Poll = lambda: False,
) -> Probe:
    """Search the penalty, fit, and score the test rows.

    Args:
      features: float [N, D], of training and validation rows.
      targets: as `logistic.Rows` takes them.
      classes: C.
      test_features: float [M, D].
      metric: what the penalty is chosen by, see `class_scores.measure`.
      mesh: rows are split over its batch axes.
      validation: bool [N], the rows of the official validation split; without one, VALIDATION of
        each class is drawn.
      seed: of that draw.
      poll: asked every few iterations; embed.Preempted if it says to give up.
    """
    if validation is None:
        validation = drawn_validation(targets, seed=seed)
    rows = logistic.Rows(features, targets, classes=classes, mesh=mesh)
    fits: dict[int, logistic.Fit] = {}

    def value(step: int) -> Estimate:
        start = fits[nearest(step, fits)] if fits else None
        fits[step] = rows.fit(penalty_at(step), used=~validation, start=start, poll=poll)
        scores = fits[step].scores(features[validation])
        return class_scores.measure(metric, scores, targets[validation])

    best, found = search(value)
    fit = rows.fit(penalty_at(best), start=fits[best], poll=poll)
    return Probe(
        fit=fit,
        scores=fit.scores(test_features),
        searched={penalty_at(step): found[step] for step in sorted(found)},
        trained=int(np.sum(~validation)),
        validated=int(np.sum(validation)),
        dropped=int(np.sum(~rows.finite)),
        fits=len(fits) + 1,
        iterations=fit.iterations + sum(each.iterations for each in fits.values()),
    )


def penalty_at(step: int) -> float:
    """The penalty of a step of the grid, 0 … 96; scikit-learn's C is its inverse."""
    return 10 ** (DECADES[0] + step / STEPS)


def search(value: Callable[[int], Estimate]) -> tuple[int, dict[int, Estimate]]:
    """The paper's search: (the best step of the grid, all that were tried).

    Begins with the largest penalty, whose fit is the quickest and a start for the next. Of equal
    values the larger penalty wins.

    Args:
      value: of a step; asked once for each that is tried.
    """
    last = (DECADES[1] - DECADES[0]) * STEPS
    found = {step: value(step) for step in range(last, -1, -COARSE)}
    best = _best(found)
    width = COARSE // 2
    while width:
        for step in (best + width, best - width):
            if 0 <= step <= last and step not in found:
                found[step] = value(step)
        best = _best(found)
        width //= 2
    return best, found


def _best(found: dict[int, Estimate]) -> int:
    return max(found, key=lambda step: (np.nan_to_num(found[step].value, nan=-1), step))


def nearest(step: int, fitted: Sequence[int] | dict[int, logistic.Fit]) -> int:
    """The fit to begin with: of the next larger penalty, or without one of the next smaller."""
    larger = [other for other in fitted if other >= step]
    return min(larger) if larger else max(fitted)


def drawn_validation(targets: np.ndarray, *, seed: int) -> np.ndarray:
    """bool [N]: VALIDATION of each class's rows, drawn by `seed`; of several classes at once, of
    all rows. A class of one row stays in training."""
    rng = np.random.default_rng(seed)
    chosen = np.zeros(len(targets), bool)
    groups = targets if targets.ndim == 1 else np.zeros(len(targets), int)
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        count = min(max(round(VALIDATION * len(rows)), 1), len(rows) - 1)
        chosen[rng.permutation(rows)[:count]] = True
    return chosen
