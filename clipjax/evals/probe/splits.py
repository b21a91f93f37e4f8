"""The splits that a probe is fitted to: the set's training split, which lies beside the evaluation
split, and its official validation split, where there is one."""

from collections.abc import Sequence

import numpy as np

from clipjax.common.exits import DataError
from clipjax.evals import notes
from clipjax.evals.evaluated import EvaluatedSet
from clipjax.evals.suites.set_data import Missing, SetData

FEATURES = "image tower, before the projection"
OF_ALL_ALIKE = ("top1_accuracy", "top5_accuracy", "mean_top1_top5")  # no means over classes


def training(evaluated: EvaluatedSet) -> list[SetData]:
    """The training split, and the official validation split where there is one; Missing where the
    first is the evaluation split itself."""
    data = evaluated.data
    train, validation = evaluated.open_train(), evaluated.open_validation()
    if train.source.fingerprint == data.source.fingerprint:
        raise Missing(f"{data.where}: has no training split of its own")
    parts = [train] if validation is None else [train, validation]
    for part in parts:
        own, tested = (each.source.class_names for each in (part, data))
        if own and tested and own != tested:
            raise DataError(
                f"{part.where}: its class names are others than those of {data.where}, and"
                " classes are joined by their numbers"
            )
    return parts


def fingerprints(evaluated: EvaluatedSet) -> dict[str, str]:
    """Hashes of the training split, "" without one, and of the validation split if there is one."""
    try:
        prints = [part.source.fingerprint for part in training(evaluated)]
    except Missing:
        prints = [""]
    return dict(zip(("train", "validation"), prints, strict=False))


def targets(data: SetData, *, keys: tuple[str, ...]) -> np.ndarray:
    """Classes as places in `keys`, joined by label key; of several classes 1, 0 and -1."""
    if data.kind == "multilabel":
        positive, ignored = data.targets
        if positive.shape[1] != len(keys):
            raise DataError(
                f"{data.where}: has {positive.shape[1]:,} classes, and the evaluation split"
                f" {len(keys):,}"
            )
        return np.where(ignored, -1, positive).astype(np.int8)
    index_of = {key: i for i, key in enumerate(keys)}
    labels = [data.source.label(index) for index in range(data.n)]
    unknown = sorted(set(labels) - set(index_of))
    if unknown:
        raise DataError(
            f"{data.where}: has the class {unknown[0]!r}, which is none of the evaluation"
            f" split's {len(keys):,}"
        )
    return np.array([index_of[label] for label in labels], np.int32)


def images_of_classes(parts: Sequence[SetData], *, keys: tuple[str, ...]) -> np.ndarray:
    """int [C], the images of each class in some splits."""
    total = np.zeros(len(keys), np.int64)
    for part in parts:
        own = targets(part, keys=keys)
        total += (own > 0).sum(axis=0) if own.ndim == 2 else np.bincount(own, minlength=len(keys))
    return total


def labelled_features(
    evaluated: EvaluatedSet, parts: Sequence[SetData]
) -> tuple[np.ndarray, np.ndarray]:
    """Features and targets of the splits, one after another; DataError without any features."""
    labels = [targets(part, keys=evaluated.data.keys) for part in parts]
    features = [evaluated.features(part) for part in parts]
    if not any(np.isfinite(each).all(axis=1).any() for each in features):
        raise DataError(
            f"{parts[0].where}: no image has features that are numbers: the weights are damaged, or"
            " their training diverged"
        )
    if len(parts) == 1:  # no second copy of ImageNet's
        return features[0], labels[0]
    return np.concatenate(features), np.concatenate(labels)


def class_warnings(data: SetData, parts: Sequence[SetData], *, metric: str) -> list[str]:
    """What of the splits' classes changes how a probe's figures are read.

    Args:
      data: the evaluation split.
      parts: what the probe is fitted to.
      metric: its main one.
    """
    names = data.source.class_names or data.keys
    trained, tested = (images_of_classes(each, keys=data.keys) for each in (parts, [data]))
    untrained = notes.of_untrained(trained, number=tested, names=names)
    absent = notes.of_absent(tested, names=names, averaged=metric not in OF_ALL_ALIKE)
    return list(filter(None, [untrained, absent]))


def metric_warnings(data: SetData, *, metric: str) -> list[str]:
    """A sentence where the probe is not measured by the set's own metric."""
    same = metric == data.metric
    return [] if same else [f"measured by {metric}: a probe has no {data.metric}"]
