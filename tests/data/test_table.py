"""CSV, TSV and JSON lines that name image files."""

import json
import pickle

import fakes
import pytest

from clipjax.common.exits import ConfigError, DataError
from clipjax.data.sources.table import open_tables


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    for index in range(4):
        (tmp_path / "images" / f"{index}.jpg").write_bytes(picture(index))
    return tmp_path


def picture(index):
    return fakes.encode(fakes.photo(index, width=24, height=20))


def expect(source, texts):
    for index, text in enumerate(texts):
        found = source[index]
        assert (found["image"], found["text"]) == (picture(index), text)
        assert source.caption(index) == text


def test_csv_with_quotes_and_line_breaks(folder):
    texts = ['a "quoted", cat', "two\nlines", "né", ""]
    rows = "".join(
        f'"images/{i}.jpg","{text.replace(chr(34), chr(34) * 2)}"\n' for i, text in enumerate(texts)
    )
    (folder / "a.csv").write_text(f"\ufefffilepath,title\n{rows}\n")
    source = open_tables(folder)
    assert (len(source), source.key(2)) == (4, "a.csv/2")
    expect(source, texts)
    expect(pickle.loads(pickle.dumps(source)), texts)  # noqa: S301 (our own bytes)


def test_tsv_and_absolute_paths(folder):
    rows = "".join(f"{folder}/images/{i}.jpg\ttext {i}\tx\n" for i in range(4))
    (folder / "a.tsv").write_text(f"filepath\ttitle\tother\n{rows.rstrip()}")
    expect(open_tables(folder / "a.tsv"), [f"text {i}" for i in range(4)])


def test_json_lines(folder):
    lines = [json.dumps({"file_name": f"images/{i}.jpg", "text": [f"a{i}", "b"]}) for i in range(4)]
    (folder / "m.jsonl").write_text("\n".join(lines) + "\n\n")
    source = open_tables(folder / "m.jsonl")
    expect(source, [[f"a{i}", "b"] for i in range(4)])


def test_bad_rows_are_bad_records(folder):
    lines = ['{"image": "images/0.jpg", "text": "t"}', "[1", "[1]", '{"image": 3, "text": "t"}']
    lines += ['{"image": "none.jpg", "text": "t"}', '{"image": "images/0.jpg", "text": {"a": 1}}']
    (folder / "m.jsonl").write_text("\n".join(lines))
    source = open_tables(folder / "m.jsonl")
    assert len(source) == 6 and source[0]["text"] == "t"
    for index in range(1, 6):
        with pytest.raises((ValueError, OSError)):
            source[index]


def test_refusals(folder):
    (folder / "a.csv").write_text("where,what\nimages/0.jpg,text\n")
    with pytest.raises(DataError, match=r"0 of the first 1 records .*keys seen: where, what"):
        open_tables(folder / "a.csv")
    source = open_tables(folder / "a.csv", image_key="where", text_key="what")
    assert source[0]["text"] == "text"
    (folder / "a.xml").write_text("")
    with pytest.raises(ConfigError, match="has none of the endings"):
        open_tables(folder / "a.xml")
    with pytest.raises(ConfigError, match="is remote"):
        open_tables("gs://bucket/a.csv")
