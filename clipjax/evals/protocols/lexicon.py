"""Optical character recognition (paper, appendix E.2, table 14): the right word out of a list.

Of table 14's sets, MNIST, SVHN's whole numbers, Rendered SST2 and Hateful Memes are zero-shot sets
and linear probes like any other (the memes by `metrics.roc_auc` of one class's cosine less the
other's, which ranks as the probability does). IIIT5K has for each image a list of its own, in
`words.csv` in the set's folder.
"""

import csv
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from clipjax.common.exits import DataError
from clipjax.evals import metrics
from clipjax.evals.evaluated import EvaluatedSet
from clipjax.evals.metrics import Estimate
from clipjax.evals.protocols.registry import Protocol
from clipjax.evals.suites.results import Measurement

TEMPLATE = 'a photo of the word "{}".'  # text to be read stands in quotes (paper, section 3.1.4)


def lexicon_accuracy(
    image_embed: np.ndarray,
    word_embed: np.ndarray,
    *,
    words: Sequence[str],
    truths: Sequence[str],
    lexicons: Sequence[Sequence[str]],
) -> Estimate:
    """Share of images whose true word scores above all others of the image's list.

    A tie and a score that is no number count against the model. Words are compared without case.

    Args:
      image_embed: float32 [N, E], L2-normalised.
      word_embed: float32 [W, E], of the words in a prompt, L2-normalised.
      words: W words, all that occur in lists.
      truths: N words.
      lexicons: N lists of words, the true one among them.

    Raises:
      DataError: a list lacks the true word.
    """
    index_of = {word.casefold(): i for i, word in enumerate(words)}
    right = 0
    for image, (truth, lexicon) in enumerate(zip(truths, lexicons, strict=True)):
        listed = {word.casefold() for word in lexicon}
        own = truth.casefold()
        if own not in listed:
            raise DataError(f'image {image}: its word "{truth}" is not in its list')
        others = [index_of[word] for word in sorted(listed - {own})]
        scores = word_embed[[index_of[own], *others]].astype(np.float64) @ image_embed[image]
        right += bool(np.all(scores[1:] < scores[0]) and np.isfinite(scores).all())
    return metrics.share(right, len(truths))


def settings(evaluated: EvaluatedSet) -> dict[str, Any]:
    """The prompt."""
    return {"template": TEMPLATE}


def measure(evaluated: EvaluatedSet) -> Measurement:
    """Words out of each image's own list (IIIT5K): `words.csv` with image, word, lexicon."""
    file = evaluated.file("words.csv")
    lines = {line.get("image"): line for line in csv.DictReader(io.StringIO(file.read_text()))}
    try:
        own = [lines[key] for key in evaluated.keys]
        truths = [line["word"] for line in own]
        lexicons = [line["lexicon"].split() for line in own]
    except (KeyError, AttributeError) as error:
        raise DataError(
            f"{file}: write a CSV with a header image,word,lexicon, the words of the list between"
            f" spaces, and a line for each image ({error})"
        ) from None
    words = sorted({word.casefold() for lexicon in lexicons for word in lexicon})
    accuracy = lexicon_accuracy(
        evaluated.image_embed,
        evaluated.texts([TEMPLATE.replace("{}", word) for word in words]),
        words=words,
        truths=truths,
        lexicons=lexicons,
    )
    return Measurement("lexicon_accuracy", {"lexicon_accuracy": accuracy}, {"words": len(words)})


PROTOCOL = Protocol(measure, settings)
