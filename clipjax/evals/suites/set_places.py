"""Where the data of a set lie below the data's folder, and how to get them where they do not.

`set_data` opens what is found here and checks it.
"""

import os
from collections.abc import Sequence
from typing import Any

from etils import epath

from clipjax.common.exits import ConfigError, DataError
from clipjax.data import same_image, sources
from clipjax.data.source import Source, View
from clipjax.data.sources import tfds, tfds_files
from clipjax.data.sources.associations import Associations
from clipjax.data.sources.folder import PATHS, Folder
from clipjax.data.sources.table import LabelledTable
from clipjax.data.sources.tfds import TfdsLabelled
from clipjax.data.sources.webdataset_folder import WebDatasetFolder
from clipjax.evals.suites import Entry

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson")
VALIDATION = ("validation", "val", "valid")  # what its folder may be called
CAPTIONS_EACH = 5  # of an image, the first ones count (COCO has six or seven for some)


class Missing(DataError):
    """The data are not there; says where they were looked for and how to get them."""


Found = tuple[Source, str, str] | None  # source, where, split


def find(entry: Entry, *, data: str, split: str, image_size: int) -> Found:
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
        return _own(entry, path or entry.path, split=wanted, image_size=image_size)
    # A folder by the set's name may be TFDS's own, which holds versions and no folder of a split.
    for look in (_webdataset, _plain, _tfds) if data else ():
        if split == "validation" and look(entry, data, "train"):
            return next(filter(None, (look(entry, data, name) for name in VALIDATION)), None)
        if split != "validation" and (found := look(entry, data, split)):
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
        return FirstCaptions(made), where, part
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
    made = Folder(path, split=split, text_key=PATHS)
    return made if made.labels else Folder(path, split=split)


def _is_own(entry: Entry) -> bool:
    return bool(entry.path or entry.source)


def _own_path(entry: Entry, split: str) -> str:
    paths = {"train": entry.train_path, "validation": entry.validation_path}
    return paths.get(split, entry.path)


def _own(entry: Entry, path: str, *, split: str, image_size: int) -> Found:
    if entry.source:
        known = sources.entry(entry.source)
        place = {} if not path else {"name": path} if "name" in known.reads else {"path": path}
        opened = known.open(**place, split=split, image_size=image_size)
        return _own_images(opened, entry), path or entry.source, split
    place = epath.Path(path).expanduser()
    if (place / split / "nshards.txt").exists():
        return WebDatasetFolder(str(place), split=split), f"{place} (WebDataset)", split
    if (place / "classnames.txt").exists() or (place / "dataset_type.txt").exists():
        WebDatasetFolder(str(place), split=split)  # raises: tells which splits there are
    if place.is_dir():
        made = _images(str(place), split=split)
        return _own_images(made, entry), f"{made.top} (images by class)", split
    if place.exists():
        return _own_images(LabelledTable(str(place)), entry), f"{place} (table)", split
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
        found = self.source.caption(index)
        return [found] if isinstance(found, str) else found


def how_to_get(entry: Entry, *, data: str, split: str = "test") -> str:
    """Where a missing split was looked for, and ways to get it."""
    if _is_own(entry):
        path = _own_path(entry, split)
        if not path and split != "test":
            return f"{entry.id}: has no {split}_path for a probe"
        return f"{path or entry.source}: nothing is there (looked from {os.getcwd()})"
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
    told = {"train": " (its training split)", "validation": " (its validation split)"}
    return "; or ".join(ways) + told.get(split, "")
