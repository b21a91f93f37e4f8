"""Metrics of a classifier from its scores [N, C]: what a trained probe is measured by.

The names are those of `suites`. A score that is no number counts against the classifier, and so
does a tie.
"""

import numpy as np

from clipjax.evals import metrics
from clipjax.evals.metrics import Estimate


def measure(metric: str, scores: np.ndarray, targets: np.ndarray) -> Estimate:
    """One metric with its interval.

    Args:
      metric: top1_accuracy, top5_accuracy, mean_per_class_accuracy, mean_top1_top5, roc_auc (two
        classes, the second positive) or mean_average_precision.
      scores: float [N, C].
      targets: int [N], the classes; or int [N, C] of 1, 0 and -1 (does not count), for
        mean_average_precision.

    Raises:
      ValueError: there is no such metric.
    """
    if metric == "mean_average_precision":
        targets = one_hot(targets, scores.shape[1]) if targets.ndim == 1 else targets
        return metrics.mean_average_precision(scores, targets > 0, ignored=targets < 0)
    if metric == "roc_auc":
        return metrics.roc_auc(scores[:, 1] - scores[:, 0], targets == 1)
    ranks = rank(scores, targets)
    if metric == "top1_accuracy":
        return metrics.share(int(np.sum(ranks == 0)), len(ranks))
    if metric == "top5_accuracy":
        return metrics.share(int(np.sum(ranks < 5)), len(ranks))
    if metric == "mean_top1_top5":
        return metrics.mean_top1_top5(int(np.sum(ranks == 0)), int(np.sum(ranks < 5)), len(ranks))
    if metric == "mean_per_class_accuracy":
        classes = scores.shape[1]
        right = np.bincount(targets[ranks == 0], minlength=classes)
        return metrics.mean_per_class(right, np.bincount(targets, minlength=classes))
    raise ValueError(f'no metric "{metric}" of class scores')


def rank(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """int [N]: how many wrong classes score no lower than the right one; 0 is right.

    Where a score is no number, all of them do.
    """
    own = np.arange(scores.shape[1])[None, :] == labels[:, None]
    right = np.take_along_axis(scores, labels[:, None], axis=1)
    above = np.sum(~own & ~(scores < right), axis=1)
    return np.where(np.isnan(scores).any(axis=1), scores.shape[1] - 1, above)


def one_hot(labels: np.ndarray, classes: int) -> np.ndarray:
    """int8 [N, C] of 1 and 0."""
    return (np.arange(classes)[None, :] == labels[:, None]).astype(np.int8)
