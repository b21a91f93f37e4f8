"""CSV, TSV and JSON lines that name image files, as a source.

In the registry of `clipjax.data.sources` as "table". Every row has the path of an image, relative
to the table's folder or absolute, and a text: the layout of open_clip's CSV (`filepath`, `title`)
and of Hugging Face's ImageFolder (`file_name`, `text`). Rows stay in the file; only where each one
begins is kept.
"""

import csv
import dataclasses
import json
import os
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from clipjax.common.exits import ConfigError, DataError
from clipjax.data.sources import index_file, remote, sharded
from clipjax.data.sources.fields import FieldChoice
from clipjax.data.sources.parquet import as_texts
from clipjax.data.sources.shard_files import ShardFiles
from clipjax.data.sources.sharded import ShardedSource
from clipjax.data.sources.tar_reader import OpenTar

FORMAT = 1  # raise it when what is stored changes
COLUMNS = ("starts", "head", "numbers")
IMAGES = ("filepath", "file_name", "filename", "image_path", "image", "path", "file")
MAX_ROW = 1 << 20  # bytes
MAX_IMAGE = 64 << 20  # bytes
DELIMITERS = {".csv": ",", ".tsv": "\t"}
LINES = (".jsonl", ".ndjson")


def open_tables(
    path: str | os.PathLike[str],
    *,
    image_key: str = "",
    text_key: str = "",
    files: ShardFiles | None = None,
    survey: Mapping[str, Any] | None = None,
) -> ShardedSource:
    """The image-text pairs that tables name; arguments and errors as `ShardedSource`, and:

    Args:
      path: of .csv, .tsv or .jsonl files; a folder stands for its .csv files.
      image_key: the column of the image's path; "" is one of `IMAGES`.
      text_key: the column of the text, or several joined by ","; "" is one of `fields.TEXTS`. A
        list in JSON gives several captions.

    Raises:
      ConfigError: a table is remote, or has another ending.
    """
    if remote.is_remote(os.fspath(path)):
        raise ConfigError(
            f"config.data.path: {path} is remote, and tables name local image files; copy both, or"
            " convert them to tar shards"
        )
    form = TableFormat(FieldChoice.of(image_key=image_key, text_key=text_key, images=IMAGES))
    return ShardedSource(path, form=form, files=files or ShardFiles(), survey=survey)


@dataclasses.dataclass(frozen=True)
class RowTable:
    """Where the rows of a file begin."""

    identity: tuple[int, int]
    digest: int
    starts: np.ndarray  # uint64 [n + 1], the end of the last row too
    columns: tuple[str, ...]  # of the head; () for JSON lines
    skipped: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def samples(self) -> int:
        return len(self)

    @property
    def seen(self) -> tuple[str, ...]:
        return self.columns

    def key(self, row: int) -> str:
        """The row's number, from 0, without the head."""
        return str(row)


class OpenTable:
    """An open table: a file to read from by offset, and what its name says."""

    def __init__(self, path: str):
        self.file = OpenTar(path)
        self.identity = self.file.identity
        self.folder = os.path.dirname(os.path.abspath(path))
        self.ending = ending_of(path)


@dataclasses.dataclass(frozen=True)
class TableFormat:
    """Tables as a `sharded.Format`."""

    kind: ClassVar[str] = "table"
    ending: ClassVar[str] = ".csv"

    names: FieldChoice

    def choice(self) -> tuple[Any, ...]:
        return dataclasses.astuple(self.names)

    def load(self, path: str, *, files: ShardFiles) -> RowTable:
        return load_table(path, files=files)

    def open(self, path: str) -> OpenTable:
        return OpenTable(path)

    def image(self, file: OpenTable, table: RowTable, row: int, /) -> bytes:
        values = read_row(file, table, row)
        name = values.get(self.names.image_in(values))
        if not isinstance(name, str) or not name or "\0" in name:
            raise ValueError("no image path in the row")
        return read_image(os.path.join(file.folder, name))

    def text(self, file: OpenTable, table: RowTable, row: int, /) -> Any:
        values = read_row(file, table, row)
        texts = {name: as_texts(values[name]) for name in self.names.texts_in(values)}
        return texts if len(texts) > 1 else next(iter(texts.values()), "")

    def fields(self, file: OpenTable, table: RowTable, row: int, /) -> Sequence[str]:
        return list(read_row(file, table, row))

    def no_pairs(self, name: str, *, samples: int, seen: Sequence[str]) -> DataError:
        return self.names.no_pairs(name, samples=samples, seen=seen)

    def missing_fields(self, source: ShardedSource) -> str:
        seen: dict[str, None] = {}
        looked_at = min(len(source), sharded.LOOKED_AT)
        for index in range(looked_at):
            try:
                values = read_row(*source.locate(index))
            except (ValueError, OSError):
                continue
            if self.names.pair_in(values):
                return ""
            seen.update(dict.fromkeys(values))
        return str(self.no_pairs(source.name, samples=looked_at, seen=list(seen)))


def ending_of(path: str) -> str:
    """The table's ending, in lower case; ConfigError if it is none that can be read."""
    ending = os.path.splitext(path)[1].lower()
    if ending not in DELIMITERS and ending not in LINES:
        known = ", ".join((*DELIMITERS, *LINES))
        raise ConfigError(f"config.data.path: {path} has none of the endings {known}")
    return ending


def load_table(path: str, *, files: ShardFiles) -> RowTable:
    """Where the rows of a table begin; DataError if it cannot be taken apart."""

    def build() -> index_file.Columns:
        identity = files.identity(path)
        with open(path, "rb") as file:
            starts, head = walk(file, path=path)
        columns = {
            "starts": np.frombuffer(starts, np.uint64),
            "head": np.frombuffer(json.dumps(head).encode(), np.uint8),
        }
        counted = index_file.numbers(columns, version=FORMAT, identity=identity)
        return {**columns, "numbers": counted}

    ending_of(path)
    columns = files.load_index(path, names=COLUMNS, version=FORMAT, build=build)
    _, size, mtime, digest = columns["numbers"].tolist()
    head = tuple(json.loads(columns["head"].tobytes()))
    return RowTable((size, mtime), digest, columns["starts"], head)


def walk(file: Any, *, path: str) -> tuple[array, list[str]]:
    """Where rows begin, with the end of the last, and the names in the head (CSV)."""
    starts = array("Q")
    ending = ending_of(path)
    if ending in LINES:
        at = 0
        for line in file:
            if line.strip():
                starts.append(at)
            at += len(line)
        starts.append(at)
        return starts, []
    at = 0

    def lines() -> Iterator[str]:  # the reader takes one line at a time, more within quotes
        nonlocal at
        for line in file:
            at += len(line)
            yield line.decode("utf-8", "replace")

    reader = csv.reader(lines(), delimiter=DELIMITERS[ending])
    try:
        head = [name.strip().removeprefix("\ufeff") for name in next(reader, [])]
        begin = at
        for row in reader:
            if row:
                starts.append(begin)
            begin = at
    except csv.Error as error:
        raise DataError(f"table {path}: {error} near byte {at:,}; repair it") from None
    starts.append(at)
    return starts, head


def read_row(file: OpenTable, table: RowTable, row: int) -> dict[str, Any]:
    """The values of one row by column; ValueError if it is damaged."""
    begin, end = int(table.starts[row]), int(table.starts[row + 1])
    if end - begin > MAX_ROW:
        raise ValueError(f"a row of {end - begin:,} bytes is above the limit of {MAX_ROW:,}")
    data = file.file.read(end - begin, offset=begin).decode("utf-8-sig", "surrogateescape")
    if file.ending in LINES:
        try:
            values = json.loads(data)
        except (ValueError, RecursionError):
            raise ValueError("the line is no JSON") from None
        if not isinstance(values, dict):
            raise ValueError("the line holds no fields")
        return values
    lines = data.splitlines(keepends=True)
    try:
        values = next(csv.reader(lines, delimiter=DELIMITERS[file.ending]), [])
    except csv.Error as error:
        raise ValueError(f"the row cannot be taken apart ({error})") from None
    return dict(zip(table.columns, values, strict=False))


def read_image(path: str) -> bytes:
    """A file's bytes; ValueError where it is too large, OSError where it cannot be read."""
    file = OpenTar(path)
    if file.length > MAX_IMAGE:
        raise ValueError(f"an image of {file.length:,} bytes is above the limit of {MAX_IMAGE:,}")
    return file.read(file.length, offset=0)
