"""The metrics that a set may have as its main one: by protocol, and by the kind of set.

Names are checked when a suite is made (`suite_checks`), and whether a metric fits a set's classes
before its images are embedded (`set_checks`). Protocols without names here have one of their own.
"""

from clipjax.common.exits import ConfigError
from clipjax.common.registry import check_name

CLASS_SCORES = (
    *("top1_accuracy", "top5_accuracy", "mean_per_class_accuracy", "mean_top1_top5"),
    *("roc_auc", "mean_average_precision"),
)
RECALLS = tuple(
    f"{way}_recall_at_{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)
)
METRICS: dict[str, dict[str, tuple[str, ...]]] = {
    "zero_shot": {
        "classification": (
            *("top1_accuracy", "top5_accuracy", "mean_per_class_accuracy", "mean_top1_top5"),
            *("macro_f1", "roc_auc", "worst_group_top1_accuracy", "worst_group_top5_accuracy"),
        ),
        "multilabel": ("mean_average_precision", "top1_accuracy"),
    },
    "retrieval": {"retrieval": ("mean_recall_at_1", "mean_recall", *RECALLS)},
    "linear_probe": {"classification": CLASS_SCORES, "multilabel": ("mean_average_precision",)},
    "few_shot": {"classification": CLASS_SCORES},
    "robustness": {},
    "action": {"classification": CLASS_SCORES},
    "pm_k": {},
    "rare_actions": {
        "segments": ("frame_averaged_mwap", "frame_averaged_mwsap", "mwap", "mwsap"),
    },
    "geolocation": {},
    "lexicon": {},
    "associations": {
        "associations": (
            *("jaccard", "jaccard_5", "jaccard_6", "jaccard_10", "jaccard_12"),
            *("jaccard_5_6", "jaccard_10_12"),
        )
    },
}


def check_known(metric: str, *, where: str) -> None:
    """Raise ConfigError if no protocol measures such a metric."""
    kinds = (names for by_kind in METRICS.values() for names in by_kind.values())
    check_name(metric, names=dict.fromkeys(name for names in kinds for name in names), kind=where)


def check_fits(metric: str, *, protocol: str, kind: str, classes: int, where: str) -> None:
    """Raise ConfigError if the protocol does not measure this metric on such a set.

    Args:
      metric: of METRICS.
      protocol: that is asked to measure it; one without names in METRICS takes any.
      kind: of the set.
      classes: their number; 0 where there are none.
      where: the set, for errors.
    """
    known = METRICS[protocol].get(kind, ())
    metric = of_protocol(metric, protocol=protocol, kind=kind)
    if known and metric not in known:
        raise ConfigError(
            f'{where}: metric "{metric}" is none of {protocol} on a {kind} set; choose'
            f" {', '.join(known)}"
        )
    if metric == "roc_auc" and classes != 2:
        raise ConfigError(f"{where}: roc_auc needs two classes, and there are {classes:,}")
    if metric == "top5_accuracy" and classes < 6:
        raise ConfigError(f"{where}: top5_accuracy needs six classes, and there are {classes:,}")


def of_protocol(metric: str, *, protocol: str, kind: str) -> str:
    """The metric that a protocol measures a set by: the set's own, or a probe's first one where the
    set's is of zero-shot classification only."""
    known = METRICS[protocol].get(kind, (metric,))
    zero_shot = METRICS["zero_shot"].get(kind, ())
    return known[0] if metric not in known and metric in zero_shot else metric
