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
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from clipjax.common.exits import ConfigError, DataError
from clipjax.data import eval_batches, same_image, sources
from clipjax.data.source import Source, View
from clipjax.data.sources import tfds, tfds_files
from clipjax.data.sources.associations import Associations
from clipjax.data.sources.folder import PATHS, Folder
from clipjax.data.sources.table import LabelledTable
from clipjax.data.sources.tfds import TfdsLabelled
from clipjax.data.sources.webdataset_folder import WebDatasetFolder
from clipjax.evals.suites import Entry
from clipjax.evals.video_frames import MiddleFrames

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson")
VALIDATION = ("validation", "val", "valid")  # what its folder may be called
CAPTIONS_EACH = 5  # of an image, the first ones count (COCO has six or seven for some)


class Missing(DataError):
    """Data that nobody said were there are not; says how to get them, and is no failure."""


Found = tuple[Source, str, str] | None  # source, where, split


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
        index_of, names = {key: i for i, key in enumerate(self.keys)}, self._label_keys
        unknown = next((i for i, key in enumerate(names) if key not in index_of), None)
        if unknown is not None:
            count = len(self.keys)
            from_one = str(names[unknown]) == str(count) and "0" in index_of and "0" not in names
            why = "; its labels count from 1, and those of a set from 0" if from_one else ""
            raise DataError(
                f"{self.where}: record {self.source.key(unknown)} has the class"
                f" {names[unknown]!r}, which is none of the set's {count:,}{why}"
            )
        return np.array([index_of[key] for key in names], np.int32)

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
      Missing: nothing is there of a registered set.
      ConfigError, DataError: what is there cannot be used, or nothing is at the path of a set of
        the user's own; the message says why.
    """
    opened = _open_split(entry, "test", data=data, image_size=image_size)
    _check_size(opened)
    agrees = tuple(name for name, n in entry.sizes.items() if n == opened.size)
    return dataclasses.replace(opened, agrees=agrees)


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
    return _open_split(entry, "train", data=data, image_size=image_size)


def open_validation(entry: Entry, *, data: str, image_size: int) -> SetData | None:
    """The official validation split, which lies beside the training split.

    None where the set has none, or it is not there.

    Raises:
      ConfigError, DataError: as `open_set`; nothing is at the set's `validation_path`.
    """
    if not (entry.validation or entry.validation_path):
        return None
    try:
        opened = _open_split(entry, "validation", data=data, image_size=image_size)
    except Missing:
        return None
    if entry.validation and opened.size != entry.validation:
        raise DataError(
            f"{opened.where}: holds {opened.size:,} images where {entry.name}'s validation split"
            f" has {entry.validation:,}; copy it again, or take it away to search on training"
            " images"
        )
    return opened


def _open_split(entry: Entry, split: str, *, data: str, image_size: int) -> SetData:
    opened = _find(entry, data=data, split=split, image_size=image_size)
    if not opened:
        if path := _own_path(entry, split):  # the user's word, where a registered set has none
            setting = "path" if split == "test" else f"{split}_path"
            raise DataError(
                f"{path}: nothing is there (looked from {os.getcwd()}); mend {setting} of"
                f' suites.own("{entry.id}")'
            )
        raise Missing(_how_to_get(entry, data=data, split=split))
    source, where, name = opened
    if entry.video_parts:
        source = MiddleFrames(source, parts=entry.video_parts)
    kind = "segments" if entry.video_parts == 1 else source.kind
    return SetData(entry, source, where, kind, name, ())


def _check_size(data: SetData) -> None:
    entry = data.entry
    if entry.sizes and data.size not in entry.sizes.values():
        counted = "videos" if entry.video_parts else "images"
        counted = "cues" if data.kind == "associations" else counted
        if "own" in entry.sizes:
            raise DataError(
                f'{data.where}: holds {data.size:,} {counted}, and suites.own("{entry.id}") says'
                f" n={entry.sizes['own']}; a wrong split, an incomplete copy, or another n"
            )
        sizes = ", ".join(f"{size:,} ({name})" for name, size in entry.sizes.items())
        raise DataError(
            f"{data.where}: holds {data.size:,} {counted} where {entry.name} has {sizes}; a wrong"
            " split, or an incomplete copy"
        )


def _find(entry: Entry, *, data: str, split: str, image_size: int) -> Found:
    """The source of a split with its place for people and its name there; None without data.

    Args:
      entry: which set.
      data: the folder that sets lie in, local or remote; "" for sets with a path of their own.
      split: "test", "train" or "validation", which is looked for only where "train" is.
      image_size: pixels, of demo data.

    Raises:
      ConfigError, DataError: what is there cannot be used; the message says why.
    """
    if _is_own(entry):
        path = _own_path(entry, split)
        if not path and (not entry.source or split == "validation"):
            return None
        wanted = entry.split if split == "test" else split
        try:
            return _own(entry, path or entry.path, split=wanted, image_size=image_size)
        except (ConfigError, DataError) as error:  # which speak of a config's settings
            raise type(error)(str(error).replace("config.data.", "")) from None
    # A folder by the set's name may be TFDS's own, which holds versions and no folder of a split.
    for look in (_webdataset, _plain, _tfds) if data else ():
        if split == "validation" and look(entry, data, "train"):
            return next(filter(None, (look(entry, data, name) for name in VALIDATION)), None)
        if split != "validation" and (opened := look(entry, data, split)):
            return opened
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
        captioned = tfds.TfdsSource(name, split=part, data_dir=data, text_key=text)
        return FirstCaptions(captioned), where, part
    options = {k: v for k, v in entry.tfds.items() if k in ("label", "also", "recipe")}
    return TfdsLabelled(name, split=part, data_dir=data, **options), where, part


def _plain(entry: Entry, data: str, split: str) -> Found:
    folder = epath.Path(data) / entry.id
    if entry.table:
        file = folder / entry.table
        there = split == "test" and file.exists()
        return (Associations(str(file)), f"{file} (table)", split) if there else None
    if (folder / split).is_dir():
        return _images(str(folder / split)), f"{folder / split} (images by class)", split
    for ending in TABLES:
        file = folder / f"{split}{ending}"
        if file.exists():
            table = LabelledTable(str(file))
            if table.kind == "retrieval":  # published sizes count files, be two of them equal
                table = FirstCaptions(same_image.by_image(table, contents=False))
            return table, f"{file} (table)", split
    return None


def _images(path: str, *, split: str = "") -> Folder:
    """A folder of images; files beside them are captions only where there are no classes."""
    images = Folder(path, split=split, text_key=PATHS)
    return images if images.labels else Folder(path, split=split)


def _is_own(entry: Entry) -> bool:
    return bool(entry.path or entry.source)


def _own_path(entry: Entry, split: str) -> str:
    paths = {"train": entry.train_path, "validation": entry.validation_path}
    return paths.get(split, entry.path)


def _own(entry: Entry, path: str, *, split: str, image_size: int) -> Found:
    if entry.source:
        known = sources.entry(entry.source)
        named = {} if not path else {"name": path} if "name" in known.reads else {"path": path}
        keys = {"image_key": entry.image_key, "text_key": entry.text_key}
        opened = known.open(**named, **keys, split=split, image_size=image_size)
        return _own_images(opened, entry), path or entry.source, split
    folder = epath.Path(path).expanduser()
    if (folder / split / "nshards.txt").exists():
        return WebDatasetFolder(str(folder), split=split), f"{folder} (WebDataset)", split
    if (folder / "classnames.txt").exists() or (folder / "dataset_type.txt").exists():
        WebDatasetFolder(str(folder), split=split)  # raises: tells which splits there are
    if folder.is_dir():
        images = _images(str(folder), split=split)
        return _own_images(images, entry), f"{images.top} (images by class)", split
    if folder.exists():
        return _own_images(LabelledTable(str(folder)), entry), f"{folder} (table)", split
    return None


def _own_images(source: Source, entry: Entry) -> Source:
    """The source, with the captions of an image taken together where it has captions."""
    is_package = entry.source and not sources.entry(entry.source).needs_path
    return source if is_package or source.labels is not None else same_image.by_image(source)


class FirstCaptions(View):
    """A source whose images keep their first five captions, as retrieval is reported."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.fingerprint = f"{source.fingerprint}[:{CAPTIONS_EACH}]"

    @property
    def kind(self) -> str:
        return "retrieval"

    @property
    def notes(self) -> list[str]:
        """What changes how a figure of these images is read."""
        notes = list(self.source.notes)
        more = sum(len(self._captions(index)) > CAPTIONS_EACH for index in range(len(self)))
        if more:
            notes.append(
                f"of {more:,} images only the first {CAPTIONS_EACH} captions count, as published"
            )
        return notes

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**super().__getitem__(index), "text": self.caption(index)}

    def caption(self, index: int) -> Sequence[str]:
        return self._captions(index)[:CAPTIONS_EACH]

    def _captions(self, index: int) -> Sequence[str]:
        captions = self.source.caption(index)
        return [captions] if isinstance(captions, str) else captions


def _how_to_get(entry: Entry, *, data: str, split: str = "test") -> str:
    """Where a missing split was looked for, and ways to get it."""
    if _is_own(entry):
        return f"{entry.id}: has no {split}_path for a probe; give suites.own one"
    folder = data or "DIR"
    ways = []
    if entry.get:
        ways.append(f"copy {entry.get} to {folder}/{os.path.basename(entry.get)}")
    if entry.tfds:
        ways.append(tfds_files.prepare_command(entry.tfds["name"], data_dir=folder))
    captions = any(each.metric.startswith("mean_recall") for each in entry.protocols.values())
    if entry.table:
        table = f"put {entry.table} and the unpacked images in {folder}/{entry.id}"
    elif entry.video_parts:
        frames = "CLASS/VIDEO" if entry.video_parts == 2 else "ID"
        table = f"put frames in {folder}/{entry.id}/test/{frames}"
    elif captions:
        table = f"write a table of images and captions, {folder}/{entry.id}/test.csv"
    else:
        table = f"put images in {folder}/{entry.id}/test/CLASS, or name them in test.csv there"
    ways.append(f"{table} (from {entry.home})")
    which = {"train": " (its training split)", "validation": " (its validation split)"}
    return "; or ".join(ways) + which.get(split, "")
