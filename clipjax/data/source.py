"""What every source of records offers; `clipjax.data.sources` has them by name.

A source gives random access to encoded image-text pairs: `len(source)`, `source[index]`, and what
is known of a record without reading all of it. A new one derives from `Source`, sets `name` and
`fingerprint`, and defines `__len__`, `caption` and `image`; everything else has a default:

    class Squares(Source):
        name, fingerprint = "squares", "squares-1"

        def __len__(self): return 3
        def image(self, index): return png_of_a_square(side=index + 1)
        def caption(self, index): return f"a square of {index + 1} pixels"

Sources are pickled for worker processes: what cannot travel is opened again there.
"""

import dataclasses
import functools
import itertools
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

REMOTE_SHARDS = 32  # fetched for a sample

Texts = str | bytes | Sequence[str] | Mapping[str, str | Sequence[str]]  # one, several, by field
Extent = tuple[str, int, int]  # where records lie, the first one there, the one after the last


class BadRecord(ValueError):
    """A record cannot be used.

    Sources, `images` and `captions` raise it; `clipjax.data.examples` replaces the record, and
    `clipjax.training.bad_records` and `clipjax.curation.check` count by `reason`.

    Args:
      reason: a few words without anything particular to this record, so that counters can group by
        them: "no such file".
      detail: what is particular to it: "photos/0.jpg, looked in /data".
      key: the record's, where the message should begin with it.
    """

    def __init__(self, reason: str, detail: str = "", key: str = ""):
        super().__init__(reason, detail, key)
        self.reason = reason
        self.detail = detail
        self.key = key

    @property
    def message(self) -> str:
        """Reason and detail on one line, without the key: "no such file (photos/0.jpg, …)"."""
        text = f"{self.reason} ({self.detail})" if self.detail else self.reason
        return text if text.isprintable() else ascii(text)[1:-1]

    def __str__(self) -> str:
        return f"{self.key}: {self.message}" if self.key else self.message


@dataclasses.dataclass(frozen=True)
class Shards:
    """The files of a source, in the order of its records.

    Attributes:
      lengths: usable records of each.
      sizes: bytes of each.
      is_remote: whether reading a record may fetch its whole shard.
    """

    lengths: Sequence[int]
    sizes: Sequence[int]
    is_remote: bool = False


class Source:
    """Random access to encoded records.

    Attributes:
      name: for logs and messages.
      fingerprint: changes when the records do; a run resumes only on the same.
      names: of the sources in it, more than one in a mixture.
      labels: all label keys, those without records too; None without classes.
      class_names: what the data call their classes, in the order of `labels`; None if they do not.
      templates: prompts that the data bring along; None where they never do.
      kind: what can be measured on it: "classification", "multilabel", "retrieval" or
        "associations".
      cues: of associations between words and images; else none.
      has_groups: whether each record belongs to groups, such as a region.
      shards: None where records do not lie in shards.
      skipped: how many records were left out, by reason.
      notes: what changes how a figure measured on it is read.
      details: what is read, for the summary of a run.
      attribution: whose pictures they are, where a licence asks for it.
      kept: the bits of a selection, uint8; None where all records are used.
    """

    name: str
    fingerprint: str
    labels: Sequence[str] | None = None
    class_names: Sequence[str] | None = None
    templates: Sequence[str] | None = None
    cues: Sequence[Any] = ()
    has_groups: bool = False
    shards: Shards | None = None
    skipped: Mapping[str, int] = {}
    notes: Sequence[str] = ()
    details: str = ""
    attribution: str = ""
    kept: np.ndarray | None = None

    @property
    def names(self) -> Sequence[str]:
        return (self.name,)

    @property
    def kind(self) -> str:
        return "retrieval" if self.labels is None else "classification"

    @property
    def extents(self) -> list[Extent]:
        """Where the records lie, so that two sources can tell whether they share some."""
        return [(self.fingerprint, 0, len(self))]

    @property
    def whole(self) -> "Source":
        """The source that a view is of; itself, if it is none."""
        return self

    @property
    def every(self) -> "Source":
        """All frames where a record stands for a video; else the source itself."""
        return self

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One record, without the parts that the source has not.

        Returns:
          {"image": bytes of a file, "text": see `caption`, "key": str, "label": str}, and "source"
          in a mixture.

        Raises:
          BadRecord, ValueError, OSError: it cannot be read.
          IndexError: there is no such record.
        """
        record = {
            "image": self.image(index),
            "text": self.caption(index),
            "key": self.key(index),
            "label": self.label(index),
        }
        return {part: value for part, value in record.items() if value is not None}

    def read(self, index: int) -> dict[str, Any]:
        """`self[index]`; whatever keeps it from being read is a BadRecord."""
        try:
            return self[index]
        except BadRecord:
            raise
        except (ValueError, OSError) as error:
            raise BadRecord("unreadable record", str(error)) from error

    def image(self, index: int) -> bytes:
        """The image's file; raises as `[index]`. Only called by the default `[index]`."""
        raise NotImplementedError

    def caption(self, index: int) -> Any:
        """A text, a list of texts, or these by field, as `Texts`, without reading the image.

        None where the source has no captions; raises as `[index]`.
        """
        return None

    def key(self, index: int) -> str:
        """What to call a record, read or not: "SHARD/SAMPLE" or a path."""
        return f"index {index}"

    def label(self, index: int) -> Any:
        """The class of a record, one of `labels`; None without classes."""
        return None

    def targets(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """bool [C] twice, of kind "multilabel": classes in the image, and those to ignore."""
        raise NotImplementedError

    def groups(self, index: int) -> Sequence[Any]:
        """The groups of a record, where `has_groups`."""
        raise NotImplementedError

    def image_file(self, index: int) -> str:
        """The path of a record's image where it is a file of its own, else ""."""
        return ""

    def fields(self, index: int) -> Sequence[str]:
        """Names of the members, features or columns of a record, used or not."""
        return ()

    def has_split(self, split: str) -> bool:
        """Whether it holds this split; most sources refuse an unknown one when they are made."""
        return True

    def prepare(self, indices: Sequence[int]) -> None:
        """Fetch what these records need in the background, as they are wanted soon."""

    def spread(self, *, limit: int, drawn: bool = False) -> list[int]:
        """At most `limit` indices, ascending, evenly over all records.

        Of remote shards, each of which would be fetched whole, a few are read instead.

        Args:
          limit: how many.
          drawn: one at random is taken out of each of `limit` equal pieces, and not the first: so
            that no class is missed whose records stand at every k-th place. It is the same at each
            call.
        """
        if self.shards is None or not self.shards.is_remote:
            return evenly(len(self), limit=limit, drawn=drawn)
        lengths = self.shards.lengths
        firsts = [0, *itertools.accumulate(lengths)]
        chosen = evenly(len(lengths), limit=REMOTE_SHARDS)
        share = -(-limit // len(chosen))
        return [
            firsts[shard] + row
            for shard in chosen
            for row in evenly(lengths[shard], limit=share, drawn=drawn)
        ]

    def checked(self, index: int) -> int:
        """The index; IndexError where there is no such record."""
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is outside 0 … {len(self) - 1}")
        return int(index)


def _of_source(name: str) -> Any:
    """A property of a view that is its source's."""
    return property(operator.attrgetter(f"source.{name}"))


class View(Source):
    """Another source's records, some of them or all: a cut, a selection, images by their captions.

    A view says with `place` and `__len__` which records it has, and has a fingerprint of its own;
    everything else is as in the source.

    Attributes:
      source: the other source.
    """

    source: Source

    def place(self, index: int) -> int:
        """The source's index of a record; IndexError where there is no such record."""
        return self.checked(index)

    def __len__(self) -> int:
        return len(self.source)

    name = _of_source("name")
    labels = _of_source("labels")
    class_names = _of_source("class_names")
    templates = _of_source("templates")
    kind = _of_source("kind")
    has_groups = _of_source("has_groups")
    skipped = _of_source("skipped")
    notes = _of_source("notes")
    details = _of_source("details")
    attribution = _of_source("attribution")
    whole = _of_source("whole")
    kept = _of_source("kept")

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.source[self.place(index)]

    def caption(self, index: int) -> Any:
        return self.source.caption(self.place(index))

    def key(self, index: int) -> str:
        return self.source.key(self.place(index))

    def label(self, index: int) -> Any:
        return self.source.label(self.place(index))

    def targets(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.source.targets(self.place(index))

    def groups(self, index: int) -> Sequence[Any]:
        return self.source.groups(self.place(index))

    def image_file(self, index: int) -> str:
        return self.source.image_file(self.place(index))

    def fields(self, index: int) -> Sequence[str]:
        return self.source.fields(self.place(index))

    def has_split(self, split: str) -> bool:
        return self.source.has_split(split)

    def prepare(self, indices: Sequence[int]) -> None:
        self.source.prepare([self.place(index) for index in indices])


@dataclasses.dataclass(frozen=True)
class Spread(View):
    """At most `length` of the records of `source`, the same ones always, in its order."""

    source: Source
    length: int

    @functools.cached_property
    def indices(self) -> Sequence[int]:
        """Which records of the other source; see `Source.spread`."""
        indices = self.source.spread(limit=self.length, drawn=True)
        return [indices[i] for i in evenly(len(indices), limit=self.length)]

    @property
    def fingerprint(self) -> str:
        """Hash of the other source, and of how many of its records are taken."""
        return f"{self.source.fingerprint}[{len(self)} spread]"

    @property
    def notes(self) -> list[str]:
        """What changes how a figure of these records is read."""
        if len(self) == len(self.source):
            return [*self.source.notes]
        return [
            *self.source.notes,
            f"{len(self):,} of {len(self.source):,} records, spread over all",
        ]

    def __len__(self) -> int:
        return len(self.indices)

    def place(self, index: int) -> int:
        return self.indices[self.checked(index)]


def evenly(length: int, *, limit: int, drawn: bool = False) -> list[int]:
    """At most `limit` of the indices 0 … length - 1; `drawn` as for `Source.spread`."""
    count = min(limit, length)
    starts = [piece * length // max(count, 1) for piece in range(count + 1)]
    if not drawn:
        return starts[:-1]
    return np.random.default_rng(0).integers(starts[:-1], starts[1:]).tolist()
