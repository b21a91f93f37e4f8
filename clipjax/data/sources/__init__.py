"""Where records come from, by name.

A source gives random access to encoded records: `len(source)`, `source[index]` →
{"image": bytes, "text": str or list of str, "key": str} (with "label": str where the text is a
class name), `source.caption(index)`, `source.name` and `source.fingerprint`, which changes when
the content does. Sources can be pickled, for worker processes. A new one is a module here and a
line in the table.
"""

from typing import Any

from clipjax.common import registry

SOURCES = {
    "scenes": "clipjax.data.sources.scenes:Scenes",
    "tfds": "clipjax.data.sources.tfds:TfdsSource",
}
names = tuple(SOURCES)


def get(name: str) -> Any:
    """The source class called `name`; ConfigError naming the closest one if there is none."""
    return registry.lookup(name, table=SOURCES, kind="config.data.source")
