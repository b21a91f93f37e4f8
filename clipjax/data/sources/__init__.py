"""Where records come from, by name.

A source gives random access to encoded records: `len(source)`, `source[index]` →
{"image": bytes, "text": str, list of str or these by field, "key": str} (with "label": str where
the data have classes), `source.caption(index)`, `source.name` and `source.fingerprint`, which
changes when the content does. It may tell `labels`, all label keys, and `label(index)` and
`key(index)` without reading the record, and fetch ahead in `prepare(indices)`. Sources can be
pickled, for worker processes. A new one is a module here and a line in the table; a new format of
shards is a `shard_format.Format`.
"""

import os
import re
from typing import Any

from clipjax.common import registry

SOURCES = {
    "digits": "clipjax.data.sources.digits:Digits",
    "mnist_5k": "clipjax.data.sources.mnist:Mnist5k",
    "folder": "clipjax.data.sources.folder:Folder",
    "objects": "clipjax.data.sources.scenes:Objects",
    "objects_noto": "clipjax.data.sources.noto:NotoObjects",
    "scenes": "clipjax.data.sources.scenes:Scenes",
    "parquet": "clipjax.data.sources.parquet:open_parquet",
    "tar": "clipjax.data.sources.tar:open_tars",
    "table": "clipjax.data.sources.table:open_tables",
    "csv": "clipjax.data.sources.table:open_tables",  # as people call it
    "tfds": "clipjax.data.sources.tfds:TfdsSource",
    "tfrecord": "clipjax.data.sources.tfrecord:open_tfrecords",
}
SHARDED = {  # `sources.sharded`, from `path`; what a folder's shards end with
    "parquet": ".parquet",
    "table": ".csv",
    "csv": ".csv",
    "tar": ".tar",
    "tfrecord": ".tfrecord",
}
FIELDS = ("image_key", "text_key", "text_weights")
# Which settings of `config.records` each one reads; all read `keep`.
READS: dict[str, tuple[str, ...]] = {
    "digits": ("split",),
    "mnist_5k": ("split",),
    "folder": ("path", "split", "text_key"),
    "objects": (),
    "objects_noto": (),
    "scenes": ("split",),
    "tfds": ("path", "name", "split", *FIELDS),
    **dict.fromkeys(SHARDED, ("path", "index", "order", "window", *FIELDS)),
}
# Need no path: packages hold the data.
OWN = tuple(name for name, reads in READS.items() if "path" not in reads)
SPLIT = (*(name for name in OWN if "split" in READS[name]), "folder")  # into "train" and others
DRAWN = ("objects", "objects_noto", "scenes")  # in any size
ENDINGS = {ending: name for name, ending in SHARDED.items()} | dict.fromkeys(
    (".csv", ".tsv", ".jsonl", ".ndjson"), "table"
)
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


def _begins(path: str, content: bytes) -> bool:
    """Whether a local file begins so, after white space."""
    try:
        with open(os.path.expanduser(path), "rb") as file:
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


def get(name: str) -> Any:
    """What makes the source called `name`; ConfigError naming the closest one if there is none."""
    return registry.lookup(name, table=SOURCES, kind="config.data.source")
