"""What a file format must tell to become a source of shards; see `sources.sharded`."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from clipjax.common.exits import DataError
from clipjax.data.sources.shard_files import ShardFiles


@dataclasses.dataclass(frozen=True)
class Nulls:
    """What the n rows of a table lack."""

    no_image: np.ndarray  # bool [n]
    no_text: np.ndarray  # bool [n]
    seen: Sequence[str] = ()  # names of fields, where the table does not know them


class Table(Protocol):
    """A shard's usable records."""

    identity: tuple[int, int]  # the shard's bytes, and its mtime in ns
    digest: int  # of what the index holds
    samples: int  # usable or not
    skipped: Mapping[str, int]  # unusable ones by reason
    seen: Sequence[str]  # names of members, features or columns

    def __len__(self) -> int: ...

    def key(self, row: int, /) -> str: ...


class Format(Protocol):
    """One file format, and which of its fields are image and text. Can be pickled."""

    kind: str  # "tar shard", for messages
    ending: str  # ".tar"

    def choice(self) -> tuple[Any, ...]:
        """The settings that decide which records there are and what they hold."""
        ...

    def load(self, path: str, *, files: ShardFiles) -> Any:
        """The shard's Table; DataError if it cannot be used, OSError if it cannot be read."""
        ...

    def null_finder(self, table: Any, /) -> Callable[[Any], Nulls] | None:
        """What finds the rows without image or text in an open file; None where there are none.

        A row that cannot be read is not among them: it is a bad record when its turn comes.
        """
        ...

    def open(self, path: str) -> Any:
        """An open local file with `.identity`; closed when the last reference goes."""
        ...

    def image(self, file: Any, table: Any, row: int, /) -> bytes:
        """BadRecord or OSError if it cannot be had."""
        ...

    def text(self, file: Any, table: Any, row: int, /) -> Any:
        """A text, a list of texts, or these by field; BadRecord or OSError.

        Bytes that are no UTF-8 become surrogates, so that `captions` drops and counts them.
        """
        ...

    def fields(self, file: Any, table: Any, row: int, /) -> Sequence[str]:
        """Names of what a record holds, used or not; BadRecord or OSError."""
        ...

    def no_pairs(self, name: str, *, samples: int, seen: Sequence[str]) -> DataError:
        """The error where no sample has both image and text."""
        ...

    def missing_fields(self, source: Any) -> str:
        """Why a ShardedSource's first records lack what the settings name; "" if they don't."""
        ...
