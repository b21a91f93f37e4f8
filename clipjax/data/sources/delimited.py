"""Rows of CSV and TSV files by offset, as Python's csv takes them apart with strict=True.

In CSV a field may stand in quotes, and line breaks inside of these belong to it. In TSV a quote is
a letter like any other and a row is a line, as IANA's text/tab-separated-values has it. Lines end
with \\n, \\r\\n or \\r, and with nothing else. Used by `sources.table`.

A row whose quotes do not close as they should takes no other with it: each line that it would have
swallowed is a row of its own again, good or bad.
"""

import csv
import itertools
from array import array
from collections.abc import Iterator
from typing import Any

from clipjax.common.exits import DataError
from clipjax.data.source import BadRecord

DELIMITERS = {".csv": ",", ".tsv": "\t"}
SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}
OPTIONS: dict[str, dict[str, Any]] = {
    ".csv": {"delimiter": ",", "strict": True},
    ".tsv": {"delimiter": "\t", "quoting": csv.QUOTE_NONE, "strict": True},
}
MAX_ROW = 1 << 20  # bytes
BOM = b"\xef\xbb\xbf"
OTHER_BOMS = {b"\xff\xfe\0\0": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}

Line = tuple[int, int, str]  # offset in bytes, number from 1, text with its line end


class RowStarts:
    """Where the rows of a file begin, gathered row by row.

    Attributes:
      starts: offsets in bytes.
      jumps: row, line, row, line, …: the rows that do not begin one line after the row before.
    """

    def __init__(self) -> None:
        self.starts = array("Q")
        self.jumps = array("Q")
        self._next_line = 0

    def add(self, line: Line) -> None:
        """Add the row that begins with this line."""
        offset, number, _ = line
        if number != self._next_line:
            self.jumps.extend((len(self.starts), number))
        self.starts.append(offset)
        self._next_line = number + 1


def walk(path: str, *, ending: str) -> tuple[RowStarts, list[str]]:
    """The rows below the head, without blank ones, and the names in the head.

    Raises:
      DataError: the head is damaged, no UTF-8, or has other separators than the file's ending says.
    """
    rows = RowStarts()
    head: list[str] = []
    for group in groups(lines(path), quotes=ending == ".csv"):
        if not group[0][2].strip("\r\n"):
            continue
        if head:
            rows.add(group[0])
        else:
            text = "".join(text for _, _, text in group)
            head = names_in(text, path=path, ending=ending)
    return rows, head


def lines(path: str) -> Iterator[Line]:
    """The lines of a file in UTF-8; bytes that are none become surrogates.

    Of a line beyond MAX_ROW only a beginning without quotes is given: `values_of` refuses its row.

    Raises DataError if the file is in another Unicode encoding.
    """
    offset = 0
    with open(path, "rb") as file:
        start = file.read(4)
    for mark, encoding in OTHER_BOMS.items():
        if start.startswith(mark):
            raise DataError(
                f"table {path}: is {encoding}; write it as UTF-8: iconv -f {encoding} -t UTF-8"
                " OLD > NEW"
            )
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        if start.startswith(BOM):
            offset = len(BOM)
            file.read(1)
        for number in itertools.count(1):
            line = piece = file.readline(MAX_ROW)
            if not line:
                return
            size = bytes_of(line)
            while len(piece) == MAX_ROW and piece[-1] not in "\r\n":
                line, piece = line.replace('"', "'"), file.readline(MAX_ROW)
                size += bytes_of(piece)
            yield offset, number, line
            offset += size


def bytes_of(text: str) -> int:
    """Length in the file of text that `lines` gave."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogateescape"))


def groups(lines: Iterator[Line], *, quotes: bool) -> Iterator[list[Line]]:
    """The lines of each row; of a row that csv refuses, each line on its own."""
    feed = _Feed(lines)
    reader = csv.reader(feed, **OPTIONS[".csv"])
    while line := feed.following():
        if not quotes or '"' not in line[2]:
            yield [line]
            continue
        feed.again = line
        feed.taken = taken = []
        try:
            next(reader)
            yield taken
        except csv.Error:
            *before, last = taken
            if before:
                feed.again = last  # a good row may begin where the bad one ends
            yield from ([one] for one in before or [last])


class _Feed:
    """Lines for csv.reader, which takes as many as a row needs.

    Attributes:
      taken: those it took since this was last set.
      again: a line to be given next, before the others.
    """

    def __init__(self, lines: Iterator[Line]):
        self.lines = lines
        self.taken: list[Line] = []
        self.again: Line | None = None

    def __iter__(self) -> "_Feed":
        return self

    def following(self) -> Line | None:
        """The next line; None at the end."""
        line, self.again = self.again, None
        return line or next(self.lines, None)

    def __next__(self) -> str:
        line = self.following()
        if line is None:
            raise StopIteration
        self.taken.append(line)
        if line[0] + len(line[2]) - self.taken[0][0] > MAX_ROW and len(self.taken) > 1:
            raise csv.Error("row too long")
        return line[2]


def names_in(text: str, *, path: str, ending: str) -> list[str]:
    """The names in a head; DataError if it is not what the file's ending promises."""

    def fail(why: str) -> DataError:
        return DataError(f"table {path}: its head {why}")

    try:
        names = [name.strip() for name in split(text, ending=ending)]
    except BadRecord as error:
        raise fail(f"cannot be taken apart: {error.message}") from None
    if "\0" in text or not _is_utf8(text):
        raise fail("is no UTF-8; write the table as UTF-8: iconv -f ENCODING -t UTF-8 OLD > NEW")
    right = SEPARATORS[DELIMITERS[ending]]
    for separator, name in SEPARATORS.items():
        if len(names) == 1 and separator in names[0]:
            other = {"\t": ", or name it .tsv", ",": ", or name it .csv"}.get(separator, "")
            raise fail(
                f"is one column with {name} in it ({names[0][:60]!r}), and columns of a *{ending}"
                f" are separated by {right}; write it with {right}{other}"
            )
    if ending == ".tsv" and all(len(n) > 1 and n[0] == n[-1] == '"' for n in names):
        raise fail("stands in quotes, and a *.tsv is read without quoting; write a CSV instead")
    return names


def _is_utf8(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def values_of(data: bytes, *, ending: str) -> list[str]:
    """The values in the bytes of one row; BadRecord if they cannot be taken apart."""
    if len(data) > MAX_ROW:
        raise BadRecord("row too long", f"{len(data):,} bytes, the limit is {MAX_ROW:,}")
    return split(decoded(data), ending=ending)


def decoded(data: bytes) -> str:
    """Bytes of a table as text; BadRecord if they are no UTF-8."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = f"byte 0x{data[error.start]:02x}"
        raise BadRecord("no UTF-8", f"{byte}; save the table as UTF-8") from None


def split(text: str, *, ending: str) -> list[str]:
    """The values in the text of one row; BadRecord if csv refuses it."""
    try:
        return next(csv.reader([text], **OPTIONS[ending]), [])
    except csv.Error as error:
        if "larger" in str(error):
            raise BadRecord("field too long", str(error)) from None
        why = "a quote is never closed" if "end of data" in str(error) else str(error)
        raise BadRecord("broken quotes", why) from None
