"""Names to things: the lookup behind every `get(name)`, with an error that names the closest."""

import dataclasses
import difflib
import importlib
from collections.abc import Iterable, Mapping
from typing import Any

from clipjax.common.exits import ConfigError

ELSEWHERE = {  # what others call a thing, where the letters do not resemble our name for it
    "clip": "softmax_gather",
    "hf": "huggingface",
    "json": "table",
    "siglip": "sigmoid_ring",
    "transformers": "huggingface",
    "wds": "tar",
    "webdataset": "tar",
}


@dataclasses.dataclass(frozen=True)
class Entry:
    """One choice of a setting `GROUP.name`: where its code is, and which settings it reads.

    Attributes:
      code: "module:attribute", imported when it is used.
      reads: settings of the same group that not every choice reads.
      needs: settings of the whole config that must be on, such as "model.logit_bias".
    """

    code: str
    reads: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()

    def load(self) -> Any:
        """The object that `code` names, imported now."""
        module, attribute = self.code.split(":")
        return getattr(importlib.import_module(module), attribute)


def unread(name: str, *, table: Mapping[str, Entry]) -> list[str]:
    """The settings that other entries of a table read and this one does not, in their order."""
    every = dict.fromkeys(key for entry in table.values() for key in entry.reads)
    return [key for key in every if key not in table[name].reads]


def closest(name: str, names: Iterable[str]) -> str:
    """' (did you mean "x"?)' for the known name nearest to `name`, or '' if none is near."""
    written, by_lower = str(name).lower(), {each.lower(): each for each in names}
    match = difflib.get_close_matches(written, by_lower, n=1, cutoff=0.6)
    if ELSEWHERE.get(written) in by_lower:
        match = [ELSEWHERE[written]]
    return f' (did you mean "{by_lower[match[0]]}"?)' if match else ""


def check_name(name: str, *, names: Iterable[str], kind: str) -> None:
    """Raise ConfigError unless `name` is one of `names`; `kind` says what it names."""
    names = list(names)
    if name not in names:
        written = repr(str(name))[1:-1]  # on one line
        raise ConfigError(
            f'{kind}: "{written}" is unknown{closest(name, names)}; known: {", ".join(names)}'
        )


def lookup(name: str, *, table: Mapping[str, str] | Mapping[str, Entry], kind: str) -> Any:
    """The object a table of name → "module:attribute" or Entry gives for `name`, imported now."""
    check_name(name, names=table, kind=kind)
    entry = table[name]
    return (entry if isinstance(entry, Entry) else Entry(entry)).load()
