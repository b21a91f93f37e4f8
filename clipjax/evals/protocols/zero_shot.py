"""Zero-shot classification: the class whose prompts lie nearest to the image (paper section 3.1).

All prompts of a class are averaged in embedding space; one prompt of each stands beside them. How
ties and values that are no number count is told in `classification`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from clipjax.common.exits import DataError
from clipjax.evals import classification, embed, metrics, notes, prompts, suspicion
from clipjax.evals.classification import Classifier, Result
from clipjax.evals.evaluated import EvaluatedSet
from clipjax.evals.metrics import Estimate
from clipjax.evals.protocols.registry import Protocol
from clipjax.evals.suites import set_data
from clipjax.evals.suites.results import Measurement
from clipjax.models.clip import CLIP

WORST = 5  # classes listed


def make_evaluator(
    model: CLIP,
    *,
    source: Any,
    tokenizer: Any,
    image_size: int,
    mesh: Mesh,
    batch_size: int,
    where: str = "config.evals.<name>",
    classes: str = "",
    templates: Sequence[str] = (),
    permute_names: bool = False,
) -> embed.Evaluator:
    """Classification of all images of `source` by the prompts of its classes.

    Args:
      where: the evaluator's config key, for errors.
      classes, templates, permute_names: see `prompts.table` and `prompts.make`.

    Returns:
      An evaluator of metrics top1_accuracy, top5_accuracy (with more than five classes),
      mean_per_class_accuracy, single_prompt_top1_accuracy (the first template and name alone), and
      prompts_hash, a text; its `details` are the Result of all prompts together, and its notes
      are of these.

    Raises:
      ConfigError: the table of names does not fit the data, or a prompt the model's context.
      DataError: records have no labels.
    """
    labels, chosen = labels_and_prompts(
        source,
        tokenizer=tokenizer,
        where=where,
        classes=classes,
        templates=templates,
        permute_names=permute_names,
    )
    texts, owners, singles = chosen.texts()
    alike = prompts.read_alike(chosen, tokenizer=tokenizer)
    embedder = embed.Embedder(model, mesh=mesh, batch_size=batch_size)
    shown = tuple(names[0] for names in chosen.names)
    chance = classification.chance(len(shown))
    chance["single_prompt_top1_accuracy"] = chance["top1_accuracy"]

    def measure(variables: Any, *, poll: embed.Poll) -> tuple[dict[str, Any], Result]:
        image_embed = embedder.images(variables, source, image_size=image_size, poll=poll)
        text_embed = embedder.texts(variables, texts, tokenizer=tokenizer, poll=poll)
        ensemble = classification.class_weights(text_embed, owners=owners)
        figures, result = classify(
            image_embed,
            Classifier(ensemble, text_embed[singles]),
            labels=labels,
            classes=shown,
            mesh=mesh,
        )
        values = {name: estimate.value for name, estimate in figures.items()}
        told = notes.of_result(result, alike=alike)
        return {**values, "prompts_hash": chosen.hash, "notes": told}, result

    return embed.Evaluator(measure, n=len(labels), chance=chance)


def labels_and_prompts(
    source: Any, *, tokenizer: Any, where: str, classes: str, **naming: Any
) -> tuple[np.ndarray, prompts.Prompts]:
    """int32 [N], the class of each record, and the prompts of the C classes, which fit the model.

    Arguments and errors as `make_evaluator`; `naming` is templates and permute_names.
    """
    keys, labels = class_labels(source)
    table = prompts.table(classes, source=source, keys=keys, where=where)
    chosen = prompts.make(keys, table=table, where=where, **naming)
    prompts.check_fit(chosen.texts()[0], tokenizer=tokenizer, where=where)
    return labels, chosen


def class_labels(source: Any) -> tuple[tuple[str, ...], np.ndarray]:
    """(all C label keys, int32 [N] the class of each record).

    A source may tell `labels`, all keys there are, and `label(index)`; without them every record
    is read, and the keys are those that occur, sorted.

    Raises:
      DataError: a record has no label, or one that is not among `labels`.
    """
    label = getattr(source, "label", None) or (lambda index: source[index].get("label"))
    names = [label(index) for index in range(len(source))]
    if None in names:
        raise DataError(
            f"source {source.name}: record {names.index(None)} has no label; zero_shot needs one"
        )
    keys = tuple(getattr(source, "labels", None) or sorted(set(names)))
    place = {key: i for i, key in enumerate(keys)}
    unknown = sorted(set(names) - set(keys))
    if unknown:
        raise DataError(f"source {source.name}: label {unknown[0]!r} is not one of its labels")
    return keys, np.array([place[name] for name in names], np.int32)


def classify(
    image_embed: np.ndarray,
    classifier: Classifier,
    *,
    labels: np.ndarray,
    classes: tuple[str, ...],
    mesh: Mesh,
) -> tuple[dict[str, Estimate], Result]:
    """The accuracies of all prompts together with single_prompt_top1_accuracy, and the Result of
    all prompts; arguments as for `classification.judge`."""
    ensemble, single = (
        classification.judge(image_embed, weights, labels=labels, classes=classes, mesh=mesh)
        for weights in (classifier.ensemble, classifier.single)
    )
    one = classification.accuracies(single)["top1_accuracy"]
    return {**classification.accuracies(ensemble), "single_prompt_top1_accuracy": one}, ensemble


def settings(evaluated: EvaluatedSet) -> dict[str, Any]:
    """Prompts, classes and the metric."""
    data = evaluated.data
    return {"prompts": evaluated.prompts.hash, "metric": data.metric, "classes": len(data.keys)}


def check(evaluated: EvaluatedSet) -> None:
    """Raise DataError for labels, or for groups, that give the set's metric no figure."""
    set_data.check_classes(evaluated.data)
    if evaluated.data.metric.startswith("worst_group"):
        _ = evaluated.data.groups


def measure(evaluated: EvaluatedSet) -> Measurement:
    """Classification by prompts; single prompt and ensemble side by side."""
    data, asked = evaluated.data, evaluated.prompts
    details = {
        "prompts": {
            "hash": asked.hash,
            "origin": evaluated.prompts_origin,
            "templates": len(asked.templates),
            "texts": sum(map(len, asked.names)) * len(asked.templates),
        },
        "chance": 1 / len(data.keys),
    }
    names = tuple(names[0] for names in asked.names)
    if data.kind == "multilabel":
        return _multilabel(evaluated, details, names=names)
    figures, result = classify(
        evaluated.image_embed,
        evaluated.classifier,
        labels=data.labels,
        classes=names,
        mesh=evaluated.model.mesh,
    )
    details |= {**_worst_classes(result), "not_finite": result.not_finite}
    if data.metric not in figures:
        figures[data.metric], more = _special(evaluated, result)
        details |= more
    averaged = data.metric in ("mean_per_class_accuracy", "macro_f1")
    warnings = [suspicion.of_absent(data.number, names=names, averaged=averaged)]
    if not result.not_finite:  # else it is no matter of names
        warnings.append(suspicion.of_confusion(result.confusion, names=names))
    warnings = [*filter(None, warnings), *notes.of_wrong(result)]
    arrays = {"label": result.labels, "chosen": result.chosen, "rank": result.rank}
    return Measurement(
        data.metric, figures, details, warnings, arrays=arrays | {"names": np.array(names)}
    )


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


def _multilabel(
    evaluated: EvaluatedSet, details: dict[str, Any], *, names: Sequence[str]
) -> Measurement:
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
    absent = suspicion.of_absent(data.number, names=names, averaged=averaged)
    warnings = [*filter(None, [absent]), *notes.of_not_finite(not_finite)]
    return Measurement(data.metric, figures, details, warnings)


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


PROTOCOL = Protocol(settings, measure, check, prompted=True)
