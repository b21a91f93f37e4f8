"""Overlap of evaluation images with the training data, and what it did to the score (section 5).

Near-duplicates are found in three ways: equal files, perceptual hashes (both by
`clipjax.curation.dedup`), and cosines of image embeddings. The authors looked at the nearest pairs
of every set and chose a threshold each; `pictures.sheets.near_pairs` draws the sheet for that. They
also found that CLIP's own embeddings take images of the same kind for copies, and trained a
detector: any image tower can be the one that embeds.

The images of a set are then All = Overlap + Clean. The figure of interest is how much higher the
accuracy on All is than on Clean; whether Overlap is better than Clean is asked with a one-sided
binomial test. The program `clipjax.overlap` calls this; the nearest training images of all sets
are found in one pass over the training data and kept in a file, so that another threshold embeds
nothing again.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from jax.sharding import Mesh
from tqdm import tqdm

from clipjax.common import files
from clipjax.common.exits import ConfigError
from clipjax.curation import dedup
from clipjax.data.source import Source, View
from clipjax.evals import metrics, nearest, suites
from clipjax.evals.evaluated import EvaluatedModel
from clipjax.evals.metrics import Estimate
from clipjax.evals.suites import results, set_data
from clipjax.parallel import distributed

BLOCK = 4096  # training images embedded between looks for what is near
PAPER_LEVEL = 0.995  # of the intervals on Overlap (paper, figure 17)
DISTANCE = 4  # bits, see `dedup`


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """The nearest training image of each of N evaluation images, by each detector.

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


@dataclasses.dataclass(frozen=True)
class Measured:
    """A set with zero-shot results: its source, and which images were right."""

    name: str
    title: str
    source: Any
    right: np.ndarray


def measured(suite: suites.Suite, *, data: str, folder: str, image_size: int) -> list[Measured]:
    """The sets with zero-shot results in `folder`; ConfigError without any, or of other data."""
    sets = []
    for entry in suite.entries:
        file = epath.Path(folder) / "arrays" / f"{entry.id}.zero_shot.npz"
        if not file.exists():
            continue
        right = files.read_arrays(file)["rank"] == 0
        source = set_data.open_set(entry, data=data, image_size=image_size).source
        if len(source) != len(right):
            raise ConfigError(
                f"{file}: has {len(right):,} images, the set now {len(source):,}; evaluate again"
            )
        sets.append(Measured(entry.id, entry.name, source, right))
    if not sets:
        raise ConfigError(f"{folder}: holds no zero-shot results; run clipjax.evaluate first")
    return sets


def neighbours(
    model: EvaluatedModel,
    sets: Sequence[Measured],
    *,
    training: Any,
    folder: Any,
    distance: int,
    num_workers: int,
) -> list[Neighbours]:
    """`Neighbours` of each set; kept in a file for the next thresholds."""

    key = results.key_of(
        {
            "weights": model.weights["id"],
            "training": training.fingerprint,
            "sets": {one.name: one.source.fingerprint for one in sets},
            "distance": distance,
        }
    )
    file, names = folder / f"neighbours_{key}.npz", ("file", "look", "embedding", "cosine")
    if not file.exists():
        embeds = [model.images(one.source) for one in sets]
        theirs = dedup.hashes(training, num_workers=num_workers)
        blocks = _embedded(model, training, usable=theirs["usable"])
        index, cosine = by_embedding(np.concatenate(embeds), blocks, mesh=model.mesh)
        index = np.where(index >= 0, np.flatnonzero(theirs["usable"])[np.maximum(index, 0)], -1)
        arrays, start = {}, 0
        for one in sets:
            mine = dedup.hashes(one.source, num_workers=num_workers)
            rows = slice(start, start + len(one.right))
            parts = (*by_hash(mine, theirs, distance=distance), index[rows], cosine[rows])
            arrays |= {f"{one.name}.{k}": part for k, part in zip(names, parts, strict=True)}
            start = rows.stop
        if distributed.is_lead():
            files.write_arrays(file, arrays, compressed=True)
    else:
        arrays = files.read_arrays(file)
    return [Neighbours(*(arrays[f"{one.name}.{k}"] for k in names)) for one in sets]


def _embedded(model: EvaluatedModel, training: Any, *, usable: np.ndarray) -> Iterator[np.ndarray]:
    rows = np.flatnonzero(usable)
    for start in tqdm(range(0, len(rows), BLOCK), unit="block"):
        yield model.images(Part(training, rows[start : start + BLOCK]))


@dataclasses.dataclass(frozen=True)
class Part(View):
    """Some records of a source."""

    source: Source
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def place(self, index: int) -> int:
        return int(self.rows[index])
