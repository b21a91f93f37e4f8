"""Protocols of videos: actions by middle frames and by all, anchor frames with their neighbours.

`protocols` lists them, `runner` calls them. Frames are images, see `frames`.
"""

import dataclasses
from typing import Any

import numpy as np

from clipjax.common.exits import DataError
from clipjax.evals import class_scores, classifier, metric_names, prompt_files, prompts
from clipjax.evals.probe import folds
from clipjax.evals.protocols import frames, rare_actions, robustness, zero_shot
from clipjax.evals.protocols.other_protocols import beside, keys_of
from clipjax.evals.protocols.probe_protocols import targets_of
from clipjax.evals.suites import set_data
from clipjax.evals.suites.evaluated_model import OnSet
from clipjax.evals.suites.results import Measurement
from clipjax.evals.suites.set_data import SetData

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Predicted:
    """What a classifier makes of V videos, in the order of `names`.

    Attributes:
      names: of the videos.
      middle: float32 [V, C], the cosines of their middle frames.
      averaged: float64 [V, C], the mean of all frames' probabilities.
      frames: how many there are.
    """

    names: tuple[str, ...]
    middle: np.ndarray
    averaged: np.ndarray
    frames: int


def frames_settings(on: OnSet) -> dict[str, Any]:
    """Prompts and metric; the training split where official splits part it anew."""
    found = {"prompts": on.prompts.hash, "metric": on.data.metric}
    if train := _train(on):
        found["train"] = train.source.fingerprint
    return found


def measure_action(on: OnSet) -> tuple[Measurement, Arrays]:
    """Videos by their middle frame, and by the mean prediction over all frames; with official
    splits (UCF101) the mean over their test videos."""
    train, weights = _train(on), on.classifier.ensemble
    parts = [train, on.data] if train else [on.data]
    found = [predicted(on, part, weights=weights) for part in parts]
    labels = np.concatenate([_labels(on, part) for part in parts])
    names = [made.names for made in found]
    tested = [np.arange(len(labels))]
    if train:
        tested = [rows for _, rows in folds.read(on.folds_file, train=names[0], test=names[1])]
    scores = {
        "": np.concatenate([made.middle for made in found]),
        "frame_averaged_": np.concatenate([made.averaged for made in found]),
    }
    metric = metric_names.of_protocol(on.data.metric, protocol="action", kind=on.data.kind)
    figures = {
        f"{prefix}{name}": folds.mean_over(
            [class_scores.measure(name, each[rows], labels[rows]) for rows in tested]
        )
        for name in dict.fromkeys((metric, "top1_accuracy", "mean_top1_top5"))
        for prefix, each in scores.items()
    }
    details = {"videos": len(labels), "frames": sum(made.frames for made in found)}
    details |= {"splits": len(tested)} if train else {}
    return Measurement(metric, figures, details), {}


def predicted(on: OnSet, data: SetData, *, weights: np.ndarray) -> Predicted:
    """Videos under a zero-shot classifier, float32 [C, E], L2-normalised."""
    subject, source = on.subject, data.source
    every = getattr(source, "every", source)
    keys = [every.key(index) for index in range(len(every))]
    found = frames.videos(keys, parts=data.entry.video_parts or 2)
    if every is on.data.source:
        image_embed = on.image_embed
    else:
        image_embed = subject.embedder.images(
            subject.variables, every, image_size=subject.image_size, poll=on.poll
        )
    cosines = zero_shot.cosines(image_embed, weights, mesh=subject.mesh)
    averaged = frames.mean_predictions(
        cosines, owner=found.owner, count=len(found.names), logit_scale=subject.logit_scale
    )
    return Predicted(found.names, cosines[found.middle], averaged, len(keys))


def rare_actions_settings(on: OnSet) -> dict[str, Any]:
    """Prompts, annotations, and the metric."""
    known, asked = _rare_actions(on)
    return {"prompts": asked.hash, "annotations": known.fingerprint, "metric": on.data.metric}


def measure_rare_actions(on: OnSet) -> tuple[Measurement, Arrays]:
    """Precision of the segments that rank highest for each action (RareAct), by the prediction of
    their middle frames and the mean prediction over all frames."""
    subject = on.subject
    known, asked = _rare_actions(on)
    weights = classifier.of_prompts(
        asked,
        embedder=subject.embedder,
        variables=subject.variables,
        tokenizer=subject.tokenizer,
        weights=subject.weights["id"],
        folder=on.classifiers,
        where=f"prompts of {on.data.entry.id}",
    )
    found = predicted(on, on.data, weights=weights.ensemble)
    middle = frames.mean_predictions(
        found.middle,
        owner=np.arange(len(found.middle)),
        count=len(found.middle),
        logit_scale=subject.logit_scale,
    )
    figures = {
        f"{prefix}{name}": estimate
        for prefix, scores in (("", middle), ("frame_averaged_", found.averaged))
        for name, estimate in rare_actions.mean_average_precisions(
            scores[known.segment], known
        ).items()
    }
    details = {
        "segments": len(known.segment),
        "frames": found.frames,
        "actions": len(known.actions),
    }
    return Measurement(on.data.metric, figures, details), {}


def _rare_actions(on: OnSet) -> tuple[rare_actions.Annotations, prompts.Prompts]:
    """The annotations, and the user's prompts or ours."""
    known = rare_actions.read(beside(on, "rareact.csv"), keys=keys_of(on))
    where = f"prompts of {on.data.entry.id}"
    if place := on.prompts_given or on.data.entry.prompts_file:
        table = prompt_files.read(place, keys=known.keys, where=where)
    else:
        phrases = [(rare_actions.phrase(verb, noun),) for verb, noun in known.actions]
        names = dict(zip(known.keys, phrases, strict=True))
        table = prompts.Table(names, rare_actions.TEMPLATES)
    return known, prompts.make(known.keys, table=table, where=where)


def _labels(on: OnSet, data: SetData) -> np.ndarray:
    """int32 [V], the class of each video as its place in the evaluation split's keys."""
    labels, source = targets_of(data, keys=on.data.keys), data.source
    if hasattr(source, "every"):
        return labels
    return labels[frames.videos([source.key(index) for index in range(data.n)]).middle]


def _train(on: OnSet) -> SetData | None:
    """The training split, where official splits need its videos and it is there."""
    if not on.folds_file:
        return None
    try:
        return on.open_train()
    except set_data.Missing:
        return None


def measure_pm_k(on: OnSet) -> tuple[Measurement, Arrays]:
    """Anchor frames that are right, alone and with all frames within ten (ImageNet-Vid, YTBB)."""
    keys = keys_of(on)
    file = beside(on, "anchors.txt")
    listed = {line.strip() for line in file.read_text().splitlines() if line.strip()}
    missing = sorted(listed - set(keys))
    if missing or not listed:
        raise DataError(
            f"{file}: {len(missing)} of {len(listed)} frames are not there {missing[:1]}"
        )
    cosines = zero_shot.cosines(on.image_embed, on.classifier.ensemble, mesh=on.subject.mesh)
    right = class_scores.rank(cosines, on.data.labels) == 0
    owner, order = frames.videos(keys).owner, np.zeros(len(keys), np.int64)
    for video in np.unique(owner):
        own = np.flatnonzero(owner == video)
        order[own[np.argsort([keys[i] for i in own])]] = np.arange(len(own))
    anchor = np.array([key in listed for key in keys])
    both = [
        robustness.pm_k(right, video=owner, frame=order, anchor=anchor, k=k)
        for k in (0, robustness.NEIGHBOURS)
    ]
    figures = {
        "pm0": both[0],
        f"pm{robustness.NEIGHBOURS}": both[1],
        "mean_pm": robustness.mean_of(both),
    }
    return Measurement("mean_pm", figures, {"anchors": len(listed)}), {}
