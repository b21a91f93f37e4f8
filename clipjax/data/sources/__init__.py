"""Where records come from, by name.

A source gives random access to encoded records: `len(source)`, `source[index]` →
{"image": bytes, "text": str or list of str, "key": str} (with "label": str where the data have
classes), `source.caption(index)`, `source.name` and `source.fingerprint`, which changes when
the content does. It may tell `labels`, all label keys, and `label(index)` and `key(index)` without
reading the record. Sources can be pickled, for worker processes. A new one is a module here and a
line in the table.
"""

from typing import Any

from clipjax.common import registry

SOURCES = {
    "digits": "clipjax.data.sources.digits:Digits",
    "folder": "clipjax.data.sources.folder:Folder",
    "objects": "clipjax.data.sources.scenes:Objects",
    "objects_noto": "clipjax.data.sources.noto:NotoObjects",
    "scenes": "clipjax.data.sources.scenes:Scenes",
    "tar": "clipjax.data.sources.tar:TarSource",
    "tfds": "clipjax.data.sources.tfds:TfdsSource",
}
OWN = ("digits", "objects", "objects_noto", "scenes")  # need no path: packages hold the data
names = tuple(SOURCES)


def get(name: str) -> Any:
    """The source class called `name`; ConfigError naming the closest one if there is none."""
    return registry.lookup(name, table=SOURCES, kind="config.data.source")
