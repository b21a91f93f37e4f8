"""Rows of a shard without image or text, left out and counted before training begins.

img2dataset's Parquet keeps a row with nulls for each download that failed, and rows of JSON and
TFRecord may lack a field: like tar samples without an image they are no records. Which rows these
are is found once for a shard and a choice of fields, and kept beside the shard's index, so that
positions are the same in every process and every run. Used by `sources.sharded`.
"""

import dataclasses
import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from clipjax.data.sources import index_file
from clipjax.data.sources.shard_files import ShardFiles
from clipjax.data.sources.shard_format import Format

FORMAT = 1  # raise it when what is stored changes
COLUMNS = ("no_image", "no_text", "seen", "numbers")


@dataclasses.dataclass(frozen=True)
class UsableRows:
    """A shard's table without the rows that lack image or text."""

    table: Any  # a `shard_format.Table`
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
        """Of the table, and of the rows that are left out."""
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
        counted = index_file.numbers(columns, version=FORMAT, identity=table.identity)
        return {**columns, "numbers": counted}

    columns = files.load_index(path, part=part(form), names=COLUMNS, version=FORMAT, build=build)
    no_image, no_text = columns["no_image"], columns["no_text"]
    rows = None
    if len(no_image) + len(no_text):
        rows = np.delete(np.arange(len(table), dtype=np.uint32), np.r_[no_image, no_text])
    seen = json.loads(columns["seen"].tobytes())
    return UsableRows(table, rows, len(no_image), len(no_text), seen)


def part(form: Format) -> str:
    """The name of the index that holds what the format's choice of fields leaves out."""
    return hashlib.sha256(repr(form.choice()).encode()).hexdigest()[:8]
