"""CSV, TSV and JSON lines that name image files, as a source.

In the registry of `clipjax.data.sources` as "table". Every row has the path of an image, relative
to the table's folder or absolute, and a text: the layout of open_clip's CSV (`filepath`, `title`)
and of Hugging Face's ImageFolder (`file_name`, `text`). Rows stay in the file; only where each one
begins is kept. Text is UTF-8 and what it says: "NA", "null" and "None" are captions. How CSV and
TSV are taken apart: `sources.delimited`.
"""

import dataclasses
import functools
import hashlib
import json
import os
import re
import string
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from clipjax.common.exits import ConfigError, DataError
from clipjax.data import images, sources
from clipjax.data.source import BadRecord, Source
from clipjax.data.sources import delimited, index_file, remote
from clipjax.data.sources.fields import TEXTS, FieldChoice, Nulls, texts_of
from clipjax.data.sources.shard_files import OpenFile, ShardFiles
from clipjax.data.sources.shard_format import Format, Table
from clipjax.data.sources.sharded import open_shards

FORMAT = 2  # raise it when what is stored changes
COLUMNS = ("starts", "head", "jumps", "numbers")
IMAGES = ("filepath", "file_name", "filename", "image_path", "image", "path", "file")
MAX_IMAGE = 64 << 20  # bytes
LABELS = ("label", "class")
LINES = (".jsonl", ".ndjson")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowTable(Table):
    """Where the rows of a file begin; `seen` is its head, () for JSON lines."""

    starts: np.ndarray  # uint64 [n + 1], the end of the last row too
    jumps: np.ndarray  # uint64 [k, 2]: row and line, see `delimited.RowStarts`

    def line(self, row: int) -> int:
        """The number of a row's first line in the file, from 1."""
        jump = int(np.searchsorted(self.jumps[:, 0], row, side="right")) - 1
        first, line = map(int, self.jumps[jump])
        return line + row - first


class OpenTable(OpenFile):
    """An open table, and what its name says."""

    def __init__(self, path: str):
        super().__init__(path)
        self.folder = os.path.dirname(os.path.abspath(path))
        self.ending = ending_of(path)


@dataclasses.dataclass(frozen=True)
class TableFormat(Format):
    """Tables as a `shard_format.Format`; the image of a row is the file whose path it has."""

    kind: ClassVar[str] = "table"
    ending: ClassVar[str] = ".csv"
    images: ClassVar[tuple[str, ...]] = IMAGES

    def check_path(self, path: str) -> None:
        if remote.is_remote(path):
            raise ConfigError(
                f"config.data.path: {path} is remote, and tables name local image files; copy both,"
                " or convert them to tar shards"
            )

    def load(self, path: str, *, files: ShardFiles) -> RowTable:
        return load_table(path, names=self.names, files=files)

    def null_finder(self, table: RowTable, /) -> Callable[[OpenTable], Nulls] | None:
        """Find a row's nulls: a field of JSON lines may be null or not there; CSV has no null."""
        if table.seen or not table.usable:
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


open_tables = functools.partial(open_shards, TableFormat)


class LabelledTable(Source):
    """An evaluation set as one table; a record has a "label", or a "text" of several captions.

    Columns: the image's path (`IMAGES`); a class key (`LABELS`) or a caption (`fields.TEXTS`); and
    any columns of groups, such as `region`. A row is a record: `same_image` takes several captions
    of one image together. Here a row that cannot be read is an error.

    Args:
      path: of the file, local.

    Raises:
      DataError: no rows, no such columns, or rows without values.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = os.fspath(path)
        self.name = os.path.basename(self.path)
        self._folder = os.path.dirname(os.path.abspath(self.path))
        rows = rows_of(self.path)
        columns = list(dict.fromkeys(name for row in rows for name in row))
        image, label, text = (_one_of(names, columns) for names in (IMAGES, LABELS, TEXTS))
        if not image or not (label or text):
            raise DataError(
                f"{self.path}: needs a column with the image's path ({', '.join(IMAGES)}) and one"
                f" with its class ({', '.join(LABELS)}) or caption ({', '.join(TEXTS)}); has:"
                f" {', '.join(columns) or 'no rows'}"
            )
        for number, row in enumerate(rows):
            has_image = row.get(image) and isinstance(row[image], str)
            if not has_image or (label and row.get(label) in (None, "")):
                or_label = f" or no {label}" if label else ""
                raise DataError(f"{self.path}: row {number} has no {image}{or_label}")
        self._captions = [] if label else _captions([row.get(text) for row in rows], self.path)
        self._images = [row[image] for row in rows]
        self._labels = _class_keys([row[label] for row in rows], path=self.path) if label else []
        self.group_names = tuple(name for name in columns if name not in (image, label, text))
        self._groups = [tuple(str(row.get(name)) for name in self.group_names) for row in rows]

    def __len__(self) -> int:
        return len(self._images)

    def image(self, index: int) -> bytes:
        """The image that a row names; ValueError or OSError if it cannot be read."""
        return read_image(self.image_file(index))

    def image_file(self, index: int) -> str:
        """The path of a record's image."""
        return os.path.normpath(os.path.join(self._folder, self._images[index]))

    def key(self, index: int) -> str:
        """The image's path as it stands in the file."""
        return self._images[index]

    @property
    def labels(self) -> tuple[str, ...] | None:
        """All class keys, sorted; None without."""
        return tuple(sorted(set(self._labels))) or None

    def label(self, index: int) -> str | None:
        """The class key of a record; None without."""
        return self._labels[index] if self._labels else None

    @property
    def has_groups(self) -> bool:
        """Whether there are columns of groups."""
        return bool(self.group_names)

    def groups(self, index: int) -> tuple[str, ...]:
        """What stands in the columns of groups."""
        return self._groups[index]

    def caption(self, index: int) -> list[str] | None:
        """The captions of a record; None where there are classes."""
        return self._captions[index] if self._captions else None

    @property
    def fingerprint(self) -> str:
        """Hash of all rows; images are not read."""
        texts = sorted(zip(self._images, self._captions, strict=False))
        content = repr((self._images, self._labels, self._groups, texts))
        return hashlib.sha256(content.encode()).hexdigest()[:16]


def _captions(values: list[Any], path: str) -> list[list[str]]:
    """The captions of each row; an image without any is told where it is measured on."""
    captions = []
    for row, value in enumerate(values):
        try:
            texts = texts_of(value)
        except BadRecord as error:
            raise DataError(f"{path}: row {row}: {error.message}; repair it") from None
        captions.append([texts] if isinstance(texts, str) else texts)
    return captions


def _class_keys(values: list[Any], *, path: str) -> list[str]:
    """Labels as texts; whole numbers that pandas has written as 0.0, 1.0 lose their point."""
    for number, value in enumerate(values):
        if not isinstance(value, str | int | float) or value != value:
            raise DataError(f"{path}: row {number} has the class {value!r}, no text and no number")
    keys = [str(value).strip() for value in values]
    if all(re.fullmatch(r"-?\d+(\.0)?", key) for key in keys):
        return [key.removesuffix(".0") for key in keys]
    return keys


def _one_of(names: tuple[str, ...], columns: list[str]) -> str:
    return next((name for name in names if name in columns), "")


def ending_of(path: str) -> str:
    """The table's ending, in lower case; ConfigError if it is none that can be read."""
    ending = os.path.splitext(path)[1].lower()
    if ending not in delimited.DELIMITERS and ending not in LINES:
        known = ", ".join((*delimited.DELIMITERS, *LINES))
        remedy = sources.what_reads(path)
        problem = f"{path} has none of the endings {known}{remedy and f'; {remedy}'}"
        raise ConfigError(f"config.data.path: {problem}")
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
    return RowTable(
        identity=(size, mtime),
        digest=digest,
        samples=len(columns["starts"]) - 1,
        usable=usable,
        seen=head,
        starts=columns["starts"],
        jumps=jumps,
    )


def rows_of(path: str) -> list[dict[str, Any]]:
    """The values of all rows by column, for data of which no row may be wrong.

    Raises DataError, with its line, for a row that cannot be taken apart.
    """
    rows, head = walk(path)
    file = OpenTable(path)
    table = RowTable(
        identity=file.identity,
        digest=0,
        samples=len(rows.starts),
        seen=tuple(head),
        starts=np.array([*rows.starts, file.length], np.uint64),
        jumps=np.array(rows.jumps, np.uint64).reshape(-1, 2),
    )
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
    if table.seen:
        return values
    return {name: value for name, value in values.items() if value is not None}


def with_nulls(file: OpenTable, table: RowTable, row: int) -> dict[str, Any]:
    """Read a row as `read_row` does, with the fields of JSON that are null."""
    begin, end = int(table.starts[row]), int(table.starts[row + 1])
    data = file.read(min(end - begin, delimited.MAX_ROW + 1), offset=begin)
    if file.ending in LINES:
        return fields_of(data)
    values = delimited.values_of(data, ending=file.ending)
    if len(values) != len(table.seen):
        raise BadRecord(
            "wrong number of fields", f"{len(values)} where the head has {len(table.seen)}"
        )
    return dict(zip(table.seen, values, strict=True))


def fields_of(data: bytes) -> dict[str, Any]:
    """The fields in a line of JSON; BadRecord if it is no JSON object."""
    if len(data) > delimited.MAX_ROW:
        raise BadRecord("row too long", f"the limit is {delimited.MAX_ROW:,} bytes")
    text = delimited.decoded(data).removeprefix("\ufeff")
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRecord(
            "the line is no JSON",
            error.msg if isinstance(error, json.JSONDecodeError) else str(error),
        ) from None
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
    file = OpenFile(path)
    if file.length > MAX_IMAGE:
        detail = f"an image of {file.length:,} bytes is above the limit of {MAX_IMAGE:,}"
        raise BadRecord("too many bytes", detail)
    return images.from_file(file.read(file.length, offset=0))
