"""Associations: the images that a cue calls to mind, out of its candidates (WinoGAViL).

As DataComp measures it: the cue becomes "A cue" or "An cue", as many candidates are chosen as are
associated with it, those most similar to the text, and the score is the Jaccard index of the two
sets. The main figure is the mean over the cues with ten or twelve candidates, the harder ones.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from clipjax.data.sources.associations import Cue
from clipjax.evals import metrics
from clipjax.evals.evaluated import EvaluatedSet
from clipjax.evals.metrics import Estimate
from clipjax.evals.protocols.registry import Protocol
from clipjax.evals.suites.results import Measurement

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
    indices = np.zeros(len(cues))
    for number, cue in enumerate(cues):
        right = np.array(cue.associated)
        cosines = image_embed[list(cue.candidates)].astype(np.float64) @ cue_embed[number]
        scores = np.round(metrics.worst_case(cosines, right), DIGITS)
        chosen = np.lexsort((right, -scores))[: right.sum()]  # of equal ones the wrong come first
        both = right[chosen].sum()
        indices[number] = both / (2 * right.sum() - both)
    return indices


def chances(cues: Sequence[Cue]) -> np.ndarray:
    """float64 [Q]: what choosing at random gives on average."""
    from scipy.stats import hypergeom

    levels = []
    for cue in cues:
        number, right = len(cue.candidates), sum(cue.associated)
        both = np.arange(right + 1)
        jaccard = both / (2 * right - both)
        levels.append(np.sum(hypergeom.pmf(both, number, right, right) * jaccard))
    return np.array(levels)


def means(values: np.ndarray, *, cues: Sequence[Cue]) -> dict[str, Estimate]:
    """The mean of one value a cue over the `GROUPS`; `n` counts cues."""
    number = np.array([len(cue.candidates) for cue in cues])
    return {
        name: metrics.mean(values[(number >= low) & (number <= high)])
        for name, (low, high) in GROUPS.items()
    }


def settings(evaluated: EvaluatedSet) -> dict[str, Any]:
    """The prompt, and the metric."""
    return {"prompt": prompt("cue"), "metric": evaluated.data.metric}


def measure(evaluated: EvaluatedSet) -> Measurement:
    """The candidates that each cue calls to mind (WinoGAViL)."""
    metric, cues = evaluated.data.metric, evaluated.data.source.cues
    cue_embed = evaluated.texts([prompt(cue.text) for cue in cues])
    scores = jaccards(evaluated.image_embed, cue_embed, cues=cues)
    chance = means(chances(cues), cues=cues)[metric].value
    return Measurement(metric, means(scores, cues=cues), {"cues": len(cues), "chance": chance})


PROTOCOL = Protocol(measure, settings)
