"""Scores of a model on a set, each with its 95 % interval, from counts and scores of the images.

All protocols use these; NumPy only. Shares of independent images have the exact interval of
Clopper and Pearson (the paper's, appendix C); everything else a bootstrap with a fixed seed. A
score that is no number counts against the model.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

LEVEL = 0.95
RESAMPLES = 1000
SEED = 0


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A value with its interval of 95 %, measured on `n` images (or queries, or pairs).

    `value` is NaN where n = 0.
    """

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        if not math.isfinite(self.value):
            return f"no number (n = {self.n:,})"
        return f"{self.value:.2%} ({self.low:.2%} … {self.high:.2%}, n = {self.n:,})"


def share(right: int, n: int) -> Estimate:
    """`right` of `n` independent trials, with Clopper and Pearson's interval."""
    low, high = clopper_pearson(right, n)
    return Estimate(right / n if n else float("nan"), low, high, int(n))


def clopper_pearson(right: int, n: int, *, level: float = LEVEL) -> tuple[float, float]:
    """The exact interval of a binomial share, (low, high); (0, 1) where n = 0."""
    from scipy.special import betaincinv

    tail, right, n = (1 - level) / 2, int(right), int(n)
    low = float(betaincinv(right, n - right + 1, tail)) if right else 0.0
    high = float(betaincinv(right + 1, n - right, 1 - tail)) if right < n else 1.0
    return low, high


def mean_per_class(right: np.ndarray, number: np.ndarray) -> Estimate:
    """The mean of the classes' accuracies, over the classes that occur.

    Equals scikit-learn's `balanced_accuracy_score`. The interval resamples images within classes.

    Args:
      right: int [C], images of each class that were right.
      number: int [C], images of each class.
    """
    right, number = _occurring(right, number)
    if not len(number):
        return share(0, 0)
    draws = generator().binomial(number, right / number, (RESAMPLES, len(number))) / number
    value = float(np.mean(right / number))
    return estimate(value, draws.mean(axis=1), n=int(number.sum()))


def worst_group(right: np.ndarray, number: np.ndarray) -> tuple[Estimate, int]:
    """The lowest of the groups' accuracies with its own interval, and which group it is.

    Args:
      right, number: int [G]; groups without images are left out.
    """
    right, number = np.asarray(right), np.asarray(number)
    if not number.any():
        return share(0, 0), 0
    shares = np.where(number > 0, right / np.maximum(number, 1), np.inf)
    group = int(np.argmin(shares))
    return share(right[group], number[group]), group


def mean_top1_top5(top1: int, top5: int, n: int) -> Estimate:
    """(top-1 + top-5 accuracy) / 2, the metric of Kinetics-700.

    Args:
      top1, top5: images whose class is the best, and among the five best.
    """
    if not n:
        return share(0, 0)
    kinds = np.array([top1, top5 - top1, n - top5])
    draws = generator().multinomial(n, kinds / n, RESAMPLES) @ np.array([1, 0.5, 0]) / n
    return estimate((top1 + top5) / (2 * n), draws, n=n)


def macro_f1(confusion: np.ndarray) -> Estimate:
    """The mean of the F1 scores of the classes that occur, as WILDS defines it for iWildCam.

    Equals scikit-learn's `f1_score(average="macro", labels=the classes that occur)`.

    Args:
      confusion: int [C, C], images by true (row) and chosen (column) class.
    """
    confusion = np.asarray(confusion)
    n = int(confusion.sum())
    if not n:
        return share(0, 0)
    shape, chances = confusion.shape, confusion.ravel() / n
    draws = [
        _macro_f1(generator(k).multinomial(n, chances).reshape(shape)) for k in range(RESAMPLES)
    ]
    return estimate(_macro_f1(confusion), np.array(draws), n=n)


def _macro_f1(confusion: np.ndarray) -> float:
    right, true, chosen = np.diagonal(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    return float(np.mean((2 * right / np.maximum(true + chosen, 1))[true > 0]))


def ratio(right: np.ndarray, number: np.ndarray) -> Estimate:
    """Share right of trials that come in groups, such as the captions of one image.

    The interval resamples whole groups, since those of one group are not independent.

    Args:
      right, number: int [G], of each group.
    """
    return dataclasses.replace(mean_of_ratios([(right, number)]), n=int(np.sum(number)))


def mean_of_ratios(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> Estimate:
    """The mean of several `ratio`s over the same groups, resampled together; n is the groups."""
    columns = np.array([column for part in parts for column in part])  # right, number, right, …
    columns = columns[:, columns[1] > 0]
    n = columns.shape[1]
    if not n:
        return share(0, 0)

    def measure(times: np.ndarray) -> float:
        sums = columns @ times
        return float(np.mean(sums[::2] / sums[1::2]))

    draws = bootstrap(lambda i: measure(np.bincount(i, minlength=n)), n)
    return estimate(measure(np.ones(n, np.int64)), draws, n=n)


def mean(values: np.ndarray) -> Estimate:
    """The mean of float [N], one value in 0 … 1 for each of N independent trials."""
    if not len(values):
        return share(0, 0)
    draws = bootstrap(lambda i: float(values[i].mean()), len(values))
    return estimate(float(values.mean()), draws, n=len(values))


def roc_auc(scores: np.ndarray, positive: np.ndarray) -> Estimate:
    """Area under the receiver's curve, ties in the middle: scikit-learn's `roc_auc_score`.

    Args:
      scores: [N], higher for the positive class.
      positive: bool [N].
    """
    positive = np.asarray(positive, bool)
    scores = worst_case(scores, positive)
    value = _auc(scores, positive)
    draws = bootstrap(lambda i: _auc(scores[i], positive[i]), len(scores))
    return estimate(value, draws, n=len(scores))


def _auc(scores: np.ndarray, positive: np.ndarray) -> float:
    from scipy.stats import rankdata

    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives:
        return float("nan")
    above = rankdata(scores)[positive].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


def mean_average_precision(
    scores: np.ndarray, positive: np.ndarray, *, ignored: np.ndarray | None = None
) -> Estimate:
    """The mean over classes of the 11-point average precision, the metric of VOC 2007.

    Of each class the mean over recalls 0, 0.1, … 1 of the best precision at that recall or a
    higher one (VOC development kit). Images with equal scores are taken together, so that their
    order does not matter. A class without positives is left out.

    Args:
      scores: [N, C].
      positive: bool [N, C], which classes are in the image.
      ignored: bool [N, C], images that do not count for a class (its objects are all "difficult").
    """
    positive = np.asarray(positive, bool)
    kept = np.ones_like(positive) if ignored is None else ~np.asarray(ignored, bool)
    classes = [_Ranked.of(scores[:, c], positive[:, c], kept[:, c]) for c in range(scores.shape[1])]

    def measure(indices: np.ndarray) -> float:
        times = np.bincount(indices, minlength=len(scores))
        precisions = [value for ranked in classes if (value := ranked.precision(times)) is not None]
        return float(np.mean(precisions)) if precisions else float("nan")

    n = len(scores)
    return estimate(measure(np.arange(n)), bootstrap(measure, n), n=n)


@dataclasses.dataclass(frozen=True)
class _Ranked:
    """The images of one class, best first."""

    order: np.ndarray  # int [n], which images
    positive: np.ndarray  # bool [n], in that order
    last: np.ndarray  # int, the last place of each group of equal scores

    @classmethod
    def of(cls, scores: np.ndarray, positive: np.ndarray, kept: np.ndarray) -> "_Ranked":
        places = np.flatnonzero(kept)
        own = worst_case(scores[places], positive[places])
        order = np.argsort(-own, kind="stable")
        ordered = own[order]
        last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], [True] * bool(len(order))))
        return cls(places[order], positive[places][order], last)

    def precision(self, times: np.ndarray) -> float | None:
        """11-point average precision, image i counted times[i] times; None without positives."""
        number = times[self.order]
        every = np.cumsum(number)[self.last]
        right = np.cumsum(number * self.positive)[self.last]
        if not len(right) or not right[-1]:
            return None
        best = np.maximum.accumulate((right / np.maximum(every, 1))[::-1])[::-1]
        # recall ≥ k / 10 in whole numbers, free of rounding
        at = np.searchsorted(10 * right, np.arange(11) * right[-1], side="left")
        return float(best[at].mean())


def bootstrap(measure: Callable[[np.ndarray], float], n: int) -> np.ndarray:
    """float64 [RESAMPLES]: `measure` of n indices drawn with replacement, the same at each call."""
    return np.array([measure(generator(k).integers(0, n, n)) for k in range(RESAMPLES)])


def generator(k: int = 0) -> np.random.Generator:
    """The k-th of the fixed generators of bootstraps."""
    return np.random.default_rng((SEED, k))


def estimate(value: float, draws: np.ndarray, *, n: int) -> Estimate:
    """A value with its draws' middle 95 %; where a bootstrap sees no spread, at 0 and 1, the exact
    interval of n trials."""
    draws = draws[np.isfinite(draws)]
    if not len(draws):
        return Estimate(value, 0.0, 1.0, n)
    low, high = map(float, np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
    if value in (0.0, 1.0) and low == high:
        low, high = clopper_pearson(n if value else 0, n)
    return Estimate(value, min(low, value), max(high, value), n)


def _occurring(right: np.ndarray, number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    right, number = np.asarray(right), np.asarray(number)
    return right[number > 0], number[number > 0]


def worst_case(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """float64, with what is no number put where it does most harm."""
    scores = np.asarray(scores, np.float64)
    return np.where(np.isnan(scores), np.where(positive, -np.inf, np.inf), scores)
