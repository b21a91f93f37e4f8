"""Whether a classifier's counts look as if classes were in another order than their names."""

import numpy as np

from clipjax.evals import metrics

LEAST = 5  # images of a class, before its share says anything
SURE = 1e-6  # probability of so low an accuracy by guessing
SHOWN = 3


def of_confusion(confusion: np.ndarray, *, names: tuple[str, ...]) -> str:
    """A sentence, or "" where nothing is odd.

    Two signs: an accuracy far below guessing; and classes most of whose images are taken for one
    other class each, under a matching of classes that explains the counts much better than the
    classes' own names do (33 of 37 pets in another order still score above guessing).

    Args:
      confusion: int [C, C], images by true (row) and chosen (column) class.
      names: C names for people.
    """
    from scipy.optimize import linear_sum_assignment
    from scipy.stats import binom

    n, right = int(confusion.sum()), int(np.trace(confusion))
    if not n:
        return ""
    number = confusion.sum(axis=1)
    _, best = linear_sum_assignment(-confusion)
    classes = np.arange(len(confusion))
    share = confusion[classes, best] / np.maximum(number, 1)
    swapped = np.flatnonzero((best != classes) & (share > 0.5) & (number >= LEAST))
    if len(swapped) > 1:
        told = ", ".join(
            f"{names[i]!r} as {names[best[i]]!r} ({share[i]:.0%})" for i in swapped[:SHOWN]
        )
        more = ", …" if len(swapped) > SHOWN else ""
        matched = int(confusion[classes, best].sum())
        return (
            f"class order? {len(swapped)} classes are mostly taken for one other class each: {told}"
            f"{more}; matched that way accuracy would be {matched / n:.1%}, not {right / n:.1%}:"
            " compare names with label keys"
        )
    if binom.cdf(right, n, 1 / len(confusion)) < SURE:
        return (
            f"class order? accuracy {metrics.share(right, n)} is far below guessing,"
            f" {1 / len(confusion):.2%}: compare names with label keys"
        )
    return ""
