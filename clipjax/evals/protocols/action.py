"""Videos of actions by their middle frames and by all (UCF101, Kinetics-700; paper, table 15).

Frames are images, see `video_frames`. Where a set has official splits that part its videos anew,
the figures are the mean over the test videos of each.
"""

import dataclasses
from typing import Any

import numpy as np

from clipjax.evals import classification, video_frames
from clipjax.evals.evaluated import EvaluatedSet
from clipjax.evals.probe import folds, splits
from clipjax.evals.protocols.registry import Protocol, metric_of
from clipjax.evals.suites.results import Measurement
from clipjax.evals.suites.set_data import Missing, SetData


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


def predict(evaluated: EvaluatedSet, data: SetData, *, weights: np.ndarray) -> Predicted:
    """The videos of a split under a zero-shot classifier, float32 [C, E], L2-normalised."""
    model = evaluated.model
    source = data.source.every  # all frames, where there are several each
    keys = [source.key(index) for index in range(len(source))]
    videos = video_frames.videos(keys, parts=data.entry.video_parts or 2)
    whole = source is evaluated.data.source
    image_embed = evaluated.image_embed if whole else evaluated.images(source)
    cosines = classification.cosines(image_embed, weights, mesh=model.mesh)
    averaged = video_frames.mean_predictions(
        cosines, owner=videos.owner, count=len(videos.names), logit_scale=model.logit_scale
    )
    return Predicted(videos.names, cosines[videos.middle], averaged, len(keys))


def settings(evaluated: EvaluatedSet) -> dict[str, Any]:
    """Prompts and metric; the training split where official splits part it anew."""
    values = {"prompts": evaluated.prompts.hash, "metric": evaluated.data.metric}
    train = _train(evaluated)
    return values | ({"train": train.source.fingerprint} if train else {})


def measure(evaluated: EvaluatedSet) -> Measurement:
    """Videos by their middle frame, and by the mean prediction over all frames; with official
    splits (UCF101) the mean over their test videos."""
    data, train = evaluated.data, _train(evaluated)
    parts = [train, data] if train else [data]
    weights = evaluated.classifier.ensemble
    predicted = [predict(evaluated, part, weights=weights) for part in parts]
    labels = np.concatenate([_labels(part, keys=data.keys) for part in parts])
    tested = [np.arange(len(labels))]
    if train:
        names = [part.names for part in predicted]
        tested = [
            rows for _, rows in folds.read(evaluated.folds_file, train=names[0], test=names[1])
        ]
    scores = {
        "": np.concatenate([part.middle for part in predicted]),
        "frame_averaged_": np.concatenate([part.averaged for part in predicted]),
    }
    metric = metric_of(data.metric, protocol="action", kind=data.kind)
    figures = {
        f"{prefix}{name}": folds.mean_over(
            [classification.measure(name, each[rows], labels[rows]) for rows in tested]
        )
        for name in dict.fromkeys((metric, "top1_accuracy", "mean_top1_top5"))
        for prefix, each in scores.items()
    }
    details = {"videos": len(labels), "frames": sum(part.frames for part in predicted)}
    return Measurement(metric, figures, details | ({"splits": len(tested)} if train else {}))


def _labels(data: SetData, *, keys: tuple[str, ...]) -> np.ndarray:
    """int32 [V], the class of each video as its place in `keys`."""
    labels, source = splits.targets(data, keys=keys), data.source
    if source.every is not source:
        return labels
    return labels[video_frames.videos([source.key(index) for index in range(data.n)]).middle]


def _train(evaluated: EvaluatedSet) -> SetData | None:
    """The training split, where official splits need its videos and it is there."""
    if not evaluated.folds_file:
        return None
    try:
        return evaluated.open_train()
    except Missing:
        return None


PROTOCOL = Protocol(measure, settings, prompted=True)
