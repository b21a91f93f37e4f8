"""CSV, TSV and JSON lines that name image files, as a source.

In the registry of `clipjax.data.sources` as "table". Every row has the path of an image, relative
to the table's folder or absolute, and a text: the layout of open_clip's CSV (`filepath`, `title`)
and of Hugging Face's ImageFolder (`file_name`, `text`). Rows stay in the file; only where each one
begins is kept. Text is UTF-8 and what it says: "NA", "null" and "None" are captions. How CSV and
TSV are taken apart: `sources.delimited`.
"""

import dataclasses
import json
import os
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from clipjax.common.exits import ConfigError, DataError
from clipjax.data import images, sources
from clipjax.data.bad_record import BadRecord
from clipjax.data.sources import delimited, index_file, remote
from clipjax.data.sources.fields import NO_COLUMNS, FieldChoice
from clipjax.data.sources.shard_files import ShardFiles
from clipjax.data.sources.shard_format import Nulls
from clipjax.data.sources.sharded import ShardedSource
from clipjax.data.sources.tar_reader import OpenTar

FORMAT = 2  # raise it when what is stored changes
COLUMNS = ("starts", "head", "jumps", "numbers")
IMAGES = ("filepath", "file_name", "filename", "image_path", "image", "path", "file")
MAX_IMAGE = 64 << 20  # bytes
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
    jumps: np.ndarray  # uint64 [k, 2]: row and line, see `delimited.RowStarts`
    columns: tuple[str, ...]  # of the head; () for JSON lines
    usable: bool  # the head names image and text

    def __len__(self) -> int:
        return self.samples if self.usable else 0

    @property
    def samples(self) -> int:
        return len(self.starts) - 1

    @property
    def skipped(self) -> dict[str, int]:
        return {} if self.usable else {NO_COLUMNS: self.samples}

    @property
    def seen(self) -> tuple[str, ...]:
        return self.columns

    def key(self, row: int) -> str:
        """The row's number, from 0, without the head."""
        return str(row)

    def line(self, row: int) -> int:
        """The number of a row's first line in the file, from 1."""
        jump = int(np.searchsorted(self.jumps[:, 0], row, side="right")) - 1
        first, line = map(int, self.jumps[jump])
        return line + row - first


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
        return load_table(path, names=self.names, files=files)

    def null_finder(self, table: RowTable, /) -> Callable[[OpenTable], Nulls] | None:
        """In JSON lines a field may be null or not there; in CSV there is no null."""
        if table.columns or not table.usable:
            return None
        return lambda file: self.names.nulls(
            _names_in(file, table, row) for row in range(table.samples)
        )

    def open(self, path: str) -> OpenTable:
        return OpenTable(path)

    def image(self, file: OpenTable, table: RowTable, row: int, /) -> bytes:
        try:
            return named_image(self._name(file, table, row), folder=file.folder)
        except BadRecord as error:
            raise at_line(table, row, error) from None

    def image_file(self, file: OpenTable, table: RowTable, row: int, /) -> str:
        """The path of a row's image; BadRecord where the row names none."""
        return os.path.normpath(os.path.join(file.folder, self._name(file, table, row)))

    def _name(self, file: OpenTable, table: RowTable, row: int) -> str:
        values = read_row(file, table, row)
        name = values.get(self.names.image_in(values))
        if not isinstance(name, str) or not name or "\0" in name:
            raise BadRecord("no image path", f"{ascii(name)[:80]}")
        return name

    def text(self, file: OpenTable, table: RowTable, row: int, /) -> Any:
        try:
            return self.names.texts_of(read_row(file, table, row))
        except BadRecord as error:
            raise at_line(table, row, error) from None

    def fields(self, file: OpenTable, table: RowTable, row: int, /) -> Sequence[str]:
        return list(read_row(file, table, row))

    def no_pairs(self, name: str, *, samples: int, seen: Sequence[str]) -> DataError:
        return self.names.no_pairs(name, samples=samples, seen=seen)

    def missing_fields(self, source: ShardedSource) -> str:
        return ""  # the head has told, or the nulls


def ending_of(path: str) -> str:
    """The table's ending, in lower case; ConfigError if it is none that can be read."""
    ending = os.path.splitext(path)[1].lower()
    if ending not in delimited.DELIMITERS and ending not in LINES:
        known = ", ".join((*delimited.DELIMITERS, *LINES))
        remedy = f"; {sources.REMEDIES[ending]}" if ending in sources.REMEDIES else ""
        raise ConfigError(f"config.data.path: {path} has none of the endings {known}{remedy}")
    return ending


def load_table(path: str, *, names: FieldChoice, files: ShardFiles) -> RowTable:
    """Where the rows of a table begin; DataError if it cannot be taken apart."""

    def build() -> index_file.Columns:
        identity = files.identity(path)
        rows, head = walk(path)
        columns = {
            "starts": np.array([*rows.starts, identity[0]], np.uint64),
            "head": np.frombuffer(json.dumps(head).encode(), np.uint8),
        }
        counted = index_file.numbers(columns, version=FORMAT, identity=identity)
        jumps = np.array(rows.jumps, np.uint64)  # follow from the others, and are not counted
        return {**columns, "jumps": jumps, "numbers": counted}

    ending_of(path)
    columns = files.load_index(path, names=COLUMNS, version=FORMAT, build=build)
    _, size, mtime, digest = columns["numbers"].tolist()
    head = tuple(json.loads(columns["head"].tobytes()))
    jumps = columns["jumps"].reshape(-1, 2)
    usable = ending_of(path) in LINES or names.pair_in(head)
    for name in (names.image_in(head), *names.texts_in(head)):
        if head.count(name) > 1:
            raise DataError(
                f"table {path}: its head names column {name!r} {head.count(name)} times"
            )
    return RowTable((size, mtime), digest, columns["starts"], jumps, head, usable)


def rows_of(path: str) -> list[dict[str, Any]]:
    """The values of all rows by column, for data of which no row may be wrong.

    Raises DataError, with its line, for a row that cannot be taken apart.
    """
    rows, head = walk(path)
    file = OpenTable(path)
    starts = np.array([*rows.starts, file.file.length], np.uint64)
    jumps = np.array(rows.jumps, np.uint64).reshape(-1, 2)
    table = RowTable(file.identity, 0, starts, jumps, tuple(head), usable=True)
    values = []
    for row in range(table.samples):
        try:
            values.append(with_nulls(file, table, row))
        except BadRecord as error:
            raise DataError(f"{path}: {at_line(table, row, error).message}; repair it") from None
    return values


def walk(path: str) -> tuple[delimited.RowStarts, list[str]]:
    """Where rows begin, and the names in the head, none for JSON lines."""
    ending = ending_of(path)
    if ending not in LINES:
        return delimited.walk(path, ending=ending)
    rows = delimited.RowStarts()
    for line in delimited.lines(path):
        if line[2].strip(string.whitespace):
            rows.add(line)
    return rows, []


def read_row(file: OpenTable, table: RowTable, row: int) -> dict[str, Any]:
    """The values of one row by column, without nulls; BadRecord if it cannot be taken apart."""
    values = with_nulls(file, table, row)
    if table.columns:
        return values
    return {name: value for name, value in values.items() if value is not None}


def with_nulls(file: OpenTable, table: RowTable, row: int) -> dict[str, Any]:
    """As `read_row`, of JSON with the fields that are null."""
    begin, end = int(table.starts[row]), int(table.starts[row + 1])
    data = file.file.read(min(end - begin, delimited.MAX_ROW + 1), offset=begin)
    if file.ending in LINES:
        return fields_of(data)
    values = delimited.values_of(data, ending=file.ending)
    if len(values) != len(table.columns):
        raise BadRecord(
            "wrong number of fields", f"{len(values)} where the head has {len(table.columns)}"
        )
    return dict(zip(table.columns, values, strict=True))


def fields_of(data: bytes) -> dict[str, Any]:
    """The fields in a line of JSON; BadRecord if it is no JSON object."""
    if len(data) > delimited.MAX_ROW:
        raise BadRecord("row too long", f"the limit is {delimited.MAX_ROW:,} bytes")
    text = delimited.decoded(data).removeprefix("\ufeff")
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRecord("the line is no JSON", getattr(error, "msg", str(error))) from None
    if not isinstance(values, dict):
        raise BadRecord("the line holds no fields", f"a JSON {type(values).__name__}")
    return values


def _names_in(file: OpenTable, table: RowTable, row: int) -> Sequence[str] | None:
    """The names of a row's fields; None if it cannot be read."""
    try:
        return list(read_row(file, table, row))
    except (BadRecord, OSError):
        return None


def at_line(table: RowTable, row: int, error: BadRecord) -> BadRecord:
    """The same error, with the line of the file that the row begins on."""
    line = f"line {table.line(row):,}"
    return BadRecord(error.reason, f"{line}: {error.detail}" if error.detail else line)


def named_image(name: str, *, folder: str) -> bytes:
    """The bytes of the image that a row names; BadRecord if they cannot be had."""
    looked = "" if os.path.isabs(name) else f", looked in {folder}"
    try:
        return read_image(os.path.join(folder, name))
    except (FileNotFoundError, NotADirectoryError):
        if "://" in name:
            looked = ": an address; fetch the images first, as img2dataset does"
        elif "\\" in name:
            looked += "; write / where it has \\"
        raise BadRecord("no such file", f"{name}{looked}") from None
    except OSError as error:
        raise BadRecord("unreadable file", f"{name}{looked}: {error.strerror or error}") from None


def read_image(path: str) -> bytes:
    """An image file, see `images.from_file`; BadRecord where it is too large or damaged, OSError
    where it cannot be read."""
    file = OpenTar(path)
    if file.length > MAX_IMAGE:
        detail = f"an image of {file.length:,} bytes is above the limit of {MAX_IMAGE:,}"
        raise BadRecord("too many bytes", detail)
    return images.from_file(file.read(file.length, offset=0))
