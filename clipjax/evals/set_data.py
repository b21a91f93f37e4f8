"""The data of a registered set: found below the data's folder, opened, and checked.

    DIR/wds_vtab-pets_test/           WebDataset layout of CLIP_benchmark and DataComp
    DIR/oxford_iiit_pet/4.0.0/        prepared by TensorFlow Datasets
    DIR/pets/test/CLASS/*.jpg         images in folders by class
    DIR/pets/test.csv                 or .tsv, .jsonl: paths of images with classes or captions

The first that is there is taken. Data of a size that nobody reports, without the split, or with
other classes than the set has are errors and never a score.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from etils import epath

from clipjax.common.exits import ConfigError, DataError
from clipjax.data import sources
from clipjax.data.sources import tfds
from clipjax.data.sources.folder import Folder
from clipjax.data.sources.labelled_table import LabelledTable
from clipjax.data.sources.tfds_labelled import TfdsLabelled
from clipjax.data.sources.webdataset_folder import WebDatasetFolder
from clipjax.evals.suites import Entry

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson")
CAPTIONS_EACH = 5  # of an image, the first ones count (COCO has six or seven for some)


class Missing(Exception):
    """The data are not there; says where they were looked for and how to get them."""


@dataclasses.dataclass(frozen=True)
class SetData:
    """The opened data of a set.

    Attributes:
      entry: which set.
      source: of images, see `data.sources`; with `labels` and `label(index)`, or `targets(index)`
        where an image has several classes, or `caption(index)`.
      where: back end and path, for people.
      kind: "classification", "multilabel" or "retrieval".
      split: read.
      agrees: protocols whose size the data have, () where nothing is expected.
    """

    entry: Entry
    source: Any
    where: str
    kind: str
    split: str
    agrees: tuple[str, ...]

    @property
    def n(self) -> int:
        """Images."""
        return len(self.source)

    @property
    def metric(self) -> str:
        """The main metric of the protocol that the data agree with."""
        if self.agrees and (known := self.entry.protocols[self.agrees[0]].metric):
            return known
        usual = {"classification": "top1_accuracy", "multilabel": "mean_average_precision"}
        return self.entry.metric or usual.get(self.kind, "mean_recall_at_1")

    @functools.cached_property
    def keys(self) -> tuple[str, ...]:
        """All label keys that compete: the data's, or those that occur where the set says so.

        Raises DataError if their number is not the set's.
        """
        keys = tuple(self.source.labels)
        if self.entry.subset and len(keys) != self.entry.classes:
            occur = {self.source.label(index) for index in range(self.n)}
            keys = tuple(key for key in keys if key in occur)
        if self.entry.classes and len(keys) != self.entry.classes:
            raise DataError(
                f"{self.where}: has {len(keys):,} classes where {self.entry.name} has"
                f" {self.entry.classes:,}; this is another set, or an incomplete copy"
            )
        return keys

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """int32 [N], the class of each image as its place in `keys`; DataError for an unknown."""
        place = {key: i for i, key in enumerate(self.keys)}
        found = [self.source.label(index) for index in range(self.n)]
        unknown = next((i for i, key in enumerate(found) if key not in place), None)
        if unknown is not None:
            raise DataError(
                f"{self.where}: record {self.source.key(unknown)} has the class"
                f" {found[unknown]!r}, which is none of the set's {len(self.keys):,}"
            )
        return np.array([place[key] for key in found], np.int32)

    @functools.cached_property
    def targets(self) -> tuple[np.ndarray, np.ndarray]:
        """bool [N, C] twice: the classes in each image, and those to be ignored for it."""
        pairs = [self.source.targets(index) for index in range(self.n)]
        return np.stack([p for p, _ in pairs]), np.stack([i for _, i in pairs])

    @functools.cached_property
    def groups(self) -> np.ndarray:
        """The group of each image, [N], in the set's `group_column`; DataError without groups."""
        column = self.entry.group_column or 0
        if not getattr(self.source, "has_groups", False):
            raise DataError(f"{self.where}: has no groups beside the classes; copy it again")
        return np.array([self.source.groups(index)[column] for index in range(self.n)])


def open_set(entry: Entry, *, data: str, image_size: int) -> SetData:
    """The evaluation split of a set.

    Args:
      entry: which.
      data: the folder that sets lie in, local or remote; "" for sets with a path of their own.
      image_size: pixels, of demo data, which are drawn in the model's size.

    Raises:
      Missing: nothing is there.
      ConfigError, DataError: what is there cannot be used; the message says why.
    """
    if _is_own(entry):
        found = _own(entry, entry.path, split=entry.split, image_size=image_size)
    else:
        found = _find(entry, data, "test")
    if not found:
        raise Missing(how_to_get(entry, data=data))
    source, where, split = found
    kind = _kind(source)
    _check_size(entry, n=len(source), where=where)
    agrees = tuple(name for name, n in entry.sizes.items() if n == len(source))
    return SetData(entry, source, where, kind, split, agrees)


def open_train(entry: Entry, *, data: str, image_size: int) -> SetData:
    """What a linear probe is fitted on; as `open_set`, but sizes are not checked."""
    if _is_own(entry):
        if not entry.train_path and not entry.source:
            raise Missing(f"{entry.id}: has no train_path to fit a probe on")
        path = entry.train_path or entry.path
        found = _own(entry, path, split="train", image_size=image_size)
    else:
        found = _find(entry, data, "train")
    if not found:
        raise Missing(f"{how_to_get(entry, data=data)} (its training split)")
    source, where, split = found
    return SetData(entry, source, where, _kind(source), split, ())


Found = tuple[Any, str, str] | None  # source, where, split


def _find(entry: Entry, data: str, split: str) -> Found:
    for look in (_webdataset, _tfds, _plain) if data else ():
        if found := look(entry, data, split):
            return found
    return None


def _webdataset(entry: Entry, data: str, split: str) -> Found:
    for name in (*entry.folders, entry.id):
        folder = epath.Path(data) / name
        if (folder / split / "nshards.txt").exists():
            return WebDatasetFolder(str(folder), split=split), f"{folder} (WebDataset)", split
        if (folder / "classnames.txt").exists() and split == "test":
            WebDatasetFolder(str(folder), split=split)  # raises: tells which splits there are
    return None


def _tfds(entry: Entry, data: str, split: str) -> Found:
    if not entry.tfds or not (epath.Path(data) / entry.tfds["name"].split("/")[0]).exists():
        return None
    name, part = entry.tfds["name"], entry.tfds.get(split, "")
    if not part:
        raise ConfigError(f"{entry.id}: TFDS's {name} has no {split} split that can be used")
    where = f"{data}/{name} (TFDS)"
    if text := entry.tfds.get("text"):
        made = tfds.TfdsSource(name, split=part, data_dir=data, text_key=text)
        return _FirstCaptions(made), where, part
    options = {k: v for k, v in entry.tfds.items() if k in ("label", "also", "recipe")}
    return TfdsLabelled(name, split=part, data_dir=data, **options), where, part


def _plain(entry: Entry, data: str, split: str) -> Found:
    folder = epath.Path(data) / entry.id
    if (folder / split).is_dir():
        return Folder(str(folder / split)), f"{folder / split} (images by class)", split
    for ending in TABLES:
        file = folder / f"{split}{ending}"
        if file.exists():
            return LabelledTable(str(file)), f"{file} (table)", split
    return None


def _is_own(entry: Entry) -> bool:
    return bool(entry.path or entry.source)


def _own(entry: Entry, path: str, *, split: str, image_size: int) -> Found:
    if entry.source:
        make: Callable[..., Any] = sources.get(entry.source)
        split_too = {"split": split} if entry.source in sources.SPLIT else {}
        drawn = {"image_size": image_size} if entry.source in sources.DRAWN else {}
        made = make(path) if path else make(**split_too, **drawn)
        return made, path or entry.source, split
    place = epath.Path(path).expanduser()
    if (place / split / "nshards.txt").exists():
        return WebDatasetFolder(str(place), split=split), f"{place} (WebDataset)", split
    if (place / "classnames.txt").exists() or (place / "dataset_type.txt").exists():
        WebDatasetFolder(str(place), split=split)  # raises: tells which splits there are
    if place.is_dir():
        inner = place / split
        place = inner if inner.is_dir() else place
        return Folder(str(place)), f"{place} (images by class)", split
    if place.exists():
        return LabelledTable(str(place)), f"{place} (table)", split
    return None


def _kind(source: Any) -> str:
    if getattr(source, "has_targets", False):
        return "multilabel"
    kind = getattr(source, "kind", "")
    if kind:
        return kind
    return "classification" if hasattr(source, "labels") else "retrieval"


class _FirstCaptions:
    """A source whose images keep their first five captions, as retrieval is reported."""

    kind = "retrieval"

    def __init__(self, source: Any) -> None:
        self.source = source
        self.name, self.fingerprint = source.name, f"{source.fingerprint}[:{CAPTIONS_EACH}]"

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.source[index], "text": self.caption(index)}

    def key(self, index: int) -> str:
        return self.source.key(index)

    def caption(self, index: int) -> Sequence[str]:
        found = self.source.caption(index)
        return [found] if isinstance(found, str) else found[:CAPTIONS_EACH]


def _check_size(entry: Entry, *, n: int, where: str) -> None:
    if entry.sizes and n not in entry.sizes.values():
        told = ", ".join(f"{size:,} ({name})" for name, size in entry.sizes.items())
        raise DataError(
            f"{where}: holds {n:,} images where {entry.name} has {told}; a wrong split, or an"
            " incomplete copy"
        )


def how_to_get(entry: Entry, *, data: str) -> str:
    """Where a missing set was looked for, and ways to get it."""
    if _is_own(entry):
        return f"{entry.path or entry.source}: nothing is there (looked from {os.getcwd()})"
    folder = data or "DIR"
    ways = []
    if entry.get:
        ways.append(f"copy {entry.get} to {folder}/{os.path.basename(entry.get)}")
    if entry.tfds:
        ways.append(tfds.prepare_command(entry.tfds["name"], data_dir=folder))
    captions = any(each.metric.startswith("mean_recall") for each in entry.protocols.values())
    if captions:
        table = f"write a table of images and captions, {folder}/{entry.id}/test.csv"
    else:
        table = f"put images in {folder}/{entry.id}/test/CLASS, or name them in test.csv there"
    ways.append(f"{table} (from {entry.home})")
    return "; or ".join(ways)
