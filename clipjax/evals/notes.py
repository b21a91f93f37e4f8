"""What moves a figure, or lowers it against a published one: sentences that stand beside it.

Each tells how many images or captions it touches. Evaluators of a run give them as `notes`,
protocols of suites as warnings of a `Measurement`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from clipjax.common.counts import counted, verb
from clipjax.evals import suspicion

USUAL_CAPTIONS = 5  # of an image in published figures of COCO and Flickr30k


def of_result(result: Any, *, alike: Sequence[Sequence[int]] = ()) -> list[str]:
    """Sentences about a `classification.Result`; `alike` is what `prompts.read_alike` gave."""
    number = np.bincount(result.labels, minlength=len(result.classes))
    absent = suspicion.of_absent(number, names=result.classes, averaged=False)
    same = suspicion.of_alike(alike, names=result.classes, number=number)
    return [*filter(None, (absent, same)), *of_wrong(result)]


def of_wrong(result: Any) -> list[str]:
    """Sentences about images of a `classification.Result` that count as wrong by a rule of ours."""
    told = []
    if result.tied:
        told.append(
            f"{result.tied:,} of {len(result.labels):,} images score the same for their class and"
            " another, which counts as wrong"
        )
    return told + of_not_finite(result.not_finite)


def of_not_finite(images: int) -> list[str]:
    """A sentence about so many images whose scores are no numbers, or none."""
    subject, have = counted(images, "image"), verb(images, "has", "have")
    it = verb(images, "it counts", "they count")
    return [f"{subject} {have} scores that are no numbers; {it} as wrong"] if images else []


def of_values(metrics: Mapping[str, Any]) -> list[str]:
    """A sentence about metrics whose values are no numbers, or none."""
    named = [
        name
        for name, value in metrics.items()
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
    told = of_cut(cut)
    images: dict[str, set[int]] = {}
    for text, image in zip(texts, text_image.tolist(), strict=True):
        images.setdefault(text, set()).add(image)
    if shared := sum(len(images[text]) > 1 for text in texts):
        told.append(
            f"{shared:,} of {len(texts):,} captions are those of other images too: only one of"
            " these images counts as right, and such texts tie, which counts as wrong"
        )
    each = np.bincount(text_image)
    if each.min() <= USUAL_CAPTIONS < each.max():
        told.append(
            f"{np.sum(each > USUAL_CAPTIONS):,} of {len(each):,} images have more than"
            f" {USUAL_CAPTIONS} captions, and all count; published figures take the first"
            f" {USUAL_CAPTIONS}"
        )
    return told


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
    told = [
        f"{count:,} of {queries[way]:,} {names[way]} find another as near as their own, which"
        " counts as wrong"
        for way, count in ties.items()
        if count
    ]
    if not_finite:
        are, it = verb(not_finite, "is", "are"), verb(not_finite, "it counts", "they count")
        told.append(f"{counted(not_finite, 'embedding')} {are} no numbers; {it} as wrong")
    return told
