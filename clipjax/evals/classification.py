"""Classifiers: one vector a class, the images judged by them, and the metrics of what they choose.

Zero-shot classification, probes, videos and the likelihood of prompts all end here. A tie counts
against the model, and so does a value that is no number: a collapsed model scores 0. Classes with
the same names tie, and are both wrong; `prompts.read_alike` finds them.
"""

import dataclasses
import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from clipjax.evals import metrics
from clipjax.evals.metrics import Estimate
from clipjax.evals.protocols.registry import ACCURACIES
from clipjax.parallel import sharding
from clipjax.parallel.mesh import batch_shards

TIE = 1e-6  # cosines closer than this are equal: float32 sums depend on their order
ROWS = 8192  # images judged at once


@dataclasses.dataclass(frozen=True)
class Classifier:
    """float32 [C, E] twice, L2-normalised: of all prompts together, and of each class's first."""

    ensemble: np.ndarray
    single: np.ndarray


@dataclasses.dataclass(frozen=True)
class Result:
    """What a classifier did with N images.

    Attributes:
      classes: C names for people, the first of each class.
      labels: int32 [N], the true classes.
      chosen: int32 [N], the best class, or one that is as good and wrong.
      rank: int32 [N], how many wrong classes score no lower than the true one.
      not_finite: images with a score that is no number; they count as wrong.
      tied: images whose true class is as good as the best wrong one; they count as wrong.
    """

    classes: tuple[str, ...]
    labels: np.ndarray
    chosen: np.ndarray
    rank: np.ndarray
    not_finite: int = 0
    tied: int = 0

    @functools.cached_property
    def confusion(self) -> np.ndarray:
        """int64 [C, C], images by true (row) and chosen (column) class."""
        counts = np.zeros((len(self.classes), len(self.classes)), np.int64)
        np.add.at(counts, (self.labels, self.chosen), 1)
        return counts


def class_weights(text_embed: np.ndarray, *, owners: np.ndarray) -> np.ndarray:
    """The mean of each class's prompts, normalised again.

    Args:
      text_embed: float32 [P, E], L2-normalised.
      owners: int32 [P], the class of each; every class 0 … C - 1 occurs.

    Returns:
      float32 [C, E], L2-normalised.
    """
    order, number = np.argsort(owners, kind="stable"), np.bincount(owners)
    starts = np.cumsum(number) - number
    total = np.add.reduceat(text_embed[order].astype(np.float64), starts, axis=0)
    mean = total / number[:, None]
    length = np.linalg.norm(mean, axis=1, keepdims=True)
    return (mean / np.maximum(length, 1e-12)).astype(np.float32)


def judge(
    image_embed: np.ndarray,
    weights: np.ndarray,
    *,
    labels: np.ndarray,
    classes: tuple[str, ...],
    mesh: Mesh,
) -> Result:
    """Classify images and count.

    Args:
      image_embed: float32 [N, E], L2-normalised.
      weights: float32 [C, E], L2-normalised.
      labels: int32 [N], the true classes.
      classes: C names, passed on.
      mesh: images are split over its batch axes.
    """
    shards = batch_shards(mesh)
    rows = min(ROWS - ROWS % shards or shards, len(labels) + -len(labels) % shards)
    split = sharding.batch_sharding(mesh)
    placed = sharding.put(np.asarray(weights, np.float32), sharding.replicated(mesh))
    ranks, choices, tied = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)], 0
    for start in range(0, len(labels), rows or 1):
        true = labels[start : start + rows]
        spare = rows - len(true)
        images = np.pad(image_embed[start : start + rows], ((0, spare), (0, 0)))
        padded = (sharding.put(x, split) for x in (images, np.pad(true, (0, spare))))
        rank, chosen, ties = _judge(*padded, placed, mesh=mesh)
        ranks.append(np.asarray(rank)[: len(true)])
        choices.append(np.asarray(chosen)[: len(true)])
        tied += int(np.sum(np.asarray(ties)[: len(true)]))
    finite = np.isfinite(image_embed).all(axis=1) & np.isfinite(weights).all()
    return Result(
        classes,
        np.asarray(labels, np.int32),
        np.concatenate(choices),
        np.concatenate(ranks),
        int(np.sum(~finite)),
        tied,
    )


def judge_scores(scores: np.ndarray, *, labels: np.ndarray, classes: tuple[str, ...]) -> Result:
    """Judge scores of any kind, float [N, C], as `judge` does; equal ones tie."""
    ranks = rank(scores, labels)
    own = np.arange(len(labels)), labels
    wrong, right = scores.copy(), scores[own]
    wrong[own] = -np.inf
    chosen = np.where(ranks == 0, labels, np.nanargmax(wrong, axis=1))
    finite = np.isfinite(scores).all(axis=1)
    return Result(
        classes,
        np.asarray(labels, np.int32),
        chosen.astype(np.int32),
        ranks.astype(np.int32),
        int(np.sum(~finite)),
        int(np.sum(finite & (right == wrong.max(axis=1)))),
    )


def cosines(image_embed: np.ndarray, weights: np.ndarray, *, mesh: Mesh) -> np.ndarray:
    """float32 [N, C], for metrics that rank images; the arguments as for `judge`."""
    shards = batch_shards(mesh)
    split, whole = sharding.batch_sharding(mesh), sharding.replicated(mesh)
    placed, parts = sharding.put(np.asarray(weights, np.float32), whole), []
    rows = ROWS - ROWS % shards or shards
    for start in range(0, len(image_embed), rows):
        images = image_embed[start : start + rows]
        padded = np.pad(images, ((0, -len(images) % shards), (0, 0)))
        parts.append(
            np.asarray(_cosines(sharding.put(padded, split), placed, mesh=mesh))[: len(images)]
        )
    return np.concatenate(parts) if parts else np.zeros((0, len(weights)), np.float32)


def accuracies(result: Result) -> dict[str, Estimate]:
    """top1_accuracy, top5_accuracy (only with more than five classes), mean_per_class_accuracy
    (over the classes that occur)."""
    classes = len(result.classes)
    return {
        metric: of_ranks(metric, result.rank, labels=result.labels, classes=classes)
        for metric in ACCURACIES
        if metric != "top5_accuracy" or classes > 5
    }


def chance(classes: int) -> dict[str, float]:
    """What guessing among so many classes gives, by the metrics of `accuracies`."""
    levels = dict.fromkeys(("top1_accuracy", "mean_per_class_accuracy"), 1 / classes)
    return levels | ({"top5_accuracy": 5 / classes} if classes > 5 else {})


def measure(metric: str, scores: np.ndarray, targets: np.ndarray) -> Estimate:
    """One metric of class scores with its interval, by the names of `protocols.registry`.

    Args:
      metric: roc_auc (two classes, the second positive), mean_average_precision, or one of
        `of_ranks`.
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
    return of_ranks(metric, rank(scores, targets), labels=targets, classes=scores.shape[1])


def of_ranks(metric: str, ranks: np.ndarray, *, labels: np.ndarray, classes: int) -> Estimate:
    """top1_accuracy, top5_accuracy, mean_top1_top5 or mean_per_class_accuracy (over the classes
    that occur), from the rank and the class of each image, int [N]; ValueError for another."""
    top1, top5, n = int(np.sum(ranks == 0)), int(np.sum(ranks < 5)), len(ranks)
    if metric == "top1_accuracy":
        return metrics.share(top1, n)
    if metric == "top5_accuracy":
        return metrics.share(top5, n)
    if metric == "mean_top1_top5":
        return metrics.mean_top1_top5(top1, top5, n)
    if metric == "mean_per_class_accuracy":
        right = np.bincount(labels[ranks == 0], minlength=classes)
        return metrics.mean_per_class(right, np.bincount(labels, minlength=classes))
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


@partial(jax.jit, static_argnames="mesh")
def _judge(
    image_embed: jax.Array,  # [B, E]
    true: jax.Array,  # [B]
    weights: jax.Array,  # [C, E]
    *,
    mesh: Mesh,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """int32 [B] twice: how many wrong classes score no lower, and the chosen class; bool [B]:
    whether that is a wrong one for a tie alone."""
    cosine = jnp.einsum("be,ce->bc", image_embed, weights, precision=jax.lax.Precision.HIGHEST)
    wrong = jnp.arange(len(weights))[None, :] != true[:, None]  # [B, C]
    right = jnp.take_along_axis(cosine, true[:, None], axis=1)  # [B, 1]
    above = wrong & ~(cosine < right - TIE)  # so that a NaN counts against the model
    rank = jnp.sum(above, axis=1, dtype=jnp.int32)
    best_wrong = jnp.argmax(jnp.where(wrong, cosine, -jnp.inf), axis=1)
    # With NaN for all scores argmax may fall on the true class: any other one will do.
    best_wrong = jnp.where(best_wrong == true, (true + 1) % len(weights), best_wrong)
    chosen = jnp.where(rank == 0, true, best_wrong).astype(jnp.int32)
    higher = jnp.sum(wrong & (cosine > right + TIE), axis=1)
    tied = jnp.any(wrong & (jnp.abs(cosine - right) <= TIE), axis=1) & (higher == 0)
    return jax.lax.with_sharding_constraint((rank, chosen, tied), sharding.replicated(mesh))


@partial(jax.jit, static_argnames="mesh")
def _cosines(image_embed: jax.Array, weights: jax.Array, *, mesh: Mesh) -> jax.Array:
    cosine = jnp.einsum("be,ce->bc", image_embed, weights, precision=jax.lax.Precision.HIGHEST)
    return jax.lax.with_sharding_constraint(cosine, sharding.replicated(mesh))
