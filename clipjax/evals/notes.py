"""What moves a figure, or lowers it against a published one: sentences that stand beside it.

Each tells how many images or captions it touches. Protocols give them as the warnings of a
`Measurement`; where there is nothing to say, it is "" or an empty list.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from clipjax.common.counts import counted, verb
from clipjax.evals import metrics

USUAL_CAPTIONS = 5  # of an image in published figures of COCO and Flickr30k
LEAST = 5  # images of a class, before its share says anything
SURE = 1e-6  # probability of so low an accuracy by guessing
SHOWN = 3


def of_result(result: Any, *, alike: Sequence[Sequence[int]] = ()) -> list[str]:
    """Sentences about a `classification.Result`; `alike` is what `prompts.read_alike` gave."""
    number = np.bincount(result.labels, minlength=len(result.classes))
    absent = of_absent(number, names=result.classes, averaged=False)
    same = of_alike(alike, names=result.classes, number=number)
    return [*filter(None, (absent, same)), *of_wrong(result)]


def of_wrong(result: Any) -> list[str]:
    """Sentences about images of a `classification.Result` that count as wrong by a rule of ours."""
    sentences = []
    if result.tied:
        sentences.append(
            f"{result.tied:,} of {len(result.labels):,} images score the same for their class and"
            " another, which counts as wrong"
        )
    return sentences + of_not_finite(result.not_finite)


def of_not_finite(images: int) -> list[str]:
    """A sentence about so many images whose scores are no numbers, or none."""
    subject, have = counted(images, "image"), verb(images, "has", "have")
    it = verb(images, "it counts", "they count")
    return [f"{subject} {have} scores that are no numbers; {it} as wrong"] if images else []


def of_values(values: Mapping[str, Any]) -> list[str]:
    """A sentence about metrics whose values are no numbers, or none."""
    named = [
        name
        for name, value in values.items()
        if isinstance(value, float) and not math.isfinite(value)
    ]
    return [f"{', '.join(named)}: no number, nothing counts for it"] if named else []


def of_captions(texts: Sequence[str], *, text_image: np.ndarray, cut: np.ndarray) -> list[str]:
    """Sentences about the captions of a retrieval set.

    Args:
      texts: M captions.
      text_image: int32 [M], the image of each.
      cut: bool [M], whether the model reads only a part of it.
    """
    sentences = of_cut(cut)
    images: dict[str, set[int]] = {}
    for text, image in zip(texts, text_image.tolist(), strict=True):
        images.setdefault(text, set()).add(image)
    if shared := sum(len(images[text]) > 1 for text in texts):
        sentences.append(
            f"{shared:,} of {len(texts):,} captions are those of other images too: only one of"
            " these images counts as right, and such texts tie, which counts as wrong"
        )
    each = np.bincount(text_image)
    if each.min() <= USUAL_CAPTIONS < each.max():
        sentences.append(
            f"{np.sum(each > USUAL_CAPTIONS):,} of {len(each):,} images have more than"
            f" {USUAL_CAPTIONS} captions, and all count; published figures take the first"
            f" {USUAL_CAPTIONS}"
        )
    return sentences


def of_cut(cut: np.ndarray) -> list[str]:
    """A sentence about captions of which the model reads only a part; `cut`: bool [M]."""
    count = int(np.sum(cut))
    are = verb(len(cut), "is", "are")
    of = counted(len(cut), "caption")
    return [f"{count:,} of {of} {are} longer than the model reads"] if count else []


def of_ranks(ties: Mapping[str, int], *, queries: Mapping[str, int], not_finite: int) -> list[str]:
    """Sentences about a retrieval's ranks.

    Args:
      ties: "image_to_text" and "text_to_image" → queries that a tie alone keeps from rank 0.
      queries: the same → how many there are.
      not_finite: embeddings that are no numbers.
    """
    names = {"image_to_text": "images", "text_to_image": "captions"}
    sentences = [
        f"{count:,} of {queries[way]:,} {names[way]} find another as near as their own, which"
        " counts as wrong"
        for way, count in ties.items()
        if count
    ]
    if not_finite:
        are, it = verb(not_finite, "is", "are"), verb(not_finite, "it counts", "they count")
        sentences.append(f"{counted(not_finite, 'embedding')} {are} no numbers; {it} as wrong")
    return sentences


def of_confusion(confusion: np.ndarray, *, names: tuple[str, ...]) -> str:
    """A sentence, or "" where nothing is odd.

    Two signs: an accuracy far below guessing; and classes most of whose images are taken for one
    other class each, under a matching of classes that explains the counts much better than the
    classes' own names do (33 of 37 pets in another order still score above guessing).

    Args:
      confusion: int [C, C], images by true (row) and chosen (column) class.
      names: C names for people.
    """
    from scipy.optimize import linear_sum_assignment
    from scipy.stats import binom

    n, right = int(confusion.sum()), int(np.trace(confusion))
    if not n:
        return ""
    number = confusion.sum(axis=1)
    _, best = linear_sum_assignment(-confusion)
    classes = np.arange(len(confusion))
    share = confusion[classes, best] / np.maximum(number, 1)
    swapped = np.flatnonzero((best != classes) & (share > 0.5) & (number >= LEAST))
    if len(swapped) > 1:
        listed = ", ".join(
            f"{names[i]!r} as {names[best[i]]!r} ({share[i]:.0%})" for i in swapped[:SHOWN]
        )
        more = ", …" if len(swapped) > SHOWN else ""
        matched = int(confusion[classes, best].sum())
        return (
            f"class order? {len(swapped)} classes are mostly taken for one other class each:"
            f" {listed}{more}; matched that way accuracy would be {matched / n:.1%}, not"
            f" {right / n:.1%}: compare names with label keys"
        )
    if binom.cdf(right, n, 1 / len(confusion)) < SURE:
        return (
            f"class order? accuracy {metrics.share(right, n)} is far below guessing,"
            f" {1 / len(confusion):.2%}: compare names with label keys"
        )
    return ""


def of_absent(number: np.ndarray, *, names: Sequence[str], averaged: bool) -> str:
    """A sentence about classes that no image shows, or "".

    Args:
      number: int [C], images of each class.
      names: C names for people.
      averaged: whether the metric is a mean over classes.
    """
    absent = np.flatnonzero(np.asarray(number) == 0).tolist()
    if not absent:
        return ""
    effect = "they are left out of the mean" if averaged else "their names compete all the same"
    listed = _listed([repr(names[i]) for i in absent])
    return f"{len(absent):,} of {len(names):,} classes have no images here: {listed}; {effect}"


def of_untrained(trained: np.ndarray, *, number: np.ndarray, names: Sequence[str]) -> str:
    """A sentence about classes without training images, or "".

    Args:
      trained: int [C], training images of each class.
      number: int [C], images of each class that are tested.
      names: C names for people.
    """
    absent = np.flatnonzero(np.asarray(trained) == 0).tolist()
    if not absent:
        return ""
    listed = _listed([repr(names[i]) for i in absent])
    images = int(np.asarray(number)[absent].sum())
    return f"no training images of {listed}: none of the {images:,} images tested can be right"


def of_alike(
    groups: Sequence[Sequence[int]],
    *,
    names: Sequence[str],
    number: np.ndarray,
    rivals: bool = True,
) -> str:
    """A sentence about classes whose prompts are the same to the model, or "".

    Args:
      groups: of such classes, see `prompts.read_alike`.
      names: C names for people.
      number: int [C], images of each class.
      rivals: whether an image has one class only.
    """
    members = [index for group in groups for index in group]
    if not members:
        return ""
    listed = _listed([" = ".join(f"{names[i]!r} (class {i})" for i in g[:SHOWN]) for g in groups])
    images = int(np.asarray(number)[members].sum())
    effect = f"none of their {images:,} images can be right" if rivals else "so are their scores"
    return (
        f"{len(members):,} of {len(names):,} classes have prompts that this model reads as the"
        f" same: {listed}; {effect}"
    )


def _listed(texts: Sequence[str]) -> str:
    return ", ".join(texts[:SHOWN]) + (", …" if len(texts) > SHOWN else "")
