"""Associations: the images that a cue calls to mind, out of its candidates (WinoGAViL).

As DataComp measures it: the cue becomes "A cue" or "An cue", as many candidates are chosen as are
associated with it, those most similar to the text, and the score is the Jaccard index of the two
sets. The main figure is the mean over the cues with ten or twelve candidates, the harder ones.
"""

import math
from collections.abc import Sequence

import numpy as np

from clipjax.data.sources.associations import Cue
from clipjax.evals import metrics
from clipjax.evals.metrics import Estimate

VOWELS = "aeiou"
DIGITS = 6  # of cosines; those that agree in them are equal: float32 sums depend on their order
GROUPS = {  # figure → numbers of candidates, from and to
    "jaccard": (0, math.inf),
    "jaccard_5": (5, 5),
    "jaccard_6": (6, 6),
    "jaccard_10": (10, 10),
    "jaccard_12": (12, 12),
    "jaccard_5_6": (0, 6),
    "jaccard_10_12": (10, math.inf),
}


def prompt(cue: str) -> str:
    """The text of a cue: "An owl", "A full moon"."""
    cue = cue.lower()
    return f"An {cue}" if cue[0] in VOWELS else f"A {cue}"


def jaccards(image_embed: np.ndarray, cue_embed: np.ndarray, *, cues: Sequence[Cue]) -> np.ndarray:
    """float64 [Q]: the Jaccard index of the chosen and the associated candidates of each cue.

    A tie and a score that is no number count against the model.

    Args:
      image_embed: float32 [N, E], L2-normalised.
      cue_embed: float32 [Q, E], of the cues' prompts, L2-normalised.
      cues: Q cues.
    """
    found = np.zeros(len(cues))
    for number, cue in enumerate(cues):
        right = np.array(cue.associated)
        cosines = image_embed[list(cue.candidates)].astype(np.float64) @ cue_embed[number]
        scores = np.round(metrics.worst_case(cosines, right), DIGITS)
        chosen = np.lexsort((right, -scores))[: right.sum()]  # of equal ones the wrong come first
        both = right[chosen].sum()
        found[number] = both / (2 * right.sum() - both)
    return found


def chances(cues: Sequence[Cue]) -> np.ndarray:
    """float64 [Q]: what choosing at random gives on average."""
    from scipy.stats import hypergeom

    found = []
    for cue in cues:
        number, right = len(cue.candidates), sum(cue.associated)
        both = np.arange(right + 1)
        found.append(np.sum(hypergeom.pmf(both, number, right, right) * both / (2 * right - both)))
    return np.array(found)


def means(values: np.ndarray, *, cues: Sequence[Cue]) -> dict[str, Estimate]:
    """The mean of one value a cue over the `GROUPS`; `n` counts cues."""
    number = np.array([len(cue.candidates) for cue in cues])
    return {
        name: metrics.mean(values[(number >= low) & (number <= high)])
        for name, (low, high) in GROUPS.items()
    }
