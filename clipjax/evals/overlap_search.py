"""Nearest training images of all evaluation images of a suite, in one pass over the training data.

The program `clipjax.overlap` calls it; results are kept in a file, so that choosing a threshold
embeds nothing again.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath
from tqdm import tqdm

from clipjax.common import files
from clipjax.common.exits import ConfigError
from clipjax.curation import dedup
from clipjax.data.source import Source, View
from clipjax.evals import overlap, suites
from clipjax.evals.evaluated import EvaluatedModel
from clipjax.evals.suites import results, set_data
from clipjax.parallel import distributed

BLOCK = 4096  # training images embedded between looks for what is near


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
    place: Any,
    distance: int,
    num_workers: int,
) -> list[overlap.Neighbours]:
    """`overlap.Neighbours` of each set; kept in a file for the next thresholds."""

    key = results.key_of(
        {
            "weights": model.weights["id"],
            "training": training.fingerprint,
            "sets": {one.name: one.source.fingerprint for one in sets},
            "distance": distance,
        }
    )
    file, names = place / f"neighbours_{key}.npz", ("file", "look", "embedding", "cosine")
    if not file.exists():
        embeds = [model.images(one.source) for one in sets]
        theirs = dedup.hashes(training, num_workers=num_workers)
        blocks = _embedded(model, training, usable=theirs["usable"])
        index, cosine = overlap.by_embedding(np.concatenate(embeds), blocks, mesh=model.mesh)
        index = np.where(index >= 0, np.flatnonzero(theirs["usable"])[np.maximum(index, 0)], -1)
        arrays, start = {}, 0
        for one in sets:
            mine = dedup.hashes(one.source, num_workers=num_workers)
            rows = slice(start, start + len(one.right))
            parts = (*overlap.by_hash(mine, theirs, distance=distance), index[rows], cosine[rows])
            arrays |= {f"{one.name}.{k}": part for k, part in zip(names, parts, strict=True)}
            start = rows.stop
        if distributed.is_lead():
            files.write_arrays(file, arrays, compressed=True)
    else:
        arrays = files.read_arrays(file)
    return [overlap.Neighbours(*(arrays[f"{one.name}.{k}"] for k in names)) for one in sets]


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
