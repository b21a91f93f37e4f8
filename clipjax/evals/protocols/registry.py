"""The protocols by name: what each measures is known here without jax, and `get` imports it.

A suite names protocols in `run`, and `config.evals` in the `kind` of an evaluator; both are checked
against FACTS before anything is opened. A protocol is a module of its name beside this one that
ends in `PROTOCOL = Protocol(…)`.
"""

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from typing import Any

from clipjax.common.exits import ConfigError
from clipjax.common.registry import check_name

ACCURACIES = ("top1_accuracy", "top5_accuracy", "mean_per_class_accuracy")
CLASS_SCORES = (*ACCURACIES, "mean_top1_top5", "roc_auc", "mean_average_precision")
RECALLS = tuple(
    f"{way}_recall_at_{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)
)
NAMES = ("classes", "templates", "permute_names")


@dataclasses.dataclass(frozen=True)
class InLoop:
    """A protocol as an evaluator of `config.evals`, during training.

    Attributes:
      metrics: that it gives; top5_accuracy with more than five classes.
      settings: of its own, beside those that all evaluators have.
      captions: whether it measures images with their captions.
      predicts: whether it is for models that predict captions; all others need embeddings.
    """

    metrics: tuple[str, ...]
    settings: tuple[str, ...] = ()
    captions: bool = False
    predicts: bool = False


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is known of a protocol before its module is imported.

    Attributes:
      sets: kind of set in a suite → the metrics that can be its main one; () where the protocol
        has one of its own. Without kinds it is for evaluators only.
      in_loop: what it is as an evaluator; None where it is for suites only.
    """

    sets: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    in_loop: InLoop | None = None


FACTS: dict[str, Facts] = {
    "zero_shot": Facts(
        {
            "classification": (
                *(*ACCURACIES, "mean_top1_top5", "macro_f1", "roc_auc"),
                *("worst_group_top1_accuracy", "worst_group_top5_accuracy"),
            ),
            "multilabel": ("mean_average_precision", "top1_accuracy"),
        },
        InLoop((*ACCURACIES, "single_prompt_top1_accuracy"), NAMES),
    ),
    "linear_probe": Facts(
        {"classification": CLASS_SCORES, "multilabel": ("mean_average_precision",)}
    ),
    "few_shot": Facts({"classification": CLASS_SCORES}),
    "robustness": Facts({"classification": ()}),
    "action": Facts({"classification": CLASS_SCORES}),
    "rare_actions": Facts(
        {"segments": ("frame_averaged_mwap", "frame_averaged_mwsap", "mwap", "mwsap")}
    ),
    "pm_k": Facts({"classification": ()}),
    "geolocation": Facts({"retrieval": (), "classification": ()}),
    "lexicon": Facts({"retrieval": (), "classification": ()}),
    "associations": Facts(
        {
            "associations": (
                *("jaccard", "jaccard_5", "jaccard_6", "jaccard_10", "jaccard_12"),
                *("jaccard_5_6", "jaccard_10_12"),
            )
        }
    ),
    "retrieval": Facts(
        {"retrieval": ("mean_recall_at_1", "mean_recall", *RECALLS)},
        InLoop(RECALLS, captions=True),
    ),
    "likelihood": Facts(in_loop=InLoop(ACCURACIES, NAMES, predicts=True)),
    "loss": Facts(in_loop=InLoop(("loss",), captions=True)),
}
IN_SUITES = tuple(name for name, facts in FACTS.items() if facts.sets)


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How to measure a model on a set, both as an `EvaluatedSet`.

    Attributes:
      measure: the Measurement.
      settings: what determines the figures in a suite beside weights, data and preprocessing, plain
        JSON values; a figure of other settings is measured again.
      check: raises DataError for data that it cannot measure, before images are embedded. It needs
        no devices, so that one process may fail alone.
      prompted: whether it uses the set's prompts.
      in_loop: the Measurement of an evaluator during training, which has only the metrics of its
        `InLoop`; None is `measure`.
      chance: what guessing gives by the metrics of an evaluator.
      embedder: (model, mesh, batch_size) → its encoders, compiled; None is `embed.Embedder`.
    """

    measure: Callable[[Any], Any]
    settings: Callable[[Any], dict[str, Any]] = lambda evaluated: {}
    check: Callable[[Any], None] = lambda evaluated: None
    prompted: bool = False
    in_loop: Callable[[Any], Any] | None = None
    chance: Callable[[Any], dict[str, float]] = lambda evaluated: {}
    embedder: Callable[..., Any] | None = None


def get(name: str) -> Protocol:
    """The protocol of this name out of FACTS, its module imported now."""
    return importlib.import_module(f"clipjax.evals.protocols.{name}").PROTOCOL


def check_known(metric: str, *, where: str) -> None:
    """Raise ConfigError if no protocol measures such a metric."""
    by_kind = [names for facts in FACTS.values() for names in facts.sets.values()]
    check_name(metric, names=dict.fromkeys(name for names in by_kind for name in names), kind=where)


def check_fits(metric: str, *, protocol: str, kind: str, classes: int, where: str) -> None:
    """Raise ConfigError if the protocol does not measure this metric on such a set.

    Args:
      metric: of the set.
      protocol: that is asked to measure it; one with a metric of its own takes any.
      kind: of the set.
      classes: their number; 0 where there are none.
      where: the set, for errors.
    """
    known = FACTS[protocol].sets.get(kind, ())
    metric = metric_of(metric, protocol=protocol, kind=kind)
    if known and metric not in known:
        raise ConfigError(
            f'{where}: metric "{metric}" is none of {protocol} on a {kind} set; choose'
            f" {', '.join(known)}"
        )
    if metric == "roc_auc" and classes != 2:
        raise ConfigError(f"{where}: roc_auc needs two classes, and there are {classes:,}")
    if metric == "top5_accuracy" and classes < 6:
        raise ConfigError(f"{where}: top5_accuracy needs six classes, and there are {classes:,}")


def metric_of(metric: str, *, protocol: str, kind: str) -> str:
    """The metric that a protocol measures a set by: the set's own, or a probe's first one where the
    set's is of zero-shot classification only."""
    known = FACTS[protocol].sets.get(kind, ())
    of_zero_shot_only = metric not in known and metric in FACTS["zero_shot"].sets.get(kind, ())
    return known[0] if known and of_zero_shot_only else metric
