"""The protocols of suites by name: what each needs to know, and how it measures.

`runner` calls them. `settings(on)` gives what determines the figures beside weights, data and
preprocessing; `measure(on)` gives the figures, and arrays with one row for each image.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from clipjax.data import eval_batches
from clipjax.evals import metrics, notes, set_checks, suspicion
from clipjax.evals.protocols import (
    other_protocols,
    probe_protocols,
    retrieval,
    video_protocols,
    zero_shot,
)
from clipjax.evals.suites.evaluated_model import OnSet
from clipjax.evals.suites.results import Measurement

WORST = 5  # classes listed
PREFIX = "a photo of"  # before captions, section E.1: worth a point or two

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Protocol:
    """One way to measure.

    Attributes:
      kinds: of sets it fits.
      settings: OnSet → plain JSON values.
      measure: OnSet → (Measurement, arrays of N rows).
      check: raises DataError for data that it cannot measure, before images are embedded.
      prompted: whether it uses the set's prompts.
    """

    kinds: tuple[str, ...]
    settings: Callable[[OnSet], dict[str, Any]]
    measure: Callable[[OnSet], tuple[Measurement, Arrays]]
    check: Callable[[OnSet], None] = lambda on: None
    prompted: bool = False


def zero_shot_settings(on: OnSet) -> dict[str, Any]:
    """Prompts, classes and the metric."""
    return {"prompts": on.prompts.hash, "metric": on.data.metric, "classes": len(on.data.keys)}


def measure_zero_shot(on: OnSet) -> tuple[Measurement, Arrays]:
    """Classification by prompts; single prompt and ensemble side by side."""
    data, prompts = on.data, on.prompts
    told = {
        "prompts": {
            "hash": prompts.hash,
            "origin": on.prompts_origin,
            "templates": len(prompts.templates),
            "texts": sum(map(len, prompts.names)) * len(prompts.templates),
        },
        "chance": 1 / len(data.keys),
    }
    if data.kind == "multilabel":
        return _multilabel(on, told=told)
    names = tuple(names[0] for names in prompts.names)
    ensemble, single = (
        zero_shot.judge(
            on.image_embed, weights, labels=data.labels, classes=names, mesh=on.subject.mesh
        )
        for weights in (on.classifier.ensemble, on.classifier.single)
    )
    figures = zero_shot.accuracies(ensemble)
    figures["single_prompt_top1_accuracy"] = zero_shot.accuracies(single)["top1_accuracy"]
    metric, details = data.metric, told | _worst(ensemble) | {"not_finite": ensemble.not_finite}
    if metric not in figures:
        figures[metric], more = _special(on, metric, ensemble)
        details |= more
    made = Measurement(metric, figures, details)
    averaged = metric in ("mean_per_class_accuracy", "macro_f1")
    if absent := suspicion.of_absent(data.number, names=names, averaged=averaged):
        made.warnings.append(absent)
    suspicious = suspicion.of_confusion(ensemble.confusion, names=names)
    if suspicious and not ensemble.not_finite:  # else it is no matter of names
        made.warnings.append(suspicious)
    made.warnings += notes.of_wrong(ensemble)
    arrays = {"label": ensemble.labels, "chosen": ensemble.chosen, "rank": ensemble.rank}
    return made, arrays | {"names": np.array(names)}


def _special(
    on: OnSet, metric: str, result: zero_shot.Result
) -> tuple[metrics.Estimate, dict[str, Any]]:
    """Metrics that few sets have."""
    n = len(result.labels)
    if metric == "mean_top1_top5":
        top1, top5 = int(np.sum(result.rank == 0)), int(np.sum(result.rank < 5))
        return metrics.mean_top1_top5(top1, top5, n), {}
    if metric == "macro_f1":
        return metrics.macro_f1(result.confusion), {}
    if metric == "roc_auc":
        scores = zero_shot.cosines(on.image_embed, on.classifier.ensemble, mesh=on.subject.mesh)
        return metrics.roc_auc(scores[:, 1] - scores[:, 0], result.labels == 1), {}
    if metric.startswith("worst_group_top"):
        within = int(metric.removeprefix("worst_group_top").removesuffix("_accuracy"))
        groups, place = np.unique(on.data.groups, return_inverse=True)
        number = np.bincount(place)
        right = np.bincount(place[result.rank < within], minlength=len(groups))
        estimate, worst = metrics.worst_group(right, number)
        table = {
            str(group): {"right": int(r), "n": int(k)}
            for group, r, k in zip(groups, right, number, strict=True)
        }
        return estimate, {"groups": table, "worst_group": str(groups[worst])}
    raise ValueError(f"no metric {metric!r} of a classifier")


def _multilabel(on: OnSet, *, told: dict[str, Any]) -> tuple[Measurement, Arrays]:
    """Images with several classes: precision of ranked images, or whether the best is one."""
    positive, ignored = on.data.targets
    metric = on.data.metric
    figures, best, not_finite = {}, {}, 0
    for name, weights in (("", on.classifier.ensemble), ("single_prompt_", on.classifier.single)):
        scores = zero_shot.cosines(on.image_embed, weights, mesh=on.subject.mesh)
        not_finite = int(np.sum(~np.isfinite(scores).all(axis=1)))
        if metric == "mean_average_precision":
            found = metrics.mean_average_precision(scores, positive, ignored=ignored)
        else:  # ImageNet ReaL: images without a label do not count
            labelled = positive.any(axis=1)
            best[name] = np.argmax(np.nan_to_num(scores, nan=-np.inf), axis=1)
            right = positive[np.arange(len(positive)), best[name]] & labelled
            right &= np.isfinite(scores).all(axis=1)
            found = metrics.share(int(right.sum()), int(labelled.sum()))
        figures[f"{name}{metric}"] = found
    made = Measurement(metric, figures, told)
    names = [names[0] for names in on.prompts.names]
    averaged = metric == "mean_average_precision"
    if absent := suspicion.of_absent(on.data.number, names=names, averaged=averaged):
        made.warnings.append(absent)
    made.warnings += notes.of_not_finite(not_finite)
    return made, {}


def _worst(result: zero_shot.Result) -> dict[str, Any]:
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


def retrieval_settings(on: OnSet) -> dict[str, Any]:
    """The prefix, and the metric."""
    return {"prefix": PREFIX, "metric": on.data.metric}


def measure_retrieval(on: OnSet) -> tuple[Measurement, Arrays]:
    """Recall both ways, of captions as they are and with the prefix."""
    subject = on.subject
    texts, text_image = eval_batches.eval_caption_list(on.data.source)
    figures, arrays, cut, warnings = {}, {}, {}, []
    for name, prefix in (("", ""), ("prefixed_", f"{PREFIX} ")):
        captions = [prefix + text for text in texts]
        cut[name] = subject.tokenizer.encode(captions)[1]
        text_embed = subject.embedder.texts(
            subject.variables, captions, tokenizer=subject.tokenizer, poll=lambda: False
        )
        ranked = retrieval.Retrieved.of(
            on.image_embed, text_embed, text_image=text_image, mesh=subject.mesh
        )
        found = retrieval.figures(ranked.ranks, text_image=text_image)
        figures |= {f"{name}{metric}": estimate for metric, estimate in found.items()}
        if not name:
            arrays = ranked.ranks
            warnings = notes.of_captions(texts, text_image=text_image, cut=cut[name])
            warnings += ranked.notes
    medians = {f"median_rank_{way}": float(np.median(r)) + 1 for way, r in arrays.items()}
    counts = {f"{name}captions_cut": int(np.sum(each)) for name, each in cut.items()}
    details = {"captions": len(texts), **counts, "chance": 1 / on.data.n, **medians}
    return Measurement(on.data.metric, figures, details, warnings), {}


PROTOCOLS: dict[str, Protocol] = {
    "zero_shot": Protocol(
        ("classification", "multilabel"),
        zero_shot_settings,
        measure_zero_shot,
        check=set_checks.check_zero_shot,
        prompted=True,
    ),
    "linear_probe": Protocol(
        ("classification", "multilabel"),
        probe_protocols.linear_probe_settings,
        probe_protocols.measure_linear_probe,
        check=set_checks.check_linear_probe,
    ),
    "few_shot": Protocol(
        ("classification",),
        probe_protocols.few_shot_settings,
        probe_protocols.measure_few_shot,
        check=set_checks.check_classes,
        prompted=True,
    ),
    "robustness": Protocol(
        ("classification",),
        other_protocols.robustness_settings,
        other_protocols.measure_robustness,
        prompted=True,
    ),
    "action": Protocol(
        ("classification",),
        video_protocols.frames_settings,
        video_protocols.measure_action,
        prompted=True,
    ),
    "rare_actions": Protocol(
        ("segments",), video_protocols.rare_actions_settings, video_protocols.measure_rare_actions
    ),
    "pm_k": Protocol(
        ("classification",),
        video_protocols.frames_settings,
        video_protocols.measure_pm_k,
        prompted=True,
    ),
    "geolocation": Protocol(
        ("retrieval", "classification"),
        other_protocols.places_settings,
        other_protocols.measure_geolocation,
    ),
    "lexicon": Protocol(
        ("retrieval", "classification"),
        other_protocols.words_settings,
        other_protocols.measure_lexicon,
    ),
    "associations": Protocol(
        ("associations",),
        other_protocols.associations_settings,
        other_protocols.measure_associations,
    ),
    "retrieval": Protocol(("retrieval",), retrieval_settings, measure_retrieval),
}
