"""Where records come from, by name: `config.data.source`.

A source is a `clipjax.data.source.Source`: a module here and a line in the table. Formats of
shards are `shard_format.Format`s instead, which `sharded` makes sources of. What a source reads and
needs stands in its entry, and the checks of a config, its builders and the programs ask there.
"""

import dataclasses
import functools
import os
import re
from collections.abc import Callable
from typing import Any

from clipjax.common import registry


@dataclasses.dataclass(frozen=True)
class Entry(registry.Entry):
    """What there is to know of a source before it is made.

    It `reads` settings of `config.records`; every source reads `keep`, too.

    Attributes:
      takes: what its code takes beside the settings named in SETTINGS.
      ending: of the files that a folder of its shards is searched for; "" where none are shards.
      others: endings of files that it reads, too.
    """

    takes: tuple[str, ...] = ()
    ending: str = ""
    others: tuple[str, ...] = ()

    @property
    def needs_path(self) -> bool:
        """Whether somebody must say where the data lie; packages hold those of the others."""
        return "path" in self.reads

    def open(self, **values: Any) -> Any:
        """The source, from those of the values that it takes."""
        takes = {*self.takes, *(set(SETTINGS) & set(self.reads))}
        return self.load()(**{name: value for name, value in values.items() if name in takes})


SETTINGS = ("path", "name", "split", "image_key", "text_key")  # that code takes as they are
FIELDS = ("image_key", "text_key", "text_weights")
_shards = functools.partial(
    Entry, reads=("path", "index", "order", "window", *FIELDS), takes=("files", "survey")
)
_tables = _shards("clipjax.data.sources.table:open_tables", ending=".csv")
DRAWN = ("image_size", "seed")

SOURCES = {
    "digits": Entry("clipjax.data.sources.digits:Digits", reads=("split",)),
    "mnist_5k": Entry("clipjax.data.sources.mnist:Mnist5k", reads=("split",)),
    "folder": Entry("clipjax.data.sources.folder:Folder", reads=("path", "split", "text_key")),
    "objects": Entry("clipjax.data.sources.scenes:Objects", takes=DRAWN),
    "objects_noto": Entry("clipjax.data.sources.noto:NotoObjects", takes=DRAWN),
    "scenes": Entry("clipjax.data.sources.scenes:Scenes", reads=("split",), takes=DRAWN),
    "parquet": _shards("clipjax.data.sources.parquet:open_parquet", ending=".parquet"),
    "tar": _shards("clipjax.data.sources.tar:open_tars", ending=".tar"),
    "table": dataclasses.replace(_tables, others=(".tsv", ".jsonl", ".ndjson")),
    "csv": _tables,  # as people call it
    "tfds": Entry(
        "clipjax.data.sources.tfds:open_split",
        reads=("path", "name", "split", *FIELDS),
        takes=("files",),
    ),
    "tfrecord": _shards("clipjax.data.sources.tfrecord:open_tfrecords", ending=".tfrecord"),
}
ENDINGS = {  # of two sources with the same ending the first one is named
    ending: name
    for name, entry in reversed(SOURCES.items())
    for ending in (entry.ending, *entry.others)
    if ending
}
ARROW = "datasets.load_from_disk(FOLDER).to_parquet('NEW.parquet') writes what is read"
REMEDIES = {  # of files that none reads as they are
    **dict.fromkeys((".gz", ".bz2", ".xz", ".zst", ".zip"), "uncompress it"),
    ".json": "write an object a line, with the path of an image and its caption, as NEW.jsonl",
    ".arrow": ARROW,
    **dict.fromkeys(
        (".npy", ".npz", ".h5", ".hdf5", ".mdb", ".lmdb", ".beton", ".rec"),
        "write its images as JPEG, with a .txt each, into tar shards",
    ),
    **dict.fromkeys((".xls", ".xlsx", ".ods"), "save it as CSV in UTF-8"),
}
names = tuple(SOURCES)


def those(is_wanted: Callable[[Entry], Any]) -> str:
    """The names of some sources, for a message: "tar, table, csv"."""
    return ", ".join(name for name, entry in SOURCES.items() if is_wanted(entry))


def by_ending(path: str) -> str:
    """The source whose shards end as `path` does, "00003.tar" or "x-00000-of-00010.parquet"; ""
    for a folder, or an ending of no source."""
    first = path.split("::")[0].partition("?")[0]  # "?" signs addresses
    ending = os.path.splitext(re.sub(r"-\d+-of-\d+$", "", first))[1].lower()
    return ENDINGS.get(ending, "")


def remedy(path: str) -> str:
    """What to do with a file that no source reads as it is; "" where that is not known."""
    ending = os.path.splitext(path)[1].lower()
    if ending == ".json" and _begins(path, b"["):
        return "write an object a line: jq -c '.[]' OLD.json > NEW.jsonl"
    return REMEDIES.get(ending, "")


def what_reads(path: str, *, ending: str = "") -> str:
    """What to do with a local file or folder that holds no shards of this ending, nor images: which
    source reads it, or its remedy; "" where neither is known."""
    path = os.path.expanduser(path)
    if not os.path.isdir(path):
        other = by_ending(path)
        is_another = bool(other) and other != ENDINGS.get(ending)
        return f"source {other} reads it" if is_another else remedy(path)
    folders = (entry.path for entry in os.scandir(path) if entry.is_dir())
    below = sorted(folder for folder in folders if os.access(folder, os.R_OK))
    for held, folder in (("it", path), *((folder, folder) for folder in below)):
        if fitting := [name for name in by_content(folder) if name != "folder"]:
            return f"source {' or '.join(fitting)} reads what {held} holds"
    endings = sorted({os.path.splitext(file)[1].lower() for file in os.listdir(path)})
    return next((REMEDIES[each] for each in endings if each in REMEDIES and each != ".json"), "")


def _begins(path: str, content: bytes) -> bool:
    """Whether a local file begins so, after white space."""
    path = os.path.expanduser(path)
    try:
        if not os.path.isfile(path):
            return False
        with open(path, "rb") as file:
            return file.read(1024).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(content)
    except OSError:
        return False


def by_content(folder: str) -> list[str]:
    """The sources that files in a local folder could be of, by their endings.

    A table beside a tar of the same name says what is in that, as img2dataset's.
    """
    files = os.listdir(folder)
    if "features.json" in files:
        return ["tfds"]
    tars = {os.path.splitext(file)[0] for file in files if by_ending(file) == "tar"}
    others = [f for f in files if by_ending(f) == "tar" or os.path.splitext(f)[0] not in tars]
    return sorted({by_ending(file) for file in others} - {""}) or ["folder"]


def entry(name: str) -> Entry:
    """The entry of the source called `name`; ConfigError naming the closest one without any."""
    registry.check_name(name, names=SOURCES, kind="config.data.source")
    return SOURCES[name]


def get(name: str) -> Any:
    """What makes the source called `name`; errors as `entry`."""
    return entry(name).load()
