"""The data of a registered set: found below the data's folder, opened, and checked.

    DIR/wds_vtab-pets_test/           WebDataset layout of CLIP_benchmark and DataComp
    DIR/pets/test/CLASS/*.jpg         images in folders by class
    DIR/pets/test.csv                 or .tsv, .jsonl: paths of images with classes or captions
    DIR/oxford_iiit_pet/4.0.0/        prepared by TensorFlow Datasets
    DIR/winogavil/                    a set's own files (`Entry.table`)

The first that is there is taken. Data of a size that nobody reports, without the split, or with
other classes than the set has are errors and never a score.
"""

import dataclasses
import functools

import numpy as np

from clipjax.common.exits import DataError
from clipjax.data import eval_batches
from clipjax.data.source import Source
from clipjax.evals.suites import Entry, set_places
from clipjax.evals.suites.set_places import Missing
from clipjax.evals.video_frames import MiddleFrames


@dataclasses.dataclass(frozen=True)
class SetData:
    """The opened data of a set.

    Attributes:
      entry: which set.
      source: of images, see `data.sources`; with `labels` and `label(index)`, or `targets(index)`
        where an image has several classes, or `caption(index)`; or with `cues` (`associations`).
        Of videos one image each, and `every` with all frames (`video_frames.MiddleFrames`).
      where: back end and path, for people.
      kind: "classification", "multilabel", "retrieval", "associations" or "segments" (of videos).
      split: read.
      agrees: protocols whose size the data have, () where nothing is expected.
    """

    entry: Entry
    source: Source
    where: str
    kind: str
    split: str
    agrees: tuple[str, ...]

    @property
    def n(self) -> int:
        """Images."""
        return len(self.source)

    @property
    def size(self) -> int:
        """What protocols count: cues where images are candidates for them, videos, or images."""
        return len(self.source.cues or self.source)

    @property
    def metric(self) -> str:
        """The main metric of the protocol that the data agree with."""
        if self.agrees and (known := self.entry.protocols[self.agrees[0]].metric):
            return known
        usual = {
            "classification": "top1_accuracy",
            "multilabel": "mean_average_precision",
            "associations": "jaccard",
            "segments": "frame_averaged_mwap",
        }
        return self.entry.metric or usual.get(self.kind, "mean_recall_at_1")

    @functools.cached_property
    def keys(self) -> tuple[str, ...]:
        """All label keys that compete: the data's, or those that occur where the set says so.

        Raises DataError if their number is not the set's.
        """
        keys = tuple(self.source.labels or sorted(set(self._label_keys)))
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
    def _label_keys(self) -> list[str]:
        """The label key of each record; DataError for a record without one."""
        names = [self.source.label(index) for index in range(self.n)]
        if None in names:
            raise DataError(
                f"source {self.source.name}: record {names.index(None)} has no label; zero_shot"
                " needs one"
            )
        return names

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """int32 [N], the class of each image as its place in `keys`; DataError for an unknown."""
        place, names = {key: i for i, key in enumerate(self.keys)}, self._label_keys
        unknown = next((i for i, key in enumerate(names) if key not in place), None)
        if unknown is not None:
            count = len(self.keys)
            from_one = str(names[unknown]) == str(count) and "0" in place and "0" not in names
            why = "; its labels count from 1, and those of a set from 0" if from_one else ""
            raise DataError(
                f"{self.where}: record {self.source.key(unknown)} has the class"
                f" {names[unknown]!r}, which is none of the set's {count:,}{why}"
            )
        return np.array([place[key] for key in names], np.int32)

    @functools.cached_property
    def captions(self) -> tuple[list[str], np.ndarray]:
        """M captions, and int32 [M], the image of each."""
        return eval_batches.eval_caption_list(self.source)

    @functools.cached_property
    def targets(self) -> tuple[np.ndarray, np.ndarray]:
        """bool [N, C] twice: the classes in each image, and those to be ignored for it.

        Raises DataError for a record with another number of classes than the set has.
        """
        pairs = [self.source.targets(index) for index in range(self.n)]
        for index, (positive, _) in enumerate(pairs):
            if positive.shape != (len(self.keys),):
                raise DataError(
                    f"{self.where}: record {self.source.key(index)} tells of"
                    f" {positive.size:,} classes, and the set has {len(self.keys):,}"
                )
        return np.stack([p for p, _ in pairs]), np.stack([i for _, i in pairs])

    @property
    def number(self) -> np.ndarray:
        """int [C], the images of each class."""
        if self.kind == "multilabel":
            return self.targets[0].sum(axis=0)
        return np.bincount(self.labels, minlength=len(self.keys))

    @functools.cached_property
    def groups(self) -> np.ndarray:
        """The group of each image, [N], in the set's `group_column`; DataError without groups."""
        column = self.entry.group_column or 0
        if not self.source.has_groups:
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
    found = set_places.find(entry, data=data, split="test", image_size=image_size)
    if not found:
        raise Missing(set_places.how_to_get(entry, data=data))
    made = _opened(entry, *found)
    _check_size(made)
    agrees = tuple(name for name, n in entry.sizes.items() if n == made.size)
    return dataclasses.replace(made, agrees=agrees)


def of_evaluator(source: Source, *, name: str, kind: str) -> SetData:
    """Held-out data that a run's config names, as a set of this kind without a registry entry."""
    return SetData(Entry(name, name), source, f"config.evals.{name}", kind, name, ())


def check_classes(data: SetData) -> None:
    """Raise DataError for labels that are none of the set's, or that give its metric no figure."""
    if data.kind == "multilabel":
        if not data.targets[0].any():
            raise DataError(
                f"{data.where}: no image shows any of the {len(data.keys):,} classes: another"
                " split's files, or columns of something else"
            )
        return
    present = np.unique(data.labels)
    if data.metric == "roc_auc" and len(present) < 2:
        raise DataError(
            f"{data.where}: roc_auc needs images of both classes, and all are of"
            f" {data.keys[present[0]]!r}"
        )


def open_train(entry: Entry, *, data: str, image_size: int) -> SetData:
    """What a linear probe is fitted on; as `open_set`, but sizes are not checked."""
    found = set_places.find(entry, data=data, split="train", image_size=image_size)
    if not found:
        raise Missing(set_places.how_to_get(entry, data=data, split="train"))
    return _opened(entry, *found)


def open_validation(entry: Entry, *, data: str, image_size: int) -> SetData | None:
    """The official validation split, which lies beside the training split.

    None where the set has none, or it is not there.

    Raises:
      Missing: nothing is at the set's `validation_path`.
      ConfigError, DataError: as `open_set`.
    """
    if not (entry.validation or entry.validation_path):
        return None
    found = set_places.find(entry, data=data, split="validation", image_size=image_size)
    if not found and entry.validation_path:
        raise Missing(set_places.how_to_get(entry, data=data, split="validation"))
    if not found:
        return None
    made = _opened(entry, *found)
    if entry.validation and made.size != entry.validation:
        raise DataError(
            f"{made.where}: holds {made.size:,} images where {entry.name}'s validation split has"
            f" {entry.validation:,}; copy it again, or take it away to search on training images"
        )
    return made


def _opened(entry: Entry, source: Source, where: str, split: str) -> SetData:
    if entry.video_parts:
        source = MiddleFrames(source, parts=entry.video_parts)
    kind = "segments" if entry.video_parts == 1 else source.kind
    return SetData(entry, source, where, kind, split, ())


def _check_size(data: SetData) -> None:
    entry = data.entry
    if entry.sizes and data.size not in entry.sizes.values():
        counted = "videos" if entry.video_parts else "images"
        counted = "cues" if data.kind == "associations" else counted
        told = ", ".join(f"{size:,} ({name})" for name, size in entry.sizes.items())
        if "own" in entry.sizes:
            raise DataError(
                f'{data.where}: holds {data.size:,} {counted}, and suites.own("{entry.id}") says'
                f" n={entry.sizes['own']}; a wrong split, an incomplete copy, or another n"
            )
        raise DataError(
            f"{data.where}: holds {data.size:,} {counted} where {entry.name} has {told}; a wrong"
            " split, or an incomplete copy"
        )
