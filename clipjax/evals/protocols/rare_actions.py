"""RareAct: unusual actions, such as to hammer a phone, found by their names (paper, table 15).

Segments of videos are ranked for each action, a verb with a noun, and the mean over actions of the
average precision is reported (Miech et al. 2020). Segments of one video are alike, so that
each video counts once: all its segments with equal weights (mWAP), or one drawn segment, as a mean
over draws (mWSAP, the data set's mSAP). To an action the segments that show it are right. Wrong
are those that annotators refused for it or found only half of it in, and those that show another
action; of these, the ones that share its verb or its noun count as hard.
"""

import csv
import dataclasses
import functools
import hashlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from clipjax.common.exits import DataError
from clipjax.evals import class_names, metrics, prompts, video_frames
from clipjax.evals.evaluated import EvaluatedSet
from clipjax.evals.metrics import Estimate
from clipjax.evals.protocols import action
from clipjax.evals.protocols.registry import Protocol
from clipjax.evals.suites.results import Measurement

DRAWS = 100  # of a segment from each video; the data set's n
POSITIVE, NEGATIVE = 1, 0  # annotations; 2, 3 and 4 are hard negatives
TEMPLATES = (  # with infinitives; those of the paper are not published
    "a photo of a person trying to {}.",
    "a photo of someone about to {}.",
    "how to {}.",
)
COLUMNS = ("id", "video_id", "class_id", "verb", "noun", "annotation")


@dataclasses.dataclass(frozen=True)
class Annotations:
    """What annotators say of N segments and A actions.

    Attributes:
      segment: int [N], which of the data's segments.
      video: int [N], the video it is of, 0 … V - 1.
      action: int [N], the action it was annotated for.
      shown: int [N], 1 it is shown, 0 it is not, 2 … 4 part of it is.
      actions: A pairs of verb and noun.
    """

    segment: np.ndarray
    video: np.ndarray
    action: np.ndarray
    shown: np.ndarray
    actions: tuple[tuple[str, str], ...]

    @property
    def keys(self) -> tuple[str, ...]:
        """What prompts are joined by: "hammer phone", …"""
        return tuple(f"{verb} {noun}" for verb, noun in self.actions)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of all annotations."""
        content = [self.actions, *(x.tolist() for x in (self.video, self.action, self.shown))]
        return hashlib.sha256(repr(content).encode()).hexdigest()[:16]


def phrase(verb: str, noun: str) -> str:
    """An action in words: "hammer a phone", "drink an egg", "measure carrots"."""
    if noun.endswith("s"):
        return f"{verb} {noun}"
    return f"{verb} {'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def read(file: Any, *, keys: Sequence[str]) -> Annotations:
    """The annotations of the data set's `rareact.csv`.

    Args:
      file: with the columns id, video_id, class_id, verb, noun and annotation.
      keys: of the data's segments: their ids.

    Raises:
      DataError: it cannot be read, or a segment is not in the data.
    """
    try:
        lines = list(csv.DictReader(io.StringIO(epath.Path(file).read_text())))
        shown = np.array([int(line["annotation"]) for line in lines])
        classes = {
            int(line["class_id"]): (line["verb"].strip(), line["noun"].strip()) for line in lines
        }
        ids = [line["id"].strip() for line in lines]
        videos = [line["video_id"] for line in lines]
        numbers = np.searchsorted(sorted(classes), [int(line["class_id"]) for line in lines])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{file}: needs the columns {', '.join(COLUMNS)}, with whole numbers ({error})"
        ) from None
    if not lines or not set(shown) <= set(range(5)):
        raise DataError(f"{file}: {len(lines)} rows, annotations {sorted(set(shown))}, not 0 … 4")
    if len(set(classes.values())) < len(classes):
        raise DataError(f"{file}: one verb and noun have several class_ids; copy it again")
    index_of = {key: index for index, key in enumerate(keys)}
    missing = [key for key in ids if key not in index_of]
    if missing:
        raise DataError(
            f"{file}: {len(missing):,} of its {len(ids):,} segments are not in the data, such as"
            f" id {missing[0]}; name frames ID/FRAME.jpg or ID.jpg"
        )
    return Annotations(
        segment=np.array([index_of[key] for key in ids]),
        video=np.unique(videos, return_inverse=True)[1],
        action=numbers,
        shown=shown,
        actions=tuple(classes[number] for number in sorted(classes)),
    )


def roles(known: Annotations, number: int) -> np.ndarray:
    """int8 [N], each segment's part in an action: 1 right, 2 hard and 3 other negatives, 0 none."""
    verb, noun = known.actions[number]
    same_verb = np.array([v == verb for v, _ in known.actions])[known.action]
    same_noun = np.array([n == noun for _, n in known.actions])[known.action]
    of_others = np.where(known.shown == POSITIVE, np.where(same_verb | same_noun, 2, 3), 0)
    of_own = np.where(known.shown == POSITIVE, 1, np.where(known.shown == NEGATIVE, 3, 2))
    return np.where(known.action == number, of_own, of_others).astype(np.int8)


def mean_average_precisions(scores: np.ndarray, known: Annotations) -> dict[str, Estimate]:
    """{"mwap": …, "mwsap": …}; `n` counts segments.

    Intervals resample videos; that of mWSAP draws segments anew each time and is a little wide.
    Actions that no segment shows are left out.

    Args:
      scores: float [N, A], of the annotated segments; one that is no number counts against it.
      known: what they show.
    """
    rng, videos = metrics.generator(), int(known.video.max()) + 1
    once = np.ones((1, videos))
    drawn = rng.multinomial(videos, np.full(videos, 1 / videos), metrics.RESAMPLES)
    precisions: dict[str, list[np.ndarray]] = {"mwap": [], "mwsap": []}
    for number in range(len(known.actions)):
        role = roles(known, number)
        if not np.any(role == 1):
            continue
        ranked = _Ranked(scores[:, number], role=role, video=known.video)
        precisions["mwap"].append(ranked.weighted(np.concatenate([once, drawn])))
        sampled = np.mean(ranked.sampled(np.repeat(once, DRAWS, axis=0), rng=rng))
        precisions["mwsap"].append(np.append(sampled, ranked.sampled(drawn, rng=rng)))
    if not precisions["mwap"]:
        raise DataError("rareact.csv: no segment shows its action (none has annotation 1)")
    estimates = {}
    for name, values in precisions.items():
        shown = np.isfinite(values)  # a draw may hold no segment that shows an action
        with np.errstate(invalid="ignore"):
            means = np.where(shown, values, 0).sum(axis=0) / shown.sum(axis=0)
        estimates[name] = metrics.estimate(float(means[0]), means[1:], n=len(scores))
    return estimates


class _Ranked:
    """The segments of one action: of each only which right ones it is ranked above matters.

    Place s of S is the s-th best score of right segments; a segment's place is the first whose
    score is no higher, S where there is none.
    """

    def __init__(self, scores: np.ndarray, *, role: np.ndarray, video: np.ndarray) -> None:
        kept = np.flatnonzero(role)
        order = kept[np.lexsort((video[kept], role[kept]))]  # those of a role and video together
        role, self.video = role[order], video[order]
        self.right = role == 1
        scores = metrics.worst_case(scores[order], self.right)
        places = np.unique(-scores[self.right])
        self.place, self.places = np.searchsorted(places, -scores), len(places)
        units = np.stack([role, self.video])
        self.start = np.flatnonzero(np.any(np.diff(units, axis=1, prepend=-1), axis=0))
        self.count = np.diff(self.start, append=len(order))
        self.weight = np.repeat(1 / self.count, self.count)

    def weighted(self, times: np.ndarray) -> np.ndarray:
        """float64 [R]: weighted average precision with video v counted times[r, v] times."""
        sums = np.zeros((2, times.shape[1], self.places + 1))
        np.add.at(sums, (1 * self.right, self.video, self.place), self.weight)
        wrong, right = (times @ each[:, :-1] for each in sums)
        return _precision(right, wrong)

    def sampled(self, times: np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
        """The same, each time of one segment drawn from each video."""
        rounds = len(times)
        rows = self.start + (rng.random((rounds, len(self.start))) * self.count).astype(np.int64)
        where = np.arange(rounds)[:, None] * (self.places + 1) + self.place[rows]
        weight = times[:, self.video[self.start]]
        right, wrong = (
            np.bincount(
                where[:, chosen].ravel(),
                weights=weight[:, chosen].ravel(),
                minlength=rounds * (self.places + 1),
            ).reshape(rounds, -1)[:, :-1]
            for chosen in (self.right[self.start], ~self.right[self.start])
        )
        return _precision(right, wrong)


def _precision(right: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """float64 [R]: average precision (scikit-learn's) from the weights at each place, [R, S], the
    best first; NaN where nothing is right."""
    right_so_far = np.cumsum(right, axis=1)
    every = right_so_far + np.cumsum(wrong, axis=1)
    precision = right_so_far / np.maximum(every, np.finfo(float).tiny)
    with np.errstate(invalid="ignore"):
        return np.sum(right * precision, axis=1) / right_so_far[:, -1]


def settings(evaluated: EvaluatedSet) -> dict[str, Any]:
    """Prompts, annotations, and the metric."""
    known, asked = _annotations_and_prompts(evaluated)
    metric = evaluated.data.metric
    return {"prompts": asked.hash, "annotations": known.fingerprint, "metric": metric}


def measure(evaluated: EvaluatedSet) -> Measurement:
    """Precision of the segments that rank highest for each action, by the prediction of their
    middle frames and the mean prediction over all frames."""
    known, asked = _annotations_and_prompts(evaluated)
    weights = evaluated.classifier_of(asked).ensemble
    predicted = action.predict(evaluated, evaluated.data, weights=weights)
    segments = len(predicted.middle)
    middle = video_frames.mean_predictions(
        predicted.middle,
        owner=np.arange(segments),
        count=segments,
        logit_scale=evaluated.model.logit_scale,
    )
    figures = {
        f"{prefix}{name}": estimate
        for prefix, scores in (("", middle), ("frame_averaged_", predicted.averaged))
        for name, estimate in mean_average_precisions(scores[known.segment], known).items()
    }
    details = {
        "segments": len(known.segment),
        "frames": predicted.frames,
        "actions": len(known.actions),
    }
    return Measurement(evaluated.data.metric, figures, details)


def _annotations_and_prompts(evaluated: EvaluatedSet) -> tuple[Annotations, prompts.Prompts]:
    """The annotations in the set's `rareact.csv`, and the user's prompts or ours."""
    known = read(evaluated.file("rareact.csv"), keys=evaluated.keys)
    entry = evaluated.data.entry
    where = f"prompts of {entry.id}"
    if file := evaluated.prompts_file or entry.prompts_file:
        where = f"{where} ({file})"
        table = class_names.read(file, keys=known.keys, where=where)
    else:
        phrases = [(phrase(verb, noun),) for verb, noun in known.actions]
        table = prompts.Table(dict(zip(known.keys, phrases, strict=True)), TEMPLATES)
    return known, prompts.make(known.keys, table=table, where=where, origin=where)


PROTOCOL = Protocol(measure, settings)
