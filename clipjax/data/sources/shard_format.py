"""File formats of shards, which `sources.sharded` makes sources of.

A format says which samples of a shard have image and text (its `Table`), and how to read one. Rows
of a table without image or text are left out and counted before training begins: img2dataset's
Parquet keeps a row with nulls for each download that failed, and rows of JSON and TFRecord may lack
a field: like tar samples without an image they are no records. Which rows these are is found once
for a shard and a choice of fields, and kept beside the shard's index, so that positions are the
same in every process and every run.
"""

import dataclasses
import hashlib
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from clipjax.common.exits import DataError
from clipjax.data.sources import fields, index_file
from clipjax.data.sources.fields import FieldChoice, Nulls
from clipjax.data.sources.shard_files import OpenFile, ShardFiles

VERSION = 1  # raise it when what is stored of rows changes
COLUMNS = ("no_image", "no_text", "seen", "numbers")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """A shard's samples by row, as far as its index tells.

    Attributes:
      identity: the shard's bytes, and its mtime in ns.
      digest: of what the index holds.
      samples: rows, usable or not.
      usable: whether there are columns of image and text.
      seen: names of members, features or columns.
    """

    identity: tuple[int, int]
    digest: int
    samples: int
    usable: bool = True
    seen: Sequence[str] = ()

    def __len__(self) -> int:
        return self.samples if self.usable else 0

    @property
    def skipped(self) -> Mapping[str, int]:
        """How many samples are not usable, by reason."""
        return {} if self.usable else {fields.NO_COLUMNS: self.samples}

    def key(self, row: int) -> str:
        """The row's number, from 0: its own key would cost a read."""
        return str(row)


@dataclasses.dataclass(frozen=True)
class Format:
    """One file format, and which of its fields are image and text. Can be pickled.

    Attributes:
      names: the choice of fields.
      kind: "tar shard", for messages.
      ending: ".tar".
      images: names of fields that may be the image, where the user names none.
    """

    names: Any

    kind: ClassVar[str]
    ending: ClassVar[str]
    images: ClassVar[tuple[str, ...]] = fields.IMAGES

    @classmethod
    def of(cls, *, image_key: str = "", text_key: str = "") -> "Format":
        """The format with the fields that settings name.

        Args:
          image_key: the field that holds the encoded image; "" is one of `images`.
          text_key: the field of the text, or several joined by ","; "" is one of `fields.TEXTS`. A
            list there gives several captions.
        """
        return cls(FieldChoice.of(image_key=image_key, text_key=text_key, images=cls.images))

    def choice(self) -> tuple[Any, ...]:
        """The settings that decide which records there are and what they hold."""
        return dataclasses.astuple(self.names)

    def check_path(self, path: str) -> None:
        """Raise ConfigError where `config.data.path` names what this format cannot read."""

    def load(self, path: str, *, files: ShardFiles) -> Any:
        """The shard's Table; DataError if it cannot be used, OSError if it cannot be read."""
        raise NotImplementedError

    def null_finder(self, table: Any, /) -> Callable[[Any], Nulls] | None:
        """What finds the rows without image or text in an open file; None where there are none.

        A row that cannot be read is not among them: it is a bad record when its turn comes.
        """
        return None

    def open(self, path: str) -> Any:
        """An open local file with `.identity`; closed when the last reference goes."""
        return OpenFile(path)

    def image(self, file: Any, table: Any, row: int, /) -> bytes:
        """The encoded image of a row; BadRecord or OSError if it cannot be had."""
        raise NotImplementedError

    def image_file(self, file: Any, table: Any, row: int, /) -> str:
        """The path of the image where it is a file of its own, else ""; raises as `image`."""
        return ""

    def text(self, file: Any, table: Any, row: int, /) -> Any:
        """A text, a list of texts, or these by field; BadRecord or OSError.

        Bytes that are no UTF-8 become surrogates, so that `captions` drops and counts them.
        """
        raise NotImplementedError

    def fields(self, file: Any, table: Any, row: int, /) -> Sequence[str]:
        """Names of what a record holds, used or not; BadRecord or OSError."""
        return table.seen

    def no_pairs(self, name: str, *, samples: int, seen: Sequence[str]) -> DataError:
        """The error where no sample has both image and text."""
        return self.names.no_pairs(name, samples=samples, seen=seen)

    def missing_fields(self, source: Any) -> str:
        """Why a ShardedSource's first records lack what the settings name; "" if they don't.

        Mostly the tables and their nulls have told.
        """
        return ""


@dataclasses.dataclass(frozen=True)
class UsableRows:
    """A shard's table without the rows that lack image or text."""

    table: Table
    rows: np.ndarray | None = None  # uint32, the rows of the table that are used; None is all
    no_image: int = 0
    no_text: int = 0
    names: Sequence[str] = ()  # of fields, where the table does not know them

    def __len__(self) -> int:
        return len(self.table) if self.rows is None else len(self.rows)

    def row(self, number: int) -> int:
        """The row of the table that is the usable row of this number."""
        return number if self.rows is None else int(self.rows[number])

    def key(self, number: int) -> str:
        return self.table.key(self.row(number))

    @property
    def identity(self) -> tuple[int, int]:
        return self.table.identity

    @property
    def digest(self) -> int:
        """Hash of the table, and of the rows that are left out."""
        if self.rows is None:
            return self.table.digest
        return zlib.crc32(self.rows.tobytes(), self.table.digest)

    @property
    def samples(self) -> int:
        return self.table.samples

    @property
    def skipped(self) -> Mapping[str, int]:
        own = {"rows without image": self.no_image, "rows without text": self.no_text}
        return {**self.table.skipped, **{reason: count for reason, count in own.items() if count}}

    @property
    def seen(self) -> Sequence[str]:
        return self.names or self.table.seen


def load(path: str, *, form: Format, files: ShardFiles) -> UsableRows:
    """The usable rows of a shard; raises as `form.load` and `form.open` do."""
    table = form.load(path, files=files)
    find = form.null_finder(table)
    if find is None:
        return UsableRows(table)

    def build() -> index_file.Columns:
        nulls = find(files.opened(path, opener=form.open))
        columns = {
            "no_image": np.flatnonzero(nulls.no_image).astype(np.uint32),
            "no_text": np.flatnonzero(nulls.no_text & ~nulls.no_image).astype(np.uint32),
            "seen": np.frombuffer(json.dumps(list(nulls.seen)).encode(), np.uint8),
        }
        counted = index_file.numbers(columns, version=VERSION, identity=table.identity)
        return {**columns, "numbers": counted}

    columns = files.load_index(path, part=part(form), names=COLUMNS, version=VERSION, build=build)
    no_image, no_text = columns["no_image"], columns["no_text"]
    rows = None
    if len(no_image) + len(no_text):
        rows = np.delete(np.arange(len(table), dtype=np.uint32), np.r_[no_image, no_text])
    seen = json.loads(columns["seen"].tobytes())
    return UsableRows(table, rows, len(no_image), len(no_text), seen)


def part(form: Format) -> str:
    """The name of the index that holds what the format's choice of fields leaves out."""
    return hashlib.sha256(repr(form.choice()).encode()).hexdigest()[:8]
