"""Where records come from, by name.

A source gives random access to encoded records: `len(source)`, `source[index]` →
{"image": bytes, "text": str, list of str or these by field, "key": str} (with "label": str where
the data have classes), `source.caption(index)`, `source.name` and `source.fingerprint`, which
changes when the content does. It may tell `labels`, all label keys, and `label(index)` and
`key(index)` without reading the record, and fetch ahead in `prepare(indices)`. Sources can be
pickled, for worker processes. A new one is a module here and a line in the table; a new format of
shards is a `shard_format.Format`.
"""

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
    "tfds": "clipjax.data.sources.tfds:TfdsSource",
    "tfrecord": "clipjax.data.sources.tfrecord:open_tfrecords",
}
# Need no path: packages hold the data.
OWN = ("digits", "mnist_5k", "objects", "objects_noto", "scenes")
SPLIT = ("digits", "folder", "mnist_5k", "scenes")  # into "train" and others
DRAWN = ("objects", "objects_noto", "scenes")  # in any size
SHARDED = {  # `sources.sharded`, from `path`; what a folder's shards end with
    "parquet": ".parquet",
    "table": ".csv",
    "tar": ".tar",
    "tfrecord": ".tfrecord",
}
names = tuple(SOURCES)


def get(name: str) -> Any:
    """What makes the source called `name`; ConfigError naming the closest one if there is none."""
    return registry.lookup(name, table=SOURCES, kind="config.data.source")
