"""Zero-shot classification: the class whose prompts lie nearest to the image (paper section 3.1).

All prompts of a class are averaged in embedding space; one prompt of each stands beside them. How
ties and values that are no number count is told in `classification`.
"""

from typing import Any

import numpy as np

from clipjax.evals import classification, metrics, notes
from clipjax.evals.classification import Result
from clipjax.evals.evaluated import EvaluatedSet
from clipjax.evals.metrics import Estimate
from clipjax.evals.protocols.registry import Protocol
from clipjax.evals.suites import set_data
from clipjax.evals.suites.results import Measurement

WORST = 5  # classes listed


def settings(evaluated: EvaluatedSet) -> dict[str, Any]:
    """Prompts, classes and the metric."""
    data = evaluated.data
    return {"prompts": evaluated.prompts.hash, "metric": data.metric, "classes": len(data.keys)}


def check(evaluated: EvaluatedSet) -> None:
    """Raise DataError for labels, or for groups, that give the set's metric no figure."""
    set_data.check_classes(evaluated.data)
    if evaluated.data.metric.startswith("worst_group"):
        _ = evaluated.data.groups


def chance(evaluated: EvaluatedSet) -> dict[str, float]:
    """What guessing gives, by the metrics of `in_loop`."""
    levels = classification.chance(len(evaluated.data.keys))
    return levels | {"single_prompt_top1_accuracy": levels["top1_accuracy"]}


def classify(evaluated: EvaluatedSet) -> Measurement:
    """The accuracies of all prompts together and of one of each class, without warnings; its
    `picture` is the Result of all prompts."""
    data, names, classifier = evaluated.data, evaluated.names, evaluated.classifier
    ensemble, single = (
        classification.judge(
            evaluated.image_embed,
            weights,
            labels=data.labels,
            classes=names,
            mesh=evaluated.model.mesh,
        )
        for weights in (classifier.ensemble, classifier.single)
    )
    figures = classification.accuracies(ensemble)
    figures["single_prompt_top1_accuracy"] = classification.accuracies(single)["top1_accuracy"]
    return Measurement("top1_accuracy", figures, _about_prompts(evaluated), picture=ensemble)


def in_loop(evaluated: EvaluatedSet) -> Measurement:
    """Classification with what is to know of its classes and images."""
    result = classify(evaluated)
    result.warnings = notes.of_result(result.picture, alike=evaluated.alike)
    return result


def measure(evaluated: EvaluatedSet) -> Measurement:
    """Classification, or the metric of a set with several classes an image."""
    data, names = evaluated.data, evaluated.names
    if data.kind == "multilabel":
        return _multilabel(evaluated)
    result = classify(evaluated)
    judged = result.picture
    result.metric = data.metric
    result.details |= {**_worst_classes(judged), "not_finite": judged.not_finite}
    if data.metric not in result.figures:
        result.figures[data.metric], more = _special(evaluated, judged)
        result.details |= more
    averaged = data.metric in ("mean_per_class_accuracy", "macro_f1")
    warnings = [notes.of_absent(data.number, names=names, averaged=averaged)]
    if not judged.not_finite:  # else it is no matter of names
        warnings.append(notes.of_confusion(judged.confusion, names=names))
    result.warnings = [*filter(None, warnings), *notes.of_wrong(judged)]
    result.arrays = {"label": judged.labels, "chosen": judged.chosen, "rank": judged.rank}
    result.arrays["names"] = np.array(names)
    return result


def _about_prompts(evaluated: EvaluatedSet) -> dict[str, Any]:
    asked = evaluated.prompts
    return {
        "prompts": {
            "hash": asked.hash,
            "origin": evaluated.prompts_origin,
            "templates": len(asked.templates),
            "texts": sum(map(len, asked.names)) * len(asked.templates),
        },
        "chance": 1 / len(evaluated.data.keys),
    }


def _special(evaluated: EvaluatedSet, result: Result) -> tuple[Estimate, dict[str, Any]]:
    """Metrics that few sets have, and what to know of them."""
    metric, data = evaluated.data.metric, evaluated.data
    if metric == "macro_f1":
        return metrics.macro_f1(result.confusion), {}
    if metric == "roc_auc":
        return classification.measure(metric, evaluated.cosines(), result.labels), {}
    if not metric.startswith("worst_group_top"):
        classes = len(result.classes)
        labels = result.labels
        return classification.of_ranks(metric, result.rank, labels=labels, classes=classes), {}
    within = int(metric.removeprefix("worst_group_top").removesuffix("_accuracy"))
    groups, group_of = np.unique(data.groups, return_inverse=True)
    number = np.bincount(group_of)
    right = np.bincount(group_of[result.rank < within], minlength=len(groups))
    estimate, worst = metrics.worst_group(right, number)
    table = {
        str(group): {"right": int(r), "n": int(n)}
        for group, r, n in zip(groups, right, number, strict=True)
    }
    return estimate, {"groups": table, "worst_group": str(groups[worst])}


def _multilabel(evaluated: EvaluatedSet) -> Measurement:
    """Images with several classes: precision of ranked images, or whether the best is one."""
    data, classifier = evaluated.data, evaluated.classifier
    positive, ignored = data.targets
    averaged = data.metric == "mean_average_precision"
    figures, not_finite = {}, 0
    for prefix, weights in (("", classifier.ensemble), ("single_prompt_", classifier.single)):
        scores = classification.cosines(evaluated.image_embed, weights, mesh=evaluated.model.mesh)
        finite = np.isfinite(scores).all(axis=1)
        not_finite = int(np.sum(~finite))
        if averaged:
            figure = metrics.mean_average_precision(scores, positive, ignored=ignored)
        else:  # ImageNet ReaL: images without a label do not count
            labelled = positive.any(axis=1)
            best = np.argmax(np.nan_to_num(scores, nan=-np.inf), axis=1)
            right = positive[np.arange(len(positive)), best] & labelled & finite
            figure = metrics.share(int(right.sum()), int(labelled.sum()))
        figures[f"{prefix}{data.metric}"] = figure
    absent = notes.of_absent(data.number, names=evaluated.names, averaged=averaged)
    warnings = [*filter(None, [absent]), *notes.of_not_finite(not_finite)]
    return Measurement(data.metric, figures, _about_prompts(evaluated), warnings)


def _worst_classes(result: Result) -> dict[str, Any]:
    """The classes with the lowest accuracy, and what their images are taken for."""
    number = result.confusion.sum(axis=1)
    right = np.diagonal(result.confusion)
    share = np.where(number > 0, right / np.maximum(number, 1), np.inf)
    listed = []
    for i in np.argsort(share, kind="stable")[:WORST]:
        if number[i]:
            others = np.where(np.arange(len(number)) == i, -1, result.confusion[i])
            taken = int(np.argmax(others))
            listed.append(
                {
                    "class": result.classes[i],
                    "right": int(right[i]),
                    "n": int(number[i]),
                    "taken_for": result.classes[taken] if others[taken] > 0 else "",
                    "taken": max(int(others[taken]), 0),
                }
            )
    return {"worst_classes": listed, "classes_without_images": int(np.sum(number == 0))}


PROTOCOL = Protocol(measure, settings, check, prompted=True, in_loop=in_loop, chance=chance)
