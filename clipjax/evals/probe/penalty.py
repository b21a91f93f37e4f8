"""The search of a probe's penalty (paper, appendix A.3), for linear and few-shot probes.

From seven values between 1e-6 and 1e6, halving the step around the best until there are eight to a
decade. Each is fitted to some rows and measured on others that are set apart.
"""

import dataclasses
from collections.abc import Callable, Collection

import numpy as np

from clipjax.evals import classification, embed
from clipjax.evals.metrics import Estimate
from clipjax.evals.probe.logistic import Fit, Rows

DECADES = (-6, 6)
STEPS = 8  # to a decade
COARSE = 16  # steps between the first penalties: two decades


@dataclasses.dataclass(frozen=True)
class Searched:
    """The best step of the grid, and of each step that was tried its fit and what it reached."""

    best: int
    fits: dict[int, Fit]
    reached: dict[int, Estimate]


def fit_and_search(
    rows: Rows,
    features: np.ndarray,
    targets: np.ndarray,
    *,
    apart: np.ndarray,
    metric: str,
    poll: embed.Poll = embed.go_on,
) -> Searched:
    """Fit to the rows that are not set apart, and choose the penalty on those that are.

    Args:
      rows: the features and targets, on the devices.
      features, targets: the same here, as `logistic.Rows` takes them.
      apart: bool [N].
      metric: see `classification.measure`.
      poll: asked every few iterations; embed.Preempted if it says to give up.
    """
    fits: dict[int, Fit] = {}

    def value(step: int) -> Estimate:
        start = fits[nearest(step, fits)] if fits else None
        fits[step] = rows.fit(penalty_at(step), used=~apart, start=start, poll=poll)
        scores = fits[step].scores(features[apart])
        return classification.measure(metric, scores, targets[apart])

    best, reached = search(value)
    return Searched(best, fits, reached)


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
    reached = {step: value(step) for step in range(last, -1, -COARSE)}
    best = _best(reached)
    width = COARSE // 2
    while width:
        for step in (best + width, best - width):
            if 0 <= step <= last and step not in reached:
                reached[step] = value(step)
        best = _best(reached)
        width //= 2
    return best, reached


def _best(reached: dict[int, Estimate]) -> int:
    return max(reached, key=lambda step: (np.nan_to_num(reached[step].value, nan=-1), step))


def nearest(step: int, fitted: Collection[int]) -> int:
    """The fit to begin with: of the next larger penalty, or without one of the next smaller."""
    return min((other for other in fitted if other >= step), default=max(fitted))
