"""Linear and few-shot probes as protocols of suites: `protocols` lists them, `runner` calls them.

Both are fitted on the set's training split, which lies beside the evaluation split, and on its
official validation split, where there is one; without the first they are left out, and the runner
says so.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from clipjax.common.exits import DataError
from clipjax.evals import class_scores, metric_names, metrics, suspicion
from clipjax.evals.probe import folds
from clipjax.evals.protocols import few_shot, linear_probe
from clipjax.evals.protocols.few_shot import Curve
from clipjax.evals.suites import set_data
from clipjax.evals.suites.evaluated_model import OnSet
from clipjax.evals.suites.results import Measurement
from clipjax.evals.suites.set_data import SetData

Arrays = dict[str, np.ndarray]
FEATURES = "image tower, before the projection"
ACCURACIES = ("top1_accuracy", "top5_accuracy", "mean_top1_top5")  # over all images alike


def linear_probe_settings(on: OnSet) -> dict[str, Any]:
    """The training data, the metric and how the penalty is searched."""
    return {
        "metric": on.data.metric,
        "classes": len(on.data.keys),
        "features": FEATURES,
        **_fingerprints(on),
        "folds": bool(on.folds_file),
        "search": [linear_probe.DECADES, linear_probe.STEPS, linear_probe.VALIDATION],
    }


def trained(training: Sequence[SetData], *, keys: tuple[str, ...]) -> np.ndarray:
    """int [C], the images of each class in some splits."""
    total = np.zeros(len(keys), np.int64)
    for part in training:
        targets = targets_of(part, keys=keys)
        many = targets.ndim == 2
        total += (targets > 0).sum(axis=0) if many else np.bincount(targets, minlength=len(keys))
    return total


def measure_linear_probe(on: OnSet) -> tuple[Measurement, Arrays]:
    """The paper's probe (`linear_probe`); of STL-10 and UCF101 the mean over their folds."""
    data, training = on.data, training_of(on)
    metric = metric_names.of_protocol(data.metric, protocol="linear_probe", kind=data.kind)
    official = len(training) > 1 and not on.folds_file
    tasks = _tasks(on, training)
    probes = [
        linear_probe.probe(
            task.features,
            task.targets,
            classes=len(data.keys),
            test_features=task.test_features,
            metric=metric,
            mesh=on.subject.mesh,
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
                class_scores.measure(name, made.scores, task.test_targets)
                for made, task in zip(probes, tasks, strict=True)
            ]
        )
        for name in names
    }
    first = probes[0]
    made = Measurement(
        metric,
        figures,
        {
            "features": FEATURES,
            "train": "; ".join(part.where for part in training),
            "trained": first.trained,
            "validated": first.validated,
            "validation": "official split" if official else "part of the training split",
            "penalty": [probe.fit.penalty for probe in probes],
            "searched": {f"{p:.6g}": [e.value, e.low, e.high] for p, e in first.searched.items()},
            "fits": sum(probe.fits for probe in probes),
            "iterations": sum(probe.iterations for probe in probes),
            "loss": first.fit.loss,
            "dropped": first.dropped,
            "folds": len(probes),
        },
    )
    _warn(made, first, tasks[0].test_features)
    made.warnings += _class_warnings(on, training, metric=metric)
    made.warnings += _metric_warnings(data, metric=metric)
    if data.entry.validation and not official:
        made.warnings.append(
            f"its official validation split ({data.entry.validation:,} images) is not there; the"
            " penalty was searched on a part of the training split"
        )
    if not all(probe.fit.converged for probe in probes):
        made.warnings.append("the last fit ended at 1,000 iterations, before its minimum")
    if data.kind != "classification":
        return made, {}
    ranks = class_scores.rank(first.scores, tasks[0].test_targets)
    return made, {"label": data.labels, "rank": ranks.astype(np.int32)}


def few_shot_settings(on: OnSet) -> dict[str, Any]:
    """The training data, the metric, shots and draws."""
    return {
        "metric": on.data.metric,
        "classes": len(on.data.keys),
        "features": FEATURES,
        **_fingerprints(on),
        "shots": [few_shot.SHOTS, few_shot.DRAWS, few_shot.FURTHER],
        "prompts": on.prompts.hash,
    }


def measure_few_shot(on: OnSet) -> tuple[Measurement, Arrays]:
    """Probes of 1 to 16 images of each class, against the classes' names."""
    data, training = on.data, training_of(on)
    features, labels = _rows(on, training)
    metric = metric_names.of_protocol(data.metric, protocol="few_shot", kind=data.kind)
    curve = few_shot.curve(
        features,
        labels,
        classes=len(data.keys),
        test_features=on.features(data),
        test_labels=data.labels,
        metric=metric,
        mesh=on.subject.mesh,
    )
    if not curve.points:
        raise set_data.Missing(f"{training[0].where}: {next(iter(curve.left_out.values()))}")
    zero_shot = class_scores.measure(metric, on.image_embed @ on.classifier.ensemble.T, data.labels)
    made = Measurement(
        f"{max(curve.points)}_shot_{metric}",
        {f"{n}_shot_{metric}": point for n, point in curve.points.items()},
        _few_shot_details(curve, zero_shot, classes=len(data.keys)),
    )
    made.figures[f"zero_shot_{metric}"] = zero_shot
    made.warnings += [f"no {n}-shot probe: {why}" for n, why in curve.left_out.items()]
    made.warnings += _metric_warnings(data, metric=metric)
    return made, {}


def _few_shot_details(curve: Curve, zero_shot: metrics.Estimate, *, classes: int) -> dict[str, Any]:
    crossing = few_shot.crossover(curve.points, zero_shot=zero_shot)
    return {
        "features": FEATURES,
        "classes": classes,
        "draws": {str(n): values for n, values in curve.draws.items()},
        "penalties": {str(n): values for n, values in curve.penalties.items()},
        "penalty_chosen_on": f"up to {few_shot.FURTHER} further images of each class",
        "crossover": None
        if crossing is None
        else {
            "value": crossing.value,
            "low": crossing.low,
            "high": None if np.isinf(crossing.high) else crossing.high,
        },
    }


@dataclasses.dataclass(frozen=True)
class _Task:
    """What one probe is fitted to and measured on, as `linear_probe.probe` takes them."""

    features: np.ndarray
    targets: np.ndarray
    test_features: np.ndarray
    test_targets: np.ndarray


def _tasks(on: OnSet, training: Sequence[SetData]) -> list[_Task]:
    """The splits as they lie there, or those of the file of folds."""
    whole = _Task(*_rows(on, training), *_rows(on, [on.data]))
    if not on.folds_file:
        return [whole]
    features = np.concatenate([whole.features, whole.test_features])
    targets = np.concatenate([whole.targets, whole.test_targets])
    train, test = (
        [part.source.key(index) for part in parts for index in range(part.n)]
        for parts in (training, [on.data])
    )
    return [
        _Task(features[rows], targets[rows], features[tested], targets[tested])
        for rows, tested in folds.read(on.folds_file, train=train, test=test)
    ]


def _rows(on: OnSet, parts: Sequence[SetData]) -> tuple[np.ndarray, np.ndarray]:
    """Features and targets of the splits, one after another; DataError without any features."""
    targets = [targets_of(part, keys=on.data.keys) for part in parts]
    features = [on.features(part) for part in parts]
    if not any(np.isfinite(each).all(axis=1).any() for each in features):
        raise DataError(
            f"{parts[0].where}: no image has features that are numbers: the weights are damaged, or"
            " their training diverged"
        )
    if len(parts) == 1:  # no second copy of ImageNet's
        return features[0], targets[0]
    return np.concatenate(features), np.concatenate(targets)


def training_of(on: OnSet) -> list[SetData]:
    """The training split, and the official validation split where there is one; Missing where the
    first is the evaluation split itself."""
    train, validation = on.open_train(), on.open_validation()
    if train.source.fingerprint == on.data.source.fingerprint:
        raise set_data.Missing(f"{on.data.where}: has no training split of its own")
    parts = [train] if validation is None else [train, validation]
    for part in parts:
        own, tested = (getattr(each.source, "class_names", None) for each in (part, on.data))
        if own and tested and own != tested:
            raise DataError(
                f"{part.where}: its class names are others than those of {on.data.where}, and"
                " classes are joined by their numbers"
            )
    return parts


def _fingerprints(on: OnSet) -> dict[str, str]:
    """Of the training split, "" without, and of the validation split where there is one."""
    try:
        found = [part.source.fingerprint for part in training_of(on)]
    except set_data.Missing:
        found = [""]
    return dict(zip(("train", "validation"), found, strict=False))


def targets_of(data: SetData, *, keys: tuple[str, ...]) -> np.ndarray:
    """Classes as places in `keys`, joined by label key; of several classes 1, 0 and -1."""
    if data.kind == "multilabel":
        positive, ignored = data.targets
        if positive.shape[1] != len(keys):
            raise DataError(
                f"{data.where}: has {positive.shape[1]:,} classes, and the evaluation split"
                f" {len(keys):,}"
            )
        return np.where(ignored, -1, positive).astype(np.int8)
    place = {key: i for i, key in enumerate(keys)}
    labels = [data.source.label(index) for index in range(data.n)]
    unknown = sorted(set(labels) - set(place))
    if unknown:
        raise DataError(
            f"{data.where}: has the class {unknown[0]!r}, which is none of the evaluation"
            f" split's {len(keys):,}"
        )
    return np.array([place[label] for label in labels], np.int32)


def _class_warnings(on: OnSet, training: Sequence[SetData], *, metric: str) -> list[str]:
    """What of the splits' classes changes how a probe's figures are read."""
    data = on.data
    names = getattr(data.source, "class_names", None) or data.keys
    own, tested = (trained(parts, keys=data.keys) for parts in (training, [data]))
    untrained = suspicion.of_untrained(own, number=tested, names=names)
    absent = suspicion.of_absent(tested, names=names, averaged=metric not in ACCURACIES)
    return list(filter(None, [untrained, absent]))


def _metric_warnings(data: SetData, *, metric: str) -> list[str]:
    same = metric == data.metric
    return [] if same else [f"measured by {metric}: a probe has no {data.metric}"]


def _warn(made: Measurement, probe: linear_probe.Probe, test_features: np.ndarray) -> None:
    wrong = int(np.sum(~np.isfinite(test_features).all(axis=1)))
    if wrong:
        made.warnings.append(
            f"{wrong:,} images have features that are no numbers; they count as wrong"
        )
    if probe.dropped:
        made.warnings.append(
            f"{probe.dropped:,} training images have features that are no numbers; left out"
        )
