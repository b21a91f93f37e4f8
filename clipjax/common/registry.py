"""Names to things: the lookup behind every `get(name)`, with an error that names the closest."""

import difflib
import importlib
from collections.abc import Iterable, Mapping
from typing import Any

from clipjax.common.exits import ConfigError

ELSEWHERE = {  # what others call a thing, where the letters do not resemble our name for it
    "clip": "softmax_gather",
    "json": "table",
    "siglip": "sigmoid_ring",
    "wds": "tar",
    "webdataset": "tar",
}


def closest(name: str, names: Iterable[str]) -> str:
    """' (did you mean "x"?)' for the known name nearest to `name`, or '' if none is near."""
    names = list(names)
    match = difflib.get_close_matches(str(name), names, n=1, cutoff=0.6)
    if ELSEWHERE.get(str(name).lower()) in names:
        match = [ELSEWHERE[str(name).lower()]]
    return f' (did you mean "{match[0]}"?)' if match else ""


def check_name(name: str, *, names: Iterable[str], kind: str) -> None:
    """Raise ConfigError unless `name` is one of `names`; `kind` says what it names."""
    names = list(names)
    if name not in names:
        written = repr(str(name))[1:-1]  # on one line
        raise ConfigError(
            f'{kind}: "{written}" is unknown{closest(name, names)}; known: {", ".join(names)}'
        )


def lookup(name: str, *, table: Mapping[str, str], kind: str) -> Any:
    """The object a table of name → "module:attribute" gives for `name`, imported on demand."""
    check_name(name, names=table, kind=kind)
    module, attribute = table[name].split(":")
    return getattr(importlib.import_module(module), attribute)
