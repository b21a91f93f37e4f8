"""Optical character recognition (paper, appendix E.2, table 14): the right word out of a list.

Of table 14's sets, MNIST, SVHN's whole numbers, Rendered SST2 and Hateful Memes are zero-shot sets
and linear probes like any other (the memes by `metrics.roc_auc` of one class's cosine less the
other's, which ranks as the probability does). IIIT5K has for each image a list of its own.
"""

from collections.abc import Sequence

import numpy as np

from clipjax.common.exits import DataError
from clipjax.evals import metrics
from clipjax.evals.metrics import Estimate


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
    place = {word.casefold(): i for i, word in enumerate(words)}
    right = 0
    for image, (truth, lexicon) in enumerate(zip(truths, lexicons, strict=True)):
        listed = {word.casefold() for word in lexicon}
        own = truth.casefold()
        if own not in listed:
            raise DataError(f'image {image}: its word "{truth}" is not in its list')
        others = [place[word] for word in sorted(listed - {own})]
        scores = word_embed[[place[own], *others]].astype(np.float64) @ image_embed[image]
        right += bool(np.all(scores[1:] < scores[0]) and np.isfinite(scores).all())
    return metrics.share(right, len(truths))
