"""The first records of another source; evaluators with `max_examples` use it."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class First:
    """`source`, cut to at most `length` records."""

    source: Any
    length: int

    @property
    def name(self) -> str:
        """The other source's name: the records are the same."""
        return self.source.name

    @property
    def fingerprint(self) -> str:
        """Of the other source, and of the cut."""
        return f"{self.source.fingerprint}[:{len(self)}]"

    def __len__(self) -> int:
        return min(self.length, len(self.source))

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        return self.source[index]

    def caption(self, index: int) -> Any:
        """The caption or captions of a record."""
        return self.source.caption(index)

    @property
    def labels(self) -> Any:
        """All label keys of the data, where the source tells them: of the records left out too."""
        return self.source.labels

    @property
    def label(self) -> Any:
        """The source's function from an index to a label, where it has one."""
        return self.source.label
