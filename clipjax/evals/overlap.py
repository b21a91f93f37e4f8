"""Overlap of evaluation images with the training data, and what it did to the score (section 5).

Near-duplicates are found in three ways: equal files, perceptual hashes (both by
`clipjax.curation.dedup`), and cosines of image embeddings. The authors looked at the nearest pairs
of every set and chose a threshold each; `pictures.sheets.near_pairs` draws the sheet for that. They
also found that CLIP's own embeddings take images of the same kind for copies, and trained a
detector: any image tower can be the one that embeds.

The images of a set are then All = Overlap + Clean. The figure of interest is how much higher the
accuracy on All is than on Clean; whether Overlap is better than Clean is asked with a one-sided
binomial test.
"""

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np
from jax.sharding import Mesh

from clipjax.curation import dedup
from clipjax.evals import metrics, nearest
from clipjax.evals.metrics import Estimate

PAPER_LEVEL = 0.995  # of the intervals on Overlap (paper, figure 17)
DISTANCE = 4  # bits, see `dedup`


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """For each of N evaluation images its nearest training image, by each detector.

    Attributes:
      file: int64 [N], a training record with the same bytes, or -1.
      look: int64 [N], one whose perceptual hash is near, or -1.
      embedding: int64 [N], the one of highest cosine, or -1 where none was computed.
      cosine: float32 [N], that cosine; -inf likewise.
    """

    file: np.ndarray
    look: np.ndarray
    embedding: np.ndarray
    cosine: np.ndarray

    def overlapping(self, threshold: float) -> np.ndarray:
        """bool [N]: has a copy of the same bytes or look, or a cosine of at least the threshold."""
        return (self.file >= 0) | (self.look >= 0) | (self.cosine >= threshold)

    def found_by(self, threshold: float) -> dict[str, int]:
        """Images that each detector finds, and all together ("any")."""
        each = {
            "file": self.file >= 0,
            "look": self.look >= 0,
            "embedding": self.cosine >= threshold,
        }
        counts = {name: int(images.sum()) for name, images in each.items()}
        return counts | {"any": int(self.overlapping(threshold).sum())}


def by_hash(
    mine: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray], *, distance: int = DISTANCE
) -> tuple[np.ndarray, np.ndarray]:
    """(file, look) of `Neighbours`, from `dedup.hashes` of evaluation and training images.

    Args:
      distance: bits of 64 that perceptual hashes of copies may differ in.
    """
    exact, where = np.unique(theirs["exact"], return_index=True)
    at = np.minimum(np.searchsorted(exact, mine["exact"]), len(exact) - 1)
    same = (exact[at] == mine["exact"]) & mine["usable"]
    look = dedup.copies_in(mine, theirs, distance=distance)
    return np.where(same, where[at], -1), np.where(mine["usable"], look, -1)


def by_embedding(
    evaluation_embed: np.ndarray, training_embeds: Iterable[np.ndarray], *, mesh: Mesh
) -> tuple[np.ndarray, np.ndarray]:
    """(embedding, cosine) of `Neighbours`.

    Args:
      evaluation_embed: float32 [N, E], L2-normalised.
      training_embeds: blocks float32 [M, E], in the order of the training records.
      mesh: blocks are split over its batch axes.
    """
    search = nearest.Nearest(evaluation_embed, count=1, mesh=mesh)
    for block in training_embeds:
        search.add(block)
    return search.index[:, 0], search.scores[:, 0]


@dataclasses.dataclass(frozen=True)
class Effect:
    """What the overlap did to an accuracy.

    Attributes:
      all, clean, overlap: accuracies with intervals of 95 %.
      overlap_interval: of Overlap, of 99.5 % (paper, figure 17).
      share: of the images that overlap.
      change: All less Clean; how much of the score is owed to the overlap.
      change_interval: 99.5 %, from Overlap's with Clean held fixed, as in figure 17.
      p_value: of the one-sided binomial test that Overlap is no better than Clean.
    """

    all: Estimate
    clean: Estimate
    overlap: Estimate
    overlap_interval: tuple[float, float]
    share: Estimate
    change: float
    change_interval: tuple[float, float]
    p_value: float

    @property
    def difference(self) -> float:
        """Overlap less Clean."""
        return self.overlap.value - self.clean.value


def effect(right: np.ndarray, overlapping: np.ndarray) -> Effect:
    """Accuracies on All, Clean and Overlap, and the test.

    Args:
      right: bool [N], whether the image was classified rightly.
      overlapping: bool [N], see `Neighbours.overlapping`.
    """
    right, overlapping = np.asarray(right, bool), np.asarray(overlapping, bool)
    n, inside = len(right), int(overlapping.sum())
    hits = int(right[overlapping].sum())
    everything = metrics.share(int(right.sum()), n)
    clean = metrics.share(int(right[~overlapping].sum()), n - inside)
    low, high = metrics.clopper_pearson(hits, inside, level=PAPER_LEVEL)
    share = metrics.share(inside, n)
    change, *ends = (
        share.value * (accuracy - clean.value) if 0 < inside < n else 0.0
        for accuracy in (hits / max(inside, 1), low, high)
    )
    return Effect(
        all=everything,
        clean=clean,
        overlap=metrics.share(hits, inside),
        overlap_interval=(low, high),
        share=share,
        change=change,
        change_interval=(ends[0], ends[1]),
        p_value=better_by_chance(hits, inside, chance=clean.value),
    )


def better_by_chance(hits: int, n: int, *, chance: float) -> float:
    """The probability of at least so many hits in n trials of this chance: the one-sided test.

    1.0 without trials, and where the chance is not known.
    """
    from scipy.special import betainc

    if not hits or not n or not np.isfinite(chance):
        return 1.0
    return float(betainc(hits, n - hits + 1, chance))
