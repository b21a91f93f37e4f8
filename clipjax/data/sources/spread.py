"""Some records of another source, spread over all of it; evaluators with `max_examples` use it."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from clipjax.data import captions


@dataclasses.dataclass(frozen=True)
class Spread:
    """At most `length` of the records of `source`, the same ones always, in its order."""

    source: Any
    length: int

    @functools.cached_property
    def indices(self) -> Sequence[int]:
        """Which records of the other source; see `captions.spread`."""
        found = captions.spread(self.source, limit=self.length, drawn=True)
        return [found[i] for i in captions.evenly(len(found), limit=self.length)]

    @property
    def name(self) -> str:
        """The other source's name: the records are the same."""
        return self.source.name

    @property
    def fingerprint(self) -> str:
        """Of the other source, and of how many are taken."""
        return f"{self.source.fingerprint}[{len(self)} spread]"

    @property
    def notes(self) -> list[str]:
        """What changes how a figure of these records is read."""
        inner = getattr(self.source, "notes", [])
        if len(self) == len(self.source):
            return inner
        return [*inner, f"{len(self):,} of {len(self.source):,} records, spread over all"]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.source[self._place(index)]

    def caption(self, index: int) -> Any:
        """The caption or captions of a record."""
        return self.source.caption(self._place(index))

    def _place(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        return self.indices[index]

    @property
    def labels(self) -> Any:
        """All label keys of the data, where the source tells them: of the records left out too."""
        return self.source.labels

    @property
    def label(self) -> Any:
        """The source's function from an index to a label, where it has one."""
        known = self.source.label
        return lambda index: known(self._place(index))

    @property
    def key(self) -> Any:
        """The source's function from an index to a key, where it has one."""
        known = self.source.key
        return lambda index: known(self._place(index))
