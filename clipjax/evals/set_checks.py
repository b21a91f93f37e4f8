"""What of a set's labels and splits is checked before its images are embedded.

`protocols` lists these with the protocols that need them, `runner` calls them. They read labels
only, so that a process may fail alone.
"""

import numpy as np

from clipjax.common.exits import DataError
from clipjax.evals.protocols.probe_protocols import trained, training_of
from clipjax.evals.suites.evaluated_model import OnSet


def check_classes(on: OnSet) -> None:
    """Raise DataError for labels that are none of the set's, or that give its metric no figure."""
    data = on.data
    if data.kind == "multilabel":
        if not data.targets[0].any():
            raise DataError(
                f"{data.where}: no image shows any of the {len(data.keys):,} classes: another"
                " split's files, or columns of something else"
            )
        return
    present = np.unique(data.labels)
    if data.metric == "roc_auc" and len(present) < 2:
        raise DataError(
            f"{data.where}: roc_auc needs images of both classes, and all are of"
            f" {data.keys[present[0]]!r}"
        )


def check_zero_shot(on: OnSet) -> None:
    """As `check_classes`; and DataError for a set without the groups that its metric needs."""
    check_classes(on)
    if on.data.metric.startswith("worst_group"):
        _ = on.data.groups


def check_linear_probe(on: OnSet) -> None:
    """As `check_classes`; and DataError for splits that no probe can be fitted to or chosen on."""
    check_classes(on)
    training = training_of(on)
    number = trained(training, keys=on.data.keys)
    where = training[0].where
    if on.data.kind == "classification" and np.sum(number > 0) < 2:
        (only,) = [key for key, n in zip(on.data.keys, number, strict=True) if n] or [""]
        raise DataError(f"{where}: all training images are of one class, {only!r}")
    if not number.any():
        raise DataError(f"{where}: no training image shows any of the {len(number):,} classes")
    if len(training) == 1 and not on.folds_file and number.max() < 2:
        raise DataError(
            f"{where}: no class has two training images, and some must be set apart to choose the"
            " penalty on; add images, or a validation split"
        )
