"""Robustness to natural distribution shift: seven shifts of ImageNet (paper, section 3.3).

A shift's data have some of ImageNet's classes, or coarser ones. A classifier of ImageNet's classes
is restricted to them by wnid, the best of several wnids standing for a coarser class; a classifier
made of the data set's own class names needs no mapping ("adapt to class shift", +5 on average).

Models that were trained on ImageNet lie on a line: accuracy under shift against accuracy on the
same classes of ImageNet, both as logits. Effective robustness is what a model has above it.
"""

import dataclasses
import functools
import importlib.resources
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from clipjax.common.exits import ConfigError, DataError
from clipjax.evals import classification, suites
from clipjax.evals.evaluated import EvaluatedSet
from clipjax.evals.metrics import LEVEL, Estimate
from clipjax.evals.protocols.registry import Protocol
from clipjax.evals.suites import set_data
from clipjax.evals.suites.results import Measurement

# Of a shift: where its accuracy stands among the published points, and ImageNet's on its classes.
# ImageNet-Vid and YouTube-BB enter as the mean of their two (paper, appendix E.5).
SHIFTS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "imagenet_v2": (("imagenet_v2",), "imagenet"),
    "imagenet_r": (("imagenet_r",), "on_imagenet_r"),
    "imagenet_sketch": (("imagenet_sketch",), "imagenet"),
    "imagenet_a": (("imagenet_a",), "on_imagenet_a"),
    "objectnet": (("objectnet",), "on_objectnet"),
    "imagenet_vid": (("imagenet_vid_pm0", "imagenet_vid_pm10"), "on_imagenet_vid"),
    "youtube_bb": (("youtube_bb_pm0", "youtube_bb_pm10"), "on_youtube_bb"),
}
RESAMPLES = 1000
EDGE = 1e-4  # shares nearer to 0 or 1 than this are moved there: a logit is then finite


def groups_of(
    classes: Mapping[str, str | Sequence[str]], *, keys: Sequence[str], where: str
) -> list[np.ndarray]:
    """Positions of the wnids of each class of a shift in a classifier, int64 [≥ 1].

    Args:
      classes: label key of the shift → wnid, or several.
      keys: the classifier's wnids, in its order.
      where: the map's file or data set, for errors.

    Raises:
      DataError: a class has no wnid, or one that the classifier lacks, or two classes share one.
    """
    index_of = {key: i for i, key in enumerate(keys)}
    groups, owner = [], {}
    for name, wnids in classes.items():
        wnids = (wnids,) if isinstance(wnids, str) else tuple(wnids)
        unknown = [wnid for wnid in wnids if wnid not in index_of]
        if unknown or not wnids:
            wrong = f"{unknown[0]}, which the classifier does not have" if unknown else "no wnid"
            raise DataError(f'{where}: class "{name}" is {wrong}')
        for wnid in wnids:
            if owner.setdefault(wnid, name) != name:
                raise DataError(f'{where}: {wnid} belongs to "{owner[wnid]}" and "{name}"')
        groups.append(np.array([index_of[wnid] for wnid in wnids], np.int64))
    return groups


def pooled(scores: np.ndarray, groups: Sequence[np.ndarray]) -> np.ndarray:
    """Scores [N, C] of the classifier's classes → [N, G], of each group its best."""
    return np.stack([scores[:, group].max(axis=1) for group in groups], axis=1)


def on_classes(
    scores: np.ndarray, labels: np.ndarray, groups: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """ImageNet on a shift's classes: (pooled scores, labels) of the images that belong to one."""
    group_of = np.full(scores.shape[1], -1)
    for number, group in enumerate(groups):
        group_of[group] = number
    kept = group_of[labels] >= 0
    return pooled(scores[kept], groups), group_of[labels][kept]


@dataclasses.dataclass(frozen=True)
class Line:
    """logit(accuracy under shift) = slope · logit(accuracy before it) + intercept.

    `draws` are fits [R, 2] to models drawn with replacement, for the band around it.
    """

    slope: float
    intercept: float
    draws: np.ndarray

    def expected(self, accuracy: np.ndarray | float) -> np.ndarray:
        """Accuracy under shift of a model on the line."""
        return share_of(self.slope * logit(accuracy) + self.intercept)

    def band(self, accuracy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(low, high) of the line, 95 %."""
        lines = share_of(self.draws[:, :1] * logit(accuracy) + self.draws[:, 1:])
        low, high = np.quantile(lines, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
        return low, high

    def drawn(
        self, first: float, last: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Accuracies before the shift, even on the logit axis, what the line expects, and its
        band: float64 [50] each."""
        before = share_of(np.linspace(logit(first), logit(last), 50))
        return before, self.expected(before), *self.band(before)


def fit_line(before: Sequence[float], after: Sequence[float], *, seed: int = 0) -> Line:
    """The line of least squares through models' accuracies, as shares.

    Raises ValueError with fewer than three models.
    """
    x, y = logit(np.asarray(before, np.float64)), logit(np.asarray(after, np.float64))
    if len(x) < 3:
        raise ValueError(f"a line through {len(x)} models says nothing; give three or more")
    slope, intercept = np.polyfit(x, y, 1)
    rng = np.random.default_rng(seed)
    draws = []
    while len(draws) < RESAMPLES:
        chosen = rng.integers(0, len(x), len(x))
        if len(np.unique(x[chosen])) > 1:
            draws.append(np.polyfit(x[chosen], y[chosen], 1))
    return Line(float(slope), float(intercept), np.array(draws))


def effective(before: Estimate, after: Estimate, line: Line) -> Estimate:
    """Accuracy under shift less what the line expects of a model of this accuracy.

    The interval holds the draw of the images of the shift and the line's own uncertainty; `n` is
    the shift's.
    """
    expected = float(line.expected(before.value))
    low, high = (float(end[0]) for end in line.band(np.array([before.value])))
    value = after.value - expected
    down = np.hypot(after.value - after.low, high - expected)
    up = np.hypot(after.high - after.value, expected - low)
    return Estimate(value, value - float(down), value + float(up), after.n)


def mean_of(estimates: Sequence[Estimate]) -> Estimate:
    """The mean over data sets, with independent errors; `n` counts all images."""
    value = float(np.mean([e.value for e in estimates]))
    down = float(np.sqrt(np.sum([(e.value - e.low) ** 2 for e in estimates]))) / len(estimates)
    up = float(np.sqrt(np.sum([(e.high - e.value) ** 2 for e in estimates]))) / len(estimates)
    return Estimate(value, value - down, value + up, sum(e.n for e in estimates))


def logit(share: np.ndarray | float) -> np.ndarray:
    """log(share / (1 - share)), finite also at 0 and 1."""
    inside = np.clip(share, EDGE, 1 - EDGE)
    return np.log(inside / (1 - inside))


def share_of(logit: np.ndarray | float) -> np.ndarray:
    """The share that a logit stands for."""
    return 1 / (1 + np.exp(-np.asarray(logit)))


@functools.cache
def published() -> dict[str, dict[str, dict[str, float]]]:
    """{"standard" | "paper": {model: {data: share}}}, from `robustness.json`, which has sources."""
    return json.loads(
        (importlib.resources.files("clipjax.evals.protocols") / "robustness.json").read_text()
    )


def standard_points(shift: str) -> dict[str, tuple[float, float]]:
    """{model: (ImageNet on the shift's classes, the shift)} of models trained on ImageNet alone."""
    parts, base = SHIFTS[shift]
    return {
        model: (values[base], float(np.mean([values[part] for part in parts])))
        for model, values in published()["standard"].items()
        if all(key in values for key in (base, *parts))
    }


def standard_mean_points() -> dict[str, tuple[float, float]]:
    """{model: means over the seven shifts}, of the models that have all seven."""
    each = [standard_points(shift) for shift in SHIFTS]
    shared = [model for model in each[0] if all(model in points for points in each)]
    return {
        model: tuple(float(np.mean([points[model][i] for points in each])) for i in (0, 1))
        for model in shared
    }  # pyright: ignore


def settings(evaluated: EvaluatedSet) -> dict[str, Any]:
    """Prompts, and the classes of each shift whose data are there."""
    shifts = {shift: sorted(classes) for shift, classes in _shift_classes(evaluated).items()}
    return {"prompts": evaluated.prompts.hash, "shifts": shifts}


def measure(evaluated: EvaluatedSet) -> Measurement:
    """Accuracy on ImageNet restricted to the classes of each shift: what effective robustness
    compares with. The shifts' own accuracies are their sets' zero-shot figures."""
    data, shifts = evaluated.data, _shift_classes(evaluated)
    if not shifts:
        raise set_data.Missing(f"{data.where}: no data of a shift of it are there")
    scores = evaluated.cosines()
    figures = {"top1_accuracy": classification.measure("top1_accuracy", scores, data.labels)}
    for shift, classes in shifts.items():
        groups = groups_of(classes, keys=data.keys, where=shift)
        restricted, labels = on_classes(scores, data.labels, groups)
        figures[f"on_{shift}"] = classification.measure("top1_accuracy", restricted, labels)
    counts = {shift: len(classes) for shift, classes in shifts.items()}
    return Measurement("top1_accuracy", figures, {"classes": counts})


def _shift_classes(evaluated: EvaluatedSet) -> dict[str, dict[str, Any]]:
    """Shift → its label keys → wnids; of a shift that names classes itself, out of its file."""
    data, shifts = evaluated.data, {}
    for shift in SHIFTS if data.entry.id == "imagenet" else ():
        entry, image_size = suites.entries()[shift], evaluated.model.image_size
        try:
            opened = set_data.open_set(entry, data=evaluated.folder, image_size=image_size)
        except (ConfigError, DataError):
            continue
        file = epath.Path(evaluated.folder) / shift / "imagenet_classes.json"
        if file.exists():
            shifts[shift] = json.loads(file.read_text())
        elif set(opened.keys) <= set(data.keys):
            shifts[shift] = {key: key for key in opened.keys}
    return shifts


PROTOCOL = Protocol(measure, settings, prompted=True)
