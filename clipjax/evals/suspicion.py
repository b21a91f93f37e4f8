"""What of a set's classes changes how its figure is read: sentences that stand beside it."""

from collections.abc import Sequence

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


def of_absent(number: np.ndarray, *, names: Sequence[str], averaged: bool) -> str:
    """A sentence about classes that no image shows, or "".

    Args:
      number: int [C], images of each class.
      names: C names for people.
      averaged: whether the metric is a mean over classes.
    """
    absent = np.flatnonzero(np.asarray(number) == 0).tolist()
    if not absent:
        return ""
    effect = "they are left out of the mean" if averaged else "their names compete all the same"
    listed = _listed([repr(names[i]) for i in absent])
    return f"{len(absent):,} of {len(names):,} classes have no images here: {listed}; {effect}"


def of_untrained(trained: np.ndarray, *, number: np.ndarray, names: Sequence[str]) -> str:
    """A sentence about classes without training images, or "".

    Args:
      trained: int [C], training images of each class.
      number: int [C], images of each class that are tested.
      names: C names for people.
    """
    absent = np.flatnonzero(np.asarray(trained) == 0).tolist()
    if not absent:
        return ""
    listed = _listed([repr(names[i]) for i in absent])
    images = int(np.asarray(number)[absent].sum())
    return f"no training images of {listed}: none of the {images:,} images tested can be right"


def of_alike(
    groups: Sequence[Sequence[int]],
    *,
    names: Sequence[str],
    number: np.ndarray,
    rivals: bool = True,
) -> str:
    """A sentence about classes whose prompts are the same to the model, or "".

    Args:
      groups: of such classes, see `prompts.read_alike`.
      names: C names for people.
      number: int [C], images of each class.
      rivals: whether an image has one class only.
    """
    members = [index for group in groups for index in group]
    if not members:
        return ""
    listed = _listed([" = ".join(f"{names[i]!r} (class {i})" for i in g[:SHOWN]) for g in groups])
    images = int(np.asarray(number)[members].sum())
    effect = f"none of their {images:,} images can be right" if rivals else "so are their scores"
    return (
        f"{len(members):,} of {len(names):,} classes have prompts that this model reads as the"
        f" same: {listed}; {effect}"
    )


def _listed(texts: Sequence[str]) -> str:
    return ", ".join(texts[:SHOWN]) + (", …" if len(texts) > SHOWN else "")
