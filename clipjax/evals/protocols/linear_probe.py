"""Linear probe: logistic regression on frozen features (paper section 3.2, appendix A.3).

Features are the image tower's, before the projection, neither normalised nor standardised. The
penalty on the weights is searched on a validation split, as in the paper (`probe.penalty`). The
classifier is then fitted to training and validation data together and measured on the test split;
of STL-10 and UCF101 the figures are the mean over their official folds.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from clipjax.common.exits import DataError
from clipjax.evals import classification, embed
from clipjax.evals.evaluated import EvaluatedSet
from clipjax.evals.metrics import Estimate
from clipjax.evals.probe import folds, logistic, penalty, splits
from clipjax.evals.protocols.registry import Protocol, metric_of
from clipjax.evals.suites import set_data
from clipjax.evals.suites.results import Measurement
from clipjax.evals.suites.set_data import SetData

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
    poll: embed.Poll = embed.go_on,
) -> Probe:
    """Search the penalty, fit, and score the test rows.

    Args:
      features: float [N, D], of training and validation rows.
      targets: as `logistic.Rows` takes them.
      classes: C.
      test_features: float [M, D].
      metric: what the penalty is chosen by, see `classification.measure`.
      mesh: rows are split over its batch axes.
      validation: bool [N], the rows of the official validation split; without one, VALIDATION of
        each class is drawn.
      seed: of that draw.
      poll: asked every few iterations; embed.Preempted if it says to give up.
    """
    if validation is None:
        validation = drawn_validation(targets, seed=seed)
    rows = logistic.Rows(features, targets, classes=classes, mesh=mesh)
    searched = penalty.fit_and_search(
        rows, features, targets, apart=validation, metric=metric, poll=poll
    )
    fit = rows.fit(penalty.penalty_at(searched.best), start=searched.fits[searched.best], poll=poll)
    return Probe(
        fit=fit,
        scores=fit.scores(test_features),
        searched={
            penalty.penalty_at(step): searched.reached[step] for step in sorted(searched.reached)
        },
        trained=int(np.sum(~validation)),
        validated=int(np.sum(validation)),
        dropped=int(np.sum(~rows.finite)),
        fits=len(searched.fits) + 1,
        iterations=fit.iterations + sum(each.iterations for each in searched.fits.values()),
    )


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


def settings(evaluated: EvaluatedSet) -> dict[str, Any]:
    """The training data, the metric and how the penalty is searched."""
    return {
        "metric": evaluated.data.metric,
        "classes": len(evaluated.data.keys),
        "features": splits.FEATURES,
        **splits.fingerprints(evaluated),
        "folds": bool(evaluated.folds_file),
        "search": [penalty.DECADES, penalty.STEPS, VALIDATION],
    }


def check(evaluated: EvaluatedSet) -> None:
    """Raise DataError for labels without figures, and for splits that no probe can be fitted to or
    chosen on."""
    data = evaluated.data
    set_data.check_classes(data)
    training = splits.training(evaluated)
    number = splits.images_of_classes(training, keys=data.keys)
    where = training[0].where
    if data.kind == "classification" and np.sum(number > 0) < 2:
        (only,) = [key for key, n in zip(data.keys, number, strict=True) if n] or [""]
        raise DataError(f"{where}: all training images are of one class, {only!r}")
    if not number.any():
        raise DataError(f"{where}: no training image shows any of the {len(number):,} classes")
    if len(training) == 1 and not evaluated.folds_file and number.max() < 2:
        raise DataError(
            f"{where}: no class has two training images, and some must be set apart to choose the"
            " penalty on; add images, or a validation split"
        )


def measure(evaluated: EvaluatedSet) -> Measurement:
    """The paper's probe; of sets with official folds the mean over them."""
    data, training = evaluated.data, splits.training(evaluated)
    metric = metric_of(data.metric, protocol="linear_probe", kind=data.kind)
    official = len(training) > 1 and not evaluated.folds_file
    tasks = _tasks(evaluated, training)
    probes = [
        probe(
            task.features,
            task.targets,
            classes=len(data.keys),
            test_features=task.test_features,
            metric=metric,
            mesh=evaluated.model.mesh,
            validation=np.arange(len(task.features)) >= training[0].n if official else None,
        )
        for task in tasks
    ]
    names = [metric]
    if data.kind == "classification":
        names += [n for n in ("top1_accuracy", "mean_per_class_accuracy") if n != metric]
        names += ["top5_accuracy"] if len(data.keys) > 5 else []
    figures = {
        name: folds.mean_over(
            [
                classification.measure(name, each.scores, task.test_targets)
                for each, task in zip(probes, tasks, strict=True)
            ]
        )
        for name in names
    }
    first = probes[0]
    details = {
        "features": splits.FEATURES,
        "train": "; ".join(part.where for part in training),
        "trained": first.trained,
        "validated": first.validated,
        "validation": "official split" if official else "part of the training split",
        "penalty": [each.fit.penalty for each in probes],
        "searched": {f"{p:.6g}": [e.value, e.low, e.high] for p, e in first.searched.items()},
        "fits": sum(each.fits for each in probes),
        "iterations": sum(each.iterations for each in probes),
        "loss": first.fit.loss,
        "dropped": first.dropped,
        "folds": len(probes),
    }
    warnings = _not_finite(first, tasks[0].test_features)
    warnings += splits.class_warnings(data, training, metric=metric)
    warnings += splits.metric_warnings(data, metric=metric)
    if data.entry.validation and not official:
        warnings.append(
            f"its official validation split ({data.entry.validation:,} images) is not there; the"
            " penalty was searched on a part of the training split"
        )
    if not all(each.fit.converged for each in probes):
        warnings.append("the last fit ended at 1,000 iterations, before its minimum")
    arrays = {}
    if data.kind == "classification":
        ranks = classification.rank(first.scores, tasks[0].test_targets)
        arrays = {"label": data.labels, "rank": ranks.astype(np.int32)}
    return Measurement(metric, figures, details, warnings, arrays=arrays)


@dataclasses.dataclass(frozen=True)
class _Task:
    """What one probe is fitted to and measured on, as `probe` takes them."""

    features: np.ndarray
    targets: np.ndarray
    test_features: np.ndarray
    test_targets: np.ndarray


def _tasks(evaluated: EvaluatedSet, training: Sequence[SetData]) -> list[_Task]:
    """The splits as they lie there, or those of the file of folds."""
    data = evaluated.data
    whole = _Task(
        *splits.labelled_features(evaluated, training), *splits.labelled_features(evaluated, [data])
    )
    if not evaluated.folds_file:
        return [whole]
    features = np.concatenate([whole.features, whole.test_features])
    targets = np.concatenate([whole.targets, whole.test_targets])
    train, test = (
        [part.source.key(index) for part in parts for index in range(part.n)]
        for parts in (training, [data])
    )
    return [
        _Task(features[rows], targets[rows], features[tested], targets[tested])
        for rows, tested in folds.read(evaluated.folds_file, train=train, test=test)
    ]


def _not_finite(fitted: Probe, test_features: np.ndarray) -> list[str]:
    """Sentences about images whose features are no numbers."""
    warnings = []
    if wrong := int(np.sum(~np.isfinite(test_features).all(axis=1))):
        warnings.append(f"{wrong:,} images have features that are no numbers; they count as wrong")
    if fitted.dropped:
        warnings.append(
            f"{fitted.dropped:,} training images have features that are no numbers; left out"
        )
    return warnings


PROTOCOL = Protocol(measure, settings, check)
