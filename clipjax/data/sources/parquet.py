"""Parquet files with embedded image bytes as a source: img2dataset's, or Hugging Face's.

In the registry of `clipjax.data.sources` as "parquet"; needs package pyarrow. Parquet can only be
read a row group at a time, so reading single records in random order costs a whole group each:
train with `data.order="window"` or convert first (`python -m clipjax.dataset convert`).
A shard here is one file; its groups are kept in memory up to `GROUP_BYTES` in each process.
"""

import bisect
import collections
import contextlib
import dataclasses
import functools
import os
import threading
import zlib
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from clipjax.common.exits import ConfigError, DataError
from clipjax.data.source import BadRecord
from clipjax.data.sources.fields import FieldChoice, Nulls
from clipjax.data.sources.shard_files import REMEDY, ShardFiles
from clipjax.data.sources.shard_format import Format, Table
from clipjax.data.sources.sharded import open_shards

GROUP_BYTES = 1 << 30  # of decoded row groups in one open file
BATCH = 256  # rows read at a time where nulls are looked for


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParquetTable(Table):
    """What a file's footer says."""

    with_nulls: tuple[str, ...]  # columns of image and text that may hold nulls


@dataclasses.dataclass(frozen=True)
class ParquetFormat(Format):
    """Parquet as a `shard_format.Format`; an image is binary or {"bytes", "path"}, and
    "COLUMN.FIELD" a field of a column of structs.

    Its methods raise ConfigError where pyarrow is not installed.
    """

    kind: ClassVar[str] = "Parquet file"
    ending: ClassVar[str] = ".parquet"

    def load(self, path: str, *, files: ShardFiles) -> ParquetTable:
        file = files.opened(path, opener=self.open)
        columns = tuple(file.paths)
        digest = zlib.crc32(repr((tuple(file.parquet.schema_arrow.names), file.ends)).encode())
        return ParquetTable(
            identity=file.identity,
            digest=digest,
            samples=file.rows,
            usable=self.names.pair_in(columns),
            seen=columns,
            with_nulls=tuple(file.with_nulls()),
        )

    def null_finder(self, table: ParquetTable, /) -> Callable[["OpenParquet"], Nulls] | None:
        """The footer tells whether there are nulls, and reading the columns where."""
        if not (table.usable and table.with_nulls):
            return None
        texts = self.names.texts_in(table.seen)

        def find(file: OpenParquet) -> Nulls:
            nulls = {
                name: file.nulls(name)
                if name in table.with_nulls
                else np.zeros(table.samples, bool)
                for name in (self.names.image_in(table.seen), *texts)
            }
            no_image, *no_text = nulls.values()
            return Nulls(no_image, np.logical_and.reduce(no_text))

        return find

    def open(self, path: str) -> "OpenParquet":
        return OpenParquet(path, names=self.names)

    def image(self, file: "OpenParquet", table: ParquetTable, row: int, /) -> bytes:
        name = self.names.image_in(table.seen)
        value = file.value(name, row)
        if isinstance(value, dict):  # Hugging Face's Image feature
            path, value = value.get("path"), value.get("bytes")
            if value is None and path:
                raise BadRecord("no image bytes", f"path {path} only")
        if not isinstance(value, bytes):
            held = f"text {value[:80]!r}" if isinstance(value, str) else type(value).__name__
            raise BadRecord("no image bytes", f"column {name} holds {held}")
        return value

    def text(self, file: "OpenParquet", table: ParquetTable, row: int, /) -> Any:
        names = self.names.texts_in(table.seen)
        return self.names.texts_of({name: file.value(name, row) for name in names})


open_parquet = functools.partial(open_shards, ParquetFormat)


class OpenParquet:
    """An open file that threads may read from, and its latest row groups."""

    def __init__(self, path: str, *, names: FieldChoice):
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError:
            raise ConfigError(
                'config.data.source=parquet needs package pyarrow: pip install "clipjax[parquet]"'
            ) from None
        status = os.stat(path)
        self.identity = (status.st_size, status.st_mtime_ns)
        try:
            self.parquet = parquet.ParquetFile(path, memory_map=True)
        except pyarrow.ArrowException as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise DataError(f"Parquet file {path}: {reason}; {REMEDY}") from None
        metadata = self.parquet.metadata
        self.rows = metadata.num_rows
        groups = range(metadata.num_row_groups)
        self.ends: list[int] = []
        for group in groups:
            last = self.ends[-1] if self.ends else 0
            self.ends.append(last + metadata.row_group(group).num_rows)
        self.paths = paths_in(self.parquet.schema_arrow)
        self._wanted = [
            name for name in (names.image_in(self.paths), *names.texts_in(self.paths)) if name
        ]
        self._kept: collections.OrderedDict[int, Any] = collections.OrderedDict()
        self._lock = threading.Lock()

    def with_nulls(self) -> list[str]:
        """The columns of image and text whose statistics do not rule out nulls."""
        metadata, paths = self.parquet.metadata, set[str]()
        for group in map(metadata.row_group, range(metadata.num_row_groups)):
            for chunk in map(group.column, range(group.num_columns)):
                statistics = chunk.statistics
                if statistics is None or not statistics.has_null_count or statistics.null_count:
                    paths.add(f"{chunk.path_in_schema}.")
        return [n for n in self._wanted if any(path.startswith(f"{n}.") for path in paths)]

    def nulls(self, column: str) -> np.ndarray:
        """Whether each row has null in a column, or an image with neither bytes nor path."""
        import pyarrow
        from pyarrow import compute

        field = compute.struct_field  # pyright: ignore[reportAttributeAccessIssue] (made at import)
        inside = self.paths[column][1:]
        nulls = np.zeros(self.rows, bool)
        for group in range(len(self.ends)):
            at = self.ends[group - 1] if group else 0
            batches = self.parquet.iter_batches(
                BATCH, row_groups=[group], columns=[column], use_threads=False
            )
            with contextlib.suppress(pyarrow.ArrowException, OSError):  # its rows are bad records
                for batch in batches:
                    values = batch.column(0)
                    values = field(values, inside) if inside else values
                    nulls[at : at + len(batch)] = is_null(values)
                    at += len(batch)
        return nulls

    def value(self, column: str, row: int) -> Any:
        """One value as a Python object; BadRecord if the group cannot be read."""
        group = bisect.bisect_right(self.ends, row)
        first = self.ends[group - 1] if group else 0
        with self._lock:
            table = self._group(group)
        top, *inside = self.paths[column]
        value = table.column(top)[row - first].as_py()
        for field in inside:
            value = None if value is None else value[field]
        return value

    def _group(self, group: int) -> Any:
        import pyarrow

        if group in self._kept:
            self._kept.move_to_end(group)
            return self._kept[group]
        try:
            table = self.parquet.read_row_group(group, columns=self._wanted, use_threads=False)
        except (pyarrow.ArrowException, OSError) as error:
            raise BadRecord("row group cannot be read", f"group {group}: {error}") from None
        self._kept[group] = table
        while len(self._kept) > 1 and sum(t.nbytes for t in self._kept.values()) > GROUP_BYTES:
            self._kept.popitem(last=False)
        return table


def paths_in(schema: Any) -> dict[str, list[str]]:
    """Name → column and perhaps field in it: of all columns, then those of structs but images."""
    from pyarrow import types

    structs = [column for column in schema if types.is_struct(column.type)]
    within = {
        f"{column.name}.{field.name}": [column.name, field.name]
        for column in structs
        for field in column.type
        if {each.name for each in column.type} != {"bytes", "path"}
    }
    return {name: [name] for name in schema.names} | {
        name: path for name, path in within.items() if name not in schema.names
    }


def is_null(values: Any) -> np.ndarray:
    """Whether each value of an array is null, or an image with neither bytes nor path; bool [n]."""
    from pyarrow import compute, types

    parts = [values]
    if types.is_struct(values.type):
        names = [n for n in ("bytes", "path") if values.type.get_field_index(n) >= 0]
        field = compute.struct_field  # pyright: ignore[reportAttributeAccessIssue] (made at import)
        parts = [field(values, name) for name in names] or parts
    return np.logical_and.reduce([part.is_null().to_numpy(zero_copy_only=False) for part in parts])
