"""Rows of CSV and TSV: what others write is read back, and what is broken takes nothing with it."""

import csv
import itertools
import os

import numpy as np
import pytest

from clipjax.common.exits import DataError
from clipjax.data.source import BadRecord
from clipjax.data.sources import delimited

pa = pytest.importorskip("pyarrow")
pd = pytest.importorskip("pandas")
from pyarrow import csv as arrow_csv  # noqa: E402

# What other readers split at, strip, unquote or take for nothing.
PIECES = (
    *("a", "é", "日本", "🦊", " ", "  ", ",", ";", "|", "'", '"', '""', "#", "\\", "=1+1"),
    *("NA", "null", "None", "nan", "\n", "\r\n", "\n\n", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e"),
    *("\x85", "\u2028", "\u2029", "\ufeff", "\0", "\x1a", "\t"),
)
LINE_ENDS = {"unix": "\n", "windows": "\r\n"}


def text_of(rng, *, without=""):
    """A caption that few readers read right."""
    pieces = [PIECES[n] for n in rng.integers(len(PIECES), size=rng.integers(6))]
    return "".join(piece for piece in pieces if not set(piece) & set(without))


def write_csv(path, rows, *, end, rng):
    """As Python's csv writes them, quoting where it must or everywhere, with or without a mark."""
    encoding = ("utf-8", "utf-8-sig")[rng.integers(2)]
    quoting = (csv.QUOTE_MINIMAL, csv.QUOTE_ALL)[rng.integers(2)]
    with open(path, "w", newline="", encoding=encoding) as file:
        csv.writer(file, lineterminator=end, quoting=quoting).writerows(rows)


def write_pandas(path, rows, *, end, rng):
    frame = pd.DataFrame(rows[1:], columns=rows[0])
    frame.to_csv(path, index=False, lineterminator=end)


def write_pyarrow(path, rows, *, end, rng):
    columns = [pa.array(column, pa.string()) for column in zip(*rows[1:], strict=True)]
    arrow_csv.write_csv(pa.table(columns, names=rows[0]), path)


def write_tsv(path, rows, *, end, rng):
    with open(path, "w", newline="", encoding="utf-8") as file:
        file.writelines("\t".join(row) + end for row in rows)


def write_pandas_tsv(path, rows, *, end, rng):
    frame = pd.DataFrame(rows[1:], columns=rows[0])
    frame.to_csv(path, sep="\t", index=False, lineterminator=end, quoting=csv.QUOTE_NONE)


WRITERS = {write_csv: "", write_pandas: "", write_pyarrow: ""}  # and what they cannot write
WRITERS |= dict.fromkeys((write_tsv, write_pandas_tsv), "\t\r\n")


def read_back(path, *, order=None):
    """Head and rows, each row by its offset alone, in any order."""
    ending = os.path.splitext(path)[1]
    rows, head = delimited.walk(str(path), ending=ending)
    data = path.read_bytes()
    ends = [*rows.starts[1:], len(data)]
    found = {
        row: values(data[rows.starts[row] : ends[row]], ending=ending)
        for row in (range(len(ends)) if order is None else order(len(rows.starts)))
        if row < len(rows.starts)
    }
    return [head, *(found[row] for row in range(len(rows.starts)))]


def values(data, *, ending):
    try:
        return delimited.values_of(data, ending=ending)
    except BadRecord as error:
        return error.reason


@pytest.mark.parametrize(
    "count", [300, pytest.param(10_000, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_tables_are_read_back_as_they_were_written(tmp_path, count):
    for seed, (writer, end) in zip(
        range(count), itertools.cycle(itertools.product(WRITERS, LINE_ENDS.values()))
    ):
        rng = np.random.default_rng(seed)
        without = WRITERS[writer] or ("\r" if end == "\n" else "")  # csv leaves \r bare with \n
        width = int(rng.integers(2, 5))
        rows = [[f"c{n}" for n in range(width)]]
        for _ in range(rng.integers(1, 6)):
            rows.append([text_of(rng, without=without) for _ in range(width)])
        path = tmp_path / ("t.tsv" if "tsv" in writer.__name__ else "t.csv")
        writer(path, rows, end=end, rng=rng)
        assert read_back(path, order=rng.permutation) == rows, (seed, writer, end)


def written(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


BROKEN = {  # rows below a head of two columns, and what becomes of each
    "a quote that never closes": (
        ['a,"b', "c,d", 'e,"f"', "g,h"],
        ["broken quotes", ["c", "d"], ["e", "f"], ["g", "h"]],
    ),
    "one that the next quote closes": (
        ['a,"b', "c,d", 'e,"f"x', 'g,"h', 'i"'],
        ["broken quotes", ["c", "d"], "broken quotes", ["g", "h\ni"]],
    ),
    "a good row begins where the broken one ends": (
        ['a,"b', "c,d", 'e,"f', 'g"', "h,i"],
        ["broken quotes", ["c", "d"], ["e", "f\ng"], ["h", "i"]],
    ),
    "text after a closing quote": (
        ['"a"b,c', 'd,"e" ', "f,g"],
        ["broken quotes", "broken quotes", ["f", "g"]],
    ),
    "quotes inside of a field without": (['a,5" x 7"', "b c,d"], [["a", '5" x 7"'], ["b c", "d"]]),
    "a field beyond csv's limit": (["a," + "b" * 140_000, "c,d"], ["field too long", ["c", "d"]]),
    "a row beyond ours": (["a," + "é" * 600_000, "c,d"], ["row too long", ["c", "d"]]),
    "a quote before more than a row may hold": (
        ['a,"b', *["c,d"] * 400_000],
        ["broken quotes", *[["c", "d"]] * 400_000],
    ),
    "quotes in quotes that go on and on": (['a","b'] * 30, ["broken quotes"] * 30),
    "Latin-1": (["a,b", b"c,caf\xe9", "d,e"], [["a", "b"], "no UTF-8", ["d", "e"]]),
    "blank lines": (["a,b", "", "", "c,d", ""], [["a", "b"], ["c", "d"]]),
}


@pytest.mark.parametrize("end", LINE_ENDS.values(), ids=LINE_ENDS)
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_row_takes_no_other_with_it(tmp_path, name, end):
    lines, expected = BROKEN[name]
    rows = [line if isinstance(line, bytes) else line.encode() for line in ["x,y", *lines]]
    path = written(tmp_path / "t.csv", end.encode().join([*rows, b""]))
    expected = [
        row if isinstance(row, str) else [value.replace("\n", end) for value in row]
        for row in expected
    ]
    assert read_back(path)[1:] == expected


def test_any_text_is_taken_apart_as_csv_does(tmp_path):
    """Letters by chance: where csv reads it all, so do we; else no line is lost or read twice."""
    rng = np.random.default_rng(0)
    letters = ("a", ",", '"', '""', "\n", "\r", "\r\n", "\u2028", "é", "a,b\n", 'a,"b"\n')
    outcomes = {"read": 0, "broken": 0}
    for _ in range(3000):
        text = "x,y\n" + "".join(letters[n] for n in rng.integers(len(letters), size=12))
        path = written(tmp_path / "t.csv", text)
        with open(path, newline="", encoding="utf-8") as file:
            try:
                expected = [row for row in csv.reader(file, strict=True) if row]
            except csv.Error:
                expected = None
        if expected is not None:
            assert read_back(path) == expected, text
            outcomes["read"] += 1
            continue
        rows, _ = delimited.walk(str(path), ending=".csv")
        whole = path.read_bytes()
        pieces = [
            whole[begin:end].decode()
            for begin, end in itertools.pairwise([*rows.starts, len(whole)])
        ]
        assert "".join(pieces).lstrip("\r\n") == text.removeprefix("x,y").lstrip("\r\n")
        for piece in pieces:  # each is one row of csv's, or one line that csv refuses
            try:
                assert len([row for row in csv.reader([piece], strict=True) if row]) == 1
            except csv.Error:
                assert len(piece.rstrip("\r\n").splitlines()) == 1 or "\u2028" in piece
        outcomes["broken"] += 1
    assert min(outcomes.values()) > 300, outcomes


def test_lines_are_counted_as_editors_count_them(tmp_path):
    text = '\ufeff\nx,y\n\na,"b\r\nc"\r"d",e\u2028f\r\n\ng,h'
    rows, _ = delimited.walk(str(written(tmp_path / "t.csv", text)), ending=".csv")
    assert rows.jumps.tolist() == [0, 4, 1, 6, 2, 8]  # row 0 is on line 4, row 1 on 6, row 2 on 8
    assert len(rows.starts) == 3


@pytest.mark.parametrize(
    ("ending", "head", "told"),
    [
        (".csv", "path;title", "one column with semicolons .* separated by commas; write it with"),
        (".csv", "path\ttitle", "one column with tabs .* or name it .tsv"),
        (".tsv", "path,title", "one column with commas .* or name it .csv"),
        (".csv", "path|title", "one column with bars"),
        (".tsv", '"path"\t"title"', "stands in quotes, and a .*tsv is read without"),
        (".csv", "path,t\xeftle".encode("latin-1"), "no UTF-8; write the table as UTF-8: iconv"),
        (".csv", "path,title\na,b\n".encode("utf-16-be"), "no UTF-8"),
        (".csv", "path,title\na,b\n".encode("utf-16"), "is UTF-16; .*iconv -f UTF-16 -t UTF-8"),
        (".tsv", "path\ttitle\n".encode("utf-32"), "is UTF-32; .*iconv -f UTF-32"),
        (".csv", 'path,"title\n', "cannot be taken apart: broken quotes .a quote is never closed"),
    ],
)
def test_heads_that_are_not_what_the_ending_says(tmp_path, ending, head, told):
    path = written(tmp_path / f"t{ending}", head)
    with pytest.raises(DataError, match=told) as caught:
        delimited.walk(str(path), ending=ending)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(f"table {path}: ")


def test_one_column_without_separators_is_a_head(tmp_path):
    assert read_back(written(tmp_path / "t.csv", "path\na.jpg\n")) == [["path"], ["a.jpg"]]
