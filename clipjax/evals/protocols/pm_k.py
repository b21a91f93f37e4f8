"""Anchor frames of videos that are right together with their neighbours (ImageNet-Vid, YTBB)."""

import numpy as np

from clipjax.common.exits import DataError
from clipjax.evals import classification, metrics, video_frames
from clipjax.evals.evaluated import EvaluatedSet
from clipjax.evals.metrics import Estimate
from clipjax.evals.protocols import action, robustness
from clipjax.evals.protocols.registry import Protocol
from clipjax.evals.suites.results import Measurement

NEIGHBOURS = 10  # frames before and after that pm-10 asks for


def pm_k(
    right: np.ndarray, *, video: np.ndarray, frame: np.ndarray, anchor: np.ndarray, k: int
) -> Estimate:
    """Share of anchor frames that are right together with all frames within k of them.

    Args:
      right: bool [F], whether a frame was classified rightly.
      video: int [F], which video a frame belongs to.
      frame: int [F], its number there.
      anchor: bool [F]; pm-0 is the accuracy on these alone (Shankar et al. 2019).
    """
    hits = 0
    anchors = np.flatnonzero(anchor)
    for at in anchors:
        near = (video == video[at]) & (np.abs(frame - frame[at]) <= k)
        hits += bool(right[near].all())
    return metrics.share(hits, len(anchors))


def measure(evaluated: EvaluatedSet) -> Measurement:
    """Anchor frames, listed in `anchors.txt`, alone and with all frames within ten."""
    keys, file = evaluated.keys, evaluated.file("anchors.txt")
    listed = {line.strip() for line in file.read_text().splitlines() if line.strip()}
    missing = sorted(listed - set(keys))
    if missing or not listed:
        raise DataError(
            f"{file}: {len(missing)} of {len(listed)} frames are not there {missing[:1]}"
        )
    right = classification.rank(evaluated.cosines(), evaluated.data.labels) == 0
    video, frame = video_frames.videos(keys).owner, np.zeros(len(keys), np.int64)
    for number in np.unique(video):
        own = np.flatnonzero(video == number)
        frame[own[np.argsort([keys[i] for i in own])]] = np.arange(len(own))
    anchor = np.array([key in listed for key in keys])
    alone, near = (
        pm_k(right, video=video, frame=frame, anchor=anchor, k=k) for k in (0, NEIGHBOURS)
    )
    figures = {
        "pm0": alone,
        f"pm{NEIGHBOURS}": near,
        "mean_pm": robustness.mean_of([alone, near]),
    }
    return Measurement("mean_pm", figures, {"anchors": len(listed)})


PROTOCOL = Protocol(measure, action.settings, prompted=True)
